//! Dynamic shared memory segments (storage/dsm.h), with typed views of what is in them.
//!
//! The leader of a backup creates segments and pins its mappings, which then last as long as its
//! session; workers attach for one statement. A segment goes away with its last mapping.
//!
//! What a segment holds is defined by its users. The rules that make a view safe are here:
//!
//! - A view is a reference to a type for which any bytes are a value ([`FromBytes`]), so that a segment
//!   of somebody else can be looked at, and that several threads may share (`Sync`).
//! - Fields that are not atomic are written through a [`NewSegment`], of which no other process knows,
//!   and never afterwards.
//! - A mapping is shared by the [`Segment`]s of a process that stand for it, and ends with the last of
//!   them: no view can outlive it.

use core::cell::Cell;
use core::ffi::c_void;
use core::marker::PhantomData;
use core::mem::size_of;
use core::ptr::NonNull;
use core::slice;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use pgrx::pg_sys;
pub use zerocopy::FromBytes;

use super::report::{Error, Result, Sqlstate};

/// A magic number for a kind of segment: what it holds, the version of the library, and the layout of
/// what it holds, as sizes and offsets. A session may meet segments of another version or build of the
/// library, and must not read them.
#[must_use]
pub const fn magic(content: &str, layout: &[usize]) -> u64 {
    let mut hash = fnv(0xCBF2_9CE4_8422_2325, content.as_bytes());
    hash = fnv(hash, env!("CARGO_PKG_VERSION").as_bytes());
    let mut index = 0;
    while index < layout.len() {
        hash = fnv(hash, &(layout[index] as u64).to_le_bytes());
        index += 1;
    }
    hash
}

/// FNV-1a.
const fn fnv(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut index = 0;
    while index < bytes.len() {
        hash = (hash ^ bytes[index] as u64).wrapping_mul(0x0100_0000_01B3);
        index += 1;
    }
    hash
}

/// Mapped memory, for as long as its mapping lasts.
#[derive(Clone, Copy, Debug)]
pub struct Memory<'a> {
    /// Aligned for a u64 at least.
    address: NonNull<u8>,
    size: usize,
    mapping: PhantomData<&'a [u64]>,
}

impl<'a> Memory<'a> {
    /// The first `size` bytes of memory of this process, for tests.
    #[cfg(any(test, feature = "pg_test"))]
    pub fn of(words: &'a mut [u64], size: usize) -> Self {
        assert!(size <= size_of_val(words));
        Self {
            size,
            address: NonNull::from(words).cast(),
            mapping: PhantomData,
        }
    }

    /// The value at an offset; `None` where it does not lie in the memory as a whole.
    #[must_use]
    pub fn value<T: FromBytes + Sync>(self, offset: usize) -> Option<&'a T> {
        self.slice(offset, 1)?.first()
    }

    /// `count` values from an offset on; `None` where they do not lie in the memory as a whole.
    #[must_use]
    pub fn slice<T: FromBytes + Sync>(self, offset: usize, count: usize) -> Option<&'a [T]> {
        let place = self.place(offset, count)?;
        // SAFETY: the place is mapped for 'a, large enough and aligned, and any bytes are values of T.
        // What other processes write meanwhile is atomic, by the rules above.
        Some(unsafe { slice::from_raw_parts(place.as_ptr(), count) })
    }

    /// Where `count` values lie from an offset on.
    fn place<T>(self, offset: usize, count: usize) -> Option<NonNull<T>> {
        let length = size_of::<T>().checked_mul(count)?;
        let end = offset.checked_add(length)?;
        // SAFETY: the offset lies within the mapping.
        let place: NonNull<T> =
            (end <= self.size).then(|| unsafe { self.address.add(offset) }.cast())?;
        place.is_aligned().then_some(place)
    }
}

/// A mapping of a segment into this process.
#[derive(Debug)]
struct Mapping {
    segment: NonNull<pg_sys::dsm_segment>,
    /// Whether the mapping ends with this value. A pinned mapping ends with the session, or after
    /// [`Segment::unpin`]: a destructor that runs at process exit must not call the server.
    detaches: Cell<bool>,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.detaches.get() {
            // SAFETY: the mapping is this value's own. Detaching runs callbacks that do not raise
            // and unmaps; where unmapping fails the server reports a WARNING.
            unsafe { pg_sys::dsm_detach(self.segment.as_ptr()) };
        }
    }
}

/// A segment that is mapped into this process. Clones stand for the same mapping.
#[derive(Clone, Debug)]
pub struct Segment(Rc<Mapping>);

impl Segment {
    fn of(segment: NonNull<pg_sys::dsm_segment>, detaches: bool) -> Self {
        Self(Rc::new(Mapping {
            segment,
            detaches: Cell::new(detaches),
        }))
    }

    /// Attaches to a segment for as long as the value lives. `None` where there is no such segment.
    #[must_use]
    pub fn attach(handle: u32) -> Option<Self> {
        // SAFETY: guarded by pgrx. The server looks the handle up in its own table. A segment
        // that this session has mapped already is refused by the server with an ERROR.
        let segment = unsafe { pg_sys::dsm_attach(handle) };
        Some(Self::of(NonNull::new(segment)?, true))
    }

    /// The number under which other sessions attach.
    #[must_use]
    pub fn handle(&self) -> u32 {
        // SAFETY: the mapping lasts as long as `self`.
        unsafe { pg_sys::dsm_segment_handle(self.0.segment.as_ptr()) }
    }

    /// What is mapped.
    #[must_use]
    pub fn memory(&self) -> Memory<'_> {
        // SAFETY: the mapping lasts as long as `self`.
        unsafe { memory_of(self.0.segment) }
    }

    /// Has a handler called when the mapping ends, whatever ends it: the end of the statement, an
    /// ERROR, a FATAL, or the end of the session.
    pub fn on_detach<H: DetachHandler>(&self, argument: u32) {
        // SAFETY: the mapping is valid, and the callback is one.
        unsafe {
            pg_sys::on_dsm_detach(
                self.0.segment.as_ptr(),
                Some(call_handler::<H>),
                pg_sys::Datum::from(argument),
            );
        }
    }

    /// Has a pinned mapping end as soon as nothing of this process stands for it any more.
    pub fn unpin(self) {
        self.0.detaches.set(true);
    }
}

/// A segment that this process has created, and that no other knows of.
#[derive(Debug)]
pub struct NewSegment(Segment);

impl NewSegment {
    /// Creates a segment of at least `size` bytes, whatever they hold.
    ///
    /// # Errors
    /// `insufficient_resources` where the server has too many; `out_of_memory` and the like, raised by
    /// the server.
    pub fn create(size: usize) -> Result<Self> {
        // SAFETY: guarded by pgrx. The flag makes a server without a free slot answer with null instead
        // of an ERROR.
        let segment =
            unsafe { pg_sys::dsm_create(size, pg_sys::DSM_CREATE_NULL_IF_MAXSEGMENTS as i32) };
        let segment = NonNull::new(segment).ok_or_else(|| {
            Error::new(
                Sqlstate::ERRCODE_INSUFFICIENT_RESOURCES,
                "too many dynamic shared memory segments",
            )
        })?;
        Ok(Self(Segment::of(segment, true)))
    }

    /// The value at an offset, to be filled; `None` where it does not lie in the segment as a whole.
    pub fn value_mut<T: FromBytes>(&mut self, offset: usize) -> Option<&mut T> {
        self.slice_mut(offset, 1)?.first_mut()
    }

    /// `count` values from an offset on, to be filled; `None` where they do not lie in the segment as a
    /// whole.
    pub fn slice_mut<T: FromBytes>(&mut self, offset: usize, count: usize) -> Option<&mut [T]> {
        let place = self.0.memory().place(offset, count)?;
        // SAFETY: the place is mapped, large enough and aligned, and any bytes are values of T. Nobody
        // else looks at it: no other process knows of the segment, and this value is its only owner.
        Some(unsafe { slice::from_raw_parts_mut(place.as_ptr(), count) })
    }

    /// Pins the mapping, which then lasts as long as the session, and ends the time in which it can be
    /// filled: its handle may be told to others.
    #[must_use]
    pub fn publish(self) -> Segment {
        // SAFETY: guarded by pgrx; a mapping of this session.
        unsafe { pg_sys::dsm_pin_mapping(self.0.0.segment.as_ptr()) };
        self.0.0.detaches.set(false);
        self.0
    }
}

/// What is to be done when a mapping ends.
pub trait DetachHandler {
    /// Does it. It may run in an aborted transaction and at the exit of the process: it works on the
    /// segment and on memory of its own, and calls nothing of the server that may raise.
    fn detached(memory: Memory<'_>, argument: u32);
}

unsafe extern "C-unwind" fn call_handler<H: DetachHandler>(
    segment: *mut pg_sys::dsm_segment,
    argument: pg_sys::Datum,
) {
    let Some(segment) = NonNull::new(segment) else {
        return;
    };
    // SAFETY: the server calls back while the segment is still mapped.
    let memory = unsafe { memory_of(segment) };
    // A panic must not unwind into the server. The handlers have none that could be told of here.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        H::detached(memory, argument.value() as u32);
    }));
}

/// # Safety
/// The segment is mapped for at least `'a`.
unsafe fn memory_of<'a>(segment: NonNull<pg_sys::dsm_segment>) -> Memory<'a> {
    // SAFETY: a live mapping has an address, which is aligned to a page and not null, and a length.
    unsafe {
        let address: *mut c_void = pg_sys::dsm_segment_address(segment.as_ptr());
        Memory {
            address: NonNull::new_unchecked(address.cast()),
            size: pg_sys::dsm_segment_map_length(segment.as_ptr()),
            mapping: PhantomData,
        }
    }
}
