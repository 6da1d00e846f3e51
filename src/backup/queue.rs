//! The queue: which worker has which file, and which files have been sent.
//!
//! The slot of a file says who owns it. [`FREE`] files wait to be taken. A worker takes a file by
//! writing its own number with a compare-and-exchange, and alone changes the slot from then on.
//! When its stream has ended well its files become [`SETTLED`]; when the stream fails, for whatever
//! reason, the callback on the end of the worker's mapping makes them free again. Nobody ever
//! waits for anybody.
//!
//! Slots lie in the order in which they are handed out: directories and links, then the largest
//! file first. A worker walks them once, skipping what others have; when files return, the
//! generation changes and it walks again.

use core::sync::atomic::{Ordering, fence};

use crate::server::shared_files::{FileTable, Kind, Slot};

/// Owner of a file that waits to be taken.
const FREE: u32 = 0;
/// Owner of a file whose stream has ended well.
const SETTLED: u32 = 1;
/// Owner of a file that has been read and verified, and sent nowhere.
const DISCARDED: u32 = 2;
/// The first number that a worker can have.
pub(super) const FIRST_WORKER: u32 = 3;

/// Nothing of this file has been finished.
const NOT_CARRIED: u32 = 0;
/// The archive holds the file.
const SENT: u32 = 1;
/// The file was gone; the archive holds nothing of it.
const VANISHED: u32 = 2;

/// A worker takes this many files at once, at most.
pub(super) const BATCH_FILES: usize = 64;
/// A worker takes no more files once they hold so many bytes.
const BATCH_BYTES: u64 = 1024 * 1024;

/// What a worker has found out about a file that it is done with.
pub enum SendOutcome<'a> {
    /// The archive holds the file.
    Sent {
        /// Size in the archive.
        size: u64,
        /// Modification time in the archive.
        mtime: i64,
        /// The checksum of what went out.
        digest: &'a [u8],
        /// Bad pages; `None` where nobody looked.
        failures: Option<u32>,
    },
    /// The file was gone.
    Vanished,
}

/// Where a worker stands in the queue.
#[derive(Default)]
pub struct QueueCursor {
    generation: u64,
    next: usize,
}

/// What keeps a file from being taken.
#[derive(Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// Another worker that still runs has it.
    InUse,
    /// It has been sent, and that was counted when the backup was stopped.
    Stopped,
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

    /// Takes the next files of the queue, at least one while there is one that `wanted` accepts; also
    /// such as have been discarded, if asked to.
    pub fn take(
        &self,
        worker: u32,
        position: &mut QueueCursor,
        also_discarded: bool,
        wanted: impl Fn(&Slot) -> bool,
        batch: &mut Vec<&'a Slot>,
    ) {
        batch.clear();
        let generation = self.header().generation.load(Ordering::Acquire);
        if position.generation != generation {
            *position = QueueCursor {
                generation,
                next: 0,
            };
        }
        let mut bytes = 0;
        while let Some(slot) = self.slots().get(position.next) {
            if batch.len() == BATCH_FILES || bytes >= BATCH_BYTES {
                break;
            }
            position.next += 1;
            let owner = slot.owner.load(Ordering::Relaxed);
            let can_be_had = owner == FREE || (also_discarded && owner == DISCARDED);
            if can_be_had && wanted(slot) && exchange_owner(slot, owner, worker) {
                if owner == DISCARDED {
                    self.uncount_progress(slot);
                }
                bytes += slot.size;
                batch.push(slot);
            }
        }
    }

    /// Whether another worker that still runs has a file.
    #[must_use]
    pub fn is_taken_by_another(&self, worker: u32, slot: &Slot) -> bool {
        let owner = slot.owner.load(Ordering::Relaxed);
        owner >= FIRST_WORKER && owner != worker
    }

    /// Takes one file by name, even when it has been sent before. `is_open` says whether the backup
    /// still takes files.
    ///
    /// The failures of what was sent before stay counted until the file is sent again.
    ///
    /// # Errors
    /// What keeps it from being taken.
    pub fn take_named(
        &self,
        worker: u32,
        slot: &Slot,
        is_open: impl Fn() -> bool,
    ) -> Result<(), NotTaken> {
        loop {
            let owner = slot.owner.load(Ordering::Acquire);
            if owner == worker {
                return Ok(());
            }
            if owner >= FIRST_WORKER {
                return Err(NotTaken::InUse);
            }
            if !exchange_owner(slot, owner, worker) {
                continue;
            }
            // The stop closes the backup and then counts; whoever comes in between gives it back.
            fence(Ordering::SeqCst);
            if owner == SETTLED && !is_open() {
                slot.owner.store(SETTLED, Ordering::Release);
                return Err(NotTaken::Stopped);
            }
            self.uncount_progress(slot);
            return Ok(());
        }
    }

    /// Adds bytes of a file that have gone out to the backup's count. A file counts for as many
    /// bytes as the listing gives it, whatever has become of it.
    pub fn count_bytes(&self, slot: &Slot, bytes: u64) {
        let counted = slot.counted.load(Ordering::Relaxed);
        let bytes = bytes.min(slot.size - counted.min(slot.size));
        slot.counted.store(counted + bytes, Ordering::Relaxed);
        self.header().bytes_sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Notes that the worker which owns a file is done with it.
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

    /// The stream of this worker has ended well: its files are sent.
    pub fn settle(&self, worker: u32) {
        for slot in self.owned_by(worker) {
            // Release: whoever sees the file settled sees its size and checksum too.
            slot.owner.store(SETTLED, Ordering::Release);
        }
    }

    /// The stream of this worker has ended well, and went nowhere. Its files are not sent, but need
    /// not be read again for the same purpose.
    pub fn discard(&self, worker: u32) {
        for slot in self.owned_by(worker) {
            slot.owner.store(DISCARDED, Ordering::Release);
        }
        // They are there again for streams that lead somewhere.
        self.header().generation.fetch_add(1, Ordering::Release);
    }

    /// The worker has gone. What it has not settled returns to the queue. Does not raise, and may
    /// run while the process exits.
    pub fn release_worker(&self, worker: u32) {
        let mut returned = false;
        for slot in self.owned_by(worker) {
            self.uncount(slot);
            slot.owner.store(FREE, Ordering::Release);
            returned = true;
        }
        if returned {
            self.header().generation.fetch_add(1, Ordering::Release);
        }
        self.header().workers.fetch_sub(1, Ordering::Relaxed);
    }

    /// What has not been sent, with the paths of at most `examples`.
    #[must_use]
    pub fn unsent(&self, examples: usize) -> Unsent<'a> {
        let mut unsent = Unsent::default();
        for slot in self.slots() {
            if slot.owner.load(Ordering::Acquire) == SETTLED {
                continue;
            }
            unsent.count += 1;
            if unsent.examples.len() < examples {
                unsent.examples.push(self.path(slot));
            }
        }
        unsent
    }

    /// The files that streams which ended well have carried, in the order of their paths.
    ///
    /// Where the stop has proved the backup to be complete, a file has another owner only for the
    /// moment in which a worker that came too late takes it and gives it back.
    pub fn sent_files(&self, complete: bool) -> impl Iterator<Item = &'a Slot> + use<'a> {
        self.by_path().filter(move |slot| {
            slot.kind == Kind::File
                && (slot.owner.load(Ordering::Acquire) == SETTLED || complete)
                && slot.carried.load(Ordering::Relaxed) == SENT
        })
    }

    /// Notes that a stream has members whose names are relative to a tablespace.
    pub fn note_relative_stream(&self) {
        let streams = &self.header().relative_streams;
        streams.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a stream had members whose names are relative to a tablespace.
    #[must_use]
    pub fn has_relative_streams(&self) -> bool {
        self.header().relative_streams.load(Ordering::Relaxed) > 0
    }

    fn owned_by(&self, worker: u32) -> impl Iterator<Item = &'a Slot> + use<'a> {
        self.slots()
            .iter()
            .filter(move |slot| slot.owner.load(Ordering::Relaxed) == worker)
    }

    /// Takes a file out of the common counts. Its owner alone calls it.
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

fn exchange_owner(slot: &Slot, from: u32, to: u32) -> bool {
    slot.owner
        .compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok()
}
