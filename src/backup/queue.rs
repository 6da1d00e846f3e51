//! Queue: ownership of files by workers, and which files were sent.
//!
//! The slot of a file names its owner. [`FREE`] files wait to be taken. A worker takes a file by a
//! compare-and-exchange to its own number, and alone changes the slot from then on. Its files
//! become [`SETTLED`] when its stream has ended well. After any failure the detach handler of the
//! worker's mapping makes them free again. Workers never wait for each other.
//!
//! Slots are in the order in which they are handed out: directories and links, then files from the
//! largest. A worker walks them once and skips those of others. It begins behind the
//! [prefix](super::taken_prefix) in which others have found nothing. When files return, the generation
//! changes and it walks again.
//!
//! A large file can be divided. Then its parts have owners, in the same way ([`file_parts`](super::file_parts)).
//!
//! A [`gate`](super::gate) keeps settled slots unchanged while a stop counts them.
//!
//! # Named files
//!
//! Named files are taken all or none, in the order of their slots, so that one of two workers with
//! the same names gets them. The other gives back what it has taken with everything noted there,
//! because slots are changed only after all files are taken.
//!
use core::sync::atomic::Ordering;

use crate::server::allocation;
use crate::server::report::Result;

use super::file_table::{FileTable, Kind, Slot};
use super::gate::Passage;
use super::owner::{self, DISCARDED, DIVIDED, FIRST_WORKER, FREE, SETTLED};
use super::taken;

/// The file was not sent.
const NOT_CARRIED: u32 = 0;
/// The archive holds the file.
const SENT: u32 = 1;
/// The file had vanished; the archive holds nothing of it.
const VANISHED: u32 = 2;

/// Maximum number of files in a batch.
pub(super) const BATCH_FILES: usize = 64;
/// A batch ends with the file that brings it to this many bytes.
const BATCH_BYTES: u64 = 1024 * 1024;

/// Outcome of sending a file.
pub enum SendOutcome<'a> {
    /// The archive holds the file.
    Sent {
        /// Size in the archive.
        size: u64,
        /// Modification time in the archive.
        mtime: i64,
        /// The checksum of what went out.
        digest: &'a [u8],
        /// Bad pages; `None` if pages were not verified.
        failures: Option<u32>,
    },
    /// The file had vanished.
    Vanished,
}

/// Position of a worker in the queue.
#[derive(Default)]
pub struct QueueCursor {
    generation: u64,
    next: usize,
    /// Whether files wait before `next` that this worker does not want.
    has_left_files: bool,
}

impl QueueCursor {
    /// Goes to the end of the queue without taking anything, for tests.
    #[cfg(any(test, feature = "pg_test"))]
    pub fn skip_all(&mut self, table: &FileTable<'_>) {
        self.generation = table.header().generation.load(Ordering::Acquire);
        self.next = table.slots().len();
    }
}

/// Error for a named file that another worker owns.
#[derive(Debug, PartialEq, Eq)]
pub struct InUse {
    /// Its index in the order of the queue.
    pub index: usize,
}

/// Entries of the listing that have not been sent.
#[derive(Default)]
pub struct Unsent<'a> {
    /// How many there are.
    pub count: usize,
    /// The paths of some.
    pub examples: Vec<&'a [u8]>,
}

impl<'a> FileTable<'a> {
    /// Registers a worker and gives it its number.
    #[must_use]
    pub fn register_worker(&self) -> u32 {
        let header = self.header();
        header.workers.fetch_add(1, Ordering::Relaxed);
        FIRST_WORKER + header.last_owner.fetch_add(1, Ordering::Relaxed)
    }

    /// Takes the next files of the queue: at least one, if there is one that `wanted` accepts.
    /// Includes discarded files on request.
    pub fn take(
        &self,
        worker: u32,
        position: &mut QueueCursor,
        also_discarded: bool,
        wanted: impl Fn(&Slot) -> bool,
        most_bytes: u64,
        batch: &mut Vec<&'a Slot>,
    ) {
        batch.clear();
        let header = self.header();
        let most_bytes = most_bytes.min(BATCH_BYTES);
        loop {
            let generation = header.generation.load(Ordering::Acquire);
            if position.generation != generation {
                *position = QueueCursor {
                    generation,
                    ..QueueCursor::default()
                };
            }
            let prefix = header.taken_prefix.length(generation);
            if prefix > position.next {
                position.next = prefix;
                position.has_left_files = false;
            }
            let begin = position.next;
            self.take_from(worker, position, also_discarded, &wanted, most_bytes, batch);
            if !position.has_left_files {
                header.taken_prefix.extend(generation, position.next);
            }
            if !batch.is_empty() {
                taken::remember(header.nonce(), worker, begin..position.next);
                return;
            }
            // A file that has returned meanwhile may be one of the prefix.
            if header.generation.load(Ordering::Acquire) == generation {
                return;
            }
        }
    }

    /// Takes the next files from a position on.
    fn take_from(
        &self,
        worker: u32,
        position: &mut QueueCursor,
        also_discarded: bool,
        wanted: &impl Fn(&Slot) -> bool,
        most_bytes: u64,
        batch: &mut Vec<&'a Slot>,
    ) {
        let mut bytes = 0;
        while let Some(slot) = self.slots().get(position.next) {
            if batch.len() == BATCH_FILES || bytes >= most_bytes {
                break;
            }
            position.next += 1;
            let owner = slot.owner.load(Ordering::Relaxed);
            if !matches!(owner, FREE | DISCARDED) {
                continue;
            }
            if (owner == DISCARDED && !also_discarded) || !wanted(slot) {
                position.has_left_files = true;
                continue;
            }
            // Where this fails, another worker has taken it.
            if owner::exchange(&slot.owner, owner, worker) {
                if owner == DISCARDED {
                    self.uncount_progress(slot);
                }
                bytes += slot.size;
                batch.push(slot);
            }
        }
    }

    /// Takes named files, including files that were sent before: all of them, or none if another
    /// worker owns one. The passage proves that no stop counts meanwhile.
    ///
    /// Failures of an earlier sending stay counted until the file is sent again.
    ///
    /// # Errors
    /// `out_of_memory`, before anything is taken.
    pub fn take_named(
        &self,
        worker: u32,
        slots: &[&Slot],
        _passage: &Passage<'_>,
    ) -> Result<core::result::Result<(), InUse>> {
        let mut wanted = allocation::collect(slots.iter().map(|slot| self.index_of(slot)))?;
        wanted.sort_unstable();
        wanted.dedup();
        let mut owners_before = allocation::vec_of(FREE, wanted.len())?;
        for (position, index) in wanted.iter().enumerate() {
            let slot = &self.slots()[*index];
            let mut owner = slot.owner.load(Ordering::Acquire);
            while owner < FIRST_WORKER && !owner::exchange(&slot.owner, owner, worker) {
                owner = slot.owner.load(Ordering::Acquire);
            }
            let has_taken_parts = owner == DIVIDED && self.has_taken_parts(slot);
            if has_taken_parts {
                slot.owner.store(DIVIDED, Ordering::SeqCst);
            }
            if owner >= FIRST_WORKER || has_taken_parts {
                let taken = wanted[..position].iter().zip(&owners_before);
                self.give_back(taken);
                return Ok(Err(InUse { index: *index }));
            }
            owners_before[position] = owner;
        }
        for (index, owner_before) in wanted.iter().zip(&owners_before) {
            let slot = &self.slots()[*index];
            if *owner_before == DIVIDED {
                self.join_parts(slot);
            }
            self.uncount_progress(slot);
        }
        if let (Some(first), Some(last)) = (wanted.first(), wanted.last()) {
            taken::remember(self.header().nonce(), worker, *first..*last + 1);
        }
        Ok(Ok(()))
    }

    /// Gives slots back to their former owners, with everything noted there.
    fn give_back<'i>(&self, taken: impl Iterator<Item = (&'i usize, &'i u32)>) {
        let mut returned = false;
        for (index, owner_before) in taken {
            self.slots()[*index]
                .owner
                .store(*owner_before, Ordering::Release);
            returned |= *owner_before != SETTLED;
        }
        if returned {
            self.begin_new_generation();
        }
    }

    /// Adds sent bytes of a file to the backup's counter. A file counts for the size in the
    /// listing, whatever its size is now.
    pub fn count_bytes(&self, slot: &Slot, bytes: u64) {
        let counted = slot.counted.load(Ordering::Relaxed);
        let bytes = bytes.min(slot.size - counted.min(slot.size));
        slot.counted.store(counted + bytes, Ordering::Relaxed);
        self.header().bytes_sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes the outcome for a file. Called by its owner.
    pub fn carried(&self, slot: &Slot, outcome: &SendOutcome<'_>) {
        let header = self.header();
        self.count_bytes(slot, slot.size);
        let state = match outcome {
            SendOutcome::Sent {
                size,
                mtime,
                digest,
                failures,
            } => {
                slot.sent_size.store(*size, Ordering::Relaxed);
                slot.sent_mtime.store(*mtime, Ordering::Relaxed);
                for (place, byte) in self.digest(slot).iter().zip(*digest) {
                    place.store(*byte, Ordering::Relaxed);
                }
                if let Some(failures) = *failures {
                    let before = slot.failures.swap(failures, Ordering::Relaxed);
                    let sum = &header.checksum_failures;
                    sum.fetch_add(u64::from(failures), Ordering::Relaxed);
                    sum.fetch_sub(u64::from(before), Ordering::Relaxed);
                }
                SENT
            }
            SendOutcome::Vanished => VANISHED,
        };
        let before = slot.carried.swap(state, Ordering::Relaxed);
        if before == NOT_CARRIED {
            header.files_sent.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Settles the files of a worker whose stream has ended well. The passage proves that no stop
    /// counts meanwhile.
    pub fn settle(&self, worker: u32, _passage: &Passage<'_>) {
        for slot in self.owned_by(worker) {
            // Release: whoever sees the file settled sees its size and checksum too.
            slot.owner.store(SETTLED, Ordering::Release);
        }
        self.settle_parts(worker);
    }

    /// Discards the files of a worker whose stream went into the blackhole: they are not sent, but
    /// need not be verified again.
    pub fn discard(&self, worker: u32) {
        let mut discarded = false;
        for slot in self.owned_by(worker) {
            slot.owner.store(DISCARDED, Ordering::Release);
            discarded = true;
        }
        // They are there again for streams that lead somewhere.
        if discarded {
            self.begin_new_generation();
        }
    }

    /// Returns the unsettled files of a worker to the queue. Does not raise, and may run while the
    /// process exits.
    pub fn release_worker(&self, worker: u32) {
        let mut returned = false;
        for slot in self.owned_by(worker) {
            self.uncount(slot);
            slot.owner.store(FREE, Ordering::Release);
            returned = true;
        }
        if returned {
            self.begin_new_generation();
        }
        self.release_parts(worker);
        taken::forget(self.header().nonce(), worker);
        self.header().workers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts unsent entries, with at most `examples` paths.
    #[must_use]
    pub fn unsent(&self, examples: usize) -> Unsent<'a> {
        let mut unsent = Unsent::default();
        for slot in self.slots() {
            if slot.owner.load(Ordering::Acquire) == SETTLED || self.has_all_parts(slot) {
                continue;
            }
            unsent.count += 1;
            if unsent.examples.len() < examples {
                unsent.examples.push(self.path(slot));
            }
        }
        unsent
    }

    /// Settled regular files in the order of their paths. Stable while the gate is closed.
    pub fn sent_files(&self) -> impl Iterator<Item = &'a Slot> + use<'a> {
        let table = *self;
        self.by_path().filter(move |slot| {
            let is_whole = slot.owner.load(Ordering::Acquire) == SETTLED
                && slot.carried.load(Ordering::Relaxed) == SENT;
            slot.kind() == Kind::File && (is_whole || table.has_all_parts(slot))
        })
    }

    /// Notes a stream with member names relative to a tablespace.
    pub fn note_relative_stream(&self) {
        let streams = &self.header().relative_streams;
        streams.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether any stream had member names relative to a tablespace.
    #[must_use]
    pub fn has_relative_streams(&self) -> bool {
        self.header().relative_streams.load(Ordering::Relaxed) > 0
    }

    fn owned_by(&self, worker: u32) -> impl Iterator<Item = &'a Slot> + use<'a> {
        let slots = taken::slots(self.header().nonce(), worker);
        self.slots()[slots]
            .iter()
            .filter(move |slot| slot.owner.load(Ordering::Relaxed) == worker)
    }

    /// Has workers search from the start of the queue again.
    fn begin_new_generation(&self) {
        self.header().generation.fetch_add(1, Ordering::Release);
    }

    /// Subtracts a file from the shared counters. Called by its owner.
    fn uncount(&self, slot: &Slot) {
        let failures = slot.failures.swap(0, Ordering::Relaxed);
        self.header()
            .checksum_failures
            .fetch_sub(u64::from(failures), Ordering::Relaxed);
        self.uncount_progress(slot);
    }

    fn uncount_progress(&self, slot: &Slot) {
        let header = self.header();
        let bytes = slot.counted.swap(0, Ordering::Relaxed);
        header.bytes_sent.fetch_sub(bytes, Ordering::Relaxed);
        let carried = slot.carried.swap(NOT_CARRIED, Ordering::Relaxed);
        if carried != NOT_CARRIED {
            header.files_sent.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
