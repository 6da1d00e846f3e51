//! Segment of a backup's files: one slot for each, and counters shared by the workers.
//!
//! ```text
//! Header | Slot × n, in the order of the queue | PartSlot × parts | u32 × n, slots by path | block lists | digests | paths | tablespaces
//! ```
//!
//! Paths, sizes and order are written once, before the segment's handle is published in the
//! backup's segment. Everything that changes afterwards is atomic. [`super::queue`] defines the
//! meaning of the atomics and who may change them.

use core::mem::{offset_of, size_of};
use core::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::borrow::Cow;

use backup_format::incremental::{self, BlockList};

use crate::server::segment::{self, FromBytes, Memory};
use crate::server::settings::PAGE_SIZE;

use super::gate::Gate;
use super::owner::FIRST_WORKER;
use super::taken_prefix::TakenPrefix;

pub(super) const MAGIC: u64 = segment::magic(
    "files",
    &[
        size_of::<Header>(),
        offset_of!(Header, nonce),
        offset_of!(Header, block_words),
        offset_of!(Header, part_count),
        offset_of!(Header, bytes_total),
        offset_of!(Header, gate),
        offset_of!(Header, generation),
        offset_of!(Header, taken_prefix),
        offset_of!(Header, relative_streams),
        size_of::<Slot>(),
        offset_of!(Slot, path_offset),
        offset_of!(Slot, tablespace),
        offset_of!(Slot, block_list),
        offset_of!(Slot, kind),
        offset_of!(Slot, owner),
        offset_of!(Slot, first_part),
        offset_of!(Slot, counted),
        offset_of!(Slot, sent_mtime),
        size_of::<PartSlot>(),
        offset_of!(PartSlot, owner),
        offset_of!(PartSlot, counted),
        PART_SIZE as usize,
        FIRST_WORKER as usize,
    ],
);

/// Type of an entry of the listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// A directory.
    Directory = b'd',
    /// A symbolic link in pg_tblspc.
    Link = b'l',
    /// A regular file.
    File = b'f',
}

/// A file's slot.
#[derive(FromBytes)]
#[repr(C)]
pub struct Slot {
    /// Bytes of a file when it was listed.
    pub size: u64,
    /// Seconds since 1970, when it was listed.
    pub mtime: i64,
    pub(super) path_offset: u64,
    pub(super) path_length: u32,
    /// The tablespace's oid; 0 for what lies in the data directory.
    pub tablespace: u32,
    /// Where its block list begins, counted from 1; 0 for a file that is sent as a whole.
    pub(super) block_list: u32,
    /// A [`Kind`].
    pub(super) kind: u8,
    /// Owner: see `backup::queue`.
    pub owner: AtomicU32,
    /// Bad pages found in it by the stream that carried it.
    pub failures: AtomicU32,
    /// State of sending: see `backup::queue`. Of a divided file, the number of parts that were carried.
    pub carried: AtomicU32,
    /// Index of its first part, counted from 1; 0 for a file without parts.
    pub(super) first_part: u32,
    /// Bytes of it included in the backup's counter of bytes sent.
    pub counted: AtomicU64,
    /// Size in the archive.
    pub sent_size: AtomicU64,
    /// Modification time in the archive, seconds since 1970.
    pub sent_mtime: AtomicI64,
}

impl Slot {
    /// File, directory or link.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self.kind {
            b'd' => Kind::Directory,
            b'l' => Kind::Link,
            _ => Kind::File,
        }
    }
}

/// Size of all parts but the last of a file: a multiple of every page size, large enough to be read
/// sequentially, and small enough that the last part of a backup takes no time.
pub const PART_SIZE: u64 = 16 * 1024 * 1024;

const _: () = assert!(
    PART_SIZE.is_multiple_of(PAGE_SIZE as u64),
    "a part begins with a page"
);

/// Slot of a part of a file: see `backup::file_parts`.
#[derive(FromBytes)]
#[repr(C)]
pub struct PartSlot {
    /// Index of its file's slot.
    pub(super) file: u32,
    /// Its number in the file, from 0.
    pub(super) number: u32,
    /// Owner: see `backup::queue`.
    pub owner: AtomicU32,
    /// Bad pages found in it.
    pub failures: AtomicU32,
    /// Whether it was sent: 0 or 1.
    pub carried: AtomicU32,
    /// CRC-32C of what was sent.
    pub crc: AtomicU32,
    /// Bytes of it included in the backup's counter of bytes sent.
    pub counted: AtomicU64,
}

impl PartSlot {
    /// A part that waits to be taken.
    pub(super) fn new(file: u32, number: u32) -> Self {
        Self {
            file,
            number,
            owner: AtomicU32::new(0),
            failures: AtomicU32::new(0),
            carried: AtomicU32::new(0),
            crc: AtomicU32::new(0),
            counted: AtomicU64::new(0),
        }
    }
}

const _: () = assert!(
    size_of::<Slot>() <= 80,
    "a slot takes about 100 bytes with its digest"
);

/// Header of the segment, with counters shared by the workers.
#[derive(FromBytes)]
#[repr(C)]
pub struct Header {
    pub(super) magic: AtomicU64,
    pub(super) slot_count: u64,
    pub(super) path_bytes: u64,
    pub(super) tablespace_bytes: u64,
    pub(super) nonce: u32,
    pub(super) digest_length: u32,
    /// Words of all block lists of an incremental backup.
    pub(super) block_words: u64,
    /// Parts of all files that have some.
    pub(super) part_count: u64,
    /// Bytes of the regular files in the listing.
    pub bytes_total: u64,
    /// Number of streaming sessions.
    pub workers: AtomicU32,
    /// Last number allocated to a worker.
    pub last_owner: AtomicU32,
    /// Gate between a stop and the owners of sent files: see `backup::gate`.
    pub gate: Gate,
    /// Incremented when files return to the queue, so that workers search from its start again.
    pub generation: AtomicU64,
    /// Slots in which no file waits: see `backup::taken_prefix`.
    pub taken_prefix: TakenPrefix,
    /// Entries sent so far.
    pub files_sent: AtomicU64,
    /// Bytes of regular files sent so far.
    pub bytes_sent: AtomicU64,
    /// Bad pages found so far.
    pub checksum_failures: AtomicU64,
    /// Streams of a single tablespace, which have relative member names.
    pub relative_streams: AtomicU64,
}

impl Header {
    /// The nonce of the backup.
    #[must_use]
    pub fn nonce(&self) -> u32 {
        self.nonce
    }
}

/// Offsets of the parts of the segment, in bytes.
pub(super) struct Layout {
    pub(super) parts: usize,
    pub(super) by_path: usize,
    pub(super) block_lists: usize,
    digests: usize,
    pub(super) paths: usize,
    pub(super) tablespaces: usize,
    pub(super) end: usize,
}

impl Layout {
    /// `None` if the size overflows.
    pub(super) fn new(
        slots: usize,
        parts: usize,
        block_words: usize,
        digest_length: usize,
        path_bytes: usize,
        tablespace_bytes: usize,
    ) -> Option<Self> {
        let part_slots = slots
            .checked_mul(size_of::<Slot>())?
            .checked_add(size_of::<Header>())?;
        let by_path = parts
            .checked_mul(size_of::<PartSlot>())?
            .checked_add(part_slots)?;
        let block_lists = slots.checked_mul(size_of::<u32>())?.checked_add(by_path)?;
        let digests = block_words
            .checked_mul(size_of::<u32>())?
            .checked_add(block_lists)?;
        let paths = slots.checked_mul(digest_length)?.checked_add(digests)?;
        let tablespaces = paths.checked_add(path_bytes)?;
        Some(Self {
            parts: part_slots,
            by_path,
            block_lists,
            digests,
            paths,
            tablespaces,
            end: tablespaces.checked_add(tablespace_bytes)?,
        })
    }
}

const _: () = assert!(size_of::<Header>().is_multiple_of(align_of::<Slot>()));
const _: () = assert!(size_of::<Slot>().is_multiple_of(align_of::<PartSlot>()));
const _: () = assert!(size_of::<PartSlot>().is_multiple_of(align_of::<u32>()));

/// A view of a mapped segment.
#[derive(Clone, Copy)]
pub struct FileTable<'a> {
    header: &'a Header,
    slots: &'a [Slot],
    parts: &'a [PartSlot],
    by_path: &'a [u32],
    block_lists: &'a [u32],
    digests: &'a [AtomicU8],
    paths: &'a [u8],
    tablespaces: &'a [u8],
}

impl<'a> FileTable<'a> {
    /// Header with the shared counters.
    #[must_use]
    pub fn header(&self) -> &'a Header {
        self.header
    }

    /// The slots, in the order of the queue.
    #[must_use]
    pub fn slots(&self) -> &'a [Slot] {
        self.slots
    }

    /// The parts of all files that have some, in the order of the queue.
    #[must_use]
    pub fn parts(&self) -> &'a [PartSlot] {
        self.parts
    }

    /// The parts of a file, from its start; none for a file that is sent as a whole.
    #[must_use]
    pub fn parts_of(&self, slot: &Slot) -> &'a [PartSlot] {
        let Some(start) = slot.first_part.checked_sub(1) else {
            return &[];
        };
        let parts = &self.parts[start as usize..];
        let file = self.index_of(slot);
        let count = parts.partition_point(|part| part.file as usize == file);
        &parts[..count]
    }

    /// The slots in the order of their paths.
    pub fn by_path(&self) -> impl Iterator<Item = &'a Slot> + use<'a> {
        let slots = self.slots;
        self.by_path
            .iter()
            .map(move |index| &slots[*index as usize])
    }

    /// The tablespaces, as the leader has encoded them.
    #[must_use]
    pub fn tablespaces(&self) -> &'a [u8] {
        self.tablespaces
    }

    /// A slot's index in the queue's order.
    #[must_use]
    pub fn index_of(&self, slot: &Slot) -> usize {
        let offset = core::ptr::from_ref(slot).addr() - self.slots.as_ptr().addr();
        offset / size_of::<Slot>()
    }

    /// A part's index.
    #[must_use]
    pub fn index_of_part(&self, part: &PartSlot) -> usize {
        let offset = core::ptr::from_ref(part).addr() - self.parts.as_ptr().addr();
        offset / size_of::<PartSlot>()
    }

    /// A slot's path, relative to the data directory.
    #[must_use]
    pub fn path(&self, slot: &Slot) -> &'a [u8] {
        let start = slot.path_offset as usize;
        &self.paths[start..start + slot.path_length as usize]
    }

    /// The changed blocks of an incremental file; `None` for any other.
    #[must_use]
    pub fn block_list(&self, slot: &Slot) -> Option<BlockList<'a>> {
        let start = slot.block_list.checked_sub(1)?;
        BlockList::decode(self.block_lists.get(start as usize..)?)
    }

    /// Where the server has a file: the path of an incremental file is that of its relation file.
    #[must_use]
    pub fn path_on_server(&self, slot: &Slot) -> Cow<'a, [u8]> {
        let path = self.path(slot);
        let relation = (slot.block_list != 0).then(|| incremental::relation_path(path));
        relation.flatten().map_or(Cow::Borrowed(path), Cow::Owned)
    }

    /// The slot of a path.
    #[must_use]
    pub fn find(&self, path: &[u8]) -> Option<&'a Slot> {
        let slots = self.slots;
        self.by_path
            .binary_search_by(|index| self.path(&slots[*index as usize]).cmp(path))
            .ok()
            .map(|position| &slots[self.by_path[position] as usize])
    }

    /// The place of a file's checksum.
    #[must_use]
    pub fn digest(&self, slot: &Slot) -> &'a [AtomicU8] {
        let length = self.header.digest_length as usize;
        let start = self.index_of(slot) * length;
        &self.digests[start..start + length]
    }

    /// Views a mapped segment; `None` if it does not hold the files of the backup with this nonce.
    #[must_use]
    pub fn at(memory: Memory<'a>, nonce: u32) -> Option<Self> {
        let header: &Header = memory.value(0)?;
        if header.magic.load(Ordering::Acquire) != MAGIC || header.nonce != nonce {
            return None;
        }
        let count = header.slot_count as usize;
        let (path_bytes, tablespace_bytes) =
            (header.path_bytes as usize, header.tablespace_bytes as usize);
        let parts = header.part_count as usize;
        let layout = Layout::new(
            count,
            parts,
            header.block_words as usize,
            header.digest_length as usize,
            path_bytes,
            tablespace_bytes,
        )?;
        Some(Self {
            header,
            slots: memory.slice(size_of::<Header>(), count)?,
            parts: memory.slice(layout.parts, parts)?,
            by_path: memory.slice(layout.by_path, count)?,
            block_lists: memory.slice(layout.block_lists, header.block_words as usize)?,
            digests: memory.slice(layout.digests, layout.paths - layout.digests)?,
            paths: memory.slice(layout.paths, path_bytes)?,
            tablespaces: memory.slice(layout.tablespaces, tablespace_bytes)?,
        })
    }
}
