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
const FIRST_WORKER: u32 = 3;

/// Nothing of this file has been finished.
const NOT_CARRIED: u32 = 0;
/// The archive holds the file.
const SENT: u32 = 1;
/// The file was gone; the archive holds nothing of it.
const VANISHED: u32 = 2;

/// A worker takes this many files at once, at most.
const BATCH_FILES: usize = 64;
/// A worker takes no more files once they hold so many bytes.
const BATCH_BYTES: u64 = 1024 * 1024;

/// What a worker has found out about a file that it is done with.
pub enum Carried<'a> {
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
pub struct Position {
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
        position: &mut Position,
        also_discarded: bool,
        wanted: impl Fn(&Slot) -> bool,
        batch: &mut Vec<&'a Slot>,
    ) {
        batch.clear();
        let generation = self.header().generation.load(Ordering::Acquire);
        if position.generation != generation {
            *position = Position {
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
    pub fn carried(&self, slot: &Slot, outcome: &Carried<'_>) {
        let header = self.header();
        self.count_bytes(slot, slot.size);
        let state = match outcome {
            Carried::Sent {
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
            Carried::Vanished => VANISHED,
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
    pub fn sent_files(&self) -> impl Iterator<Item = &'a Slot> + use<'a> {
        self.by_path().filter(|slot| {
            slot.kind == Kind::File
                && slot.owner.load(Ordering::Acquire) == SETTLED
                && slot.carried.load(Ordering::Relaxed) == SENT
        })
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

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use core::sync::atomic::Ordering;

    use pgrx::pg_test;

    use super::{BATCH_FILES, Carried, FIRST_WORKER, NotTaken, Position};
    use crate::backup::listing;
    use crate::server::shared_files::{Entry, FileTable, Kind, SharedFiles, Slot};

    const ONE: u32 = FIRST_WORKER;
    const TWO: u32 = FIRST_WORKER + 1;

    fn entry(path: &str, kind: Kind, size: u64) -> Entry {
        Entry {
            path: path.into(),
            kind,
            size,
            mtime: 1,
            tablespace: 0,
        }
    }

    /// A directory and three files, in an order that is neither of the table's.
    fn with_table(test: impl FnOnce(FileTable<'_>)) {
        let entries = [
            entry("base/2", Kind::File, 20),
            entry("base/3", Kind::File, 3000),
            entry("base", Kind::Directory, 0),
            entry("base/1", Kind::File, 20),
        ];
        let Ok(files) = listing::share(&entries, &[], 4, 1) else {
            panic!("the listing could not be shared");
        };
        test(files.table());
        files.detach();
    }

    fn paths<'a>(table: &FileTable<'a>, slots: &[&Slot]) -> Vec<&'a str> {
        let path = |slot: &&Slot| std::str::from_utf8(table.path(slot)).unwrap_or_default();
        slots.iter().map(path).collect()
    }

    fn take<'a>(table: &FileTable<'a>, worker: u32, position: &mut Position) -> Vec<&'a Slot> {
        let mut batch = Vec::new();
        table.take(worker, position, true, |_| true, &mut batch);
        batch
    }

    fn send(table: &FileTable<'_>, slot: &Slot, failures: Option<u32>) {
        let sent = Carried::Sent {
            size: slot.size,
            mtime: 2,
            digest: &[1, 2, 3, 4],
            failures,
        };
        table.carried(slot, &sent);
    }

    /// Files sent, bytes sent and bad pages, as everybody sees them.
    fn counts(table: &FileTable<'_>) -> (u64, u64, u64) {
        let header = table.header();
        (
            header.files_sent.load(Ordering::Relaxed),
            header.bytes_sent.load(Ordering::Relaxed),
            header.checksum_failures.load(Ordering::Relaxed),
        )
    }

    #[pg_test]
    fn directories_come_first_then_the_largest_file() {
        with_table(|table| {
            let taken = take(&table, ONE, &mut Position::default());
            assert_eq!(
                paths(&table, &taken),
                ["base", "base/3", "base/1", "base/2"]
            );
            let by_path: Vec<_> = table.by_path().collect();
            assert_eq!(
                paths(&table, &by_path),
                ["base", "base/1", "base/2", "base/3"]
            );
            assert!(take(&table, TWO, &mut Position::default()).is_empty());
        });
    }

    #[pg_test]
    fn a_path_is_found_in_the_table_and_no_other() {
        with_table(|table| {
            for path in ["base", "base/1", "base/2", "base/3"] {
                let found = table.find(path.as_bytes()).map(|slot| table.path(slot));
                assert_eq!(found, Some(path.as_bytes()));
            }
            for path in ["", "bas", "base/", "base/0", "base/11", "base/4"] {
                assert!(table.find(path.as_bytes()).is_none(), "{path}");
            }
        });
    }

    #[pg_test]
    fn files_of_a_worker_that_fails_return_and_are_not_counted() {
        with_table(|table| {
            let mut position_of_two = Position::default();
            let one = table.register_worker();
            for slot in take(&table, one, &mut Position::default()) {
                send(&table, slot, Some(1));
            }
            assert_eq!(counts(&table), (4, 3040, 4));
            assert!(take(&table, TWO, &mut position_of_two).is_empty());
            table.release_worker(one);
            assert_eq!(counts(&table), (0, 0, 0));
            assert_eq!(table.unsent(1).count, 4);
            // Who had seen the end of the queue sees what came back.
            assert_eq!(take(&table, TWO, &mut position_of_two).len(), 4);
        });
    }

    #[pg_test]
    fn files_of_a_worker_that_ended_well_stay_sent() {
        with_table(|table| {
            let one = table.register_worker();
            let taken = take(&table, one, &mut Position::default());
            for slot in &taken[..3] {
                send(&table, slot, Some(0));
            }
            table.carried(taken[3], &Carried::Vanished);
            table.settle(one);
            table.release_worker(one);
            assert_eq!(counts(&table), (4, 3040, 0));
            assert_eq!(table.unsent(5).count, 0);
            let sent: Vec<_> = table.sent_files().collect();
            assert_eq!(paths(&table, &sent), ["base/1", "base/3"]);
            let digest: Vec<_> = table
                .digest(sent[0])
                .iter()
                .map(|byte| byte.load(Ordering::Relaxed))
                .collect();
            assert_eq!(digest, [1, 2, 3, 4]);
            assert_eq!(table.header().workers.load(Ordering::Relaxed), 0);
        });
    }

    #[pg_test]
    fn a_file_sent_twice_counts_once() {
        with_table(|table| {
            let Some(slot) = table.find(b"base/3") else {
                panic!("base/3 is listed")
            };
            for failures in [2, 1] {
                assert_eq!(table.take_named(ONE, slot, || true), Ok(()));
                table.count_bytes(slot, 2000);
                send(&table, slot, Some(failures));
                assert_eq!(counts(&table), (1, 3000, u64::from(failures)));
            }
            table.settle(ONE);
            // And again in another stream: until that ends well the file is not sent.
            assert_eq!(table.take_named(TWO, slot, || true), Ok(()));
            assert_eq!(table.take_named(ONE, slot, || true), Err(NotTaken::InUse));
            assert!(table.is_taken_by_another(ONE, slot));
            assert!(!table.is_taken_by_another(TWO, slot));
            // What was wrong with it stays known until somebody has looked again.
            assert_eq!(counts(&table), (0, 0, 1));
            send(&table, slot, None);
            assert_eq!(counts(&table), (1, 3000, 1));
            send(&table, slot, Some(0));
            assert_eq!(counts(&table), (1, 3000, 0));
        });
    }

    #[pg_test]
    fn a_file_that_the_stop_has_counted_stays_sent() {
        with_table(|table| {
            for slot in take(&table, ONE, &mut Position::default()) {
                send(&table, slot, Some(0));
            }
            table.settle(ONE);
            let Some(slot) = table.find(b"base/3") else {
                panic!("base/3 is listed")
            };
            assert_eq!(
                table.take_named(TWO, slot, || false),
                Err(NotTaken::Stopped)
            );
            assert_eq!(table.unsent(1).count, 0);
            assert_eq!(counts(&table), (4, 3040, 0));
        });
    }

    #[pg_test]
    fn what_went_nowhere_is_not_sent_but_read_once() {
        with_table(|table| {
            for slot in take(&table, ONE, &mut Position::default()) {
                send(&table, slot, Some(0));
            }
            table.discard(ONE);
            assert_eq!(counts(&table), (4, 3040, 0));
            assert_eq!(table.unsent(1).count, 4);
            assert_eq!(table.sent_files().count(), 0);
            let mut batch = Vec::new();
            table.take(TWO, &mut Position::default(), false, |_| true, &mut batch);
            assert!(batch.is_empty());
            assert_eq!(take(&table, TWO, &mut Position::default()).len(), 4);
            assert_eq!(counts(&table), (0, 0, 0));
        });
    }

    #[pg_test]
    fn only_wanted_files_are_taken() {
        with_table(|table| {
            let mut batch = Vec::new();
            let small = |slot: &Slot| slot.kind == Kind::File && slot.size < 100;
            table.take(ONE, &mut Position::default(), true, small, &mut batch);
            assert_eq!(paths(&table, &batch), ["base/1", "base/2"]);
            let unsent = table.unsent(2);
            assert_eq!(
                (unsent.count, unsent.examples),
                (4, vec![&b"base"[..], b"base/3"])
            );
        });
    }

    #[pg_test]
    fn a_batch_has_an_end() {
        let entries: Vec<_> = (0..BATCH_FILES + 10)
            .map(|number| entry(&format!("f{number:04}"), Kind::File, 1))
            .chain([
                entry("big", Kind::File, 1 << 30),
                entry("bigger", Kind::File, 1 << 31),
            ])
            .collect();
        let Ok(files) = listing::share(&entries, &[], 0, 1) else {
            panic!("the listing could not be shared");
        };
        let table = files.table();
        let mut position = Position::default();
        let mut lengths = Vec::new();
        while lengths.last() != Some(&0) {
            lengths.push(take(&table, ONE, &mut position).len());
        }
        assert_eq!(lengths, [1, 1, BATCH_FILES, 10, 0]);
        files.detach();
    }

    #[pg_test]
    fn a_listing_of_another_session_is_attached_by_its_handle_only_once() {
        let Ok(files) = listing::share(&[entry("f", Kind::File, 1)], &[], 0, 1) else {
            panic!("the listing could not be shared");
        };
        let handle = files.handle();
        assert_eq!(files.borrow_pinned().table().slots().len(), 1);
        files.detach();
        assert!(SharedFiles::attach(handle, 1).is_none());
    }
}
