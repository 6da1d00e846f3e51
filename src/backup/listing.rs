//! The listing of a backup, before it is shared.

use crate::server::allocation::{self, ByteStrings};
use crate::server::report::Result;

use super::file_table::Kind;

/// Entry of the listing, without its path.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// File, directory or link.
    pub kind: Kind,
    /// Bytes of a file, 0 for the others.
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    /// The tablespace's oid; 0 for what lies in the data directory.
    pub tablespace: u32,
}

/// Entries of a backup with their paths, in no particular order.
#[derive(Debug, Default)]
pub struct Listing {
    entries: Vec<Entry>,
    paths: ByteStrings,
}

impl Listing {
    /// Adds an entry. Its path, relative to the data directory, is concatenated from parts.
    ///
    /// # Errors
    /// `out_of_memory`.
    pub fn push(&mut self, path: &[&[u8]], entry: Entry) -> Result<()> {
        self.paths.push(path)?;
        allocation::push(&mut self.entries, entry)
    }

    /// The entries.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The paths of the entries.
    #[must_use]
    pub fn paths(&self) -> &ByteStrings {
        &self.paths
    }
}
