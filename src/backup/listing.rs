//! The order of a listing, and its way into shared memory.

use crate::server::backup_control::Tablespace;
use crate::server::report::Outcome;
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
) -> Outcome<SharedFiles> {
    let path_order = by_path(entries);
    let mut queue_order = path_order.clone();
    // Stable: files of the same size keep the order of their paths.
    queue_order.sort_by_key(|index| {
        let entry = &entries[*index as usize];
        (entry.kind == Kind::File, core::cmp::Reverse(entry.size))
    });
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
    order.sort_unstable_by(|left, right| {
        entries[*left as usize]
            .path
            .cmp(&entries[*right as usize].path)
    });
    order
}
