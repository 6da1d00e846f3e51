//! The listing of a backup, its orders, and its way into shared memory.

use core::cmp::Reverse;

use crate::server::allocation::{self, ByteStrings};
use crate::server::backup_control::Tablespace;
use crate::server::report::Result;

use super::file_table::Kind;
use super::files::SharedFiles;
use super::tablespace;

/// An entry of the listing, whose path is beside it.
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

/// What a backup holds, in no particular order.
#[derive(Debug, Default)]
pub struct Listing {
    entries: Vec<Entry>,
    paths: ByteStrings,
}

impl Listing {
    /// Adds an entry, whose path is put together from parts. It is relative to the data directory.
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

/// Shares a listing with the workers.
///
/// The queue hands out directories and links first, in the order of their paths, so that nothing is
/// unpacked before the directory or link it lies in; then the largest files, so that no worker is
/// left alone with a large one at the end.
///
/// # Errors
/// Where the server has no memory left.
pub fn share(
    listing: &Listing,
    tablespaces: &[Tablespace],
    digest_length: usize,
    nonce: u32,
) -> Result<SharedFiles> {
    let path_order = listing.paths.sorted()?;
    // What decides is gathered before it is sorted. Files of the same size keep the order of their
    // paths.
    let keys = (0_u32..).zip(&path_order).map(|(position, index)| {
        let entry = &listing.entries[*index as usize];
        (entry.kind == Kind::File, Reverse(entry.size), position)
    });
    let mut keys = allocation::collect(keys)?;
    keys.sort_unstable();
    let queue_order = keys
        .into_iter()
        .map(|(_, _, position)| path_order[position as usize]);
    let queue_order = allocation::collect(queue_order)?;
    SharedFiles::create(
        listing,
        &queue_order,
        &path_order,
        &tablespace::encode(tablespaces),
        digest_length,
        nonce,
    )
}
