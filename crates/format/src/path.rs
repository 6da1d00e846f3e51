//! Paths below the data directory, as bytes and as text in PostgreSQL's bytea escape format.

/// Removes one leading `./` from a path.
pub fn strip_current_directory(path: &[u8]) -> &[u8] {
    path.strip_prefix(b"./").unwrap_or(path)
}

/// Writes a path as ASCII text: a backslash as `\\`, zero and bytes from 0x80 on as `\ooo` in octal.
///
/// The result is the same as that of `encode(path, 'escape')`. [`unescape`] is the inverse.
pub fn escape(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for &byte in path {
        match byte {
            b'\\' => text.push_str("\\\\"),
            0 | 0x80.. => {
                text.push('\\');
                for shift in [6, 3, 0] {
                    text.push(char::from(b'0' + (byte >> shift & 7)));
                }
            }
            _ => text.push(char::from(byte)),
        }
    }
    text
}

/// Decodes the output of [`escape`]. Unescaped bytes that [`escape`] would escape are accepted too.
///
/// `None` if a backslash begins neither `\\` nor the three octal digits of a byte.
pub fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut path = Vec::with_capacity(text.len());
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return Some(path),
            [b'\\', b'\\', rest @ ..] => {
                path.push(b'\\');
                rest
            }
            [
                b'\\',
                high @ b'0'..=b'3',
                middle @ b'0'..=b'7',
                low @ b'0'..=b'7',
                rest @ ..,
            ] => {
                path.push((high - b'0') << 6 | (middle - b'0') << 3 | (low - b'0'));
                rest
            }
            [b'\\', ..] => return None,
            [byte, rest @ ..] => {
                path.push(*byte);
                rest
            }
        };
    }
}

/// Whether a path is that of a tablespace link, `pg_tblspc/<oid>`.
pub fn is_tablespace_link(path: &[u8]) -> bool {
    path.strip_prefix(b"pg_tblspc/")
        .is_some_and(|oid| !oid.is_empty() && oid.iter().all(u8::is_ascii_digit))
}

/// The part of a path after its last slash.
pub fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

/// The part of a path after `pg_tblspc/<oid>/PG_<version>/`, if it begins so.
pub(crate) fn below_version_directory(path: &[u8]) -> Option<&[u8]> {
    let mut parts = path.strip_prefix(b"pg_tblspc/")?.splitn(3, |&b| b == b'/');
    let (oid, version, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let fits = !oid.is_empty() && oid.iter().all(u8::is_ascii_digit) && version.starts_with(b"PG_");
    fits.then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_current_directory_is_stripped() {
        for (path, expected) in [
            ("./base/5", "base/5"),
            ("base/5", "base/5"),
            ("././base", "./base"),
            ("../base", "../base"),
            ("./", ""),
            (".", "."),
            (".//base", "/base"),
        ] {
            assert_eq!(
                strip_current_directory(path.as_bytes()),
                expected.as_bytes()
            );
        }
    }

    #[test]
    fn links_of_tablespaces_lie_in_pg_tblspc_alone() {
        assert!(is_tablespace_link(b"pg_tblspc/16400"));
        for path in [
            "pg_tblspc",
            "pg_tblspc/",
            "pg_tblspc/x",
            "pg_tblspc/16400/",
            "pg_tblspc/16400/PG_15_202209061",
            "base/16400",
            "./pg_tblspc/16400",
        ] {
            assert!(!is_tablespace_link(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn bytes_that_are_not_ascii_are_escaped() {
        for (path, text) in [
            (&b"base/5/16384"[..], "base/5/16384"),
            (b"caf\xc3\xa9", "caf\\303\\251"),
            (b"\xff\x80\x7f", "\\377\\200\x7f"),
            (b"a\\b", "a\\\\b"),
            (b"\\101", "\\\\101"),
            (b"a\nb\0", "a\nb\\000"),
        ] {
            assert_eq!(escape(path), text);
            assert_eq!(unescape(text.as_bytes()).as_deref(), Some(path));
        }
    }

    #[test]
    fn bytes_may_be_escaped_without_need() {
        assert_eq!(
            unescape(b"\\101\\012\xe9").as_deref(),
            Some(&b"A\n\xe9"[..])
        );
    }

    #[test]
    fn broken_escapes_are_refused() {
        for text in [
            "\\", "a\\", "\\x41", "\\1", "\\12", "\\12a", "\\400", "\\128", "\\777", "\\\\\\",
        ] {
            assert_eq!(unescape(text.as_bytes()), None, "{text}");
        }
    }
}
