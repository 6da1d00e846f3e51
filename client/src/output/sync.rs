//! Synchronization of created files to disk.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cli::configuration::SyncMethod;
use crate::console::progress::Counters;
use crate::output::cleanup::CleanupList;
use crate::runtime::cancellation::Cancellation;
use crate::runtime::parallel;
use crate::stream::regular_file;

/// Completes the output. Everything is on disk before the claims are removed and `finish` renames
/// the last files, whose directories `last` are synchronized afterwards. Without a method nothing
/// is synchronized.
///
/// # Errors
/// As [`sync`], and those of `finish`.
pub fn complete(
    method: Option<SyncMethod>,
    cleanup: &CleanupList,
    jobs: usize,
    cancellation: &Cancellation,
    last: &[PathBuf],
    finish: impl FnOnce() -> Result<()>,
) -> Result<()> {
    cancellation.check()?;
    if let Some(method) = method {
        sync(cleanup, method, jobs, cancellation)?;
    }
    cancellation.check()?;
    cleanup.remove_claims()?;
    finish()?;
    if method.is_some() {
        let last = last.iter().map(PathBuf::as_path);
        cleanup.paths().chain(last).try_for_each(sync_one)?;
    }
    Ok(())
}

/// Synchronizes all created directories with several threads.
///
/// # Errors
/// Errors of the operating system, and cancellation.
fn sync(
    cleanup: &CleanupList,
    method: SyncMethod,
    jobs: usize,
    cancellation: &Cancellation,
) -> Result<()> {
    for path in cleanup.paths() {
        let quoted = || format!("\"{}\"", path.display());
        match method {
            SyncMethod::Syncfs => {
                let result = File::open(path).and_then(|dir| Ok(rustix::fs::syncfs(&dir)?));
                result.with_context(|| {
                    format!("could not synchronize the file system of {}", quoted())
                })?;
            }
            SyncMethod::Fsync => {
                let (mut files, mut directories) = (Vec::new(), Vec::new());
                walk(path, &mut files, &mut directories)
                    .with_context(|| format!("could not read directory {}", quoted()))?;
                // Directories after what they hold.
                sync_each(&files, regular_file::open, jobs, cancellation)?;
                directories.reverse();
                sync_each(&directories, |path| File::open(path), 1, cancellation)?;
            }
        }
    }
    // Their own entries are in the directories above them.
    for path in cleanup.paths().chain(cleanup.above()) {
        sync_one(directory_above(path))?;
    }
    Ok(())
}

/// Synchronizes one file or directory.
///
/// # Errors
/// Errors of the operating system.
fn sync_one(path: &Path) -> Result<()> {
    sync_opened(path, File::open(path))
}

fn sync_opened(path: &Path, opened: io::Result<File>) -> Result<()> {
    opened
        .and_then(|file| file.sync_all())
        .with_context(|| format!("could not fsync file \"{}\"", path.display()))
}

fn directory_above(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        parent => parent.unwrap_or(path),
    }
}

fn walk(path: &Path, files: &mut Vec<PathBuf>, directories: &mut Vec<PathBuf>) -> io::Result<()> {
    directories.push(path.to_owned());
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(&entry.path(), files, directories)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn sync_each(
    paths: &[PathBuf],
    open: impl Fn(&Path) -> io::Result<File> + Sync,
    jobs: usize,
    cancellation: &Cancellation,
) -> Result<()> {
    // Nobody looks at these.
    let counters = Counters::new(jobs);
    parallel::for_each(paths, counters.workers(), cancellation, |_, path| {
        sync_opened(path, open(path))
    })
}
