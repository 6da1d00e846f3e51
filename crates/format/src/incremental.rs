//! Incremental files: relation files of which a backup holds the changed blocks only.
//!
//! ```text
//! magic | count | truncation length | block number × count | zeros up to a block | block × count
//! ```
//!
//! All numbers are unsigned, of 32 bits, in the byte order of the server. Without blocks there are no
//! zeros either. Block numbers are relative to the file and ascend. The truncation length is the number
//! of blocks that the file has at least when it is put together again: blocks below it that are not here
//! come from the backup before.

use core::fmt;

use crate::path::file_name;

/// INCREMENTAL_MAGIC in backup/basebackup_incremental.h.
pub const MAGIC: u32 = 0xD3AE_1F0D;

/// Prefix of the file name.
pub const PREFIX: &[u8] = b"INCREMENTAL.";

/// Bytes of a number.
const NUMBER: usize = size_of::<u32>();

/// Bytes of the header: GetIncrementalHeaderSize() in backup/basebackup_incremental.c.
pub fn header_size(blocks: u32, page_size: usize) -> u64 {
    let page_size = page_size as u64;
    let bytes = NUMBER as u64 * (3 + u64::from(blocks));
    match blocks {
        0 => bytes,
        _ => bytes.next_multiple_of(page_size),
    }
}

/// Bytes of the file: GetIncrementalFileSize() in backup/basebackup_incremental.c.
pub fn file_size(blocks: u32, page_size: usize) -> u64 {
    header_size(blocks, page_size) + u64::from(blocks) * page_size as u64
}

/// The header, with zeros up to the first block.
pub fn header(
    blocks: impl Iterator<Item = u32>,
    truncation_length: u32,
    page_size: usize,
) -> Vec<u8> {
    let mut numbers = vec![MAGIC, 0, truncation_length];
    numbers.extend(blocks);
    let count = (numbers.len() - 3) as u32;
    numbers[1] = count;
    let mut header: Vec<u8> = numbers.into_iter().flat_map(u32::to_ne_bytes).collect();
    header.resize(header_size(count, page_size) as usize, 0);
    header
}

/// The first numbers of an incremental file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Number of blocks.
    pub count: u32,
    /// Truncation length in blocks.
    pub truncation_length: u32,
}

/// Reason why a file is no incremental file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidIncremental {
    /// The first number is another.
    Magic(u32),
    /// There are more blocks than a segment has.
    Count(u32, u32),
    /// The truncation length is larger than a segment.
    TruncationLength(u32, u32),
    /// A block does not belong to the segment.
    Block(u32, u32),
    /// The block does not come after the one before.
    Order(u32),
}

/// The messages of make_incremental_rfile() in pg_combinebackup's reconstruct.c, where it has them.
impl fmt::Display for InvalidIncremental {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic(found) => write!(
                f,
                "has bad incremental magic number (0x{found:x}, expected 0x{MAGIC:x})"
            ),
            Self::Count(found, most) => {
                write!(
                    f,
                    "has block count {found} in excess of segment size {most}"
                )
            }
            Self::TruncationLength(found, most) => write!(
                f,
                "has truncation block length {found} in excess of segment size {most}"
            ),
            Self::Block(found, most) => {
                write!(
                    f,
                    "has block number {found} in excess of segment size {most}"
                )
            }
            Self::Order(found) => write!(f, "has block number {found} out of order"),
        }
    }
}

impl core::error::Error for InvalidIncremental {}

impl Start {
    /// Bytes of it.
    pub const SIZE: usize = 3 * NUMBER;

    /// Reads it. A segment has `segment_blocks` blocks.
    ///
    /// # Errors
    /// Where the numbers are impossible.
    pub fn parse(
        bytes: &[u8; Self::SIZE],
        segment_blocks: u32,
    ) -> Result<Self, InvalidIncremental> {
        let number = |index: usize| {
            let number: [u8; NUMBER] = std::array::from_fn(|byte| bytes[index * NUMBER + byte]);
            u32::from_ne_bytes(number)
        };
        let [magic, count, truncation_length] = [0, 1, 2].map(number);
        if magic != MAGIC {
            return Err(InvalidIncremental::Magic(magic));
        }
        if count > segment_blocks {
            return Err(InvalidIncremental::Count(count, segment_blocks));
        }
        if truncation_length > segment_blocks {
            return Err(InvalidIncremental::TruncationLength(
                truncation_length,
                segment_blocks,
            ));
        }
        Ok(Self {
            count,
            truncation_length,
        })
    }

    /// Bytes of the block numbers, which follow.
    pub fn numbers_size(&self) -> usize {
        self.count as usize * NUMBER
    }
}

/// Reads the block numbers, which ascend.
///
/// # Errors
/// Where they do not, or one is beyond the segment.
pub fn parse_numbers(bytes: &[u8], segment_blocks: u32) -> Result<Vec<u32>, InvalidIncremental> {
    let (numbers, _) = bytes.as_chunks::<NUMBER>();
    let mut blocks: Vec<u32> = Vec::with_capacity(numbers.len());
    for &number in numbers {
        let block = u32::from_ne_bytes(number);
        if block >= segment_blocks {
            return Err(InvalidIncremental::Block(block, segment_blocks));
        }
        if blocks.last().is_some_and(|&last| last >= block) {
            return Err(InvalidIncremental::Order(block));
        }
        blocks.push(block);
    }
    Ok(blocks)
}

/// The path of the incremental file for that of a relation file.
pub fn incremental_path(path: &[u8]) -> Vec<u8> {
    let (directory, name) = path.split_at(path.len() - file_name(path).len());
    [directory, PREFIX, name].concat()
}

/// The path of the relation file for that of an incremental file; `None` for the path of another file.
pub fn relation_path(path: &[u8]) -> Option<Vec<u8>> {
    let (directory, name) = path.split_at(path.len() - file_name(path).len());
    let name = name.strip_prefix(PREFIX)?;
    Some([directory, name].concat())
}

/// Words before the blocks of an encoded list.
const LIST_HEAD: usize = 3;

/// Changed blocks of one file: a list or a bitmap, whichever is smaller. So a file of 1 GB takes 16 kB at
/// most.
#[derive(Clone, Copy, Debug)]
pub struct BlockList<'a> {
    /// Number of blocks.
    pub count: u32,
    /// Truncation length of the incremental file.
    pub truncation_length: u32,
    is_bitmap: bool,
    words: &'a [u32],
}

impl<'a> BlockList<'a> {
    /// Words that [`BlockList::encode`] appends at most.
    pub fn most_words(blocks: &[u32]) -> usize {
        LIST_HEAD + blocks.len().min(bitmap_words(span_of(blocks)))
    }

    /// Appends an encoded list. `blocks` ascend.
    pub fn encode(blocks: &[u32], truncation_length: u32, words: &mut Vec<u32>) {
        let span = span_of(blocks);
        words.extend([blocks.len() as u32, truncation_length, span]);
        let bitmap = bitmap_words(span);
        if blocks.len() <= bitmap {
            words.extend_from_slice(blocks);
            return;
        }
        let start = words.len();
        words.resize(start + bitmap, 0);
        for block in blocks {
            words[start + (block / 32) as usize] |= 1 << (block % 32);
        }
    }

    /// Reads the list that begins there; `None` where there is none.
    pub fn decode(words: &'a [u32]) -> Option<Self> {
        let &[count, truncation_length, span] = words.get(..LIST_HEAD)? else {
            return None;
        };
        let bitmap = bitmap_words(span);
        let is_bitmap = count as usize > bitmap;
        let length = if is_bitmap { bitmap } else { count as usize };
        Some(Self {
            count,
            truncation_length,
            is_bitmap,
            words: words.get(LIST_HEAD..LIST_HEAD + length)?,
        })
    }

    /// The numbers of the blocks, which ascend.
    pub fn blocks(&self) -> impl Iterator<Item = u32> + use<'a> {
        let (list, bitmap) = if self.is_bitmap {
            (&[][..], self.words)
        } else {
            (self.words, &[][..])
        };
        let set = (0_u32..).zip(bitmap).flat_map(|(index, word)| {
            let word = *word;
            let bits = (0..32).filter(move |bit| word & (1 << bit) != 0);
            bits.map(move |bit| index * 32 + bit)
        });
        list.iter().copied().chain(set)
    }
}

/// Number of blocks up to the last of a list.
fn span_of(blocks: &[u32]) -> u32 {
    blocks.last().map_or(0, |last| last + 1)
}

fn bitmap_words(span: u32) -> usize {
    span.div_ceil(32) as usize
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    const PAGE: usize = 8192;

    #[test]
    fn sizes_are_those_of_the_server() {
        for (blocks, header, file) in [
            (0, 12, 12),
            (1, 8192, 16_384),
            (2045, 8192, 8192 * 2046),
            (2046, 16_384, 8192 * 2048),
            (131_072, 532_480, 532_480 + (1 << 30)),
        ] {
            assert_eq!(header_size(blocks, PAGE), header, "{blocks}");
            assert_eq!(file_size(blocks, PAGE), file, "{blocks}");
        }
    }

    #[test]
    fn a_header_has_its_numbers_in_order() {
        let numbers = |header: &[u8]| -> Vec<u32> {
            let (numbers, _) = header.as_chunks::<4>();
            numbers.iter().copied().map(u32::from_ne_bytes).collect()
        };
        let empty = header([].into_iter(), 7, PAGE);
        assert_eq!(numbers(&empty), [MAGIC, 0, 7]);
        let two = header([3, 5].into_iter(), 9, PAGE);
        assert_eq!(two.len(), PAGE);
        assert_eq!(numbers(&two)[..6], [MAGIC, 2, 9, 3, 5, 0]);
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        for blocks in [vec![], vec![0], vec![3, 5, 131_071]] {
            let bytes = header(blocks.iter().copied(), 9, PAGE);
            let start = bytes.first_chunk().expect("a start");
            let start = Start::parse(start, 131_072).expect("a header");
            assert_eq!(
                (start.count as usize, start.truncation_length),
                (blocks.len(), 9)
            );
            let numbers = &bytes[Start::SIZE..][..start.numbers_size()];
            assert_eq!(parse_numbers(numbers, 131_072), Ok(blocks));
        }
    }

    #[test]
    fn impossible_headers_are_refused_with_the_reason() {
        let start = |numbers: [u32; 3]| {
            let bytes: Vec<u8> = numbers.into_iter().flat_map(u32::to_ne_bytes).collect();
            Start::parse(bytes.first_chunk().expect("three numbers"), 100)
                .map_err(|error| error.to_string())
        };
        assert!(start([MAGIC, 100, 100]).is_ok());
        for (numbers, reason) in [
            (
                [7, 1, 1],
                "has bad incremental magic number (0x7, expected 0xd3ae1f0d)",
            ),
            (
                [MAGIC, 101, 1],
                "has block count 101 in excess of segment size 100",
            ),
            (
                [MAGIC, 1, u32::MAX],
                "has truncation block length 4294967295 in excess of segment size 100",
            ),
        ] {
            assert_eq!(start(numbers), Err(reason.to_owned()));
        }
        let numbers = |numbers: &[u32]| {
            let bytes: Vec<u8> = numbers.iter().copied().flat_map(u32::to_ne_bytes).collect();
            parse_numbers(&bytes, 100)
        };
        assert_eq!(numbers(&[99]), Ok(vec![99]));
        assert_eq!(numbers(&[100]), Err(InvalidIncremental::Block(100, 100)));
        assert_eq!(numbers(&[5, 5]), Err(InvalidIncremental::Order(5)));
        assert_eq!(numbers(&[5, 4]), Err(InvalidIncremental::Order(4)));
    }

    #[test]
    fn paths_lead_there_and_back() {
        for (relation, incremental) in [
            ("base/5/1259", "base/5/INCREMENTAL.1259"),
            ("global/1260_vm.1", "global/INCREMENTAL.1260_vm.1"),
        ] {
            let path = incremental_path(relation.as_bytes());
            assert_eq!(path, incremental.as_bytes());
            assert_eq!(relation_path(&path).as_deref(), Some(relation.as_bytes()));
        }
        assert_eq!(relation_path(b"base/INCREMENTAL.5/1"), None);
    }

    #[test]
    fn lists_are_small_and_come_back_as_they_were() {
        let every_second: Vec<u32> = (0..131_072).step_by(2).collect();
        let all: Vec<u32> = (0..131_072).collect();
        for blocks in [
            vec![],
            vec![0],
            vec![131_071],
            vec![0, 31, 32, 63, 64, 95],
            (0..40).collect(),
            every_second,
            all,
        ] {
            let mut words = vec![0; 5];
            BlockList::encode(&blocks, 17, &mut words);
            words.push(u32::MAX);
            assert!((words.len() - 6) * 4 <= 16 * 1024 + 12, "{}", words.len());
            let list = BlockList::decode(&words[5..]).expect("a list");
            assert_eq!(list.truncation_length, 17);
            assert_eq!(list.count as usize, blocks.len());
            assert_eq!(list.blocks().collect::<Vec<_>>(), blocks);
            assert!(BlockList::decode(&words[5..words.len() - 2]).is_none() || blocks.is_empty());
        }
        assert!(BlockList::decode(&[]).is_none());
        assert!(BlockList::decode(&[1, 2, u32::MAX]).is_none());
    }
}
