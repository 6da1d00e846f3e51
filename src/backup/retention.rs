//! The background worker that holds the WAL of a backup.
//!
//! A temporary replication slot is dropped by any ERROR that reaches the top of the session that
//! owns it. So the slot belongs to a worker of its own, which lives exactly as long as the backup
//! and touches nothing but the slot. The server drops the slot when the worker exits, whatever
//! ends it.

use core::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, Ordering};
use std::time::Duration;

use crate::server::background_worker::{Arguments, BackgroundWorker};
use crate::server::encoding;
use crate::server::interrupt::{self, WaitEvent};
use crate::server::lock_registry::Registration;
use crate::server::process;
use crate::server::replication_slot;
use crate::server::report::{Error, Result, Sqlstate};
use crate::server::segment::{DetachHandler, FromBytes, Memory};

use super::state::{BackupState, SharedBackup};

const MESSAGE_SIZE: usize = 256;

/// How long each side waits before it looks again, should it not be woken.
const PATIENCE: Duration = Duration::from_secs(1);

/// How the worker is doing; 0, as it is in the beginning, stands for a worker that is starting.
#[repr(u32)]
enum State {
    Holding = 1,
    Failed = 2,
    Released = 3,
}

/// The worker's part of the backup's segment.
#[derive(FromBytes)]
#[repr(C)]
pub struct Retention {
    state: AtomicU32,
    /// 0 where there is no worker.
    worker_pid: AtomicI32,
    message_length: AtomicU32,
    message: [AtomicU8; MESSAGE_SIZE],
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            state: AtomicU32::new(0),
            worker_pid: AtomicI32::new(0),
            message_length: AtomicU32::new(0),
            message: [const { AtomicU8::new(0) }; MESSAGE_SIZE],
        }
    }
}

impl Retention {
    /// Has the worker look at the backup's phase. Does not raise, and may run at process exit.
    pub fn wake_worker(&self) {
        process::wake(self.worker_pid.load(Ordering::Acquire));
    }

    fn is_released(&self) -> bool {
        self.state.load(Ordering::Acquire) == State::Released as u32
    }

    fn set(&self, state: State) {
        self.state.store(state as u32, Ordering::Release);
    }

    fn fail(&self, message: &str) {
        let bytes = message.as_bytes();
        let length = bytes.len().min(MESSAGE_SIZE);
        for (place, byte) in self.message.iter().zip(bytes) {
            place.store(*byte, Ordering::Relaxed);
        }
        self.message_length.store(length as u32, Ordering::Relaxed);
        self.set(State::Failed);
    }

    fn message(&self) -> String {
        let length = self.message_length.load(Ordering::Relaxed) as usize;
        let bytes: Vec<u8> = self
            .message
            .iter()
            .take(length)
            .map(|byte| byte.load(Ordering::Relaxed))
            .collect();
        encoding::display(&bytes).into_owned()
    }
}

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
            match backup.retention.state.load(Ordering::Acquire) {
                state if state == State::Holding as u32 => return Ok(worker),
                state if state == State::Failed as u32 => {
                    return Err(cannot_retain(&backup.retention.message()));
                }
                _ if worker.has_stopped() => {
                    return Err(cannot_retain("The background worker stopped unexpectedly."));
                }
                _ => interrupt::wait(PATIENCE, WaitEvent::Extension),
            }
        }
    }

    /// Lets the WAL go, and waits until the worker is gone and the slot with it.
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

/// What the worker does: holds the slot until the backup has ended.
pub fn hold_wal(Arguments { handle, nonce }: Arguments) {
    let Some(backup) = SharedBackup::attach(handle, nonce) else {
        return;
    };
    let retention = &backup.retention;
    retention
        .worker_pid
        .store(process::own_id(), Ordering::Release);
    backup.on_detach::<WorkerDetaches>();

    let backup_id = Registration { handle, nonce }.backup_id();
    let created = replication_slot::create_temporary(&format!("pg_parallel_backup_{backup_id:x}"));
    match &created {
        Ok(()) => retention.set(State::Holding),
        Err(message) => retention.fail(message),
    }
    process::wake(backup.leader_pid());
    if created.is_ok() {
        while !backup.phase().has_ended() && !retention.is_released() {
            interrupt::wait(PATIENCE, WaitEvent::Extension);
        }
    }
}

/// The worker's mapping ends: nobody is to be woken under its number any more.
struct WorkerDetaches;

impl DetachHandler for WorkerDetaches {
    fn detached(memory: Memory<'_>, _argument: u32) {
        if let Some(state) = memory.value::<BackupState>(0) {
            state.retention.worker_pid.store(0, Ordering::Release);
        }
    }
}
