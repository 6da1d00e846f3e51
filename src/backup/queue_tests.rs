//! Tests of the queue inside a server, where there is shared memory.

#[pgrx::pg_schema]
mod tests {
    use core::sync::atomic::Ordering;

    use pgrx::pg_test;

    use crate::backup::file_table::{FileTable, Kind, Slot};
    use crate::backup::files::SharedFiles;
    use crate::backup::listing::{Entry, Listing};
    use crate::backup::owner::FIRST_WORKER;
    use crate::backup::queue::{BATCH_FILES, InUse, QueueCursor, SendOutcome};

    const ONE: u32 = FIRST_WORKER;
    const TWO: u32 = FIRST_WORKER + 1;

    fn listing<'p>(files: impl IntoIterator<Item = (&'p str, Kind, u64)>) -> Listing {
        let mut listing = Listing::default();
        for (path, kind, size) in files {
            let entry = Entry {
                block_list: 0,
                kind,
                size,
                mtime: 1,
                tablespace: 0,
            };
            assert!(listing.push(&[path.as_bytes()], entry).is_ok());
        }
        listing
    }

    /// A directory and three files, in an order that is neither of the table's.
    fn with_table(test: impl FnOnce(FileTable<'_>)) {
        let entries = [
            ("base/2", Kind::File, 20),
            ("base/3", Kind::File, 3000),
            ("base", Kind::Directory, 0),
            ("base/1", Kind::File, 20),
        ];
        let Ok(files) = SharedFiles::share(&listing(entries), &[], 4, false, 1) else {
            panic!("the listing could not be shared");
        };
        test(files.table());
        files.detach();
    }

    fn paths<'a>(table: &FileTable<'a>, slots: &[&Slot]) -> Vec<&'a str> {
        let path = |slot: &&Slot| std::str::from_utf8(table.path(slot)).unwrap_or_default();
        slots.iter().map(path).collect()
    }

    fn take<'a>(table: &FileTable<'a>, worker: u32, position: &mut QueueCursor) -> Vec<&'a Slot> {
        let mut batch = Vec::new();
        table.take(worker, position, true, |_| true, u64::MAX, &mut batch);
        batch
    }

    fn send(table: &FileTable<'_>, slot: &Slot, failures: Option<u32>) {
        let sent = SendOutcome::Sent {
            size: slot.size,
            mtime: 2,
            digest: &[1, 2, 3, 4],
            failures,
        };
        table.carried(slot, &sent);
    }

    fn settle(table: &FileTable<'_>, worker: u32) {
        let Some(passage) = table.header().gate.enter() else {
            panic!("the gate is closed")
        };
        table.settle(worker, &passage);
    }

    /// Takes files by their names, and returns the name of one that another worker has.
    fn take_named<'a>(table: &FileTable<'a>, worker: u32, names: &[&str]) -> Option<&'a str> {
        let slots: Vec<_> = names.iter().map(|name| slot(table, name)).collect();
        let Some(passage) = table.header().gate.enter() else {
            panic!("the gate is closed")
        };
        let Ok(taken) = table.take_named(worker, &slots, &passage) else {
            panic!("out of memory")
        };
        taken
            .err()
            .map(|InUse { index }| paths(table, &[&table.slots()[index]])[0])
    }

    fn slot<'a>(table: &FileTable<'a>, name: &str) -> &'a Slot {
        match table.find(name.as_bytes()) {
            Some(slot) => slot,
            None => panic!("{name} is listed"),
        }
    }

    /// The checksum that is noted for a file.
    fn digest(table: &FileTable<'_>, slot: &Slot) -> Vec<u8> {
        let places = table.digest(slot).iter();
        places.map(|byte| byte.load(Ordering::Relaxed)).collect()
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
            let taken = take(&table, ONE, &mut QueueCursor::default());
            assert_eq!(
                paths(&table, &taken),
                ["base", "base/3", "base/1", "base/2"]
            );
            let by_path: Vec<_> = table.by_path().collect();
            assert_eq!(
                paths(&table, &by_path),
                ["base", "base/1", "base/2", "base/3"]
            );
            assert!(take(&table, TWO, &mut QueueCursor::default()).is_empty());
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
            let mut position_of_two = QueueCursor::default();
            let one = table.register_worker();
            for slot in take(&table, one, &mut QueueCursor::default()) {
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
            let taken = take(&table, one, &mut QueueCursor::default());
            for slot in &taken[..3] {
                send(&table, slot, Some(0));
            }
            table.carried(taken[3], &SendOutcome::Vanished);
            settle(&table, one);
            table.release_worker(one);
            assert_eq!(counts(&table), (4, 3040, 0));
            assert_eq!(table.unsent(5).count, 0);
            let sent: Vec<_> = table.sent_files().collect();
            assert_eq!(paths(&table, &sent), ["base/1", "base/3"]);
            assert_eq!(digest(&table, sent[0]), [1, 2, 3, 4]);
            assert_eq!(table.header().workers.load(Ordering::Relaxed), 0);
        });
    }

    #[pg_test]
    fn a_file_sent_twice_counts_once() {
        with_table(|table| {
            let slot = slot(&table, "base/3");
            for failures in [2, 1] {
                assert_eq!(take_named(&table, ONE, &["base/3"]), None);
                table.count_bytes(slot, 2000);
                send(&table, slot, Some(failures));
                assert_eq!(counts(&table), (1, 3000, u64::from(failures)));
                settle(&table, ONE);
            }
            // And again in another stream: until that ends well the file is not sent.
            assert_eq!(take_named(&table, TWO, &["base/3"]), None);
            assert_eq!(take_named(&table, ONE, &["base/3"]), Some("base/3"));
            // What was wrong with it stays known until somebody has looked again.
            assert_eq!(counts(&table), (0, 0, 1));
            send(&table, slot, None);
            assert_eq!(counts(&table), (1, 3000, 1));
            send(&table, slot, Some(0));
            assert_eq!(counts(&table), (1, 3000, 0));
        });
    }

    /// A worker that names sent files and finds that another has one of them has changed nothing.
    #[pg_test]
    fn files_that_are_named_are_taken_all_or_none() {
        with_table(|table| {
            let everything = take(&table, ONE, &mut QueueCursor::default());
            for slot in everything {
                send(&table, slot, Some(0));
            }
            settle(&table, ONE);
            let before = counts(&table);
            let generation = table.header().generation.load(Ordering::Relaxed);
            // Each order leads to the same one first.
            assert_eq!(take_named(&table, TWO, &["base/2"]), None);
            for names in [["base/1", "base/2"], ["base/2", "base/1"]] {
                assert_eq!(take_named(&table, ONE, &names), Some("base/2"));
            }
            let sent: Vec<_> = table.sent_files().collect();
            assert_eq!(paths(&table, &sent), ["base/1", "base/3"]);
            assert_eq!(digest(&table, sent[0]), [1, 2, 3, 4]);
            assert_eq!(table.unsent(5).examples, [&b"base/2"[..]]);
            // The file that was taken is not sent until it is sent again; nothing else has changed.
            assert_eq!(counts(&table), (before.0 - 1, before.1 - 20, before.2));
            assert_eq!(
                table.header().generation.load(Ordering::Relaxed),
                generation
            );
            // One who takes the same file twice has it once.
            table.release_worker(TWO);
            assert_eq!(take_named(&table, ONE, &["base/2", "base/2"]), None);
        });
    }

    #[pg_test]
    fn files_that_wait_are_given_back_to_those_who_look_for_them() {
        with_table(|table| {
            assert_eq!(take_named(&table, TWO, &["base/2"]), None);
            let mut position = QueueCursor::default();
            // As one who passes by while ONE has the first of the two for a moment.
            position.skip_all(&table);
            assert_eq!(
                take_named(&table, ONE, &["base/1", "base/2"]),
                Some("base/2")
            );
            let taken = take(&table, TWO + 1, &mut position);
            assert_eq!(paths(&table, &taken), ["base", "base/3", "base/1"]);
        });
    }

    /// Those behind which another has not looked, those that it does not want, and those that it returns.
    #[pg_test]
    fn a_worker_that_comes_late_finds_all_files_that_wait() {
        with_table(|table| {
            let prefix = || {
                let header = table.header();
                let generation = header.generation.load(Ordering::Relaxed);
                header.taken_prefix.length(generation)
            };
            let mut batch = Vec::new();
            let small = |slot: &Slot| slot.size < 100;
            let mut position = QueueCursor::default();
            table.take(ONE, &mut position, true, small, u64::MAX, &mut batch);
            assert_eq!(paths(&table, &batch), ["base", "base/1", "base/2"]);
            assert_eq!(prefix(), 0);
            let taken = take(&table, TWO, &mut QueueCursor::default());
            assert_eq!(paths(&table, &taken), ["base/3"]);
            assert_eq!(prefix(), 4);
            assert!(take(&table, TWO + 1, &mut QueueCursor::default()).is_empty());
            table.release_worker(ONE);
            assert_eq!(prefix(), 0);
            let taken = take(&table, TWO + 1, &mut QueueCursor::default());
            assert_eq!(paths(&table, &taken), ["base", "base/1", "base/2"]);
            // What went nowhere waits for those who send.
            table.discard(TWO + 1);
            let mut blind = QueueCursor::default();
            table.take(ONE, &mut blind, false, |_| true, u64::MAX, &mut batch);
            assert!(batch.is_empty());
            let taken = take(&table, ONE, &mut QueueCursor::default());
            assert_eq!(paths(&table, &taken), ["base", "base/1", "base/2"]);
        });
    }

    /// A stop that is refused, one that succeeds, and a worker in each place where it can be.
    #[pg_test]
    fn a_stop_counts_nothing_that_changes_afterwards() {
        with_table(|table| {
            let gate = &table.header().gate;
            for slot in take(&table, ONE, &mut QueueCursor::default()) {
                send(&table, slot, Some(0));
            }
            // Inside before the stop comes: it waits, and counts the files as they are then.
            let Some(passage) = gate.enter() else {
                panic!("the gate is closed")
            };
            let closed = gate.close();
            assert!(!closed.is_empty());
            table.settle(ONE, &passage);
            drop(passage);
            assert!(closed.is_empty());
            assert_eq!(table.unsent(1).count, 0);
            assert_eq!(table.sent_files().count(), 3);
            // Who comes after it fails, and has taken nothing.
            assert!(gate.enter().is_none());
            assert_eq!(table.unsent(1).count, 0);
            assert_eq!(counts(&table), (4, 3040, 0));
            // The stop is refused, and files can be named again.
            drop(closed);
            assert_eq!(take_named(&table, TWO, &["base/3"]), None);
            assert_eq!(table.unsent(1).count, 1);
            let closed = gate.close();
            assert!(closed.is_empty());
            assert_eq!(table.sent_files().count(), 2);
            // The stream that has the file ends well, but too late.
            assert!(gate.enter().is_none());
            closed.keep_closed();
            assert!(gate.enter().is_none());
        });
    }

    #[pg_test]
    fn what_went_nowhere_is_not_sent_but_read_once() {
        with_table(|table| {
            for slot in take(&table, ONE, &mut QueueCursor::default()) {
                send(&table, slot, Some(0));
            }
            table.discard(ONE);
            assert_eq!(counts(&table), (4, 3040, 0));
            assert_eq!(table.unsent(1).count, 4);
            assert_eq!(table.sent_files().count(), 0);
            let mut batch = Vec::new();
            table.take(
                TWO,
                &mut QueueCursor::default(),
                false,
                |_| true,
                u64::MAX,
                &mut batch,
            );
            assert!(batch.is_empty());
            assert_eq!(take(&table, TWO, &mut QueueCursor::default()).len(), 4);
            assert_eq!(counts(&table), (0, 0, 0));
        });
    }

    #[pg_test]
    fn only_wanted_files_are_taken() {
        with_table(|table| {
            let mut batch = Vec::new();
            let small = |slot: &Slot| slot.kind() == Kind::File && slot.size < 100;
            table.take(
                ONE,
                &mut QueueCursor::default(),
                true,
                small,
                u64::MAX,
                &mut batch,
            );
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
        let names: Vec<_> = (0..BATCH_FILES + 10)
            .map(|number| format!("f{number:04}"))
            .collect();
        let entries = names
            .iter()
            .map(|name| (name.as_str(), Kind::File, 1))
            .chain([
                ("big", Kind::File, 1 << 30),
                ("bigger", Kind::File, 1 << 31),
            ]);
        let Ok(files) = SharedFiles::share(&listing(entries), &[], 0, false, 1) else {
            panic!("the listing could not be shared");
        };
        let table = files.table();
        let mut position = QueueCursor::default();
        let mut lengths = Vec::new();
        while lengths.last() != Some(&0) {
            lengths.push(take(&table, ONE, &mut position).len());
        }
        assert_eq!(lengths, [1, 1, BATCH_FILES, 10, 0]);
        files.detach();
    }

    #[pg_test]
    fn a_listing_of_another_session_is_attached_by_its_handle_only_once() {
        let Ok(files) = SharedFiles::share(&listing([("f", Kind::File, 1)]), &[], 0, false, 1)
        else {
            panic!("the listing could not be shared");
        };
        let handle = files.handle();
        assert_eq!(files.clone().table().slots().len(), 1);
        files.detach();
        assert!(SharedFiles::attach(handle, 1).is_none());
    }
}
