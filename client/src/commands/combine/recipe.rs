//! What a relation file is put together from: blocks of an incremental file, of those before it, and of a
//! full file.
//!
//! Follows reconstruct_from_incremental_file() in pg_combinebackup's reconstruct.c.

use anyhow::{Context, Result, anyhow, ensure};
use backup_format::incremental::{self, Start};

use super::backup::Backup;
use super::chain::Chain;
use super::slice::Checked;
use crate::manifest::backup_path::display;

/// Recipe for one file.
pub struct Recipe<'a> {
    /// The files that blocks come from, the newest first.
    pub sources: Vec<Source<'a>>,
    /// For each block the number of its source, plus 1; 0 for a block of zeros.
    map: Vec<u16>,
    block_size: u64,
}

/// A file that blocks come from.
pub struct Source<'a> {
    /// Its bytes, of which those of the header are read.
    pub file: Checked<'a>,
    /// Bytes before the first block.
    header: u64,
    /// The blocks that it has, in order; [`None`] for a full file.
    blocks: Option<Vec<u32>>,
    /// Place in `blocks` from which on they are not passed.
    next: usize,
}

/// Blocks in a row that come from one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Number of the source; [`None`] for zeros.
    pub source: Option<usize>,
    /// Where they begin in the source, in bytes.
    pub position: u64,
    /// Bytes.
    pub length: u64,
}

impl<'a> Recipe<'a> {
    /// Looks through the chain for the blocks of a relation file, of which the newest backup has an
    /// incremental file.
    ///
    /// # Errors
    /// Where a file is damaged or missing, and errors of the operating system.
    pub fn find(chain: &'a Chain<'_>, path: &[u8]) -> Result<Self> {
        let (block_size, segment) = (chain.control.block_size, chain.control.segment_blocks);
        let incremental_path = incremental::incremental_path(path);
        let open = |backup: &'a Backup<'_>| {
            Source::open(backup.checked(&incremental_path)?, block_size, segment)
        };
        let (newest, truncation_length) = open(chain.newest())?;
        let listed = newest.blocks.iter().flatten();
        let length = listed
            .copied()
            .map(|block| block + 1)
            .max()
            .unwrap_or_default()
            .max(truncation_length);
        let mut recipe = Self {
            sources: Vec::new(),
            map: vec![0; length as usize],
            block_size: u64::from(block_size),
        };
        recipe.add(newest, length)?;
        for backup in chain.earlier() {
            if backup.has(path)? {
                let full = Source::full(backup.checked(path)?);
                recipe.add(full, truncation_length)?;
                return Ok(recipe);
            }
            let (earlier, _) = open(backup)?;
            recipe.add(earlier, truncation_length)?;
        }
        Err(anyhow!(
            "full backup contains unexpected incremental file \"{}\"",
            display(&incremental_path)
        ))
    }

    /// Takes the blocks of a source that no newer one has, and that are below `limit`.
    fn add(&mut self, source: Source<'a>, limit: u32) -> Result<()> {
        let number = u16::try_from(self.sources.len() + 1).context("there are too many backups")?;
        let mut take = |block: u32| {
            if block < limit && self.map[block as usize] == 0 {
                self.map[block as usize] = number;
            }
        };
        match &source.blocks {
            Some(blocks) => blocks.iter().copied().for_each(&mut take),
            None => {
                let whole = source.file.slice().size / self.block_size;
                let whole = u32::try_from(whole).unwrap_or(u32::MAX);
                (0..whole.min(limit)).for_each(&mut take);
            }
        }
        self.sources.push(source);
        Ok(())
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.map.len() as u64 * self.block_size
    }

    /// Whether the file is the full file as it is.
    pub fn is_copy(&self) -> bool {
        let full = self.sources.len();
        let mut numbers = self.map.iter();
        numbers.all(|&number| usize::from(number) == full)
            && self.sources[full - 1].file.slice().size == self.size()
    }

    /// Reads what is left of the sources, and checks them. That an incremental file has no block must be
    /// true too. A full file of which nothing is used need not be read.
    ///
    /// # Errors
    /// As [`Checked::finish`].
    pub fn finish(self) -> Result<()> {
        let full = self.sources.len();
        let uses_full = self.map.iter().any(|&number| usize::from(number) == full);
        let left = if uses_full { full } else { full - 1 };
        let mut sources = self.sources.into_iter().take(left);
        sources.try_for_each(|source| source.file.finish())
    }

    /// The run from a position in the file, in bytes. Runs in their order pass every source from its start to
    /// its end.
    pub fn next_run(&mut self, from: u64) -> Option<Run> {
        let first = usize::try_from(from / self.block_size).ok()?;
        let number = *self.map.get(first)?;
        let same = self.map[first..]
            .iter()
            .take_while(|&&other| other == number);
        let count = same.count();
        let Some(number) = usize::from(number).checked_sub(1) else {
            return Some(Run {
                source: None,
                position: 0,
                length: count as u64 * self.block_size,
            });
        };
        let source = &mut self.sources[number];
        let index = match &source.blocks {
            None => first,
            // Blocks in a row in the file are in a row here, because numbers ascend.
            Some(blocks) => {
                let left = &blocks[source.next..];
                let index = source.next + left.partition_point(|&block| block < first as u32);
                source.next = index + count;
                index
            }
        };
        Some(Run {
            source: Some(number),
            position: source.header + index as u64 * self.block_size,
            length: count as u64 * self.block_size,
        })
    }
}

impl<'a> Source<'a> {
    fn full(file: Checked<'a>) -> Self {
        Self {
            file,
            header: 0,
            blocks: None,
            next: 0,
        }
    }

    /// Reads the header of an incremental file. Returns its truncation length beside it.
    fn open(mut file: Checked<'a>, block_size: u32, segment_blocks: u32) -> Result<(Self, u32)> {
        let name = file.slice().name.clone();
        let invalid = |error| anyhow!("file \"{name}\" {error}");
        let mut start = [0; Start::SIZE];
        file.read(&mut start)?;
        let start = Start::parse(&start, segment_blocks).map_err(invalid)?;
        let expected = incremental::file_size(start.count, block_size as usize);
        let size = file.slice().size;
        ensure!(
            size >= expected,
            "file \"{name}\" is too short: expected {expected}, found {size}"
        );
        let mut numbers = vec![0; start.numbers_size()];
        file.read(&mut numbers)?;
        let blocks = incremental::parse_numbers(&numbers, segment_blocks).map_err(invalid)?;
        let source = Self {
            file,
            header: incremental::header_size(start.count, block_size as usize),
            blocks: Some(blocks),
            next: 0,
        };
        Ok((source, start.truncation_length))
    }
}
