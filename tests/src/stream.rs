//! COPY streams as received by clients: complete, in the background, halted midway, or by a psql
//! that can be killed.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use postgres::Client;

use crate::failure::Failure;
use crate::notices::Notices;
use crate::scratch;
use crate::server::Cluster;
use crate::session::backend_pid;
use crate::wait::{PATIENCE, wait_for};

/// Runs a `COPY … TO STDOUT` and returns the bytes of the stream.
pub fn copy_out(client: &mut Client, copy: &str) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    client.copy_out(copy)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// COPY statement for a call such as `send_backup_files(42)`.
pub fn copy_of(call: &str) -> String {
    format!("COPY (SELECT {call}) TO STDOUT")
}

/// Session that receives one stream in a thread of its own.
pub struct Worker {
    /// PID of the backend that serves the session.
    pub pid: i32,
    /// NOTICEs and WARNINGs of the session.
    pub notices: Notices,
    received: Arc<AtomicU64>,
    resume: Option<Sender<()>>,
    thread: JoinHandle<(Client, Result<Vec<u8>, Failure>)>,
}

impl Worker {
    /// Connects and runs the statement in a thread.
    #[track_caller]
    pub fn spawn(cluster: &Cluster, copy: &str) -> Self {
        Self::spawn_halting(cluster, copy, u64::MAX)
    }

    /// Like [`Worker::spawn`], but stops reading after `halt_at` bytes until `resume` is called.
    /// The server meanwhile waits in the middle of its stream.
    #[track_caller]
    pub fn spawn_halting(cluster: &Cluster, copy: &str, halt_at: u64) -> Self {
        let (client, notices) = cluster.connect_with_notices();
        Self::take_over(client, notices, copy, halt_at)
    }

    /// Runs the statement in an existing session, such as the leader's.
    #[track_caller]
    pub fn take_over(mut client: Client, notices: Notices, copy: &str, halt_at: u64) -> Self {
        let pid = backend_pid(&mut client);
        Self::in_session(client, notices, pid, copy, halt_at)
    }

    /// Runs the statement in an existing session whose backend PID is known.
    pub fn in_session(
        mut client: Client,
        notices: Notices,
        pid: i32,
        copy: &str,
        halt_at: u64,
    ) -> Self {
        let received = Arc::new(AtomicU64::new(0));
        let (resume, resumed) = mpsc::channel();
        let thread = std::thread::spawn({
            let copy = copy.to_owned();
            let received = Arc::clone(&received);
            move || {
                let result = receive(&mut client, &copy, &received, halt_at, &resumed);
                (client, result)
            }
        });
        Worker {
            pid,
            notices,
            received,
            resume: Some(resume),
            thread,
        }
    }

    /// Number of bytes received so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Counter of received bytes, usable after the worker was joined.
    pub fn received_counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.received)
    }

    /// Waits until at least this many bytes have arrived.
    #[track_caller]
    pub fn wait_for_bytes(&self, bytes: u64) {
        wait_for("a worker to receive its first bytes", PATIENCE, || {
            assert!(
                !self.thread.is_finished() || self.received() >= bytes,
                "the stream ended after {} bytes",
                self.received()
            );
            self.received() >= bytes
        });
    }

    /// Waits until a halted worker's backend can send no more.
    #[track_caller]
    pub fn wait_for_full_socket(&self, cluster: &Cluster) {
        let waits = "SELECT wait_event = 'ClientWrite' FROM pg_stat_activity WHERE pid = ";
        cluster.wait_for_sql(
            "the worker to wait for its client",
            &format!("{waits}{}", self.pid),
        );
    }

    /// Makes a halted worker continue reading.
    pub fn resume(&mut self) {
        self.resume = None;
    }

    /// Whether the stream has ended, in success or failure.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the end of the stream.
    pub fn join(self) -> Result<Vec<u8>, Failure> {
        self.join_and_keep().1
    }

    /// Waits for the end of the stream and returns the session too.
    pub fn join_and_keep(mut self) -> (Client, Result<Vec<u8>, Failure>) {
        self.resume();
        self.thread.join().unwrap_or_else(|panic| {
            std::panic::resume_unwind(panic);
        })
    }

    /// Waits for the end of a stream that must succeed.
    #[track_caller]
    pub fn expect(self) -> Vec<u8> {
        match self.join() {
            Ok(bytes) => bytes,
            Err(failure) => panic!("a stream failed: {failure}"),
        }
    }

    /// Waits for the end of a stream that must fail.
    #[track_caller]
    pub fn expect_failure(self) -> Failure {
        crate::failure::expect_failure("a stream", self.join())
    }
}

fn receive(
    client: &mut Client,
    copy: &str,
    received: &AtomicU64,
    halt_at: u64,
    resumed: &Receiver<()>,
) -> Result<Vec<u8>, Failure> {
    let mut stream = client.copy_out(copy)?;
    let mut bytes = Vec::new();
    let mut part = vec![0; 64 * 1024];
    let mut halted = false;
    loop {
        let length = stream.read(&mut part)?;
        if length == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(&part[..length]);
        received.store(bytes.len() as u64, Ordering::Relaxed);
        if !halted && bytes.len() as u64 >= halt_at {
            halted = true;
            // Ends when `resume` drops the sender.
            let _ = resumed.recv();
        }
    }
}

/// psql process that writes its stream to a file, for tests in which the client dies.
pub struct PsqlWorker {
    /// PID of the backend that serves the session.
    pub pid: i32,
    /// Output file of the stream.
    pub output: PathBuf,
    psql: Mutex<Child>,
}

impl PsqlWorker {
    /// Starts psql with the statement and waits until the server runs it.
    #[track_caller]
    pub fn spawn(cluster: &Cluster, copy: &str) -> Self {
        let name = format!("psql worker {}", scratch::number());
        let output = scratch::dir().join(format!("stream{}", scratch::number()));
        let file = File::create(&output).expect("could not make the file of a stream");
        let mut psql = cluster.psql_command(&["-c", copy]);
        psql.env("PGAPPNAME", &name)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(Stdio::null());
        let psql = psql.spawn().expect("could not run psql");
        let mut client = cluster.connect();
        let mut pid = 0;
        wait_for("psql to run its statement", PATIENCE, || {
            let rows = client
                .query(
                    "SELECT pid FROM pg_stat_activity
                     WHERE application_name = $1 AND state = 'active' AND query LIKE 'COPY%'",
                    &[&name],
                )
                .expect("pg_stat_activity");
            pid = rows.first().map_or(0, |row| row.get(0));
            pid != 0
        });
        PsqlWorker {
            pid,
            output,
            psql: Mutex::new(psql),
        }
    }

    /// Waits until the file has this many bytes.
    #[track_caller]
    pub fn wait_for_bytes(&self, bytes: u64) {
        wait_for("psql to write its first bytes", PATIENCE, || {
            length_of(&self.output) >= bytes
        });
    }

    /// Kills psql with SIGKILL, so that its connection drops without a Terminate message.
    pub fn kill(&self) {
        let mut psql = self.psql.lock().expect("no test panics with the lock");
        psql.kill().expect("could not kill psql");
        psql.wait().expect("could not wait for psql");
    }

    /// Waits for psql to exit.
    pub fn wait(&self) -> ExitStatus {
        let mut psql = self.psql.lock().expect("no test panics with the lock");
        psql.wait().expect("could not wait for psql")
    }
}

impl Drop for PsqlWorker {
    fn drop(&mut self) {
        if let Ok(mut psql) = self.psql.lock() {
            let _ = psql.kill();
            let _ = psql.wait();
        }
    }
}

fn length_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}
