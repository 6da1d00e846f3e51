//! Tests of the queue inside a server, where there is shared memory.

#[pgrx::pg_schema]
mod tests {
    use core::sync::atomic::Ordering;

    use pgrx::pg_test;

    use crate::backup::listing;
    use crate::backup::queue::{BATCH_FILES, FIRST_WORKER, NotTaken, QueueCursor, SendOutcome};
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

    fn take<'a>(table: &FileTable<'a>, worker: u32, position: &mut QueueCursor) -> Vec<&'a Slot> {
        let mut batch = Vec::new();
        table.take(worker, position, true, |_| true, &mut batch);
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
            table.settle(one);
            table.release_worker(one);
            assert_eq!(counts(&table), (4, 3040, 0));
            assert_eq!(table.unsent(5).count, 0);
            let sent: Vec<_> = table.sent_files(false).collect();
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
            for slot in take(&table, ONE, &mut QueueCursor::default()) {
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
    fn a_worker_that_comes_too_late_takes_nothing_out_of_a_complete_backup() {
        with_table(|table| {
            for slot in take(&table, ONE, &mut QueueCursor::default()) {
                send(&table, slot, Some(0));
            }
            table.settle(ONE);
            let Some(slot) = table.find(b"base/2") else {
                panic!("base/2 is listed")
            };
            // Between its two steps: it has the file, and is about to learn that it must not.
            let settled = slot.owner.swap(TWO, Ordering::Relaxed);
            assert_eq!(table.sent_files(false).count(), 2);
            assert_eq!(table.sent_files(true).count(), 3);
            slot.owner.store(settled, Ordering::Relaxed);
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
            assert_eq!(table.sent_files(false).count(), 0);
            let mut batch = Vec::new();
            table.take(
                TWO,
                &mut QueueCursor::default(),
                false,
                |_| true,
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
            let small = |slot: &Slot| slot.kind == Kind::File && slot.size < 100;
            table.take(ONE, &mut QueueCursor::default(), true, small, &mut batch);
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
        let Ok(files) = listing::share(&[entry("f", Kind::File, 1)], &[], 0, 1) else {
            panic!("the listing could not be shared");
        };
        let handle = files.handle();
        assert_eq!(files.borrow_pinned().table().slots().len(), 1);
        files.detach();
        assert!(SharedFiles::attach(handle, 1).is_none());
    }
}
