//! What a server says beside its rows: notices, and the fields of errors, in the bytes that it sent.
//!
//! The crate `libpq` has neither: its receiver of notices takes pointers, and its fields are none
//! where they are not UTF-8, which messages in another encoding are not. All unsafe code that the
//! program `pg_parallel_backup` needs is here (libpq-fe.h).

#![allow(unsafe_code)]

use std::ffi::{CStr, c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libpq::result::ErrorField;
use libpq::{Connection, PQResult};

/// More notices than that are not kept between two looks at them: nobody would read them.
const MOST: usize = 10_000;

/// A message that ends nothing: a NOTICE, a WARNING.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The primary message, in the client's encoding.
    pub message: Vec<u8>,
}

/// The notices of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Notices(&'static Mutex<Vec<Notice>>);

impl Notices {
    /// Keeps the notices of a connection from now on, which libpq would otherwise print.
    ///
    /// Their place stays for as long as the process, because libpq may write to it for as long as
    /// the connection.
    #[must_use]
    pub fn of(connection: &Connection) -> Self {
        let kept: &'static Mutex<Vec<Notice>> = Box::leak(Box::default());
        let argument = std::ptr::from_ref(kept).cast_mut().cast::<c_void>();
        // SAFETY: `keep` takes its argument for what it is here, a place that is never freed, and
        // changes it behind its lock alone.
        unsafe { connection.set_notice_receiver(Some(keep), argument) };
        Self(kept)
    }

    /// Those that have come since the last call.
    #[must_use]
    pub fn take(&self) -> Vec<Notice> {
        std::mem::take(&mut lock(self.0))
    }
}

fn lock(kept: &Mutex<Vec<Notice>>) -> MutexGuard<'_, Vec<Notice>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// # Safety
/// `argument` is a `Mutex<Vec<Notice>>` that lives, and `result` a result of libpq.
unsafe extern "C" fn keep(argument: *mut c_void, result: *const libpq_sys::PGresult) {
    // SAFETY: the caller's promise.
    let kept = unsafe { &*argument.cast_const().cast::<Mutex<Vec<Notice>>>() };
    let mut kept = lock(kept);
    if kept.len() < MOST {
        // SAFETY: the caller's promise.
        let message = unsafe { bytes_of(result, ErrorField::MessagePrimary) };
        let message = message.unwrap_or_default().to_vec();
        kept.push(Notice { message });
    }
}

/// A field of an error.
#[must_use]
pub fn error_field(result: &PQResult, field: ErrorField) -> Option<&[u8]> {
    // SAFETY: the pointer is the result's own, and what is returned lives no longer than that.
    unsafe { bytes_of(result.into(), field) }
}

/// # Safety
/// `result` is null or a result of libpq that outlives what is returned.
unsafe fn bytes_of<'a>(result: *const libpq_sys::PGresult, field: ErrorField) -> Option<&'a [u8]> {
    // SAFETY: it only reads, and allows null; the caller's promise covers the rest.
    let text = unsafe { libpq_sys::PQresultErrorField(result, c_int::from(field)) };
    if text.is_null() {
        return None;
    }
    // SAFETY: libpq's fields end with a zero byte, and live as long as the result.
    Some(unsafe { CStr::from_ptr(text) }.to_bytes())
}
