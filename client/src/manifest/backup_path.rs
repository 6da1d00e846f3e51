//! Paths of the files of a backup, relative to its data directory.

use anyhow::{Result, bail};

/// Control file, without which no server starts on a data directory.
pub const CONTROL_FILE: &[u8] = b"global/pg_control";
/// File with the locations of tablespaces, from which a server creates the links.
pub const TABLESPACE_MAP: &[u8] = b"tablespace_map";
/// File with the start of a backup.
pub const BACKUP_LABEL: &[u8] = b"backup_label";
/// The manifest.
pub const MANIFEST: &[u8] = b"backup_manifest";

/// Checks a path of a backup: relative, without empty parts, `.`, `..` and zero bytes.
///
/// # Errors
/// An error if the path is invalid.
pub fn check_name(path: &[u8]) -> Result<()> {
    let fits = path
        .split(|&byte| byte == b'/')
        .all(|part| !matches!(part, b"" | b"." | b"..") && !part.contains(&0));
    if !fits {
        bail!(
            "the backup has a file with the name \"{}\", which is refused",
            display(path)
        );
    }
    Ok(())
}

/// Path for messages.
pub fn display(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Parses an OID in its canonical form.
pub fn parse_oid(text: &[u8]) -> Option<u32> {
    let oid: u32 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (oid.to_string().as_bytes() == text).then_some(oid)
}
