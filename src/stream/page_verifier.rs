//! Verification of the pages of one file, or of a part of it, while it is sent.
//!
//! Follows verify_page_checksum() in backup/basebackup.c, with two differences. A page's LSN
//! excuses a mismatch only up to where the server has written WAL; beyond that it is damage as
//! well. And a page that is marked new must be all zeros.

use core::ops::Range;
use std::io;
use std::time::Duration;

use backup_format::page::{self, PageHeader};
use backup_format::relation_file;

use crate::server::backend_progress;
use crate::server::checksum::Digest;
use crate::server::encoding;
use crate::server::page_checksum::{self, Width};
use crate::server::recovery;
use crate::server::report::{Error, Result, Sqlstate, warning};
use crate::server::settings::{self, PAGE_SIZE, PAGES_PER_SEGMENT};

/// Number of failures of a file, or of a part, that are reported one by one.
const REPORTED: u32 = 5;

/// Delay before a page is read again that may be half written: the writer may have lost its
/// processor.
const SECOND_LOOK: Duration = Duration::from_millis(1);

/// Damage of a page.
enum Damage {
    /// Checksum mismatch.
    Mismatch { calculated: u16, expected: u16 },
    /// Marked new, but not all zeros.
    NewWithContent,
}

/// Verifier of the pages of one file, or of a part of it.
pub struct PageVerifier<'a> {
    path: &'a [u8],
    /// The position from which a page counts as changed since the start of the backup.
    start_lsn: u64,
    /// The number of the file's first block in its fork.
    first_block: u32,
    /// The blocks of the file that are verified, where they are not all.
    blocks: Option<Range<u64>>,
    failures: u32,
    width: Width,
    /// A position up to which the server is known to have written WAL.
    written_lsn: u64,
    finished: bool,
}

impl<'a> PageVerifier<'a> {
    /// A verifier, or `None` for a file that holds no pages.
    #[must_use]
    pub fn for_file(path: &'a [u8], start_lsn: u64) -> Option<Self> {
        let segment = settings::checksummed_files().segment(path)?;
        Some(Self {
            path,
            start_lsn,
            first_block: segment.wrapping_mul(PAGES_PER_SEGMENT),
            blocks: None,
            failures: 0,
            width: Width::chosen(),
            written_lsn: 0,
            finished: false,
        })
    }

    /// Is for a part of the file: these bytes.
    #[must_use]
    pub fn of_part(mut self, range: &Range<u64>) -> Self {
        let page_size = PAGE_SIZE as u64;
        self.blocks = Some(range.start / page_size..range.end.div_ceil(page_size));
        self
    }

    /// Verifies what was read at `offset`, which is a multiple of the page size, and adds it to the digest
    /// of the file. Pages that were wrong are read again by `read_at`, and `bytes` then holds what they were
    /// the second time.
    ///
    /// # Errors
    /// Where a page cannot be read again; those of the digest. The digest is of no use then.
    pub fn verify(
        &mut self,
        bytes: &mut [u8],
        offset: u64,
        digest: &mut Digest,
        read_at: impl Fn(&mut [u8], u64) -> io::Result<usize>,
    ) -> Result<()> {
        if self.finished {
            return digest.update(bytes);
        }
        let Some(crc) = digest.of_pages() else {
            let calculate = |_: &[u8; PAGE_SIZE], _| None;
            self.verify_pages(bytes, offset, calculate, read_at)?;
            return digest.update(bytes);
        };
        let before = *crc;
        let calculate = |page: &[u8; PAGE_SIZE], block| Some(crc.update_by_page(page, block));
        let is_as_it_was = self.verify_pages(bytes, offset, calculate, read_at)?;
        let (_, rest) = bytes.as_chunks::<PAGE_SIZE>();
        if is_as_it_was {
            crc.update(rest);
        } else {
            *crc = before;
            crc.update(bytes);
        }
        Ok(())
    }

    /// Verifies pages, and returns whether none was read again. `calculate` is called once for each in their
    /// order, with its block in the fork, and may give its checksum.
    fn verify_pages(
        &mut self,
        bytes: &mut [u8],
        offset: u64,
        mut calculate: impl FnMut(&[u8; PAGE_SIZE], u32) -> Option<u16>,
        read_at: impl Fn(&mut [u8], u64) -> io::Result<usize>,
    ) -> Result<bool> {
        let length = bytes.len();
        let first_block = (offset / PAGE_SIZE as u64) as u32;
        let mut is_as_it_was = true;
        let (pages, rest) = bytes.as_chunks_mut::<PAGE_SIZE>();
        for (page, block) in pages.iter_mut().zip(first_block..) {
            let calculated = calculate(page, self.first_block.wrapping_add(block));
            if self.look_at(page, block, calculated).is_none() {
                continue;
            }
            is_as_it_was = false;
            let before = *page;
            if self.failures < REPORTED {
                std::thread::sleep(SECOND_LOOK);
            }
            let again = read_at(page, u64::from(block) * PAGE_SIZE as u64);
            let count = again.map_err(|error| Error::of_file("reread file", self.path, &error))?;
            if count < PAGE_SIZE {
                // The file was truncated below this page: nobody will ask for it.
                page[count..].fill(0);
                continue;
            }
            // A page that changes under our eyes is being written, and its WAL comes with it.
            if *page == before
                && let Some(damage) = self.look_at(page, block, None)
            {
                self.report(&damage, block);
            }
        }
        if !rest.is_empty() {
            let block = first_block.wrapping_add((length / PAGE_SIZE) as u32);
            warning(
                Sqlstate::ERRCODE_WARNING,
                format!(
                    "could not verify checksum in file \"{}\", block {block}: read buffer size {length} and page size {PAGE_SIZE} differ",
                    encoding::display(self.path)
                ),
            );
            self.finished = true;
        }
        Ok(is_as_it_was)
    }

    /// Reports the total to the client and to the statistics, and returns it.
    #[must_use]
    pub fn finish(self) -> u32 {
        if self.failures > 1 {
            let place = match &self.blocks {
                Some(blocks) => format!(" in blocks {} to {}", blocks.start, blocks.end - 1),
                None => String::new(),
            };
            warning(
                Sqlstate::ERRCODE_DATA_CORRUPTED,
                format!(
                    "file \"{}\" has a total of {} checksum verification failures{place}",
                    encoding::display(self.path),
                    self.failures
                ),
            );
        }
        if self.failures > 0 {
            let database = relation_file::database_of(self.path);
            backend_progress::report_checksum_failures(database, self.failures);
        }
        self.failures
    }

    /// Damage of a page that its LSN does not excuse. `calculated` is its checksum, if it is known.
    fn look_at(&mut self, page: &mut [u8], block: u32, calculated: Option<u16>) -> Option<Damage> {
        let header = PageHeader::read(page);
        if header.is_new() {
            return (!page::is_all_zeros(page)).then_some(Damage::NewWithContent);
        }
        if header.lsn.0 >= self.start_lsn && self.is_written(header.lsn.0) {
            return None;
        }
        let block = self.first_block.wrapping_add(block);
        let expected = header.checksum;
        if calculated.unwrap_or_else(|| self.width.checksum(page, block)) == expected {
            return None;
        }
        let calculated = page_checksum::by_server(page, block);
        (calculated != expected).then_some(Damage::Mismatch {
            calculated,
            expected,
        })
    }

    /// Whether the server has written WAL up to this position. It is asked after the page was read.
    fn is_written(&mut self, lsn: u64) -> bool {
        if lsn > self.written_lsn {
            self.written_lsn = recovery::current_position();
        }
        lsn <= self.written_lsn
    }

    fn report(&mut self, damage: &Damage, block: u32) {
        self.failures += 1;
        let path = encoding::display(self.path);
        if self.failures == REPORTED + 1 {
            warning(
                Sqlstate::ERRCODE_DATA_CORRUPTED,
                format!(
                    "further checksum verification failures in file \"{path}\" will not be reported"
                ),
            );
        }
        if self.failures > REPORTED {
            return;
        }
        let what = match damage {
            Damage::Mismatch {
                calculated,
                expected,
            } => {
                format!("calculated {calculated:X} but expected {expected:X}")
            }
            Damage::NewWithContent => "page is marked new but is not all zeros".to_owned(),
        };
        warning(
            Sqlstate::ERRCODE_DATA_CORRUPTED,
            format!("checksum verification failed in file \"{path}\", block {block}: {what}"),
        );
    }
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use std::cell::Cell;
    use std::io;

    use backup_format::checksum::Algorithm;
    use pgrx::{Spi, pg_test};

    use super::{Digest, PAGE_SIZE, PAGES_PER_SEGMENT, PageVerifier};
    use crate::server::page_checksum;

    /// No page is excused by its LSN.
    const START_LSN: u64 = u64::MAX;

    /// A page that is not new, whose checksum is right for that block.
    fn page(content: u8, block: u32) -> Vec<u8> {
        let mut page = vec![content; PAGE_SIZE];
        page[..24].fill(0);
        page[14..16].copy_from_slice(&8000u16.to_ne_bytes());
        let checksum = page_checksum::by_server(&mut page, block);
        page[8..10].copy_from_slice(&checksum.to_ne_bytes());
        page
    }

    fn damaged(content: u8, block: u32) -> Vec<u8> {
        let mut page = page(content, block);
        page[5000] ^= 1;
        page
    }

    fn digest() -> Digest {
        let Ok(digest) = Digest::new(Algorithm::Crc32c) else {
            panic!("no digest")
        };
        digest
    }

    fn crc(digest: Digest) -> Option<u32> {
        digest.finish().ok().map(|bytes| bytes.crc32c())
    }

    /// Does the same where checksums of pages and of files are computed in one loop, if the processor can do that,
    /// and where they are not.
    fn in_both_ways(run: impl Fn()) {
        for vectors in ["avx2", "server"] {
            let set = format!("SET pg_parallel_backup.checksum_vectors = {vectors}");
            assert_eq!(Spi::run(&set), Ok(()));
            run();
        }
    }

    /// Verifies blocks of a file from the third on, of which those that were wrong are read again as `again`, and
    /// 100 bytes behind them twice. The blocks afterwards, the failures, and how often something was read again.
    fn verify_of(path: &[u8], pages: &[&[u8]], again: &[u8]) -> (Vec<u8>, u32, u32) {
        let Some(mut verifier) = PageVerifier::for_file(path, START_LSN) else {
            panic!("the file is one with pages")
        };
        let tail = [3; 100];
        let mut bytes = pages.concat();
        let length = bytes.len();
        bytes.extend(tail);
        let reads = Cell::new(0);
        let read_at = |page: &mut [u8], _: u64| -> io::Result<usize> {
            reads.set(reads.get() + 1);
            page[..again.len()].copy_from_slice(again);
            Ok(again.len())
        };
        let offset = 3 * PAGE_SIZE as u64;
        let mut digest = digest();
        let result = verifier.verify(&mut bytes, offset, &mut digest, read_at);
        assert!(result.is_ok());
        let behind = offset + bytes.len() as u64;
        let result = verifier.verify(&mut tail.clone(), behind, &mut digest, read_at);
        assert!(result.is_ok());
        let mut expected = self::digest();
        for bytes in [bytes.as_slice(), &tail] {
            assert!(expected.update(bytes).is_ok());
        }
        assert_eq!(crc(digest), crc(expected), "the digest is of other bytes");
        assert_eq!(bytes.split_off(length), tail);
        (bytes, verifier.failures, reads.get())
    }

    /// Verifies blocks 3 and 4 of a relation, of which the second is read again as `again`; the second
    /// afterwards, the failures, and how often something was read again.
    fn verify(second: &[u8], again: &[u8]) -> (Vec<u8>, u32, u32) {
        let first = page(1, 3);
        let (mut bytes, failures, reads) = verify_of(b"base/1/1259", &[&first, second], again);
        let second = bytes.split_off(PAGE_SIZE);
        assert_eq!(bytes, first);
        (second, failures, reads)
    }

    /// A page belongs to one block of its fork: the number of a segment counts, and once.
    #[pg_test]
    fn a_page_of_another_segment_is_a_failure() {
        in_both_ways(|| {
            let of_segment = |segment: u32| page(2, segment * PAGES_PER_SEGMENT + 3);
            for (segment, failures) in [(0, 1), (1, 0), (2, 1)] {
                let page = of_segment(segment);
                let result = verify_of(b"base/1/1259.1", &[&page], &page);
                assert_eq!(result, (page, failures, failures), "{segment}");
            }
        });
    }

    #[pg_test]
    fn a_sound_page_is_read_once() {
        in_both_ways(|| {
            let sound = page(2, 4);
            assert_eq!(verify(&sound, &[]), (sound, 0, 0));
        });
    }

    #[pg_test]
    fn a_bad_page_that_is_the_same_when_read_again_is_a_failure() {
        in_both_ways(|| {
            let bad = damaged(2, 4);
            assert_eq!(verify(&bad, &bad), (bad.clone(), 1, 1));
        });
    }

    #[pg_test]
    fn a_bad_page_that_is_sound_when_read_again_is_none() {
        in_both_ways(|| {
            let sound = page(2, 4);
            assert_eq!(verify(&damaged(2, 4), &sound), (sound, 0, 1));
        });
    }

    /// It is still being written, and its WAL comes with the backup.
    #[pg_test]
    fn a_bad_page_that_is_another_bad_one_when_read_again_is_none() {
        in_both_ways(|| {
            let other = damaged(3, 4);
            assert_eq!(verify(&damaged(2, 4), &other), (other, 0, 1));
        });
    }

    #[pg_test]
    fn a_bad_page_that_is_cut_off_when_read_again_is_none() {
        in_both_ways(|| {
            let bad = damaged(2, 4);
            for length in [0, 100, PAGE_SIZE - 1] {
                let (bytes, failures, reads) = verify(&bad, &bad[..length]);
                assert_eq!((failures, reads), (0, 1));
                let mut cut = bad[..length].to_vec();
                cut.resize(PAGE_SIZE, 0);
                assert_eq!(bytes, cut);
            }
        });
    }

    #[pg_test]
    fn an_error_of_the_second_reading_is_an_error() {
        let Some(mut verifier) = PageVerifier::for_file(b"base/1/1259", START_LSN) else {
            panic!("the file is one with pages")
        };
        let result = verifier.verify(&mut damaged(1, 0), 0, &mut digest(), |_, _| {
            Err(io::Error::from_raw_os_error(libc::EIO))
        });
        assert!(result.is_err());
    }
}
