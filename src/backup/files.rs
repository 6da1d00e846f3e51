//! Creation and mapping of the segment of a backup's files.

use core::cmp::Reverse;
use core::mem::size_of;
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};

use crate::server::allocation;
use crate::server::backup_control::Tablespace;
use crate::server::report::{Error, Result, Sqlstate};
use crate::server::segment::{DetachHandler, FromBytes, Memory, NewSegment, Segment};

use super::file_parts;
use super::file_table::{FileTable, Header, Kind, Layout, MAGIC, PartSlot, Slot};
use super::gate::Gate;
use super::listing::Listing;
use super::tablespace;
use super::taken_prefix::TakenPrefix;

/// Mapped segment of a backup's files. Clones share the mapping.
#[derive(Clone, Debug)]
pub struct SharedFiles {
    segment: Segment,
    nonce: u32,
}

impl SharedFiles {
    /// Shares a listing with the workers of the backup with this nonce.
    ///
    /// Queue order: directories and links by path, so that a directory or link precedes what lies
    /// in it; then files from the largest to the smallest, so that no worker is left with a large
    /// file at the end. `has_parts` says whether large files have parts, which workers share.
    ///
    /// # Errors
    /// Where the listing has 2^32 entries or more, or the server has no memory left.
    pub fn share(
        listing: &Listing,
        tablespaces: &[Tablespace],
        digest_length: usize,
        has_parts: bool,
        nonce: u32,
    ) -> Result<Self> {
        let path_order = listing.paths().sorted()?;
        // What decides is gathered before it is sorted. Files of the same size keep the order of their
        // paths.
        let keys = (0_u32..).zip(&path_order).map(|(position, index)| {
            let entry = &listing.entries()[*index as usize];
            (entry.kind == Kind::File, Reverse(entry.size), position)
        });
        let mut keys = allocation::collect(keys)?;
        keys.sort_unstable();
        let queue_order = keys
            .into_iter()
            .map(|(_, _, position)| path_order[position as usize]);
        let queue_order = allocation::collect(queue_order)?;
        let tablespaces = tablespace::encode(tablespaces);
        Self::create(
            listing,
            &queue_order,
            &path_order,
            &tablespaces,
            digest_length,
            has_parts,
            nonce,
        )
    }

    /// Creates the segment for given orders: indexes of all entries in queue order and in path
    /// order.
    fn create(
        listing: &Listing,
        queue_order: &[u32],
        path_order: &[u32],
        tablespaces: &[u8],
        digest_length: usize,
        has_parts: bool,
        nonce: u32,
    ) -> Result<Self> {
        let (entries, listed_paths) = (listing.entries(), listing.paths());
        let count = entries.len();
        if u32::try_from(count).is_err() {
            return Err(too_many(count));
        }
        let path_bytes: usize = listed_paths.iter().map(<[u8]>::len).sum();
        let block_lists = listing.block_lists();
        let files = entries.iter().filter(|entry| entry.kind == Kind::File);
        let bytes_total = files.map(|entry| entry.size).sum();
        let queue = queue_order.iter().map(|index| {
            let index = *index as usize;
            (&entries[index], listed_paths.get(index))
        });
        let divisible = match has_parts {
            true => file_parts::divisible_files(queue, bytes_total)?,
            false => Vec::new(),
        };
        let part_count: usize = divisible.iter().map(|file| file.parts as usize).sum();
        let layout = Layout::new(
            count,
            part_count,
            block_lists.len(),
            digest_length,
            path_bytes,
            tablespaces.len(),
        )
        .ok_or_else(|| too_many(count))?;
        let mut segment = NewSegment::create(layout.end)?;

        part(&mut segment, layout.tablespaces, tablespaces.len()).copy_from_slice(tablespaces);
        part(&mut segment, layout.block_lists, block_lists.len()).copy_from_slice(block_lists);
        let mut slot_of_entry = allocation::vec_of(0_u32, count)?;
        let slots: &mut [Slot] = part(&mut segment, size_of::<Header>(), count);
        let mut path_offset = 0;
        for ((index, entry_index), slot) in (0_u32..).zip(queue_order).zip(slots) {
            let entry = &entries[*entry_index as usize];
            let path_length = listed_paths.get(*entry_index as usize).len();
            slot_of_entry[*entry_index as usize] = index;
            *slot = Slot {
                size: entry.size,
                mtime: entry.mtime,
                path_offset: path_offset as u64,
                path_length: path_length as u32,
                tablespace: entry.tablespace,
                block_list: entry.block_list,
                kind: entry.kind as u8,
                owner: AtomicU32::new(0),
                failures: AtomicU32::new(0),
                carried: AtomicU32::new(0),
                first_part: 0,
                counted: AtomicU64::new(0),
                sent_size: AtomicU64::new(0),
                sent_mtime: AtomicI64::new(0),
            };
            path_offset += path_length;
        }
        let mut first_part = 0;
        for file in &divisible {
            let slots: &mut [Slot] = part(&mut segment, size_of::<Header>(), count);
            slots[file.slot as usize].first_part = first_part + 1;
            let parts: &mut [PartSlot] = part(&mut segment, layout.parts, part_count);
            let parts = &mut parts[first_part as usize..];
            for (number, slot) in (0..file.parts).zip(parts) {
                *slot = PartSlot::new(file.slot, number);
            }
            first_part += file.parts;
        }
        let mut paths: &mut [u8] = part(&mut segment, layout.paths, path_bytes);
        for entry_index in queue_order {
            let path = listed_paths.get(*entry_index as usize);
            let (place, rest) = paths.split_at_mut(path.len());
            place.copy_from_slice(path);
            paths = rest;
        }
        let by_path: &mut [u32] = part(&mut segment, layout.by_path, count);
        for (place, entry_index) in by_path.iter_mut().zip(path_order) {
            *place = slot_of_entry[*entry_index as usize];
        }
        part(&mut segment, 0, 1)[0] = Header {
            magic: AtomicU64::new(MAGIC),
            slot_count: count as u64,
            path_bytes: path_bytes as u64,
            tablespace_bytes: tablespaces.len() as u64,
            nonce,
            digest_length: digest_length as u32,
            block_words: block_lists.len() as u64,
            part_count: part_count as u64,
            bytes_total,
            workers: AtomicU32::new(0),
            last_owner: AtomicU32::new(0),
            gate: Gate::open(),
            generation: AtomicU64::new(0),
            taken_prefix: TakenPrefix::default(),
            files_sent: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            checksum_failures: AtomicU64::new(0),
            relative_streams: AtomicU64::new(0),
        };
        Ok(Self {
            segment: segment.publish(),
            nonce,
        })
    }

    /// Attaches to the files of the backup with this nonce. `None` where it has ended meanwhile.
    #[must_use]
    pub fn attach(handle: u32, nonce: u32) -> Option<Self> {
        let files = Self {
            segment: Segment::attach(handle)?,
            nonce,
        };
        files.try_table().is_some().then_some(files)
    }

    /// The files.
    #[must_use]
    pub fn table(&self) -> FileTable<'_> {
        self.try_table()
            .unwrap_or_else(|| unreachable!("it was checked when it was mapped"))
    }

    fn try_table(&self) -> Option<FileTable<'_>> {
        FileTable::at(self.segment.memory(), self.nonce)
    }

    /// The segment's handle.
    #[must_use]
    pub fn handle(&self) -> u32 {
        self.segment.handle()
    }

    /// Returns the unsettled files of worker `owner` to the queue when this mapping ends.
    pub fn release_on_detach(&self, owner: u32) {
        self.segment.on_detach::<WorkerDetaches>(owner);
    }

    /// Unpins the leader's mapping, which ends with the last clone.
    pub fn detach(self) {
        self.segment.unpin();
    }
}

/// Part of a new segment that has room for all parts.
fn part<T: FromBytes>(segment: &mut NewSegment, offset: usize, count: usize) -> &mut [T] {
    match segment.slice_mut(offset, count) {
        Some(part) => part,
        None => unreachable!("the segment has room for all its parts"),
    }
}

fn too_many(files: usize) -> Error {
    Error::new(
        Sqlstate::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        format!("cannot back up {files} files at once"),
    )
}

/// Handler for the end of a worker's mapping: by the end of its statement, an ERROR, or the end of
/// its session.
struct WorkerDetaches;

impl DetachHandler for WorkerDetaches {
    fn detached(memory: Memory<'_>, owner: u32) {
        // It was checked when the worker joined.
        if let Some(header) = memory.value::<Header>(0)
            && let Some(table) = FileTable::at(memory, header.nonce)
        {
            table.release_worker(owner);
        }
    }
}
