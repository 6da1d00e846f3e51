//! Processes of the server (miscadmin.h, storage/procarray.h, storage/latch.h).

use pgrx::pg_sys;

use super::report::{Error, Result, Sqlstate};

/// The id of this process.
#[must_use]
pub fn own_id() -> i32 {
    // SAFETY: a variable of this process.
    unsafe { pg_sys::MyProcPid }
}

/// Wakes another session or background worker of this server, by its process id: sets its latch. Does
/// nothing where the server has no such process, whatever else the system has under that number. Does
/// not raise, and may run while this process exits, as long as it is in the server's table of processes.
pub fn wake(id: i32) {
    // SAFETY: looks the number up in the server's own table, under its lock, which this process does not
    // hold. Entries of the table stay mapped. Should the process have gone since, the latch is free or
    // somebody else's, who is woken without need.
    unsafe {
        let process = pg_sys::BackendPidGetProc(id);
        if !process.is_null() {
            pg_sys::SetLatch(&raw mut (*process).procLatch);
        }
    }
}

/// Random bytes that nobody can foresee (port/pg_strong_random.c).
///
/// # Errors
/// `internal_error` where the system has none.
pub fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0_u8; N];
    // SAFETY: writes as many bytes as the array has.
    let done = unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), N) };
    if done {
        Ok(bytes)
    } else {
        Err(Error::new(
            Sqlstate::ERRCODE_INTERNAL_ERROR,
            "could not generate a random number",
        ))
    }
}
