//! Parts of large files, which several workers share, so that the last file of a backup is not one worker's
//! alone.
//!
//! Only relation files have parts: what a relation file has in the backup is as long as it was when it was
//! listed, whatever it is now, and its changes are in the WAL. So workers agree on the size of a file, and on
//! zeros for what has been cut off. That holds for a file that is removed after its first part was sent, too:
//! it is a file that was cut off to nothing, as the server itself cuts off files before it removes them, and the
//! WAL removes it.
//!
//! A worker that accepts parts divides a file when it begins it: the file's owner is [`DIVIDED`] from then on,
//! and each part has an owner as files have ([`super::queue`]). The worker goes on with its file from its start.
//! Others take parts of it from its end, once no whole file waits. So files are read from start to end while
//! there are enough of them.
//!
//! Whoever takes a divided file by its name takes it as a whole, if no worker has a part of it.
//!
//! The manifest's checksum of a divided file is combined from those of its parts.

use core::ops::Range;
use core::sync::atomic::Ordering;

use backup_format::relation_file;

use crate::server::allocation;
use crate::server::checksum;
use crate::server::report::Result;

use super::file_table::{FileTable, Kind, PART_SIZE, PartSlot, Slot};
use super::listing::Entry;
use super::owner::{self, DIVIDED, FIRST_WORKER, FREE, SETTLED};
use super::taken;

/// Size from which a file has parts.
const DIVISIBLE_FROM: u64 = 2 * PART_SIZE;

/// A file has parts only if the files behind it in the queue have less than so many times its size. With fewer
/// workers than that the others are still busy with those when its worker is done.
const MOST_WORKERS: u64 = 128;

/// A file that has parts.
pub(super) struct DivisibleFile {
    /// Index of its slot.
    pub(super) slot: u32,
    /// Number of its parts.
    pub(super) parts: u32,
}

/// The files that have parts, of a queue of files with so many bytes.
///
/// # Errors
/// `out_of_memory`.
pub(super) fn divisible_files<'e>(
    queue: impl Iterator<Item = (&'e Entry, &'e [u8])>,
    bytes_total: u64,
) -> Result<Vec<DivisibleFile>> {
    let mut rest = bytes_total;
    let divisible = (0_u32..).zip(queue).filter_map(|(slot, (entry, path))| {
        rest = rest.saturating_sub(entry.size);
        let has_parts = entry.kind == Kind::File
            && entry.block_list == 0
            && entry.size >= DIVISIBLE_FROM
            && rest < entry.size.saturating_mul(MOST_WORKERS)
            && relation_file::is_relation(path);
        let parts = u32::try_from(entry.size.div_ceil(PART_SIZE)).ok();
        let parts = parts.filter(|_| has_parts)?;
        Some(DivisibleFile { slot, parts })
    });
    allocation::collect(divisible)
}

impl<'a> FileTable<'a> {
    /// Whether the owner of a file can divide it. Bad pages that were found in it by a stream that led nowhere
    /// are those of the whole file.
    #[must_use]
    pub fn can_divide(&self, slot: &Slot) -> bool {
        !self.parts_of(slot).is_empty() && slot.failures.load(Ordering::Relaxed) == 0
    }

    /// Divides a file, of which nothing has been sent. Called by its owner.
    pub fn divide(&self, slot: &Slot) {
        slot.owner.store(DIVIDED, Ordering::SeqCst);
    }

    /// The file of a part.
    #[must_use]
    pub fn file_of(&self, part: &PartSlot) -> &'a Slot {
        &self.slots()[part.file as usize]
    }

    /// The bytes of a part in its file.
    #[must_use]
    pub fn range_of(&self, part: &PartSlot) -> Range<u64> {
        let start = u64::from(part.number) * PART_SIZE;
        start..self.file_of(part).size.min(start + PART_SIZE)
    }

    /// Takes the first part that waits of a divided file.
    pub fn take_first_part(&self, worker: u32, slot: &Slot) -> Option<&'a PartSlot> {
        let mut parts = self.parts_of(slot).iter();
        parts.find(|part| self.take_part(worker, part))
    }

    /// Takes the last part that waits of the file of which most parts wait.
    pub fn take_last_part(&self, worker: u32) -> Option<&'a PartSlot> {
        loop {
            let files = self.parts().chunk_by(|one, other| one.file == other.file);
            let waiting = files.map(|parts| {
                let waits = |part: &&PartSlot| part.owner.load(Ordering::Relaxed) == FREE;
                (parts.iter().filter(waits).count(), parts)
            });
            let divided = waiting.filter(|(count, parts)| *count > 0 && self.are_divided(parts));
            // The first of several files, which is the largest.
            let (_, parts) = divided.rev().max_by_key(|(count, _)| *count)?;
            let taken = parts.iter().rev().find(|part| self.take_part(worker, part));
            if taken.is_some() {
                return taken;
            }
        }
    }

    fn are_divided(&self, parts: &[PartSlot]) -> bool {
        let first = parts.first();
        first.is_some_and(|part| is_divided(self.file_of(part)))
    }

    /// Takes a part that waits, if its file is divided.
    fn take_part(&self, worker: u32, part: &PartSlot) -> bool {
        let file = self.file_of(part);
        if !is_divided(file) || !owner::exchange(&part.owner, FREE, worker) {
            return false;
        }
        if file.owner.load(Ordering::SeqCst) != DIVIDED {
            // Somebody has taken the whole file.
            part.owner.store(FREE, Ordering::Release);
            return false;
        }
        let index = self.index_of_part(part);
        taken::remember_parts(self.header().nonce(), worker, index..index + 1);
        true
    }

    /// Adds sent bytes of a part to the backup's counter.
    pub fn count_part_bytes(&self, part: &PartSlot, bytes: u64) {
        part.counted.fetch_add(bytes, Ordering::Relaxed);
        self.header().bytes_sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that a part was sent, with the bad pages in it; `None` if pages were not verified. Called by its
    /// owner, once, after all of its bytes were counted.
    pub fn carried_part(&self, part: &PartSlot, crc: u32, failures: Option<u32>) {
        let header = self.header();
        part.crc.store(crc, Ordering::Relaxed);
        let failures = failures.unwrap_or(0);
        part.failures.store(failures, Ordering::Relaxed);
        let sum = &header.checksum_failures;
        sum.fetch_add(u64::from(failures), Ordering::Relaxed);
        part.carried.store(1, Ordering::Relaxed);
        let file = self.file_of(part);
        let before = file.carried.fetch_add(1, Ordering::Relaxed);
        if before as usize + 1 == self.parts_of(file).len() {
            header.files_sent.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Subtracts a part from the shared counters, and returns the bad pages that were found in it, which stay
    /// counted. Called by its owner, or by the owner of its file.
    fn uncount_part(&self, part: &PartSlot) -> u32 {
        let header = self.header();
        let bytes = part.counted.swap(0, Ordering::Relaxed);
        header.bytes_sent.fetch_sub(bytes, Ordering::Relaxed);
        if part.carried.swap(0, Ordering::Relaxed) != 0 {
            let file = self.file_of(part);
            let before = file.carried.fetch_sub(1, Ordering::Relaxed);
            if before as usize == self.parts_of(file).len() {
                header.files_sent.fetch_sub(1, Ordering::Relaxed);
            }
        }
        part.failures.swap(0, Ordering::Relaxed)
    }

    /// Settles the parts of a worker whose stream has ended well.
    pub(super) fn settle_parts(&self, worker: u32) {
        for part in self.parts_owned_by(worker) {
            // Release: whoever sees the part settled sees its checksum too.
            part.owner.store(SETTLED, Ordering::Release);
        }
    }

    /// Returns the unsettled parts of a worker.
    pub(super) fn release_parts(&self, worker: u32) {
        for part in self.parts_owned_by(worker) {
            let failures = self.uncount_part(part);
            let sum = &self.header().checksum_failures;
            sum.fetch_sub(u64::from(failures), Ordering::Relaxed);
            part.owner.store(FREE, Ordering::Release);
        }
    }

    /// Whether a worker has a part of a file. Asked by who has taken the file: who takes a part later gives it
    /// back.
    pub(super) fn has_taken_parts(&self, slot: &Slot) -> bool {
        let mut parts = self.parts_of(slot).iter();
        parts.any(|part| part.owner.load(Ordering::SeqCst) >= FIRST_WORKER)
    }

    /// Makes one file of a divided file again, which is to be sent as a whole. Bad pages of its parts are those
    /// of the file until it is sent. Called by who has taken the file.
    pub(super) fn join_parts(&self, slot: &Slot) {
        for part in self.parts_of(slot) {
            // One that another takes at this moment waited, and is given back.
            if part.owner.load(Ordering::Acquire) == SETTLED {
                let failures = self.uncount_part(part);
                slot.failures.fetch_add(failures, Ordering::Relaxed);
                part.owner.store(FREE, Ordering::Release);
            }
        }
    }

    /// Whether all parts of a divided file have been sent.
    pub(super) fn has_all_parts(&self, slot: &Slot) -> bool {
        let mut parts = self.parts_of(slot).iter();
        is_divided(slot) && parts.all(|part| part.owner.load(Ordering::Acquire) == SETTLED)
    }

    /// CRC-32C of a divided file whose parts have been sent; `None` for a file that was sent as a whole.
    #[must_use]
    pub fn combined_crc(&self, slot: &Slot) -> Option<u32> {
        if !is_divided(slot) {
            return None;
        }
        let parts = self.parts_of(slot).iter().map(|part| {
            let range = self.range_of(part);
            (part.crc.load(Ordering::Relaxed), range.end - range.start)
        });
        parts
            .reduce(|(crc, length), (next, next_length)| {
                let crc = checksum::combine_crc32c(crc, next, next_length);
                (crc, length + next_length)
            })
            .map(|(crc, _)| crc)
    }

    fn parts_owned_by(&self, worker: u32) -> impl Iterator<Item = &'a PartSlot> + use<'a> {
        let parts = taken::parts(self.header().nonce(), worker);
        self.parts()[parts]
            .iter()
            .filter(move |part| part.owner.load(Ordering::Relaxed) == worker)
    }
}

/// Whether the parts of a file have owners of their own.
fn is_divided(slot: &Slot) -> bool {
    slot.owner.load(Ordering::Acquire) == DIVIDED
}
