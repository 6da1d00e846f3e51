//! Paths of the files of a backup, relative to its data directory.

use anyhow::{Result, bail};

/// What has to be missing in a data directory for no server to start on it.
pub const CONTROL_FILE: &[u8] = b"global/pg_control";
/// The manifest.
pub const MANIFEST: &[u8] = b"backup_manifest";

/// Names are relative, and have no parts that mean something else.
///
/// # Errors
/// Where a name is not so.
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

/// A name for messages.
pub fn display(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// An OID, in the one way that the server writes it.
pub fn parse_oid(text: &[u8]) -> Option<u32> {
    let oid: u32 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (oid.to_string().as_bytes() == text).then_some(oid)
}
