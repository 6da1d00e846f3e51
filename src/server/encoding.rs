//! The encoding of the database (mb/pg_wchar.h), for names that come from the disk.
//!
//! A file name is any sequence of bytes. Where it is a valid string of the database's encoding it
//! is handed to SQL as it is; where it is not, as bytea's escape format writes it.

use std::borrow::Cow;

use backup_format::path;
use pgrx::pg_sys;

/// Whether these bytes are a valid string in the database's encoding.
fn is_valid(text: &[u8]) -> bool {
    let Ok(length) = i32::try_from(text.len()) else {
        return false;
    };
    // SAFETY: the pointer is valid for `length` bytes, and `noError` keeps the call from raising.
    unsafe {
        pg_sys::pg_verify_mbstr(
            pg_sys::GetDatabaseEncoding(),
            text.as_ptr().cast(),
            length,
            true,
        )
    }
}

/// Whether the database's encoding is UTF-8.
#[must_use]
pub fn is_utf8() -> bool {
    // SAFETY: reads a variable of this session.
    unsafe { pg_sys::GetDatabaseEncoding() == pg_sys::pg_enc::PG_UTF8 as i32 }
}

/// A file's name as SQL text in the database's encoding.
#[must_use]
pub fn sql_text(name: &[u8]) -> Cow<'_, [u8]> {
    if is_valid(name) {
        Cow::Borrowed(name)
    } else {
        Cow::Owned(path::escape(name).into_bytes())
    }
}

/// A file's name for a message. Messages are Rust strings, which the server takes as text of the
/// database's encoding: what is not ASCII goes in unchanged only where both are UTF-8.
#[must_use]
pub fn display(name: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(name) {
        Ok(text) if is_utf8() || text.is_ascii() => Cow::Borrowed(text),
        _ => Cow::Owned(path::escape(name)),
    }
}
