//! What has arrived, as it was written.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// A file as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Bytes.
    pub size: u64,
    /// Checksum of these bytes, in the manifest's algorithm.
    pub digest: Vec<u8>,
}

/// The files of one stream, by their paths in the backup.
pub type Files = HashMap<Vec<u8>, Written>;

/// The files of all streams that ended well.
#[derive(Debug, Default)]
pub struct Received(Mutex<Files>);

impl Received {
    /// Adds the files of a stream that has ended well. What came before is replaced: it was
    /// overwritten.
    pub fn add(&self, files: Files) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(files);
    }

    /// All of them.
    pub fn into_files(self) -> Files {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}
