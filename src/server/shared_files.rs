//! The segment with the files of a backup: one slot for each, and what workers count together.
//!
//! ```text
//! Header | Slot × n, in the order of the queue | u32 × n, slots by path | digests | paths | tablespaces
//! ```
//!
//! Paths, sizes and order are written once, before the segment's handle is published in the
//! backup's segment; everything that changes afterwards is atomic. What the atomics mean, and
//! who may change which, is the business of `backup::queue`.

use core::mem::size_of;
use core::ptr::NonNull;
use core::slice;
use core::sync::atomic::{AtomicI64, AtomicU8, AtomicU32, AtomicU64, Ordering};

use pgrx::pg_sys;

use super::report::{Error, Result, Sqlstate};
use super::segment::{self, Segment};

pub(super) const MAGIC: u64 = segment::magic(*b"pgpfl");

/// What an entry of the listing is.
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

/// An entry of the listing, before it is shared.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Relative to the data directory.
    pub path: Vec<u8>,
    /// File, directory or link.
    pub kind: Kind,
    /// Bytes of a file, 0 for the others.
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    /// The tablespace's oid; 0 for what lies in the data directory.
    pub tablespace: u32,
}

/// A file's slot.
#[repr(C)]
pub struct Slot {
    /// Bytes of a file when it was listed.
    pub size: u64,
    /// Seconds since 1970, when it was listed.
    pub mtime: i64,
    path_offset: u64,
    path_length: u32,
    /// The tablespace's oid; 0 for what lies in the data directory.
    pub tablespace: u32,
    /// File, directory or link.
    pub kind: Kind,
    /// Who has it: see `backup::queue`.
    pub owner: AtomicU32,
    /// Bad pages found in it by the stream that carried it.
    pub failures: AtomicU32,
    /// Whether a member, or nothing because it had vanished, went out: see `backup::queue`.
    pub carried: AtomicU32,
    /// Bytes of it that are part of the backup's count of bytes sent.
    pub counted: AtomicU64,
    /// Size in the archive.
    pub sent_size: AtomicU64,
    /// Modification time in the archive, seconds since 1970.
    pub sent_mtime: AtomicI64,
}

const _: () = assert!(
    size_of::<Slot>() <= 80,
    "a slot takes about 100 bytes with its digest"
);

/// The head of the segment: what its workers count together.
#[repr(C)]
pub struct Header {
    magic: AtomicU64,
    slot_count: u64,
    path_bytes: u64,
    tablespace_bytes: u64,
    nonce: u32,
    digest_length: u32,
    /// Bytes of the regular files in the listing.
    pub bytes_total: u64,
    /// Sessions that stream.
    pub workers: AtomicU32,
    /// The last number given to a worker.
    pub last_owner: AtomicU32,
    /// Grows when files return to the queue, so that workers look from its start again.
    pub generation: AtomicU64,
    /// Entries carried so far.
    pub files_sent: AtomicU64,
    /// Bytes of regular files carried so far.
    pub bytes_sent: AtomicU64,
    /// Bad pages found so far.
    pub checksum_failures: AtomicU64,
    /// Streams of one tablespace that clients have asked for.
    pub relative_streams: AtomicU64,
}

/// Where the parts of the segment begin, in bytes.
struct Layout {
    by_path: usize,
    digests: usize,
    paths: usize,
    tablespaces: usize,
    end: usize,
}

impl Layout {
    /// `None` where it does not fit into any memory.
    fn new(
        slots: usize,
        digest_length: usize,
        path_bytes: usize,
        tablespace_bytes: usize,
    ) -> Option<Self> {
        let by_path = slots
            .checked_mul(size_of::<Slot>())?
            .checked_add(size_of::<Header>())?;
        let digests = slots.checked_mul(size_of::<u32>())?.checked_add(by_path)?;
        let paths = slots.checked_mul(digest_length)?.checked_add(digests)?;
        let tablespaces = paths.checked_add(path_bytes)?;
        Some(Self {
            by_path,
            digests,
            paths,
            tablespaces,
            end: tablespaces.checked_add(tablespace_bytes)?,
        })
    }
}

const _: () = assert!(size_of::<Header>().is_multiple_of(align_of::<Slot>()));
const _: () = assert!(size_of::<Slot>().is_multiple_of(align_of::<u32>()));

/// A view of a mapped segment.
#[derive(Clone, Copy)]
pub struct FileTable<'a> {
    header: &'a Header,
    slots: &'a [Slot],
    by_path: &'a [u32],
    digests: &'a [AtomicU8],
    paths: &'a [u8],
    tablespaces: &'a [u8],
}

impl<'a> FileTable<'a> {
    /// The common counts.
    #[must_use]
    pub fn header(&self) -> &'a Header {
        self.header
    }

    /// The slots, in the order of the queue.
    #[must_use]
    pub fn slots(&self) -> &'a [Slot] {
        self.slots
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

    /// A slot's path, relative to the data directory.
    #[must_use]
    pub fn path(&self, slot: &Slot) -> &'a [u8] {
        let start = slot.path_offset as usize;
        &self.paths[start..start + slot.path_length as usize]
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

    /// `None` where what is mapped holds no files of the backup with this nonce.
    ///
    /// # Safety
    /// `address` is where `size` bytes are mapped, page aligned, for at least `'a`.
    pub(super) unsafe fn at(address: NonNull<u8>, size: usize, nonce: u32) -> Option<Self> {
        // SAFETY: the caller's promise.
        let header = unsafe { header_at(address, size) }?;
        if header.magic.load(Ordering::Acquire) != MAGIC || header.nonce != nonce {
            return None;
        }
        let count = header.slot_count as usize;
        let (path_bytes, tablespace_bytes) =
            (header.path_bytes as usize, header.tablespace_bytes as usize);
        let layout = Layout::new(
            count,
            header.digest_length as usize,
            path_bytes,
            tablespace_bytes,
        )?;
        // A segment can be larger than what was asked for.
        if size < layout.end {
            return None;
        }
        let base = address.as_ptr();
        // SAFETY: the leader sized the segment by the same layout and filled it before it
        // published the handle; the plain parts are never written again.
        unsafe {
            Some(Self {
                header,
                slots: slice::from_raw_parts(base.add(size_of::<Header>()).cast(), count),
                by_path: slice::from_raw_parts(base.add(layout.by_path).cast(), count),
                digests: slice::from_raw_parts(
                    base.add(layout.digests).cast(),
                    layout.paths - layout.digests,
                ),
                paths: slice::from_raw_parts(base.add(layout.paths), path_bytes),
                tablespaces: slice::from_raw_parts(base.add(layout.tablespaces), tablespace_bytes),
            })
        }
    }
}

/// The head of a segment; `None` where it is too small for one.
///
/// # Safety
/// `address` is where `size` bytes are mapped, page aligned, for at least `'a`.
unsafe fn header_at<'a>(address: NonNull<u8>, size: usize) -> Option<&'a Header> {
    // SAFETY: the caller's promise; each field is valid whatever it holds.
    (size >= size_of::<Header>()).then(|| unsafe { address.cast::<Header>().as_ref() })
}

/// A segment with the files of a backup, mapped.
#[derive(Debug)]
pub struct SharedFiles {
    segment: Segment,
    nonce: u32,
}

impl SharedFiles {
    /// Shares a listing. `queue_order` and `path_order` hold the indexes of all entries, in the
    /// order in which the queue hands them out and in the order of their paths; `tablespaces` is kept as
    /// it is; the nonce is that of the backup.
    ///
    /// # Errors
    /// Where the listing has 2^32 entries or more, or the server has no shared memory left.
    pub fn create(
        entries: &[Entry],
        queue_order: &[u32],
        path_order: &[u32],
        tablespaces: &[u8],
        digest_length: usize,
        nonce: u32,
    ) -> Result<Self> {
        let count = entries.len();
        if u32::try_from(count).is_err() || queue_order.len() != count || path_order.len() != count
        {
            return Err(too_many(count));
        }
        let path_bytes: usize = entries.iter().map(|entry| entry.path.len()).sum();
        let layout = Layout::new(count, digest_length, path_bytes, tablespaces.len())
            .ok_or_else(|| too_many(count))?;
        let segment = Segment::create_pinned(layout.end)?;
        let base = segment.address().as_ptr();
        // SAFETY: the segment ends with these bytes.
        unsafe {
            base.add(layout.tablespaces)
                .copy_from_nonoverlapping(tablespaces.as_ptr(), tablespaces.len());
        }

        let mut slot_of_entry = vec![0_u32; count];
        let mut path_offset = 0;
        for (index, entry_index) in queue_order.iter().enumerate() {
            let entry = &entries[*entry_index as usize];
            slot_of_entry[*entry_index as usize] = index as u32;
            let slot = Slot {
                size: entry.size,
                mtime: entry.mtime,
                path_offset: path_offset as u64,
                path_length: entry.path.len() as u32,
                tablespace: entry.tablespace,
                kind: entry.kind,
                owner: AtomicU32::new(0),
                failures: AtomicU32::new(0),
                carried: AtomicU32::new(0),
                counted: AtomicU64::new(0),
                sent_size: AtomicU64::new(0),
                sent_mtime: AtomicI64::new(0),
            };
            // SAFETY: slot `index` and its path lie within the segment, which was sized for them;
            // no other process knows of the segment yet.
            unsafe {
                base.add(size_of::<Header>())
                    .cast::<Slot>()
                    .add(index)
                    .write(slot);
                base.add(layout.paths + path_offset)
                    .copy_from_nonoverlapping(entry.path.as_ptr(), entry.path.len());
            }
            path_offset += entry.path.len();
        }
        for (position, entry_index) in path_order.iter().enumerate() {
            let slot = slot_of_entry[*entry_index as usize];
            // SAFETY: as above; there is one number for each entry.
            unsafe {
                base.add(layout.by_path)
                    .cast::<u32>()
                    .add(position)
                    .write(slot)
            };
        }
        let files = entries.iter().filter(|entry| entry.kind == Kind::File);
        let header = Header {
            magic: AtomicU64::new(MAGIC),
            slot_count: count as u64,
            path_bytes: path_bytes as u64,
            tablespace_bytes: tablespaces.len() as u64,
            nonce,
            digest_length: digest_length as u32,
            bytes_total: files.map(|entry| entry.size).sum(),
            workers: AtomicU32::new(0),
            last_owner: AtomicU32::new(0),
            generation: AtomicU64::new(0),
            files_sent: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            checksum_failures: AtomicU64::new(0),
            relative_streams: AtomicU64::new(0),
        };
        // SAFETY: the segment begins with its header.
        unsafe { base.cast::<Header>().write(header) };
        Ok(Self { segment, nonce })
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

    /// The leader's own mapping, used for one statement.
    #[must_use]
    pub fn borrow_pinned(&self) -> Self {
        Self {
            segment: self.segment.borrow_pinned(),
            nonce: self.nonce,
        }
    }

    /// The files.
    #[must_use]
    pub fn table(&self) -> FileTable<'_> {
        self.try_table()
            .unwrap_or_else(|| unreachable!("it was checked when it was mapped"))
    }

    fn try_table(&self) -> Option<FileTable<'_>> {
        // SAFETY: mapped as long as `self` lives.
        unsafe { FileTable::at(self.segment.address(), self.segment.size(), self.nonce) }
    }

    /// The segment's handle.
    #[must_use]
    pub fn handle(&self) -> u32 {
        self.segment.handle()
    }

    /// Has the files of worker `owner` returned to the queue when this mapping ends, whatever
    /// ends it.
    pub fn release_on_detach(&self, owner: u32) {
        // SAFETY: the callback works on the segment alone and does not raise.
        unsafe { self.segment.on_detach(worker_detaches, owner) };
    }

    /// Ends the leader's mapping.
    pub fn detach(self) {
        self.segment.detach();
    }
}

fn too_many(files: usize) -> Error {
    Error::new(
        Sqlstate::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        format!("cannot back up {files} files at once"),
    )
}

/// A worker's mapping ends: with its statement, by an ERROR, or with its session.
unsafe extern "C-unwind" fn worker_detaches(
    mapping: *mut pg_sys::dsm_segment,
    owner: pg_sys::Datum,
) {
    let Some(mapping) = NonNull::new(mapping) else {
        return;
    };
    // SAFETY: the server calls back while the segment is still mapped.
    let table = unsafe {
        let size = pg_sys::dsm_segment_map_length(mapping.as_ptr());
        let address = segment::address_of(mapping);
        // It was checked when the worker joined.
        header_at(address, size).and_then(|header| FileTable::at(address, size, header.nonce))
    };
    if let Some(table) = table {
        table.release_worker(owner.value() as u32);
    }
}
