//! Tests of what a mapped segment has to hold to be the files of a backup.

#[pgrx::pg_schema]
mod tests {
    use pgrx::pg_test;

    use crate::backup::file_table::{FileTable, Header, MAGIC};
    use crate::server::segment::Memory;

    const NONCE: u32 = 9;
    const SIZE: usize = 4096;

    /// The first seven words of a header.
    #[derive(Clone, Copy)]
    struct Head {
        magic: u64,
        slots: u64,
        path_bytes: u64,
        tablespace_bytes: u64,
        nonce: u32,
        digest_length: u32,
        block_words: u64,
        parts: u64,
    }

    const EMPTY: Head = Head {
        magic: MAGIC,
        slots: 0,
        path_bytes: 0,
        tablespace_bytes: 0,
        nonce: NONCE,
        digest_length: 4,
        block_words: 0,
        parts: 0,
    };

    fn is_listing(head: Head, size: usize) -> bool {
        let mut memory = [u64::MAX; SIZE / 8];
        let mut numbers = [0; 8];
        numbers[..4].copy_from_slice(&head.nonce.to_ne_bytes());
        numbers[4..].copy_from_slice(&head.digest_length.to_ne_bytes());
        memory[..7].copy_from_slice(&[
            head.magic,
            head.slots,
            head.path_bytes,
            head.tablespace_bytes,
            u64::from_ne_bytes(numbers),
            head.block_words,
            head.parts,
        ]);
        FileTable::at(Memory::of(&mut memory, size), NONCE).is_some()
    }

    #[pg_test]
    fn memory_of_somebody_else_is_no_listing() {
        assert!(is_listing(EMPTY, SIZE));
        assert!(is_listing(EMPTY, size_of::<Header>()));
        for size in [0, 1, 8, size_of::<Header>() - 1] {
            assert!(!is_listing(EMPTY, size), "{size}");
        }
        let head = EMPTY;
        for head in [
            Head {
                magic: MAGIC + 1,
                ..head
            },
            Head { magic: 0, ..head },
            Head {
                nonce: NONCE + 1,
                ..head
            },
        ] {
            assert!(!is_listing(head, SIZE));
        }
    }

    #[pg_test]
    fn a_listing_beyond_its_memory_is_none() {
        let head = EMPTY;
        let room = (SIZE - size_of::<Header>()) as u64;
        assert!(is_listing(
            Head {
                path_bytes: room,
                ..head
            },
            SIZE
        ));
        for many in [
            room + 1,
            u64::MAX / 80 + 1,
            u64::MAX / 4 + 1,
            u64::MAX - room,
            u64::MAX,
        ] {
            for head in [
                Head {
                    slots: many,
                    ..head
                },
                Head {
                    slots: many,
                    digest_length: u32::MAX,
                    ..head
                },
                Head {
                    parts: many,
                    ..head
                },
                Head {
                    path_bytes: many,
                    ..head
                },
                Head {
                    tablespace_bytes: many,
                    ..head
                },
                Head {
                    path_bytes: many,
                    tablespace_bytes: u64::MAX - many + 1,
                    ..head
                },
            ] {
                assert!(!is_listing(head, SIZE), "{many}");
            }
        }
    }
}
