//! What has arrived, as it was written.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, PoisonError};

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

/// The files of one stream, by their paths in the backup.
pub type Files = HashMap<Vec<u8>, ReceivedFile>;

/// The files of all streams that ended well.
#[derive(Debug, Default)]
pub struct ReceivedFiles(Mutex<Files>);

impl ReceivedFiles {
    /// Adds the files of a stream that has ended well.
    ///
    /// # Errors
    /// Where another one had the same file: a server sends it again only after a stream that failed.
    pub fn add(&self, files: Files) -> Result<()> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.into_iter().try_for_each(|file| add(&mut all, file))
    }

    /// All of them.
    pub fn into_files(self) -> Files {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
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

/// The files of a stream while they arrive: their checksums are computed, and their bytes counted.
pub struct IncomingFiles<'a> {
    algorithm: Algorithm,
    tally: Tally<'a>,
    current: Option<Current>,
    files: Files,
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
            files: Files::new(),
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
                add(&mut self.files, (path, ReceivedFile { size, digest }))
            }
            None => Ok(()),
        }
    }

    /// The file that is arriving.
    pub fn current(&self) -> Option<String> {
        self.current.as_ref().map(|file| display(&file.path))
    }

    /// The paths of those that are here.
    pub fn paths(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.files.keys()
    }

    /// The stream has ended well, and all of them count.
    pub fn into_files(mut self) -> Files {
        self.tally.keep();
        std::mem::take(&mut self.files)
    }
}
