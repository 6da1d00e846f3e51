//! Files in a folder, and their bytes, which are read in any order.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek};

use chrono::{DateTime, Utc};

/// A file in a folder.
#[derive(Clone, Debug)]
pub struct FileEntry {
    /// Its name.
    pub name: OsString,
    /// Bytes.
    pub size: u64,
    /// When it was changed last, if that is known.
    pub modified: Option<DateTime<Utc>>,
}

/// Bytes of a file or an object.
pub trait Source: Read + Seek + Send {
    /// Nothing beyond this position need be fetched ahead.
    fn limit(&mut self, end: u64);
}

impl Source for File {
    fn limit(&mut self, _end: u64) {}
}
