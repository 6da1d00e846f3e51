//! The listing of a backup, before it is shared.

use backup_format::incremental::BlockList;

use crate::server::allocation::{self, ByteStrings};
use crate::server::report::{Error, Result, Sqlstate};

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
    /// Where its block list begins, counted from 1; 0 for a file that is sent as a whole.
    pub block_list: u32,
}

/// Entries of a backup with their paths, in no particular order.
#[derive(Debug, Default)]
pub struct Listing {
    entries: Vec<Entry>,
    paths: ByteStrings,
    /// Block lists of incremental files.
    block_lists: Vec<u32>,
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

    /// Adds the block list of an incremental file, and returns where it begins, counted from 1.
    ///
    /// # Errors
    /// `out_of_memory`; `program_limit_exceeded` for more than 16 GB of lists.
    pub fn push_blocks(&mut self, blocks: &[u32], truncation_length: u32) -> Result<u32> {
        let start = u32::try_from(self.block_lists.len() + 1).map_err(|_| {
            Error::new(
                Sqlstate::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                "too many changed blocks for an incremental backup",
            )
            .hint("Take a full backup.")
        })?;
        allocation::reserve(&mut self.block_lists, BlockList::most_words(blocks))?;
        BlockList::encode(blocks, truncation_length, &mut self.block_lists);
        Ok(start)
    }

    /// The block lists of all incremental files.
    #[must_use]
    pub fn block_lists(&self) -> &[u32] {
        &self.block_lists
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
