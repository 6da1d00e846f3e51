//! Paths below the data directory, as bytes, and as text in PostgreSQL's bytea escape format.

/// Takes one leading `./` off a path.
pub fn strip_current_directory(path: &[u8]) -> &[u8] {
    path.strip_prefix(b"./").unwrap_or(path)
}

/// Writes a path as ASCII text: `\\` for a backslash, and `\ooo`, the octal value, for bytes from
/// 0x80 on and for zero.
///
/// This is what `encode(path, 'escape')` gives. [`unescape`] reads it back.
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

/// Reads what [`escape`] writes, and bytes that could have been escaped but are not.
///
/// `None` when a backslash begins neither `\\` nor three octal digits of one byte.
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

/// The part of a path after its last slash.
pub(crate) fn file_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

/// What follows `pg_tblspc/<oid>/PG_<version>/` in a path, if that is how it begins.
pub(crate) fn below_version_directory(path: &[u8]) -> Option<&[u8]> {
    let mut parts = path.strip_prefix(b"pg_tblspc/")?.splitn(3, |&b| b == b'/');
    let (oid, version, rest) = (parts.next()?, parts.next()?, parts.next()?);
    let fits = !oid.is_empty() && oid.iter().all(u8::is_ascii_digit) && version.starts_with(b"PG_");
    fits.then_some(rest)
}
