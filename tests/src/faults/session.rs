//! Sessions and streams that a fault can target. Every wait is bounded, so none can hang.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use postgres::{Client, NoTls};

use super::injection::{Aim, Injection, TIMEOUT};
use super::plan::{Fault, Plan, Stage};
use super::proxy::{Line, Proxy};
use super::site::Site;
use crate::failure::Failure;
use crate::notices::Notices;
use crate::stream::Worker;
use crate::wait::{PATIENCE, wait_for};

/// Session behind a proxy of its own.
pub struct Session {
    pub client: Client,
    pub pid: i32,
    proxy: Proxy,
    line: Arc<Line>,
}

impl Session {
    pub fn open(site: &Site) -> Result<Self, Failure> {
        let proxy = Proxy::before(&site.cluster)?;
        let mut client = postgres::Config::new()
            .host_path(proxy.dir())
            .port(site.cluster.port())
            .user("postgres")
            .dbname("postgres")
            .application_name("fault")
            .connect_timeout(Duration::from_secs(20))
            .notice_callback(|_| {})
            .connect(NoTls)?;
        let pid = client.query_one("SELECT pg_backend_pid()", &[])?.get(0);
        let line = proxy.line(pid).expect("a server tells its process");
        Ok(Session {
            client,
            pid,
            proxy,
            line,
        })
    }

    pub fn aim(&self) -> Aim {
        Aim {
            pid: self.pid,
            line: Arc::clone(&self.line),
        }
    }

    pub fn set(&mut self, timeout: &str) -> Result<(), Failure> {
        let milliseconds = TIMEOUT.as_millis();
        Ok(self
            .client
            .batch_execute(&format!("SET {timeout} = {milliseconds}"))?)
    }

    /// Prepares the first worker for its fault.
    pub fn prepare(&mut self, plan: &Plan) -> Result<(), Failure> {
        match plan.fault {
            Fault::TimeOutWorker => self.set("statement_timeout"),
            Fault::LockTimeOutWorker => self.set("lock_timeout"),
            _ => Ok(()),
        }
    }

    /// Leaves the leader idle while a fault strikes.
    pub fn idle(&mut self, plan: &Plan, injection: &Injection, stage: Stage) {
        if plan.stage != stage || injection.has_struck() {
            return;
        }
        if plan.fault == Fault::IdleTimeOutLeader {
            let _ = self.set("idle_session_timeout");
        }
        if plan.fault != Fault::LockTimeOutWorker {
            injection.reach(stage);
        }
    }

    /// Whether the session is alive and leads a backup.
    pub fn leads(&mut self, site: &Site) -> bool {
        let own = "SELECT FROM backup_progress() WHERE leader_pid = pg_backend_pid()";
        !self.client.is_closed()
            && matches!(self.client.query_opt(own, &[]), Ok(Some(_)))
            && site.try_connect().is_ok()
    }

    pub fn stream(self, copy: &str, halt_at: u64) -> Stream {
        let worker = Worker::in_session(self.client, Notices::default(), self.pid, copy, halt_at);
        Stream {
            worker,
            proxy: self.proxy,
            line: self.line,
        }
    }
}

/// Stream that runs in a session.
pub struct Stream {
    worker: Worker,
    proxy: Proxy,
    line: Arc<Line>,
}

impl Stream {
    pub fn is_finished(&self) -> bool {
        self.worker.is_finished()
    }

    /// Waits until this many bytes have arrived or the stream has ended.
    pub fn wait_for_bytes(&self, bytes: u64) {
        wait_for("a stream to go on or to end", PATIENCE * 2, || {
            self.is_finished() || self.worker.received() >= bytes.max(1)
        });
    }

    pub fn end(mut self) -> (Session, Result<Vec<u8>, Failure>) {
        self.worker.resume();
        wait_for("a stream to end", PATIENCE * 2, || self.is_finished());
        let pid = self.worker.pid;
        let (client, result) = self.worker.join_and_keep();
        let session = Session {
            client,
            pid,
            proxy: self.proxy,
            line: self.line,
        };
        (session, result)
    }
}

/// Work in a thread that must not hang.
pub struct Task<T>(JoinHandle<T>);

impl<T: Send + 'static> Task<T> {
    pub fn spawn(run: impl FnOnce() -> T + Send + 'static) -> Self {
        Task(std::thread::spawn(run))
    }

    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    pub fn join(self, what: &str) -> T {
        wait_for(what, PATIENCE * 2, || self.is_finished());
        self.0
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Polls in a session that bypasses the proxies, until the condition holds or the server is gone.
pub fn wait_until(
    site: &Site,
    what: &str,
    condition: impl Fn(&mut Client) -> Result<bool, postgres::Error>,
) {
    if let Ok(mut client) = site.try_connect() {
        wait_for(what, PATIENCE, || condition(&mut client).unwrap_or(true));
    }
}
