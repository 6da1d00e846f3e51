//! PostgreSQL clusters, each created for one test.

use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::builder::Builder;
use crate::disk::Disk;
use crate::failure::Failure;
use crate::program::{self, command, run, succeed};
use crate::scratch::{self, Folder};
use crate::turn::{self, Turn};
use crate::wait::{PATIENCE, wait_for};

/// Shutdown mode for `Cluster::stop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Fast shutdown, with a checkpoint (SIGINT).
    Fast,
    /// Immediate shutdown, without a checkpoint (SIGQUIT). The next start performs recovery.
    Immediate,
}

/// Data directory and its server. Dropping the value stops the server and removes the directory.
#[derive(Debug)]
pub struct Cluster {
    /// Dropped before the directory that contains its mount point.
    pub(crate) disk: Option<Disk>,
    dir: Folder,
    pub(crate) port: u16,
    /// TCP addresses to listen on, besides the socket.
    pub(crate) addresses: &'static str,
    postmaster: Option<Child>,
    /// Holds the tablespaces of a restored cluster.
    #[allow(dead_code)]
    origin: Option<Folder>,
    may_crash: AtomicBool,
    pub(crate) environment: Vec<(String, OsString)>,
    _turn: Arc<Turn>,
}

impl Cluster {
    /// Starts a cluster with data checksums and with the extension in database `postgres`.
    pub fn new() -> Self {
        Self::builder().start()
    }

    /// Builder for clusters that differ from `Cluster::new()`.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Creates a stopped cluster whose data directory is `data`, moved from the directory `origin`.
    /// The rest of `origin` stays for as long as the cluster exists.
    pub fn on(data: &Path, origin: Folder) -> Self {
        let mut cluster = Self::empty();
        succeed(
            command("mv")
                .args(["-T", "--"])
                .arg(data)
                .arg(cluster.data_dir()),
        );
        cluster.origin = Some(origin);
        cluster
    }

    /// Starts a standby of this cluster, created with `pg_basebackup`.
    pub fn standby(&self) -> Self {
        let mut standby = self.standby_stopped();
        standby.start();
        standby
    }

    /// The same, not started yet.
    pub fn standby_stopped(&self) -> Self {
        let standby = Self::empty();
        succeed(
            command("pg_basebackup")
                .args(self.connection_args("postgres"))
                .args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-D"])
                .arg(standby.data_dir()),
        );
        standby
    }

    pub(crate) fn empty() -> Self {
        let turn = turn::take();
        Cluster {
            disk: None,
            dir: Folder::new("c"),
            port: 50_000 + (scratch::number() % 10_000) as u16,
            addresses: "",
            postmaster: None,
            origin: None,
            may_crash: AtomicBool::new(false),
            environment: Vec::new(),
            _turn: turn,
        }
    }

    /// Starts the server and waits until it accepts connections. A failure to start fails the test.
    #[track_caller]
    pub fn start(&mut self) {
        if let Err(log) = self.try_start() {
            panic!("the server did not start:\n{log}");
        }
    }

    /// Starts the server. Returns the log if the server exits before it accepts connections.
    pub fn try_start(&mut self) -> Result<(), String> {
        assert!(self.postmaster.is_none(), "the server runs already");
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join("log"))
            .expect("could not open the log of a server");
        let mut postgres = command("postgres");
        postgres
            .arg("-D")
            .arg(self.data_dir())
            .args(["-c", &format!("listen_addresses={}", self.addresses)])
            .args(["-c", "unix_socket_permissions=0777"])
            .args(["-c", &format!("port={}", self.port)])
            .arg("-c")
            .arg(format!("unix_socket_directories={}", self.dir.display()))
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("could not share the log"))
            .stderr(log);
        let child = postgres
            .spawn()
            .unwrap_or_else(|error| panic!("could not run {postgres:?}: {error}"));
        let pid = child.id().to_string();
        let child = self.postmaster.insert(child);

        let pid_file = self.dir.join("data/postmaster.pid");
        let mut ended = false;
        wait_for("the server to accept connections", PATIENCE * 2, || {
            ended = matches!(child.try_wait(), Ok(Some(_)));
            // The last line holds the status, as pg_ctl reads it.
            let status = fs::read_to_string(&pid_file).unwrap_or_default();
            let mut lines = status.lines();
            ended || lines.next() == Some(&pid) && lines.nth(6).map(str::trim_end) == Some("ready")
        });
        if ended {
            self.postmaster = None;
            return Err(self.log());
        }
        Ok(())
    }

    /// Stops the server, which must be running, and waits for it to exit.
    #[track_caller]
    pub fn stop(&mut self, mode: Shutdown) {
        let mut child = self.postmaster.take().expect("the server does not run");
        let signal = match mode {
            Shutdown::Fast => "INT",
            Shutdown::Immediate => "QUIT",
        };
        program::signal(signal, process_id(&child));
        wait_for("the server to stop", PATIENCE * 2, || {
            matches!(child.try_wait(), Ok(Some(_)))
        });
    }

    /// Restarts the server, with a shutdown checkpoint.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop(Shutdown::Fast);
        self.start();
    }

    /// Whether the server, which was running, has exited by itself or by a signal. It can then be
    /// started again.
    pub fn has_ended(&mut self) -> bool {
        let ended = self
            .postmaster
            .as_mut()
            .is_none_or(|child| matches!(child.try_wait(), Ok(Some(_))));
        if ended {
            self.postmaster = None;
        }
        ended
    }

    /// Disk requested from the builder, if it could be mounted.
    pub fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// PID of the postmaster.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        process_id(self.postmaster.as_ref().expect("the server does not run"))
    }

    /// Path of the data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Directory of the socket.
    pub fn socket_dir(&self) -> &Path {
        &self.dir
    }

    /// Port number in the name of the socket.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Creates a directory beside the data directory, with the same owner. It is removed with the
    /// cluster.
    pub fn make_dir(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        program::make_dir(&dir);
        dir
    }

    /// Writes a file in the data directory, with the owner of its other files.
    pub fn write_file(&self, path: &str, content: &[u8]) {
        let path = self.data_dir().join(path);
        fs::write(&path, content)
            .unwrap_or_else(|error| panic!("could not write {path:?}: {error}"));
        program::give_to_owner(&path);
    }

    /// Appends lines to `postgresql.conf`.
    pub fn append_to_conf(&self, lines: &str) {
        let path = self.data_dir().join("postgresql.conf");
        let conf = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("could not read {path:?}: {error}"));
        fs::write(&path, conf + lines)
            .unwrap_or_else(|error| panic!("could not write {path:?}: {error}"));
    }

    /// Creates the extension in a database.
    #[track_caller]
    pub fn create_extension(&self, database: &str) {
        require_extension();
        if let Err(error) = self
            .connect_to(database)
            .batch_execute("CREATE EXTENSION pg_parallel_backup")
        {
            panic!("CREATE EXTENSION: {}", Failure::from(error));
        }
    }

    /// Creates a tablespace in a directory of its own. Returns its OID and that directory.
    #[track_caller]
    pub fn create_tablespace(&self, name: &str) -> (u32, PathBuf) {
        let location = self.make_dir(name);
        let mut client = self.connect();
        client
            .batch_execute(&format!(
                "CREATE TABLESPACE {name} LOCATION '{}'",
                location.display()
            ))
            .expect("CREATE TABLESPACE");
        let row = client
            .query_one("SELECT oid FROM pg_tablespace WHERE spcname = $1", &[&name])
            .expect("the new tablespace");
        (row.get(0), location)
    }

    /// Log of the server so far, across all starts.
    pub fn log(&self) -> String {
        let log = fs::read(self.dir.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Allows crashes of server processes. Without this call a crash fails the test at its end.
    pub fn may_crash(&self) {
        self.may_crash.store(true, Ordering::Relaxed);
    }

    /// Log lines that report a crash.
    pub fn crashes(&self) -> Vec<String> {
        self.log()
            .lines()
            .filter(|line| {
                ["was terminated by signal", "PANIC: ", "TRAP: "]
                    .iter()
                    .any(|sign| line.contains(sign))
            })
            .map(str::to_owned)
            .collect()
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        if failing {
            let log = self.log();
            let lines: Vec<_> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(60)..];
            eprintln!("log of the server in {:?}:\n{}", self.dir, tail.join("\n"));
        }
        if let Some(mut child) = self.postmaster.take() {
            let pid = process_id(&child).to_string();
            let _ = run(command("kill").args(["-s", "QUIT", &pid]));
            let _ = child.wait();
        }
        let crashes = self.crashes();
        if !failing && !self.may_crash.load(Ordering::Relaxed) {
            assert!(crashes.is_empty(), "the server crashed: {crashes:?}");
        }
    }
}

/// Port of 127.0.0.1 on which nothing listens. It is below those that the system hands out by itself, so that
/// nobody gets it before it is used.
pub fn free_port() -> u16 {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let own = std::process::id() * 97;
    let mut ports = (0..COUNT).map(|_| {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        (FIRST + own.wrapping_add(number) % COUNT) as u16
    });
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.find(is_free).expect("a free port")
}

fn process_id(child: &Child) -> i32 {
    i32::try_from(child.id()).expect("a process id is positive")
}

#[track_caller]
pub(crate) fn require_extension() {
    let control = program::extension_dir().join("pg_parallel_backup.control");
    assert!(
        control.exists(),
        "the extension is not installed ({} does not exist): run \"make install\" first",
        control.display()
    );
}
