//! The file `tablespace_map`: original locations of the tablespaces of a backup, one a line.
//!
//! A line is an OID, a blank and a path. In a path, a newline, a carriage return and a backslash are
//! escaped with a backslash.

use core::fmt;

/// Error of parsing a `tablespace_map`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidMap;

impl fmt::Display for InvalidMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("invalid data in file \"tablespace_map\"")
    }
}

impl core::error::Error for InvalidMap {}

/// Parses the OID and the path of each tablespace, like `read_tablespace_map()`.
///
/// # Errors
/// If a line is invalid, or the last one has no end.
pub fn parse(content: &[u8]) -> Result<Vec<(u32, Vec<u8>)>, InvalidMap> {
    let mut tablespaces = Vec::new();
    let mut line = Vec::new();
    let mut escaped = false;
    for &byte in content {
        match byte {
            b'\n' | b'\r' if !escaped => {
                // The line is empty at the newline of a CRLF.
                if !line.is_empty() {
                    tablespaces.push(parse_line(&line)?);
                    line.clear();
                }
            }
            b'\\' if !escaped => escaped = true,
            byte => {
                line.push(byte);
                escaped = false;
            }
        }
    }
    if !line.is_empty() || escaped {
        return Err(InvalidMap);
    }
    Ok(tablespaces)
}

fn parse_line(line: &[u8]) -> Result<(u32, Vec<u8>), InvalidMap> {
    let blank = line.iter().position(|&byte| byte == b' ');
    let (oid, path) = line.split_at(blank.ok_or(InvalidMap)?);
    let oid = core::str::from_utf8(oid).ok().filter(|oid| {
        // The standard library would accept a plus sign.
        oid.bytes().all(|byte| byte.is_ascii_digit())
    });
    let oid = oid.and_then(|oid| oid.parse().ok()).ok_or(InvalidMap)?;
    match path {
        [_, path @ ..] if !path.is_empty() => Ok((oid, path.to_vec())),
        _ => Err(InvalidMap),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn paths_may_hold_blanks_backslashes_and_newlines() {
        let map = b"16384 /srv/one\n16385 /srv/t w\\\\o\\\nx\\\r\r\n4294967295 / \n";
        let expected = [
            (16384, &b"/srv/one"[..]),
            (16385, b"/srv/t w\\o\nx\r"),
            (u32::MAX, b"/ "),
        ];
        let expected = expected.map(|(oid, path)| (oid, path.to_vec()));
        assert_eq!(parse(map), Ok(expected.to_vec()));
        assert_eq!(parse(b""), Ok(Vec::new()));
    }

    #[test]
    fn other_lines_are_refused() {
        for map in [
            &b"16384 /srv/one"[..],
            b"16384 /srv/one\\\n",
            b"16384 /srv/one\n\\",
            b"16384\n",
            b"16384 \n",
            b" /srv/one\n",
            b"x /srv/one\n",
            b"+1 /srv/one\n",
            b"-1 /srv/one\n",
            b"4294967296 /srv/one\n",
        ] {
            let text = String::from_utf8_lossy(map);
            assert_eq!(parse(map), Err(InvalidMap), "{text}");
        }
    }
}
