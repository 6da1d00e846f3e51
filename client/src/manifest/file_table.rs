//! Compact table of files: some 60 bytes a file, and no allocation of its own for any.
//!
//! Paths and checksums lie one after the other in pieces of an arena, entries of a fixed size in
//! pieces of their own, and an index finds the number of an entry by the hash of its path. Nothing
//! but the index is ever moved to grow, so that the old and the new are never in memory together.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;

use anyhow::{Result, anyhow};
use hashbrown::HashTable;

/// Bytes of a piece of the arena.
const PIECE: usize = 64 * 1024;
/// Entries of a piece.
const ENTRIES: usize = 1024;

/// Table of files, each with a state of the caller's.
#[derive(Debug)]
pub struct FileTable<S> {
    /// For each file the length of its path, its path, the length of its checksum, its checksum.
    arena: Vec<Vec<u8>>,
    entries: Vec<Vec<Entry<S>>>,
    index: HashTable<FileId>,
    hasher: RandomState,
}

/// Number of a file in its table, in the order of insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId(u32);

/// What the table has of each file besides its path and its checksum.
#[derive(Debug)]
pub struct Entry<S> {
    /// Bytes.
    pub size: u64,
    /// Piece of the arena.
    piece: u32,
    /// First byte in that piece. Only the first one of a piece may go beyond its usual size.
    offset: u16,
    /// The caller's.
    pub state: S,
}

impl<S> Default for FileTable<S> {
    fn default() -> Self {
        Self {
            arena: Vec::new(),
            entries: Vec::new(),
            index: HashTable::new(),
            hasher: RandomState::new(),
        }
    }
}

impl<S> FileTable<S> {
    /// The number of files.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Finds a file by its path.
    pub fn find(&self, path: &[u8]) -> Option<FileId> {
        let hash = self.hasher.hash_one(path);
        let found = self.index.find(hash, |&id| self.path(id) == path);
        found.copied()
    }

    /// Adds a file that the table does not have.
    ///
    /// # Errors
    /// An error if there are more files than numbers for them.
    pub fn insert(&mut self, path: &[u8], size: u64, digest: &[u8], state: S) -> Result<FileId> {
        let too_many = || anyhow!("the backup has too many files");
        let id = FileId(u32::try_from(self.len()).map_err(|_| too_many())?);
        let mut record = Vec::with_capacity(path.len() + digest.len() + 4);
        for part in [path, digest] {
            push_length(&mut record, part.len());
            record.extend_from_slice(part);
        }
        let fits = |piece: &&mut Vec<u8>| piece.len() + record.len() <= PIECE;
        let offset = match self.arena.last_mut().filter(fits) {
            Some(piece) => {
                let offset = piece.len();
                piece.extend_from_slice(&record);
                offset
            }
            None => {
                let mut piece = Vec::with_capacity(PIECE.max(record.len()));
                piece.extend_from_slice(&record);
                self.arena.push(piece);
                0
            }
        };
        let entry = Entry {
            size,
            piece: u32::try_from(self.arena.len() - 1).map_err(|_| too_many())?,
            offset: u16::try_from(offset).map_err(|_| too_many())?,
            state,
        };
        match self.entries.last_mut().filter(|last| last.len() < ENTRIES) {
            Some(last) => last.push(entry),
            None => {
                let mut piece = Vec::with_capacity(ENTRIES);
                piece.push(entry);
                self.entries.push(piece);
            }
        }
        let Self {
            arena,
            entries,
            index,
            hasher,
        } = self;
        let hash = hasher.hash_one(path);
        index.insert_unique(hash, id, |&id| {
            hasher.hash_one(path_of(arena, entry_of(entries, id)))
        });
        Ok(id)
    }

    /// An entry.
    pub fn entry(&self, id: FileId) -> &Entry<S> {
        entry_of(&self.entries, id)
    }

    /// An entry, to be changed.
    pub fn entry_mut(&mut self, id: FileId) -> &mut Entry<S> {
        let id = id.0 as usize;
        &mut self.entries[id / ENTRIES][id % ENTRIES]
    }

    /// The path of a file.
    pub fn path(&self, id: FileId) -> &[u8] {
        path_of(&self.arena, self.entry(id))
    }

    /// The checksum of a file.
    pub fn digest(&self, id: FileId) -> &[u8] {
        let (_, rest) = split_part(record_of(&self.arena, self.entry(id)));
        split_part(rest).0
    }

    /// Replaces the checksum of a file by another of the same length.
    pub fn set_digest(&mut self, id: FileId, digest: &[u8]) {
        let entry = entry_of(&self.entries, id);
        let (piece, start) = (entry.piece as usize, usize::from(entry.offset));
        let (_, rest) = split_part(&self.arena[piece][start..]);
        let (old, after) = split_part(rest);
        let end = self.arena[piece].len() - after.len();
        let place = end - old.len()..end;
        self.arena[piece][place].copy_from_slice(digest);
    }

    /// All files in the order of insertion.
    pub fn ids(&self) -> impl Iterator<Item = FileId> + use<S> {
        // Each of them was given to a file.
        (0..self.len()).map(|number| FileId(number as u32))
    }
}

fn entry_of<S>(entries: &[Vec<Entry<S>>], FileId(id): FileId) -> &Entry<S> {
    let id = id as usize;
    &entries[id / ENTRIES][id % ENTRIES]
}

fn record_of<'a, S>(arena: &'a [Vec<u8>], entry: &Entry<S>) -> &'a [u8] {
    &arena[entry.piece as usize][usize::from(entry.offset)..]
}

fn path_of<'a, S>(arena: &'a [Vec<u8>], entry: &Entry<S>) -> &'a [u8] {
    split_part(record_of(arena, entry)).0
}

/// Seven bits a byte, the lowest first; all but the last byte have the eighth bit.
fn push_length(record: &mut Vec<u8>, mut length: usize) {
    while length > 0x7f {
        record.push(length as u8 | 0x80);
        length >>= 7;
    }
    record.push(length as u8);
}

/// The first part of a record, and what follows it.
fn split_part(record: &[u8]) -> (&[u8], &[u8]) {
    let (mut length, mut shift) = (0, 0);
    for (at, &byte) in record.iter().enumerate() {
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            return record[at + 1..].split_at(length);
        }
    }
    (&[], &[])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_put_in_is_found_again() {
        let mut table = FileTable::default();
        let path = |number: usize| {
            // Some are longer than a piece, and than a length of one byte.
            let long = if number % 5000 == 7 {
                70_000
            } else {
                number % 300
            };
            format!("{number}{}", "x".repeat(long)).into_bytes()
        };
        for number in 0..20_000_usize {
            let digest = number.to_le_bytes();
            let digest = &digest[..number % 8];
            table
                .insert(&path(number), number as u64, digest, number)
                .unwrap();
        }
        assert_eq!(table.len(), 20_000);
        for (number, id) in table.ids().enumerate() {
            assert_eq!(table.path(id), path(number));
            assert_eq!(table.find(&path(number)), Some(id));
            assert_eq!(table.digest(id), &number.to_le_bytes()[..number % 8]);
            assert_eq!(table.entry(id).size, number as u64);
            assert_eq!(table.entry(id).state, number);
        }
        for other in [&b""[..], b"20000", b"x"] {
            assert_eq!(table.find(other), None);
        }
    }

    #[test]
    fn a_checksum_is_replaced_in_its_place() {
        let mut table = FileTable::default();
        let ids: Vec<_> = [b"a", b"b", b"c"]
            .into_iter()
            .map(|path| table.insert(path, 0, &[0; 4], ()).unwrap())
            .collect();
        table.set_digest(ids[1], &[1, 2, 3, 4]);
        assert_eq!(table.digest(ids[0]), [0; 4]);
        assert_eq!(table.digest(ids[1]), [1, 2, 3, 4]);
        assert_eq!(table.digest(ids[2]), [0; 4]);
        assert_eq!(table.path(ids[2]), b"c");
    }
}
