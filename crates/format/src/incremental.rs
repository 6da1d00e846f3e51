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
