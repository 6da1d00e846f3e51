//! The background worker that holds the WAL of a backup.
//!
//! A temporary replication slot is dropped by any ERROR that reaches the top of the session that
//! owns it. So the slot belongs to a worker of its own, which lives exactly as long as the backup
//! and touches nothing but the slot. The server drops the slot when the worker exits, whatever
//! ends it.

use std::time::Duration;

use crate::server::background_worker::{Arguments, BackgroundWorker};
use crate::server::interrupt::{self, WaitEvent};
use crate::server::lock_registry::Registration;
use crate::server::process;
use crate::server::replication_slot;
use crate::server::report::{Error, Result, Sqlstate};
use crate::server::segment::{DetachHandler, Memory};
use crate::server::settings;

use super::retention_state::State;
use super::state::{BackupState, Phase, SharedBackup};

/// Interval at which each side looks without being woken.
const PATIENCE: Duration = Duration::from_secs(1);

/// The worker, as the leader knows it.
pub struct RetentionWorker(BackgroundWorker);

impl RetentionWorker {
    /// Starts the worker and waits until its slot holds the WAL from the last checkpoint on.
    ///
    /// # Errors
    /// Where the server has no replication slot or no background worker left. The backup's
    /// phase must then be set to an end, which ends a worker that has started.
    pub fn start(backup: &SharedBackup) -> Result<Self> {
        replication_slot::check_requirements();
        let arguments = Arguments {
            handle: backup.handle(),
            nonce: backup.nonce(),
        };
        let worker = Self(BackgroundWorker::start(
            c"pg_parallel_backup WAL retention",
            arguments,
        )?);
        loop {
            match backup.retention.state() {
                Some(State::Holding) => return Ok(worker),
                Some(State::Failed) => return Err(cannot_retain(&backup.retention.message())),
                _ if worker.has_stopped() => {
                    return Err(cannot_retain("The background worker stopped unexpectedly."));
                }
                _ => interrupt::wait(PATIENCE, WaitEvent::Extension),
            }
        }
    }

    /// Releases the WAL, and waits until worker and slot are gone.
    pub fn release(self, backup: &SharedBackup) {
        backup.retention.set(State::Released);
        backup.retention.wake_worker();
        self.0.wait_for_end();
    }

    /// Whether the worker has ended, and the slot with it.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        self.0.has_stopped()
    }
}

fn cannot_retain(detail: &str) -> Error {
    Error::new(
        Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "could not create the replication slot that retains the WAL of the backup",
    )
    .detail(detail)
    .hint("Free or add a replication slot (max_replication_slots), or use retain_wal => false.")
}

/// Main function of the worker: holds the slot until the backup ends, and moves it as WAL is
/// acknowledged.
pub fn hold_wal(Arguments { handle, nonce }: Arguments) {
    let Some(backup) = SharedBackup::attach(handle, nonce) else {
        return;
    };
    let retention = &backup.retention;
    retention.set_worker(process::own_id());
    backup.on_detach::<WorkerDetaches>();

    let backup_id = Registration { handle, nonce }.backup_id();
    let created = replication_slot::create_temporary(&format!("pg_parallel_backup_{backup_id:x}"));
    match &created {
        Ok(()) => retention.set(State::Holding),
        Err(message) => retention.fail(message),
    }
    process::wake(backup.leader_pid());
    if created.is_ok() {
        let segment_size = u64::from(settings::wal_segment_size().bytes());
        while !backup.phase().has_ended() && retention.state() != Some(State::Released) {
            // What the caller of send_wal() has on its disk need not be held any more.
            let acknowledged = backup.wal.acknowledged().unwrap_or(0);
            let needed_from = acknowledged - acknowledged % segment_size;
            // The phase is looked at afterwards: a stop that has begun sends all that was not
            // acknowledged before it.
            if needed_from > 0 && backup.phase() == Phase::Streaming {
                replication_slot::advance(needed_from);
            }
            interrupt::wait(PATIENCE, WaitEvent::Extension);
        }
    }
}

/// Handler for the end of the worker's mapping: its process must not be woken any more.
struct WorkerDetaches;

impl DetachHandler for WorkerDetaches {
    fn detached(memory: Memory<'_>, _argument: u32) {
        if let Some(state) = memory.value::<BackupState>(0) {
            state.retention.set_worker(0);
        }
    }
}
