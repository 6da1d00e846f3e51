//! Cancel, terminate and waiting (miscadmin.h, storage/latch.h).

use std::time::Duration;

use pgrx::pg_sys;

/// Serves a cancel or a termination that is pending: raises an ERROR or ends the process.
pub fn check() {
    pgrx::check_for_interrupts!();
}

/// What a session waits for, as `pg_stat_activity` shows it.
#[derive(Clone, Copy)]
pub enum WaitEvent {
    /// Timeout / BaseBackupThrottle.
    Throttle,
    /// Activity of an extension.
    Extension,
}

impl WaitEvent {
    fn code(self) -> u32 {
        match self {
            Self::Throttle => pg_sys::WaitEventTimeout::WAIT_EVENT_BASE_BACKUP_THROTTLE,
            Self::Extension => pg_sys::PG_WAIT_EXTENSION,
        }
    }
}

/// Sleeps until the time is over or the session's latch is set, then serves interrupts.
pub fn wait(longest: Duration, event: WaitEvent) {
    sleep(longest, event);
    check();
}

/// The same without serving interrupts, which set the latch.
pub fn sleep(longest: Duration, event: WaitEvent) {
    let events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_EXIT_ON_PM_DEATH;
    let milliseconds = longest.as_millis().clamp(1, 3_600_000) as core::ffi::c_long;
    // SAFETY: MyLatch is this process's own latch, set up before any SQL function can run.
    unsafe {
        pg_sys::WaitLatch(pg_sys::MyLatch, events as i32, milliseconds, event.code());
        pg_sys::ResetLatch(pg_sys::MyLatch);
    }
}

/// Shows IO / BaseBackupRead in `pg_stat_activity` for as long as it lives.
pub struct ReadWait;

impl ReadWait {
    /// Starts to show it.
    #[must_use]
    pub fn start() -> Self {
        report_wait(pg_sys::WaitEventIO::WAIT_EVENT_BASEBACKUP_READ);
        Self
    }
}

impl Drop for ReadWait {
    fn drop(&mut self) {
        report_wait(0);
    }
}

/// pgstat_report_wait_start() and _end(), which are inline functions and have no symbol.
fn report_wait(code: u32) {
    // SAFETY: the pointer is always valid: to this session's slot, or to a variable before there
    // is one. The server writes it the same way, as one volatile word.
    unsafe { core::ptr::write_volatile(pg_sys::my_wait_event_info, code) }
}
