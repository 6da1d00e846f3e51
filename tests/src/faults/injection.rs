//! Injects the fault of a run, and undoes it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use super::plan::{Fault, Plan, Stage, Target};
use super::pressure;
use super::proxy::Line;
use super::session::wait_until;
use super::site::Site;
use crate::program::run;

/// Session that a fault can target.
#[derive(Clone)]
pub struct Aim {
    pub pid: i32,
    pub line: Arc<Line>,
}

/// Information about the running backup, used to aim the fault.
#[derive(Default)]
struct Known {
    leader: Option<Aim>,
    worker: Option<Aim>,
    wal: Option<Aim>,
    start_lsn: Option<String>,
}

/// Fault of one run.
pub struct Injection<'a> {
    site: &'a Site,
    plan: &'a Plan,
    known: Mutex<Known>,
    has_struck: AtomicBool,
    has_missed: AtomicBool,
    /// Files and directories made unreadable, with their original modes.
    closed: Mutex<Vec<(PathBuf, u32)>>,
    ongoing: Mutex<Option<Ongoing>>,
}

struct Ongoing {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl<'a> Injection<'a> {
    pub fn new(site: &'a Site, plan: &'a Plan) -> Self {
        Injection {
            site,
            plan,
            known: Mutex::default(),
            has_struck: AtomicBool::new(false),
            has_missed: AtomicBool::new(false),
            closed: Mutex::default(),
            ongoing: Mutex::default(),
        }
    }

    pub fn set_leader(&self, aim: Aim) {
        lock(&self.known).leader = Some(aim);
    }

    pub fn set_worker(&self, aim: Aim) {
        lock(&self.known).worker = Some(aim);
    }

    pub fn set_wal(&self, aim: Aim) {
        lock(&self.known).wal = Some(aim);
    }

    pub fn set_start_lsn(&self, lsn: &str) {
        lock(&self.known).start_lsn = Some(lsn.to_owned());
    }

    /// Whether the fault has struck already.
    pub fn has_struck(&self) -> bool {
        self.has_struck.load(Ordering::SeqCst)
    }

    /// Whether the fault found no target or its stage never came.
    pub fn has_missed(&self) -> bool {
        !self.has_struck() || self.has_missed.load(Ordering::SeqCst)
    }

    /// Reports that the backup has reached a stage.
    pub fn reach(&self, stage: Stage) {
        if self.plan.stage == stage {
            self.strike();
        }
    }

    /// Makes the fault strike, once per run. A transient fault is over on return.
    pub fn strike(&self) {
        if self.has_struck.swap(true, Ordering::SeqCst) {
            return;
        }
        if self.apply().is_none() {
            self.has_missed.store(true, Ordering::SeqCst);
        }
    }

    /// Applies the fault. Returns `None` if it has no target.
    fn apply(&self) -> Option<()> {
        let (leader, worker, wal) = {
            let known = lock(&self.known);
            (
                known.leader.clone(),
                known.worker.clone(),
                known.wal.clone(),
            )
        };
        match self.plan.fault {
            Fault::Nothing => {}
            Fault::CancelWorker => self.call("pg_cancel_backend", worker?.pid),
            Fault::CancelWal => self.call("pg_cancel_backend", wal?.pid),
            Fault::TerminateWal => self.call("pg_terminate_backend", wal?.pid),
            Fault::KillWal => signal("KILL", wal?.pid),
            Fault::PauseWal => self.pause(wal?.pid),
            Fault::CutWal => wal?.line.cut(),
            Fault::StallWal => self.stall(&wal?.line),
            Fault::CancelLeader => self.call("pg_cancel_backend", leader?.pid),
            Fault::TerminateWorker => self.call("pg_terminate_backend", worker?.pid),
            Fault::TerminateLeader => self.call("pg_terminate_backend", leader?.pid),
            Fault::TerminateRetention => self.call("pg_terminate_backend", self.retention()?),
            Fault::KillWorker => signal("KILL", worker?.pid),
            Fault::KillLeader => signal("KILL", leader?.pid),
            Fault::KillRetention => signal("KILL", self.retention()?),
            Fault::PauseWorker => self.pause(worker?.pid),
            Fault::PauseLeader => self.pause(leader?.pid),
            Fault::PauseRetention => self.pause(self.retention()?),
            Fault::CutWorker => worker?.line.cut(),
            Fault::CutLeader => leader?.line.cut(),
            Fault::StallWorker => self.stall(&worker?.line),
            Fault::StallLeader => self.stall(&leader?.line),
            // The sessions already have the timeout set. Wait until it fires.
            Fault::TimeOutWorker | Fault::TimeOutLeader | Fault::IdleTimeOutLeader => {
                sleep(TIMEOUT * 3);
            }
            Fault::LockTimeOutWorker | Fault::LockTimeOutLeader => {
                self.begin(pressure::lock_functions(self.site)?);
            }
            Fault::FullDisk => self.site.fill_disk(),
            Fault::Unreadable => self.close()?,
            Fault::FailingReads => self.fail_reads()?,
            Fault::KillServer => signal("KILL", self.site.cluster.pid()),
            Fault::QuitServer => signal("QUIT", self.site.cluster.pid()),
            Fault::StopServer => signal("INT", self.site.cluster.pid()),
            Fault::Promotion => self.promote(),
            Fault::WalPressure => self.begin(pressure::switch_wal(self.site)),
            Fault::Churn => self.begin(pressure::churn(self.site, self.plan)),
        }
        Some(())
    }

    /// Undoes a lasting fault. May be called repeatedly.
    pub fn heal(&self) {
        if let Some(ongoing) = lock(&self.ongoing).take() {
            ongoing.stop.store(true, Ordering::SeqCst);
            let _ = ongoing.thread.join();
        }
        for (path, mode) in lock(&self.closed).drain(..) {
            let _ = fs::set_permissions(path, Permissions::from_mode(mode));
        }
        match self.plan.fault {
            Fault::FailingReads => self.site.layer.pass(),
            Fault::FullDisk => self.site.free_disk(),
            _ => {}
        }
    }

    fn begin(&self, (stop, thread): (Arc<AtomicBool>, JoinHandle<()>)) {
        *lock(&self.ongoing) = Some(Ongoing { stop, thread });
    }

    fn call(&self, function: &str, pid: i32) {
        self.site
            .try_execute(&[&format!("SELECT {function}({pid})")]);
    }

    fn pause(&self, pid: i32) {
        signal("STOP", pid);
        sleep(Duration::from_millis(self.plan.duration));
        signal("CONT", pid);
    }

    fn stall(&self, line: &Line) {
        line.stall();
        sleep(Duration::from_millis(self.plan.duration));
        line.open();
    }

    /// Promotes the standby. A session that waited for that in one statement would hold up the replay with its
    /// snapshot, and the promotion with it, until the standby cancels whatever has a snapshot.
    fn promote(&self) {
        self.site.try_execute(&["SELECT pg_promote(wait => false)"]);
        wait_until(self.site, "the promotion", |client| {
            let promoted = "SELECT NOT pg_is_in_recovery()";
            Ok(client.query_one(promoted, &[])?.get(0))
        });
    }

    fn retention(&self) -> Option<i32> {
        let mut client = self.site.try_connect().ok()?;
        let worker = "SELECT pid FROM pg_stat_activity
                      WHERE backend_type LIKE 'pg_parallel_backup%'";
        Some(client.query_opt(worker, &[]).ok()??.get(0))
    }

    /// Removes the read permission of the target.
    fn close(&self) -> Option<()> {
        let path = self.site.path(&self.target()?);
        let mode = fs::metadata(&path).ok()?.permissions().mode() & 0o7777;
        lock(&self.closed).push((path.clone(), mode));
        fs::set_permissions(path, Permissions::from_mode(0o0)).ok()
    }

    fn fail_reads(&self) -> Option<()> {
        let path = self.target()?;
        let path = fs::canonicalize(self.site.path(&path)).ok()?;
        let size = fs::metadata(&path).ok()?.len();
        let offset = match self.plan.bytes {
            0 => 0,
            bytes => bytes % size.max(1),
        };
        self.site.layer.fail_reads(&path.to_string_lossy(), offset);
        Some(())
    }

    /// Path of the target to make unreadable, relative to the data directory.
    fn target(&self) -> Option<String> {
        let places = &self.site.places;
        Some(match self.plan.target {
            Target::Table => places.table.clone(),
            Target::TableElsewhere => places.table_elsewhere.clone(),
            Target::Directory if self.plan.fault == Fault::Unreadable => places.directory.clone(),
            Target::SmallFile | Target::Directory => format!("{}/PG_VERSION", places.directory),
            Target::ControlFile => "global/pg_control".to_owned(),
            Target::Wal => format!("pg_wal/{}", self.first_segment()?),
        })
    }

    /// Segment that contains the start of the backup, once nothing writes to it any more.
    fn first_segment(&self) -> Option<String> {
        let lsn = lock(&self.known).start_lsn.clone()?;
        let mut client = self.site.try_connect().ok()?;
        client.batch_execute("SELECT pg_switch_wal()").ok()?;
        let name = format!("SELECT pg_walfile_name('{lsn}')");
        Some(client.query_one(&name, &[]).ok()?.get(0))
    }
}

/// Timeout of the sessions for a timeout fault.
pub const TIMEOUT: Duration = Duration::from_millis(150);

/// Sends a signal. A process that has already exited is no error.
fn signal(name: &str, pid: i32) {
    assert!(pid > 1, "{pid} is not one process");
    run(Command::new("kill").args(["-s", name, &pid.to_string()]));
}

/// Restores the permissions of all WAL segments. A run may have changed a segment that was renamed
/// since.
pub fn open_wal(data_dir: &Path) {
    for entry in fs::read_dir(data_dir.join("pg_wal")).into_iter().flatten() {
        if let Ok(entry) = entry
            && entry.file_type().is_ok_and(|kind| kind.is_file())
        {
            let _ = fs::set_permissions(entry.path(), Permissions::from_mode(0o600));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
