//! PostgreSQL clusters that exist for one test.

use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::disk::Disk;
use crate::failure::Failure;
use crate::program::{self, command, run, succeed};
use crate::scratch::{self, Folder};
use crate::template;
use crate::turn::{self, Turn};
use crate::wait::{PATIENCE, wait_for};

/// Settings of every cluster: no test crashes the machine, so nothing waits for the disk.
const SETTINGS: &str = "\
fsync = off
shared_buffers = 32MB
max_connections = 60
max_wal_senders = 10
wal_level = replica
max_wal_size = 512MB
log_line_prefix = '%m [%p] %q%a '
log_checkpoints = off
lc_messages = 'C'
";

/// How `Cluster::stop` ends a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// With a checkpoint, as SIGINT asks for.
    Fast,
    /// Without one, as SIGQUIT asks for; the next start recovers.
    Immediate,
}

/// Chooses what differs from a plain cluster with data checksums and the extension.
#[derive(Clone, Debug)]
pub struct Builder {
    checksums: bool,
    extension: bool,
    initdb_args: Vec<String>,
    settings: String,
    environment: Vec<(String, OsString)>,
    disk_megabytes: Option<u32>,
    over_tcp: bool,
}

/// A data directory and the server on it. Dropping it stops the server and removes the folder.
#[derive(Debug)]
pub struct Cluster {
    /// Goes before the folder that it is mounted in.
    disk: Option<Disk>,
    dir: Folder,
    port: u16,
    /// Where it listens besides its socket.
    addresses: &'static str,
    postmaster: Option<Child>,
    /// Holds the tablespaces of a restored cluster.
    #[allow(dead_code)]
    origin: Option<Folder>,
    may_crash: AtomicBool,
    environment: Vec<(String, OsString)>,
    _turn: Arc<Turn>,
}

impl Builder {
    /// Makes the cluster without data checksums.
    pub fn without_checksums(mut self) -> Self {
        self.checksums = false;
        self
    }

    /// Leaves the extension to the test.
    pub fn without_extension(mut self) -> Self {
        self.extension = false;
        self
    }

    /// Adds an argument for `initdb`, such as `--wal-segsize=1` or `--allow-group-access`.
    pub fn initdb_arg(mut self, argument: &str) -> Self {
        self.initdb_args.push(argument.to_owned());
        self
    }

    /// Adds a line to `postgresql.conf`; the value is quoted here.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings
            .push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        self
    }

    /// Adds a variable to the environment of the server.
    pub fn environment(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Puts the data directory on a disk of its own, where the tests may mount one.
    pub fn disk(mut self, megabytes: u32) -> Self {
        self.disk_megabytes = Some(megabytes);
        self
    }

    /// Has the server listen on 127.0.0.1 as well, at a port that is free now.
    pub fn over_tcp(mut self) -> Self {
        self.over_tcp = true;
        self
    }

    /// Makes the data directory and starts a server on it.
    pub fn start(self) -> Cluster {
        if self.extension {
            require_extension();
        }
        let mut cluster = self.create();
        cluster.start();
        if self.extension {
            cluster.create_extension("postgres");
        }
        cluster
    }

    /// Makes the data directory only.
    pub fn create(&self) -> Cluster {
        let mut initdb_args = self.initdb_args.clone();
        if self.checksums {
            initdb_args.push("--data-checksums".to_owned());
        } else if program::major_version() >= 18 {
            // There it is the default.
            initdb_args.push("--no-data-checksums".to_owned());
        }
        let mut cluster = Cluster::empty();
        cluster.environment.clone_from(&self.environment);
        if self.over_tcp {
            cluster.addresses = "127.0.0.1";
            cluster.port = free_port();
        }
        cluster.disk = self
            .disk_megabytes
            .and_then(|megabytes| Disk::mount(&cluster.data_dir(), megabytes));
        template::copy_to(&cluster.data_dir(), &initdb_args);
        cluster.append_to_conf(SETTINGS);
        cluster.append_to_conf(&self.settings);
        cluster
    }
}

impl Cluster {
    /// A running cluster with data checksums and the extension in database `postgres`.
    pub fn new() -> Self {
        Self::builder().start()
    }

    /// For clusters that differ from `Cluster::new()`.
    pub fn builder() -> Builder {
        Builder {
            checksums: true,
            extension: true,
            initdb_args: Vec::new(),
            settings: String::new(),
            environment: Vec::new(),
            disk_megabytes: None,
            over_tcp: false,
        }
    }

    /// A stopped cluster whose data directory is `data`, which moves from the folder `origin`; what
    /// else is in there stays for as long as the cluster lives.
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

    /// A running standby of this cluster, made by `pg_basebackup`.
    pub fn standby(&self) -> Self {
        let mut standby = Self::empty();
        succeed(
            command("pg_basebackup")
                .args(self.connection_args("postgres"))
                .args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-D"])
                .arg(standby.data_dir()),
        );
        standby.start();
        standby
    }

    fn empty() -> Self {
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

    /// Starts the server and waits until it accepts connections. Failing to is a failure of the test.
    #[track_caller]
    pub fn start(&mut self) {
        if let Err(log) = self.try_start() {
            panic!("the server did not start:\n{log}");
        }
    }

    /// Starts the server; the log if it ends before it accepts connections.
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
            // The last line is the status, as pg_ctl reads it.
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

    /// Stops the server, which must be running, and waits for its end.
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

    /// Stops the server with a checkpoint and starts it again.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop(Shutdown::Fast);
        self.start();
    }

    /// Whether the server, which was running, has ended by itself or by a signal. It can then be
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

    /// The disk that the builder was asked for, where it could be had.
    pub fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// The process of the postmaster.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        process_id(self.postmaster.as_ref().expect("the server does not run"))
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The folder of the socket.
    pub fn socket_dir(&self) -> &Path {
        &self.dir
    }

    /// The port number that names the socket.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes a folder beside the data directory, owned as it is, that goes when the cluster goes.
    pub fn make_dir(&self, name: &str) -> PathBuf {
        let dir = self.dir.join(name);
        program::make_dir(&dir);
        dir
    }

    /// Writes a file in the data directory, owned as the others there.
    pub fn write_file(&self, path: &str, content: &[u8]) {
        let path = self.data_dir().join(path);
        fs::write(&path, content)
            .unwrap_or_else(|error| panic!("could not write {path:?}: {error}"));
        program::give_to_owner(&path);
    }

    /// Adds to `postgresql.conf`.
    pub fn append_to_conf(&self, lines: &str) {
        let path = self.data_dir().join("postgresql.conf");
        let conf = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("could not read {path:?}: {error}"));
        fs::write(&path, conf + lines)
            .unwrap_or_else(|error| panic!("could not write {path:?}: {error}"));
    }

    /// Makes the extension in a database.
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

    /// Makes a tablespace in a folder of its own: its oid and that folder.
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

    /// The server's log so far, of all its starts.
    pub fn log(&self) -> String {
        let log = fs::read(self.dir.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Says that a process of this server may be killed; otherwise that fails the test in the end.
    pub fn may_crash(&self) {
        self.may_crash.store(true, Ordering::Relaxed);
    }

    /// The lines of the log that tell of a crash.
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

/// A port of 127.0.0.1 that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

fn process_id(child: &Child) -> i32 {
    i32::try_from(child.id()).expect("a process id is positive")
}

#[track_caller]
fn require_extension() {
    let control = program::extension_dir().join("pg_parallel_backup.control");
    assert!(
        control.exists(),
        "the extension is not installed ({} does not exist): run \"make install\" first",
        control.display()
    );
}
