//! Files in a folder, and their bytes, which are read in any order.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

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

/// Checks the size of a file before anything of it is read.
///
/// # Errors
/// [`FileTooLarge`](ErrorKind::FileTooLarge) where it has `limit` bytes or more, and errors of the operating system or of the
/// store.
pub fn check_size(source: &mut dyn Source, limit: u64) -> io::Result<()> {
    if source.seek(SeekFrom::End(0))? >= limit {
        return Err(io::Error::new(ErrorKind::FileTooLarge, "File too large"));
    }
    source.rewind()
}

impl Source for File {
    fn limit(&mut self, _end: u64) {}
}
