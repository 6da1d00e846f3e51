//! What has arrived, as it was written.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Error, Result, anyhow};
use backup_format::checksum::Algorithm;

use crate::console::progress::{Counter, Tally};
use crate::manifest::backup_path::display;
use crate::manifest::digest::Digest;

/// A file as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedFile {
    /// Bytes.
    pub size: u64,
    /// Checksum of these bytes, in the manifest's algorithm.
    pub digest: Vec<u8>,
}

/// Files, by their paths in the backup.
pub type Files = HashMap<Vec<u8>, ReceivedFile>;

/// What one stream held, by paths in the backup.
#[derive(Debug, Default)]
pub struct Contents {
    /// Its files.
    pub files: Files,
    /// Its directories and links. The manifest does not name them.
    pub directories: HashSet<Vec<u8>>,
}

/// What all streams that ended well held.
#[derive(Debug, Default)]
pub struct ReceivedFiles {
    contents: Mutex<Contents>,
    has_lost: AtomicBool,
}

impl ReceivedFiles {
    /// Adds what a stream held that has ended well.
    ///
    /// # Errors
    /// Where another one had the same file: a server sends it again only after a stream that failed.
    pub fn add(&self, contents: Contents) -> Result<()> {
        let mut all = self.lock();
        all.directories.extend(contents.directories);
        let mut files = contents.files.into_iter();
        files.try_for_each(|file| add(&mut all.files, file))
    }

    /// A stream got lost with its connection, whatever the server makes of that.
    pub fn lose_stream(&self) {
        self.has_lost.store(true, Ordering::Relaxed);
    }

    /// Whether a stream got lost.
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

/// Whoever unpacks a backup that has a file twice gets one or the other.
pub fn twice(path: &[u8]) -> Error {
    anyhow!("the backup has file \"{}\" twice", display(path))
}

/// What a stream holds, while it arrives: checksums of files are computed, and their bytes counted.
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
    /// None so far.
    pub fn new(algorithm: Algorithm, counter: &'a Counter) -> Self {
        Self {
            algorithm,
            tally: Tally::new(counter),
            current: None,
            contents: Contents::default(),
        }
    }

    /// A file begins, which has a path in the backup.
    pub fn begin(&mut self, path: Vec<u8>, size: u64) {
        self.current = Some(Current {
            path,
            size,
            digest: Digest::new(self.algorithm),
        });
    }

    /// A directory or a link begins.
    pub fn begin_directory(&mut self, path: Vec<u8>) {
        self.contents.directories.insert(path);
    }

    /// Some of its content.
    pub fn content(&mut self, bytes: &[u8]) {
        if let Some(current) = &mut self.current {
            current.digest.update(bytes);
        }
        self.tally.add_bytes(bytes.len() as u64);
    }

    /// All of its content has been there; or it was a directory or a link, which has none.
    ///
    /// # Errors
    /// Where the stream has had the same file before.
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

    /// The file that is arriving.
    pub fn current(&self) -> Option<String> {
        self.current.as_ref().map(|file| display(&file.path))
    }

    /// The paths of the files that are here.
    pub fn paths(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.contents.files.keys()
    }

    /// The stream has ended well, and all of it counts.
    pub fn into_contents(mut self) -> Contents {
        self.tally.keep();
        self.contents
    }
}
