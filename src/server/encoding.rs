//! The encoding of the database (mb/pg_wchar.h), for names that come from the disk.
//!
//! A file name is any sequence of bytes. Where it is text in the database's encoding it is handed to
//! SQL as it is; where it is not, as bytea's escape format writes it.

use std::borrow::Cow;

use backup_format::path;
use pgrx::pg_sys;

const UTF8: i32 = pg_sys::pg_enc::PG_UTF8 as i32;
const SQL_ASCII: i32 = pg_sys::pg_enc::PG_SQL_ASCII as i32;

fn database_encoding() -> i32 {
    // SAFETY: reads a variable of this session.
    unsafe { pg_sys::GetDatabaseEncoding() }
}

/// Whether these bytes are text that the server can send to a client of another encoding.
#[must_use]
pub fn is_text(bytes: &[u8]) -> bool {
    if bytes.is_ascii() {
        return !bytes.contains(&0);
    }
    match database_encoding() {
        UTF8 => std::str::from_utf8(bytes).is_ok(),
        // Nobody knows what it means.
        SQL_ASCII => false,
        encoding => converts_to_utf8(bytes, encoding),
    }
}

/// Whether each character has an equivalent in UTF-8. In most encodings some bytes have none.
fn converts_to_utf8(bytes: &[u8], encoding: i32) -> bool {
    let Ok(length) = i32::try_from(bytes.len()) else {
        return false;
    };
    let mut source = bytes.to_vec();
    let mut target = vec![0_u8; bytes.len() * pg_sys::MAX_CONVERSION_GROWTH as usize + 1];
    // SAFETY: guarded by pgrx. The target is as large as the server says that it can get, and
    // `noError` has the function return how far it came.
    unsafe {
        let conversion = pg_sys::FindDefaultConversionProc(encoding, UTF8);
        conversion != pg_sys::InvalidOid
            && pg_sys::pg_do_encoding_conversion_buf(
                conversion,
                encoding,
                UTF8,
                source.as_mut_ptr(),
                length,
                target.as_mut_ptr(),
                i32::try_from(target.len()).unwrap_or(i32::MAX),
                true,
            ) == length
    }
}

/// Bytes as SQL text in the database's encoding, escaped where they are none.
#[must_use]
pub fn sql_text(bytes: &[u8]) -> Cow<'_, [u8]> {
    if is_text(bytes) {
        Cow::Borrowed(bytes)
    } else {
        Cow::Owned(path::escape(bytes).into_bytes())
    }
}

/// The name by which a file is listed. Unlike [`sql_text`] it belongs to one file only: what holds a
/// backslash of its own is escaped as well. [`listed_path`] reads it back.
#[must_use]
pub fn listed_name(path: &[u8]) -> Cow<'_, [u8]> {
    if path.contains(&b'\\') {
        Cow::Owned(path::escape(path).into_bytes())
    } else {
        sql_text(path)
    }
}

/// The path that a listed name stands for; `None` for a name that is never listed.
#[must_use]
pub fn listed_path(name: &[u8]) -> Option<Cow<'_, [u8]>> {
    if name.contains(&b'\\') {
        path::unescape(name).map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(name))
    }
}

/// A file's name for a message. Messages are Rust strings, which the server takes as text of the
/// database's encoding: what is not ASCII goes in unchanged only where both are UTF-8.
#[must_use]
pub fn display(name: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(name) {
        Ok(text) if database_encoding() == UTF8 || text.is_ascii() => Cow::Borrowed(text),
        _ => Cow::Owned(path::escape(name)),
    }
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::pg_test;

    use super::{UTF8, database_encoding, display, is_text, listed_name, listed_path, sql_text};

    #[pg_test]
    fn names_that_are_no_text_are_escaped() {
        assert_eq!(database_encoding(), UTF8);
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

    #[pg_test]
    fn each_listed_name_is_that_of_one_file() {
        for (path, name) in [
            (&b"base/5/1"[..], "base/5/1"),
            ("caf\u{e9}".as_bytes(), "caf\u{e9}"),
            (b"caf\xe9", "caf\\351"),
            (b"caf\\351", "caf\\\\351"),
            ("\u{e9}\\".as_bytes(), "\\303\\251\\\\"),
        ] {
            assert_eq!(listed_name(path), name.as_bytes());
            assert_eq!(listed_path(name.as_bytes()).as_deref(), Some(path));
        }
        assert_eq!(listed_path(b"caf\\9"), None);
        assert!(!is_text(b"zero\0"));
    }
}
