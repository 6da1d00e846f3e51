//! Files received, as written.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Error, Result, anyhow};
use backup_format::checksum::Algorithm;

use crate::console::progress::{Counter, Tally};
use crate::manifest::backup_path::display;
use crate::manifest::digest::Digest;

/// File as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedFile {
    /// Bytes.
    pub size: u64,
    /// Checksum of these bytes, in the manifest's algorithm.
    pub digest: Vec<u8>,
}

/// Files, by their paths in the backup.
pub type Files = HashMap<Vec<u8>, ReceivedFile>;

/// Content of one stream, by paths in the backup.
#[derive(Debug, Default)]
pub struct Contents {
    /// Its files.
    pub files: Files,
    /// Its directories and links. The manifest does not name them.
    pub directories: HashSet<Vec<u8>>,
}

impl Contents {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.values().map(|file| file.size).sum()
    }
}

/// Content of all streams that ended well.
#[derive(Debug, Default)]
pub struct ReceivedFiles {
    contents: Mutex<Contents>,
    has_lost: AtomicBool,
}

impl ReceivedFiles {
    /// Adds the content of a stream that ended well.
    ///
    /// # Errors
    /// An error if another stream had the same file: a server sends a file again only after a
    /// failed stream.
    pub fn add(&self, contents: Contents) -> Result<()> {
        let mut all = self.lock();
        all.directories.extend(contents.directories);
        let mut files = contents.files.into_iter();
        files.try_for_each(|file| add(&mut all.files, file))
    }

    /// Records that a stream was lost with its connection.
    pub fn lose_stream(&self) {
        self.has_lost.store(true, Ordering::Relaxed);
    }

    /// Whether a stream was lost.
    pub fn has_lost_streams(&self) -> bool {
        self.has_lost.load(Ordering::Relaxed)
    }

    /// The number of files, directories and links.
    pub fn count(&self) -> u64 {
        let contents = self.lock();
        contents.files.len() as u64 + contents.directories.len() as u64
    }

    /// Whether a directory or link is among it.
    pub fn has_directory(&self, path: &[u8]) -> bool {
        self.lock().directories.contains(path)
    }

    /// All files.
    pub fn into_files(self) -> Files {
        let contents = self
            .contents
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        contents.files
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn add(files: &mut Files, (path, written): (Vec<u8>, ReceivedFile)) -> Result<()> {
    match files.entry(path) {
        Entry::Occupied(before) => Err(twice(before.key())),
        Entry::Vacant(place) => {
            place.insert(written);
            Ok(())
        }
    }
}

/// Error for a file that occurs twice: unpacking would keep one of the two.
pub fn twice(path: &[u8]) -> Error {
    anyhow!("backup contains file \"{}\" twice", display(path))
}

/// Content of a stream in progress: computes checksums and counts bytes.
pub struct IncomingFiles<'a> {
    algorithm: Algorithm,
    tally: Tally<'a>,
    current: Option<Current>,
    contents: Contents,
}

struct Current {
    path: Vec<u8>,
    size: u64,
    digest: Digest,
}

impl<'a> IncomingFiles<'a> {
    /// Creates an empty content.
    pub fn new(algorithm: Algorithm, counter: &'a Counter) -> Self {
        Self {
            algorithm,
            tally: Tally::new(counter),
            current: None,
            contents: Contents::default(),
        }
    }

    /// Begins a file.
    pub fn begin(&mut self, path: Vec<u8>, size: u64) {
        self.current = Some(Current {
            path,
            size,
            digest: Digest::new(self.algorithm),
        });
    }

    /// Begins a directory or a link.
    pub fn begin_directory(&mut self, path: Vec<u8>) {
        self.contents.directories.insert(path);
    }

    /// Adds content of the current file.
    pub fn content(&mut self, bytes: &[u8]) {
        if let Some(current) = &mut self.current {
            current.digest.update(bytes);
        }
        self.tally.add_bytes(bytes.len() as u64);
    }

    /// Ends the current file, directory or link.
    ///
    /// # Errors
    /// An error if the stream had the same file before.
    pub fn end(&mut self) -> Result<()> {
        self.tally.add_file();
        match self.current.take() {
            Some(Current { path, size, digest }) => {
                let digest = digest.finish();
                add(
                    &mut self.contents.files,
                    (path, ReceivedFile { size, digest }),
                )
            }
            None => Ok(()),
        }
    }

    /// Path of the current file.
    pub fn current(&self) -> Option<String> {
        self.current.as_ref().map(|file| display(&file.path))
    }

    /// Paths of the complete files.
    pub fn paths(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.contents.files.keys()
    }

    /// Returns the content of a stream that ended well.
    pub fn into_contents(mut self) -> Contents {
        self.tally.keep();
        self.contents
    }
}
