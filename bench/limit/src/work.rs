//! The files, in the order in which they are sent.

use std::cmp::Reverse;
use std::ffi::OsString;
use std::fs;
use std::ops::Range;
use std::path::PathBuf;

use anyhow::Result;

/// As in a backup: a batch ends with its 64th file, or with the one that brings it to 1 MB.
const BATCH_FILES: usize = 64;
const BATCH_BYTES: u64 = 1024 * 1024;

/// A file.
pub struct File {
    /// Its path.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
}

/// All files, the largest first. Two processes find them in the same order.
pub struct Work {
    /// The files.
    pub files: Vec<File>,
}

impl Work {
    /// Finds the files of folders, without those below folders of these names.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn find(folders: &[PathBuf], without: &[OsString]) -> Result<Self> {
        let mut files = Vec::new();
        let mut folders = folders.to_vec();
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                let kind = entry.file_type()?;
                if kind.is_dir() && !without.contains(&entry.file_name()) {
                    folders.push(entry.path());
                } else if kind.is_file() {
                    let size = entry.metadata()?.len();
                    let path = entry.path();
                    files.push(File { path, size });
                }
            }
        }
        files.sort_by(|a, b| (Reverse(a.size), &a.path).cmp(&(Reverse(b.size), &b.path)));
        Ok(Self { files })
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// What is taken at once.
    pub fn batches(&self) -> Vec<Range<usize>> {
        let mut batches = Vec::new();
        let mut batch = 0..0;
        let mut bytes = 0;
        for file in &self.files {
            batch.end += 1;
            bytes += file.size;
            if batch.len() == BATCH_FILES || bytes >= BATCH_BYTES {
                batches.push(batch.clone());
                batch.start = batch.end;
                bytes = 0;
            }
        }
        batches.push(batch);
        batches
    }
}
