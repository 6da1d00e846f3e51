//! Has everything reach the disk.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};

use crate::options::SyncMethod;

/// Waits until the files below all directories are on disk, with several threads.
///
/// # Errors
/// The operating system's: then nothing is certain.
pub fn sync<'a>(
    directories: impl Iterator<Item = &'a Path>,
    method: SyncMethod,
    jobs: usize,
) -> Result<()> {
    let directories: Vec<_> = directories.collect();
    match method {
        SyncMethod::Syncfs => {
            for path in &directories {
                let result = File::open(path).and_then(|dir| Ok(rustix::fs::syncfs(&dir)?));
                result.with_context(|| {
                    format!(
                        "could not synchronize the file system of \"{}\"",
                        path.display()
                    )
                })?;
            }
        }
        SyncMethod::Fsync => {
            let (mut files, mut below) = (Vec::new(), Vec::new());
            for path in &directories {
                walk(path, &mut files, &mut below)
                    .with_context(|| format!("could not read directory \"{}\"", path.display()))?;
            }
            // Directories after what they hold.
            sync_each(&files, jobs)?;
            below.reverse();
            sync_each(&below, 1)?;
        }
    }
    for path in directories_above(&directories) {
        sync_one(&path)?;
    }
    Ok(())
}

/// One file that was renamed, and its directory.
///
/// # Errors
/// The operating system's.
pub fn sync_one(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .with_context(|| format!("could not fsync file \"{}\"", path.display()))
}

/// Their own entries are in these.
fn directories_above(paths: &[&Path]) -> Vec<PathBuf> {
    let parents = paths.iter().filter_map(|path| path.parent());
    let parents = parents.map(|parent| {
        if parent.as_os_str().is_empty() {
            PathBuf::from(".")
        } else {
            parent.to_owned()
        }
    });
    parents.collect()
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

fn sync_each(paths: &[PathBuf], jobs: usize) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            sync_one(path)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
    })
}
