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

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::pg_test;

    use super::{display, is_utf8, sql_text};

    #[pg_test]
    fn names_that_are_no_text_are_escaped() {
        assert!(is_utf8(), "the tests run in a database with UTF-8");
        for (name, text) in [
            (&b"base/5/1"[..], "base/5/1"),
            ("caf\u{e9}".as_bytes(), "caf\u{e9}"),
            (b"caf\xe9 \\", "caf\\351 \\\\"),
            // A surrogate, and a code that is longer than it need be.
            (b"\xed\xa0\x80", "\\355\\240\\200"),
            (b"\xc0\xaf", "\\300\\257"),
        ] {
            assert_eq!(sql_text(name).as_ref(), text.as_bytes());
            assert_eq!(display(name), text);
        }
    }
}
