//! Synchronization of created files to disk.

use std::fs::{self, File, ReadDir};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cli::configuration::SyncMethod;
use crate::console::progress::Counters;
use crate::output::cleanup::CleanupList;
use crate::runtime::cancellation::Cancellation;
use crate::runtime::parallel;
use crate::storage::regular_file;

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
                // Nobody looks at these.
                let counters = Counters::new(jobs);
                let mut directories = Vec::new();
                let walk = Walk::new(path, &mut directories).map(|file| {
                    file.with_context(|| format!("could not read directory {}", quoted()))
                });
                parallel::for_each_of(walk, counters.workers(), cancellation, |_, path| {
                    sync_opened(&path, regular_file::open(&path))
                })?;
                // Directories after what they hold.
                for path in directories.iter().rev() {
                    cancellation.check()?;
                    sync_one(path)?;
                }
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

/// The files in a directory and in those below it. There may be millions, so that no list holds
/// them; the directories, which are few, are noted on the way.
struct Walk<'a> {
    directories: &'a mut Vec<PathBuf>,
    /// Directories whose entries are yet to be read: the rest of one, and the whole of others.
    open: Option<ReadDir>,
    left: Vec<PathBuf>,
}

impl<'a> Walk<'a> {
    fn new(path: &Path, directories: &'a mut Vec<PathBuf>) -> Self {
        Self {
            directories,
            open: None,
            left: vec![path.to_owned()],
        }
    }

    fn next_file(&mut self) -> io::Result<Option<PathBuf>> {
        loop {
            let Some(entries) = &mut self.open else {
                let Some(path) = self.left.pop() else {
                    return Ok(None);
                };
                self.open = Some(fs::read_dir(&path)?);
                self.directories.push(path);
                continue;
            };
            let Some(entry) = entries.next() else {
                self.open = None;
                continue;
            };
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.left.push(entry.path());
            } else if kind.is_file() {
                return Ok(Some(entry.path()));
            }
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = io::Result<PathBuf>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_file().transpose()
    }
}
