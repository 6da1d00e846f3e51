//! Hook that is called before an SQL function runs (catalog/objectaccess.h).

use core::cell::Cell;
use core::ffi::{c_int, c_void};

use pgrx::pg_sys;

use super::report::Result;

/// Server function that is about to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerFunction {
    /// pg_backup_stop().
    PgBackupStop,
}

type Check = fn(ServerFunction) -> Result<()>;

thread_local! {
    static CHECK: Cell<Option<Check>> = const { Cell::new(None) };
    static PREVIOUS: Cell<pg_sys::object_access_hook_type> = const { Cell::new(None) };
}

/// Installs `check`, which decides whether a server function may run. Called once, when the library
/// loads.
pub fn install(check: Check) {
    CHECK.set(Some(check));
    // SAFETY: the library is never unloaded, so the hook stays valid; this process has one thread.
    unsafe {
        PREVIOUS.set(pg_sys::object_access_hook);
        pg_sys::object_access_hook = Some(before_access);
    }
}

/// Called for every access to an object, by whatever way a function is called.
#[pgrx::pg_guard]
#[allow(ffi_unwind_calls)]
unsafe extern "C-unwind" fn before_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub_object: c_int,
    argument: *mut c_void,
) {
    if let Some(previous) = PREVIOUS.get() {
        // SAFETY: another library's hook, called as the server calls it. It may raise, hence the
        // guard; the closure owns nothing.
        unsafe {
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                previous(access, class, object, sub_object, argument);
            });
        }
    }
    if access != pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE
        || object.to_u32() != pg_sys::F_PG_BACKUP_STOP
    {
        return;
    }
    if let Some(check) = CHECK.get()
        && let Err(failure) = check(ServerFunction::PgBackupStop)
    {
        failure.raise();
    }
}
