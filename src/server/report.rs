//! Errors and warnings as PostgreSQL reports them (utils/elog.h).
//!
//! Functions return [`Error`], which keeps SQLSTATE, message, detail and hint. It is raised as an
//! ERROR once it has reached the SQL function's edge, after every destructor has run.

use core::ffi::c_int;
use std::ffi::CString;

use pgrx::PgLogLevel;
use pgrx::pg_sys;
use pgrx::pg_sys::panic::ErrorReport;

pub use pgrx::pg_sys::errcodes::PgSqlErrorCode as Sqlstate;

/// An ERROR on its way to the client.
///
/// Boxed, because it travels through the result of every small function.
#[derive(Debug)]
pub struct Error(Box<ErrorReport>);

/// Result of all fallible functions.
pub type Result<T, E = Error> = core::result::Result<T, E>;

impl Error {
    /// Creates an error with its SQLSTATE and primary message.
    #[track_caller]
    pub fn new(sqlstate: Sqlstate, message: impl Into<String>) -> Self {
        Self(Box::new(ErrorReport::new(sqlstate, message.into(), "")))
    }

    /// "could not … file …", with SQLSTATE and `%m` taken from the operating system's error.
    #[track_caller]
    pub fn of_file(action: &str, path: &[u8], error: &std::io::Error) -> Self {
        let sqlstate = match error.raw_os_error() {
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
                Sqlstate::ERRCODE_INSUFFICIENT_PRIVILEGE
            }
            Some(libc::ENOENT) => Sqlstate::ERRCODE_UNDEFINED_FILE,
            Some(libc::ENOSPC) => Sqlstate::ERRCODE_DISK_FULL,
            Some(libc::ENFILE | libc::EMFILE) => Sqlstate::ERRCODE_INSUFFICIENT_RESOURCES,
            Some(libc::EIO) => Sqlstate::ERRCODE_IO_ERROR,
            _ => Sqlstate::ERRCODE_INTERNAL_ERROR,
        };
        let path = super::encoding::display(path);
        Self::new(
            sqlstate,
            format!("could not {action} \"{path}\": {}", os_message(error)),
        )
    }

    /// Adds the DETAIL, a sentence.
    #[must_use]
    pub fn detail(self, detail: impl Into<String>) -> Self {
        Self(Box::new(self.0.set_detail(detail)))
    }

    /// Adds the HINT, a sentence.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self(Box::new(self.0.set_hint(hint)))
    }

    /// Raises it. To be called where no destructor is left to run.
    #[track_caller]
    pub fn raise(self) -> ! {
        self.0.report(PgLogLevel::ERROR);
        unreachable!("an ERROR does not return")
    }
}

/// The operating system's own words, as `%m` gives them: without Rust's "(os error 2)".
fn os_message(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text
        .find(" (os error ")
        .map_or(text.as_str(), |end| &text[..end]);
    super::encoding::display(text.as_bytes()).into_owned()
}

/// The value, or the failure as an ERROR: the edge between Rust and SQL.
#[track_caller]
pub fn or_raise<T>(outcome: Result<T>) -> T {
    match outcome {
        Ok(value) => value,
        Err(failure) => failure.raise(),
    }
}

/// Reports a WARNING to the client and to the log.
///
/// The server serves interrupts at the end of a WARNING: a cancel arrives here as an unwinding
/// panic.
#[track_caller]
pub fn warning(sqlstate: Sqlstate, message: impl Into<String>) {
    let location = core::panic::Location::caller();
    let text = |text: &str| CString::new(text).unwrap_or_default();
    let (message, file) = (text(&message.into()), text(location.file()));
    // SAFETY: the calls are those of the macro ereport(). A jump out of them crosses no Rust frame
    // but that of the closure, which owns nothing; the strings outlive it.
    unsafe {
        #[allow(ffi_unwind_calls)]
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            if bindings::errstart(PgLogLevel::WARNING as c_int, core::ptr::null()) {
                bindings::errcode(sqlstate as c_int);
                bindings::errmsg(c"%s".as_ptr(), message.as_ptr());
                bindings::errfinish(file.as_ptr(), location.line() as c_int, core::ptr::null());
            }
        });
    }
}

/// What the macro ereport() calls; pgrx keeps these from its users.
mod bindings {
    use core::ffi::{c_char, c_int};

    unsafe extern "C-unwind" {
        pub fn errstart(level: c_int, domain: *const c_char) -> bool;
        pub fn errcode(sqlstate: c_int) -> c_int;
        pub fn errmsg(format: *const c_char, ...) -> c_int;
        pub fn errfinish(file: *const c_char, line: c_int, function: *const c_char);
    }
}
