//! The order of a listing, and its way into shared memory.

use core::cmp::Reverse;

use crate::server::backup_control::Tablespace;
use crate::server::report::Result;
use crate::server::shared_files::{Entry, Kind, SharedFiles};

use super::tablespace;

/// Shares a listing with the workers.
///
/// The queue hands out directories and links first, in the order of their paths, so that nothing is
/// unpacked before the directory or link it lies in; then the largest files, so that no worker is
/// left alone with a large one at the end.
///
/// # Errors
/// Where the server has no shared memory left.
pub fn share(
    entries: &[Entry],
    tablespaces: &[Tablespace],
    digest_length: usize,
    nonce: u32,
) -> Result<SharedFiles> {
    let path_order = by_path(entries);
    // Entries are large and lie apart: what decides is gathered before it is sorted. Files of the
    // same size keep the order of their paths.
    let mut keys: Vec<_> = (0_u32..)
        .zip(&path_order)
        .map(|(position, index)| {
            let entry = &entries[*index as usize];
            (entry.kind == Kind::File, Reverse(entry.size), position)
        })
        .collect();
    keys.sort_unstable();
    let queue_order: Vec<_> = keys
        .into_iter()
        .map(|(_, _, position)| path_order[position as usize])
        .collect();
    SharedFiles::create(
        entries,
        &queue_order,
        &path_order,
        &tablespace::encode(tablespaces),
        digest_length,
        nonce,
    )
}

/// The indexes of the entries in the order of their paths, byte by byte.
#[must_use]
pub fn by_path(entries: &[Entry]) -> Vec<u32> {
    let mut order: Vec<u32> = (0..).take(entries.len()).collect();
    // Made for what is almost in order already.
    order.sort_by(|left, right| {
        entries[*left as usize]
            .path
            .cmp(&entries[*right as usize].path)
    });
    order
}
