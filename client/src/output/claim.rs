//! The claim of a directory: the first thing in it, a file that only one process can create.
//!
//! Of two programs that are given the same directory one is refused, and removes nothing of the other's.
//! The claim goes when the backup is complete, and after an error as the last thing in the directory.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context, Error, Result, anyhow, ensure};

/// Claim of a directory that is being written to.
pub const CLAIM: &str = "pg_parallel_backup.unfinished";

/// Claims a directory, which must be empty, for this process.
///
/// # Errors
/// Where it is not empty or another process claims it, and the operating system's.
pub fn take(path: &Path) -> Result<()> {
    refuse_content(path, &[])?;
    let claim = path.join(CLAIM);
    let failed = || format!("could not create file \"{}\"", claim.display());
    let mut options = File::options();
    let file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&claim);
    let mut file = match file {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(in_use(path)),
        file => file.with_context(failed)?,
    };
    let text = format!(
        "A backup is being written to this directory by pg_parallel_backup, process {}.\n\
         Where that process is gone, the backup is incomplete and can be removed.\n",
        std::process::id()
    );
    let claimed = file
        .write_all(text.as_bytes())
        .with_context(failed)
        // Another process may have claimed the directory, and completed its backup, since it was
        // found to be empty.
        .and_then(|()| refuse_content(path, &[CLAIM]));
    if claimed.is_err() {
        let _ = fs::remove_file(&claim);
    }
    claimed
}

/// Refuses a directory that is there and is not empty.
///
/// # Errors
/// As above.
pub fn check_empty(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        _ => refuse_content(path, &[]),
    }
}

/// Refuses a directory that holds anything but what is expected.
fn refuse_content(path: &Path, expected: &[&str]) -> Result<()> {
    let mut is_empty = true;
    for entry in fs::read_dir(path).map_err(|error| no_access(path, error))? {
        let name = entry.map_err(|error| no_access(path, error))?.file_name();
        if expected.iter().any(|expected| name == *expected) {
            continue;
        }
        if name == CLAIM {
            return Err(in_use(path));
        }
        is_empty = false;
    }
    ensure!(
        is_empty,
        "directory \"{}\" exists but is not empty",
        path.display()
    );
    Ok(())
}

fn in_use(path: &Path) -> Error {
    anyhow!(
        "directory \"{}\" exists but is not empty\n\
         DETAIL:  Another process writes a backup to it, or was killed while it did.\n\
         HINT:  The file \"{CLAIM}\" in it names the process.",
        path.display()
    )
}

pub fn no_access(path: &Path, error: io::Error) -> Error {
    Error::new(error).context(format!("could not access directory \"{}\"", path.display()))
}
