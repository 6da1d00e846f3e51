//! Tests of parts of files inside a server, where there is shared memory.

#[pgrx::pg_schema]
mod tests {
    use core::ops::Range;
    use core::sync::atomic::Ordering;

    use pgrx::pg_test;

    use crate::backup::file_parts::divisible_files;
    use crate::backup::file_table::{FileTable, Kind, PART_SIZE, PartSlot, Slot};
    use crate::backup::files::SharedFiles;
    use crate::backup::listing::{Entry, Listing};
    use crate::backup::owner::FIRST_WORKER;
    use crate::backup::queue::{QueueCursor, SendOutcome};
    use crate::server::checksum;

    const ONE: u32 = FIRST_WORKER;
    const TWO: u32 = FIRST_WORKER + 1;

    fn entry(size: u64) -> Entry {
        Entry {
            block_list: 0,
            kind: Kind::File,
            size,
            mtime: 7,
            tablespace: 0,
        }
    }

    /// Two large files, of four parts and of three, and a small one.
    fn with_table(test: impl FnOnce(FileTable<'_>)) {
        let mut listing = Listing::default();
        for (path, size) in [
            ("base/1/10", 3 * PART_SIZE + 5),
            ("base/1/20", 3 * PART_SIZE),
            ("base/1/30", 100),
        ] {
            assert!(listing.push(&[path.as_bytes()], entry(size)).is_ok());
        }
        let Ok(files) = SharedFiles::share(&listing, &[], 4, true, 1) else {
            panic!("the listing could not be shared");
        };
        test(files.table());
        files.detach();
    }

    fn slot<'a>(table: &FileTable<'a>, name: &str) -> &'a Slot {
        match table.find(name.as_bytes()) {
            Some(slot) => slot,
            None => panic!("{name} is listed"),
        }
    }

    /// Has a worker take the next file of the queue and divide it.
    fn divide<'a>(table: &FileTable<'a>, worker: u32) -> &'a Slot {
        let mut batch = Vec::new();
        let mut position = QueueCursor::default();
        table.take(worker, &mut position, true, |_| true, 1, &mut batch);
        let [slot] = batch.as_slice() else {
            panic!("one file was asked for");
        };
        assert!(table.can_divide(slot));
        table.divide(slot);
        slot
    }

    /// File and range of a part.
    fn place<'a>(table: &FileTable<'a>, part: Option<&PartSlot>) -> Option<(&'a str, Range<u64>)> {
        part.map(|part| {
            let path = table.path(table.file_of(part));
            let path = std::str::from_utf8(path).unwrap_or_default();
            (path, table.range_of(part))
        })
    }

    fn send(table: &FileTable<'_>, part: &PartSlot, crc: u32, failures: Option<u32>) {
        let range = table.range_of(part);
        table.count_part_bytes(part, range.end - range.start);
        table.carried_part(part, crc, failures);
    }

    fn settle(table: &FileTable<'_>, worker: u32) {
        let Some(passage) = table.header().gate.enter() else {
            panic!("the gate is closed")
        };
        table.settle(worker, &passage);
    }

    /// Whether a worker gets a file by its name.
    fn take_named(table: &FileTable<'_>, worker: u32, name: &str) -> bool {
        let Some(passage) = table.header().gate.enter() else {
            panic!("the gate is closed")
        };
        match table.take_named(worker, &[slot(table, name)], &passage) {
            Ok(taken) => taken.is_ok(),
            Err(_) => panic!("out of memory"),
        }
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

    fn sent_paths<'a>(table: &FileTable<'a>) -> Vec<&'a str> {
        let path = |slot: &'a Slot| std::str::from_utf8(table.path(slot)).unwrap_or_default();
        table.sent_files().map(path).collect()
    }

    #[pg_test]
    fn large_relation_files_near_the_end_of_the_queue_have_parts() {
        let mut incremental = entry(3 * PART_SIZE);
        incremental.block_list = 1;
        let directory = Entry {
            kind: Kind::Directory,
            ..entry(3 * PART_SIZE)
        };
        let queue: [(Entry, &[u8]); 7] = [
            // 200 times its size follows.
            (entry(2 * PART_SIZE), b"base/1/1"),
            (entry(397 * PART_SIZE), b"base/1/2"),
            (entry(3 * PART_SIZE + 1), b"base/1/3.1"),
            (entry(3 * PART_SIZE), b"pg_logical/4"),
            (incremental, b"base/1/INCREMENTAL.5"),
            (directory, b"base/1"),
            (entry(2 * PART_SIZE - 1), b"base/1/6"),
        ];
        let total = queue.iter().map(|(entry, _)| entry.size).sum();
        let queue = queue.iter().map(|(entry, path)| (entry, *path));
        let Ok(divisible) = divisible_files(queue, total) else {
            panic!("out of memory")
        };
        let divisible = divisible.iter().map(|file| (file.slot, file.parts));
        assert_eq!(divisible.collect::<Vec<_>>(), [(1, 397), (2, 4)]);
    }

    #[pg_test]
    fn a_divided_file_is_taken_from_its_start_and_by_others_from_its_end() {
        with_table(|table| {
            let largest = divide(&table, ONE);
            let end = largest.size;
            let first = table.take_first_part(ONE, largest);
            assert_eq!(place(&table, first), Some(("base/1/10", 0..PART_SIZE)));
            // A file that nobody has begun is taken whole, or divided.
            let last = table.take_last_part(TWO);
            let expected = ("base/1/10", 3 * PART_SIZE..end);
            assert_eq!(place(&table, last), Some(expected));
            let other = divide(&table, TWO);
            // Most parts of the other wait.
            let last = table.take_last_part(ONE);
            let expected = ("base/1/20", 2 * PART_SIZE..3 * PART_SIZE);
            assert_eq!(place(&table, last), Some(expected));
            for _ in 0..4 {
                assert!(table.take_last_part(ONE).is_some());
            }
            assert!(table.take_last_part(ONE).is_none());
            assert!(table.take_first_part(ONE, largest).is_none());
            assert!(table.take_first_part(TWO, other).is_none());
        });
    }

    #[pg_test]
    fn a_file_is_sent_when_all_its_parts_are() {
        with_table(|table| {
            let file = divide(&table, ONE);
            let Some(last) = table.take_last_part(TWO) else {
                panic!("a part waits");
            };
            while let Some(part) = table.take_first_part(ONE, file) {
                send(&table, part, 1, Some(1));
            }
            settle(&table, ONE);
            assert_eq!(counts(&table), (0, 3 * PART_SIZE, 3));
            send(&table, last, 1, Some(0));
            assert_eq!(counts(&table), (1, file.size, 3));
            // The stream with its last part has not ended.
            assert!(sent_paths(&table).is_empty());
            assert_eq!(table.unsent(9).count, 3);
            settle(&table, TWO);
            assert_eq!(sent_paths(&table), ["base/1/10"]);
            assert_eq!(table.unsent(9).count, 2);
        });
    }

    #[pg_test]
    fn parts_of_a_lost_worker_wait_again() {
        with_table(|table| {
            let (one, two) = (table.register_worker(), table.register_worker());
            let file = divide(&table, one);
            let [Some(first), Some(last)] =
                [table.take_first_part(one, file), table.take_last_part(two)]
            else {
                panic!("parts wait");
            };
            send(&table, first, 1, Some(2));
            send(&table, last, 2, Some(3));
            settle(&table, two);
            table.release_worker(two);
            table.release_worker(one);
            assert_eq!(counts(&table), (0, 5, 3));
            let again = table.take_first_part(TWO, file);
            assert_eq!(place(&table, again), Some(("base/1/10", 0..PART_SIZE)));
            let next = table.take_last_part(TWO);
            let expected = ("base/1/10", 2 * PART_SIZE..3 * PART_SIZE);
            assert_eq!(place(&table, next), Some(expected));
        });
    }

    #[pg_test]
    fn the_checksum_of_a_file_is_that_of_its_parts_in_their_order() {
        with_table(|table| {
            let file = divide(&table, ONE);
            assert_eq!(table.combined_crc(slot(&table, "base/1/20")), None);
            // From the end, so that the order is not that in which they were sent.
            for crc in [4000, 300, 20, 1] {
                match table.take_last_part(TWO) {
                    Some(part) => send(&table, part, crc, None),
                    None => panic!("a part waits"),
                }
            }
            settle(&table, TWO);
            let mut expected = 1;
            for (crc, length) in [(20, PART_SIZE), (300, PART_SIZE), (4000, 5)] {
                expected = checksum::combine_crc32c(expected, crc, length);
            }
            assert_eq!(table.combined_crc(file), Some(expected));
            assert_eq!(sent_paths(&table), ["base/1/10"]);
            assert_eq!(counts(&table), (1, file.size, 0));
        });
    }

    #[pg_test]
    fn a_divided_file_that_is_named_is_one_file_again() {
        with_table(|table| {
            let file = divide(&table, ONE);
            while let Some(part) = table.take_first_part(ONE, file) {
                assert!(!take_named(&table, TWO, "base/1/10"));
                send(&table, part, 1, Some(1));
            }
            settle(&table, ONE);
            assert_eq!(counts(&table), (1, file.size, 4));
            // Who had a part of it and looks again finds none.
            assert!(take_named(&table, TWO, "base/1/10"));
            assert!(table.take_last_part(ONE).is_none());
            assert!(table.take_first_part(ONE, file).is_none());
            assert!(!take_named(&table, ONE, "base/1/10"));
            // What was wrong with its parts stays known until somebody has looked again.
            assert_eq!(counts(&table), (0, 0, 4));
            table.carried(
                file,
                &SendOutcome::Sent {
                    size: file.size,
                    mtime: 2,
                    digest: &[1, 2, 3, 4],
                    failures: Some(0),
                },
            );
            settle(&table, TWO);
            assert_eq!(counts(&table), (1, file.size, 0));
            assert_eq!(table.combined_crc(file), None);
            assert_eq!(sent_paths(&table), ["base/1/10"]);
        });
    }

    #[pg_test]
    fn a_file_that_was_named_and_returns_can_be_divided_again() {
        with_table(|table| {
            let file = divide(&table, ONE);
            while let Some(part) = table.take_first_part(ONE, file) {
                send(&table, part, 1, Some(1));
            }
            settle(&table, ONE);
            assert!(take_named(&table, TWO, "base/1/10"));
            table.release_worker(TWO);
            assert_eq!(counts(&table), (0, 0, 0));
            let again = divide(&table, ONE);
            assert_eq!(table.path(again), b"base/1/10");
            let first = table.take_first_part(ONE, file);
            assert_eq!(place(&table, first), Some(("base/1/10", 0..PART_SIZE)));
        });
    }

    /// A file that is sent as a whole, by a worker that does not accept parts.
    #[pg_test]
    fn whole_files_and_parts_go_together() {
        with_table(|table| {
            let file = divide(&table, ONE);
            let mut batch = Vec::new();
            let mut position = QueueCursor::default();
            table.take(TWO, &mut position, true, |_| true, u64::MAX, &mut batch);
            let paths: Vec<_> = batch.iter().map(|slot| table.path(slot)).collect();
            assert_eq!(paths, [b"base/1/20"]);
            assert!(table.take_first_part(TWO, batch[0]).is_none());
            let taken = table.take_last_part(TWO);
            assert!(taken.is_some_and(|part| core::ptr::eq(table.file_of(part), file)));
        });
    }
}
