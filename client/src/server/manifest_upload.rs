//! Upload of an earlier backup's manifest, before an incremental backup.

use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::manifest::LARGEST;
use crate::manifest::hex::hex;
use crate::runtime::cancellation::Cancellation;
use crate::server::connection::Session;
use crate::server::extension::Extension;
use crate::server::requirements;
use crate::stream::regular_file;

/// First version with incremental backups.
const FIRST_VERSION: i32 = 170_000;
/// Bytes of one part.
const PART: u64 = 256 * 1024;

/// Checks that the server and the role can take an incremental backup.
///
/// # Errors
/// For a server before version 17, for missing privileges, and for a file that cannot be read.
pub fn check(session: &Session, manifest: &Path) -> Result<()> {
    ensure!(
        session.server_version()? >= FIRST_VERSION,
        "server does not support incremental backup"
    );
    requirements::check_functions(session, &["upload_manifest"])?;
    open(manifest).map(|_| ())
}

/// Uploads a manifest in parts.
///
/// # Errors
/// Errors of the file and of the server, and cancellation.
pub fn upload(
    extension: &Extension,
    session: &Session,
    manifest: &Path,
    cancellation: &Cancellation,
) -> Result<()> {
    let mut file = open(manifest)?;
    let statement = format!("SELECT {}upload_manifest($1::bytea)", extension.schema);
    loop {
        cancellation.check()?;
        let mut part = Vec::new();
        (&mut file)
            .take(PART)
            .read_to_end(&mut part)
            .with_context(|| format!("could not read file \"{}\"", manifest.display()))?;
        if part.is_empty() {
            return Ok(());
        }
        session.rows(&statement, &[format!("\\x{}", hex(&part)).as_bytes()])?;
    }
}

fn open(manifest: &Path) -> Result<std::fs::File> {
    regular_file::open_limited(manifest, LARGEST)
        .with_context(|| format!("could not open file \"{}\"", manifest.display()))
}
