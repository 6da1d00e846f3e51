//! A background worker that holds the WAL of a backup (postmaster/bgworker.h, replication/slot.h).
//!
//! A temporary replication slot is dropped by any ERROR that reaches the top of the session that
//! owns it. So the slot belongs to a worker of its own, which lives exactly as long as the backup
//! and touches nothing but the slot. The server drops the slot when the worker exits, whatever
//! ends it.

use core::ffi::{CStr, c_char};
use core::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, Ordering};
use std::ffi::CString;
use std::time::Duration;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;

use super::interrupt::{self, WaitEvent};
use super::lock_registry::Registration;
use super::report::{Error, Result, Sqlstate};
use super::shared_backup::SharedBackup;

const MESSAGE_SIZE: usize = 256;

/// How long each side waits before it looks again, should a signal be missed.
const PATIENCE: Duration = Duration::from_secs(1);

/// How the worker is doing; 0, as the segment is made, stands for a worker that is starting.
#[repr(u32)]
enum State {
    Holding = 1,
    Failed = 2,
    Released = 3,
}

/// The worker's part of the backup's segment.
#[repr(C)]
pub struct Retention {
    state: AtomicU32,
    worker_pid: AtomicI32,
    message_length: AtomicU32,
    message: [AtomicU8; MESSAGE_SIZE],
}

impl Retention {
    /// Has the worker look at the backup's phase. Does not raise, and may run at process exit.
    pub fn wake_worker(&self) {
        set_latch_of(self.worker_pid.load(Ordering::Acquire));
    }

    fn is_released(&self) -> bool {
        self.state.load(Ordering::Acquire) == State::Released as u32
    }

    fn fail(&self, message: &str) {
        let bytes = message.as_bytes();
        let length = bytes.len().min(MESSAGE_SIZE);
        for (place, byte) in self.message.iter().zip(bytes) {
            place.store(*byte, Ordering::Relaxed);
        }
        self.message_length.store(length as u32, Ordering::Relaxed);
        self.state.store(State::Failed as u32, Ordering::Release);
    }

    /// Nobody is to be signalled under this number any more. Does not raise.
    pub(super) fn forget_worker(&self) {
        self.worker_pid.store(0, Ordering::Release);
    }

    fn message(&self) -> String {
        let length = self.message_length.load(Ordering::Relaxed) as usize;
        let bytes: Vec<u8> = self
            .message
            .iter()
            .take(length)
            .map(|byte| byte.load(Ordering::Relaxed))
            .collect();
        super::encoding::display(&bytes).into_owned()
    }
}

/// The worker, as the leader knows it.
pub struct RetentionWorker {
    handle: *mut pg_sys::BackgroundWorkerHandle,
}

impl RetentionWorker {
    /// Starts the worker and waits until its slot holds the WAL from the last checkpoint on.
    ///
    /// # Errors
    /// Where the server has no replication slot or no background worker left. The backup's
    /// phase must then be set to an end, which ends a worker that has started.
    pub fn start(backup: &SharedBackup) -> Result<Self> {
        // SAFETY: guarded by pgrx; raises where slots cannot be used at all.
        unsafe { pg_sys::CheckSlotRequirements() };
        let worker = Self {
            handle: register(backup)?,
        };
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
        let state = &backup.retention.state;
        state.store(State::Released as u32, Ordering::Release);
        backup.retention.wake_worker();
        // SAFETY: guarded by pgrx; the handle is the leader's own, and is freed here.
        unsafe {
            pg_sys::WaitForBackgroundWorkerShutdown(self.handle);
            pg_sys::pfree(self.handle.cast());
        }
    }

    /// Whether the worker has ended, and the slot with it.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        let mut pid = 0;
        // SAFETY: the handle is the leader's own.
        let status = unsafe { pg_sys::GetBackgroundWorkerPid(self.handle, &raw mut pid) };
        status == pg_sys::BgwHandleStatus::BGWH_STOPPED
            || status == pg_sys::BgwHandleStatus::BGWH_POSTMASTER_DIED
    }
}

fn register(backup: &SharedBackup) -> Result<*mut pg_sys::BackgroundWorkerHandle> {
    let mut worker = pg_sys::BackgroundWorker {
        // It connects to no database, but only with this flag does pg_stat_activity show it.
        bgw_flags: (pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION)
            as i32,
        bgw_start_time: pg_sys::BgWorkerStartTime::BgWorkerStart_ConsistentState,
        bgw_restart_time: pg_sys::BGW_NEVER_RESTART,
        bgw_main_arg: pg_sys::Datum::from(backup.handle()),
        ..Default::default()
    };
    let name = c"pg_parallel_backup WAL retention";
    copy_text(&mut worker.bgw_name, name);
    copy_text(&mut worker.bgw_type, name);
    copy_text(&mut worker.bgw_library_name, c"pg_parallel_backup");
    copy_text(
        &mut worker.bgw_function_name,
        c"pg_parallel_backup_retain_wal",
    );
    for (place, byte) in worker
        .bgw_extra
        .iter_mut()
        .zip(backup.nonce().to_ne_bytes())
    {
        *place = byte as c_char;
    }
    let mut handle = core::ptr::null_mut();
    // SAFETY: guarded by pgrx. The handle is allocated in the context that lives as long as the
    // session, since the leader keeps it from one statement to another.
    let registered = unsafe {
        worker.bgw_notify_pid = pg_sys::MyProcPid;
        let before = pg_sys::CurrentMemoryContext;
        pg_sys::CurrentMemoryContext = pg_sys::TopMemoryContext;
        let registered = pg_sys::RegisterDynamicBackgroundWorker(&raw mut worker, &raw mut handle);
        pg_sys::CurrentMemoryContext = before;
        registered
    };
    if registered {
        return Ok(handle);
    }
    Err(Error::new(
        Sqlstate::ERRCODE_INSUFFICIENT_RESOURCES,
        "could not register background worker to retain WAL",
    )
    .hint("You might need to increase max_worker_processes."))
}

fn cannot_retain(detail: &str) -> Error {
    Error::new(
        Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "could not create the replication slot that retains the WAL of the backup",
    )
    .detail(detail)
    .hint("Free or add a replication slot (max_replication_slots), or use retain_wal => false.")
}

fn copy_text(target: &mut [c_char], text: &CStr) {
    for (place, byte) in target.iter_mut().zip(text.to_bytes_with_nul()) {
        *place = *byte as c_char;
    }
}

/// Sets the latch of another process of this server, as procsignal does.
fn set_latch_of(pid: i32) {
    if pid > 0 {
        // SAFETY: a signal that every backend and background worker handles by setting its latch.
        unsafe { libc::kill(pid, libc::SIGUSR1) };
    }
}

/// The worker's main function: holds the slot until the backup has ended.
#[unsafe(no_mangle)]
#[pgrx::pg_guard]
pub extern "C-unwind" fn pg_parallel_backup_retain_wal(argument: pg_sys::Datum) {
    // SAFETY: the postmaster has set up this entry; the extra bytes are those of `register`.
    let nonce = unsafe {
        // The default for SIGTERM ends the process within the handler, wherever it stands. A cancel
        // has nothing to cancel here but the slot.
        let handler: unsafe extern "C-unwind" fn(core::ffi::c_int) = end_at_next_check;
        libc::signal(libc::SIGTERM, handler as libc::sighandler_t);
        libc::signal(libc::SIGINT, libc::SIG_IGN);
        pg_sys::BackgroundWorkerUnblockSignals();
        pg_sys::BackgroundWorkerInitializeConnection(core::ptr::null(), core::ptr::null(), 0);
        let extra = &(*pg_sys::MyBgworkerEntry).bgw_extra;
        u32::from_ne_bytes(core::array::from_fn(|index| extra[index] as u8))
    };
    let handle = argument.value() as u32;
    let Some(backup) = SharedBackup::attach(handle, nonce) else {
        return;
    };
    let retention = &backup.retention;
    // SAFETY: reads this process's id.
    retention
        .worker_pid
        .store(unsafe { pg_sys::MyProcPid }, Ordering::Release);
    backup.when_worker_exits();

    let slot = format!(
        "pg_parallel_backup_{:x}",
        Registration { handle, nonce }.backup_id()
    );
    let created = pgrx::PgTryBuilder::new(|| create_slot(&slot))
        .catch_others(|error| Err(message_of(&error)))
        .execute();
    let state = match created {
        Ok(()) => State::Holding,
        Err(message) => {
            retention.fail(&message);
            State::Failed
        }
    };
    if matches!(state, State::Holding) {
        retention
            .state
            .store(State::Holding as u32, Ordering::Release);
    }
    set_latch_of(backup.leader_pid());
    if matches!(state, State::Holding) {
        while !backup.phase().has_ended() && !retention.is_released() {
            interrupt::wait(PATIENCE, WaitEvent::Extension);
        }
    }
}

/// The server's own handler: FATAL at the next check for interrupts.
unsafe extern "C-unwind" fn end_at_next_check(signal: core::ffi::c_int) {
    // SAFETY: made to be called by a signal.
    unsafe { pg_sys::die(signal) }
}

/// Creates the slot, which this process then owns.
fn create_slot(name: &str) -> Result<(), String> {
    let name = CString::new(name).map_err(|error| error.to_string())?;
    // SAFETY: guarded by pgrx. An ERROR is caught by the caller, and the process exits after it.
    unsafe {
        pg_sys::ReplicationSlotCreate(
            name.as_ptr(),
            false,
            pg_sys::ReplicationSlotPersistency::RS_TEMPORARY,
            false,
            // Neither kept by a failover nor copied from a primary.
            #[cfg(pg17_or_newer)]
            false,
            #[cfg(pg17_or_newer)]
            false,
        );
        pg_sys::ReplicationSlotReserveWal();
        pg_sys::ReplicationSlotMarkDirty();
        pg_sys::ReplicationSlotSave();
    }
    Ok(())
}

fn message_of(error: &CaughtError) -> String {
    match error {
        CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic {
            ereport: report, ..
        } => report.message().to_owned(),
    }
}
