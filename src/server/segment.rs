//! Dynamic shared memory segments (storage/dsm.h).
//!
//! The leader of a backup creates segments and pins its mappings, which then last as long as its
//! session; workers attach for one statement. A segment goes away with its last mapping.

use core::ffi::c_void;
use core::ptr::NonNull;

use pgrx::pg_sys;

use super::report::{Error, Result, Sqlstate};

/// A magic number: five letters for what a segment holds, and the version of the library. After an
/// upgrade a session that has loaded another version may find the segment, and must not read it.
pub(super) const fn magic(letters: [u8; 5]) -> u64 {
    let [a, b, c, d, e] = letters;
    u64::from_be_bytes([
        a,
        b,
        c,
        d,
        e,
        number(env!("CARGO_PKG_VERSION_MAJOR")),
        number(env!("CARGO_PKG_VERSION_MINOR")),
        number(env!("CARGO_PKG_VERSION_PATCH")),
    ])
}

const fn number(digits: &str) -> u8 {
    let digits = digits.as_bytes();
    let mut number = 0;
    let mut index = 0;
    while index < digits.len() {
        number = number * 10 + (digits[index] - b'0');
        index += 1;
    }
    number
}

/// What a detach callback is given: the address of the segment and a number of our own.
pub type DetachCallback = unsafe extern "C-unwind" fn(*mut pg_sys::dsm_segment, pg_sys::Datum);

/// One mapping of a segment into this process.
#[derive(Debug)]
pub struct Segment {
    mapping: NonNull<pg_sys::dsm_segment>,
    /// Whether the mapping ends with this value. A pinned mapping ends with the session, or with
    /// [`Segment::detach`]: a destructor that runs at process exit must not call the server.
    detaches: bool,
}

impl Segment {
    /// Creates a segment of at least `size` bytes, whatever they hold, whose mapping lasts as long as the session.
    ///
    /// # Errors
    /// `out_of_memory` and the like, raised by the server.
    pub fn create_pinned(size: usize) -> Result<Self> {
        // SAFETY: both calls are guarded by pgrx; the new mapping is valid until it is detached.
        // The flag makes a server without a free slot answer with null instead of an ERROR.
        let mapping = unsafe {
            let mapping = pg_sys::dsm_create(size, pg_sys::DSM_CREATE_NULL_IF_MAXSEGMENTS as i32);
            if !mapping.is_null() {
                pg_sys::dsm_pin_mapping(mapping);
            }
            mapping
        };
        let mapping = NonNull::new(mapping).ok_or_else(|| {
            Error::new(
                Sqlstate::ERRCODE_INSUFFICIENT_RESOURCES,
                "too many dynamic shared memory segments",
            )
        })?;
        let segment = Self {
            mapping,
            detaches: false,
        };
        Ok(segment)
    }

    /// Attaches to a segment for as long as the value lives. `None` where there is no such segment.
    #[must_use]
    pub fn attach(handle: u32) -> Option<Self> {
        // SAFETY: guarded by pgrx. The server looks the handle up in its own table. A segment
        // that this session has mapped already is refused by the server with an ERROR.
        let mapping = unsafe { pg_sys::dsm_attach(handle) };
        Some(Self {
            mapping: NonNull::new(mapping)?,
            detaches: true,
        })
    }

    /// Another view of a mapping that this session holds pinned.
    #[must_use]
    pub fn borrow_pinned(&self) -> Self {
        Self {
            mapping: self.mapping,
            detaches: false,
        }
    }

    /// The number under which other sessions attach.
    #[must_use]
    pub fn handle(&self) -> u32 {
        // SAFETY: the mapping is valid until it is detached.
        unsafe { pg_sys::dsm_segment_handle(self.mapping.as_ptr()) }
    }

    /// Where the segment is mapped. Page aligned.
    pub(super) fn address(&self) -> NonNull<u8> {
        address_of(self.mapping)
    }

    /// The number of bytes mapped.
    pub(super) fn size(&self) -> usize {
        // SAFETY: the mapping is valid until it is detached.
        unsafe { pg_sys::dsm_segment_map_length(self.mapping.as_ptr()) }
    }

    /// Has `callback` called when the mapping ends, whatever ends it: the end of the statement, an
    /// ERROR, a FATAL, or the end of the session.
    ///
    /// # Safety
    /// The callback may touch the segment and this process's own memory. It must not raise.
    pub(super) unsafe fn on_detach(&self, callback: DetachCallback, argument: u32) {
        // SAFETY: the mapping is valid, the callback is the caller's promise.
        unsafe {
            pg_sys::on_dsm_detach(
                self.mapping.as_ptr(),
                Some(callback),
                pg_sys::Datum::from(argument),
            );
        }
    }

    /// Ends a pinned mapping now. Its detach callbacks run.
    pub fn detach(self) {
        let mapping = self.mapping;
        core::mem::forget(self);
        // SAFETY: the value is consumed, so nothing of ours refers to the mapping any more.
        unsafe { pg_sys::dsm_detach(mapping.as_ptr()) };
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if self.detaches {
            // SAFETY: the mapping is this value's own. Detaching runs callbacks that do not raise
            // and unmaps; where unmapping fails the server reports a WARNING.
            unsafe { pg_sys::dsm_detach(self.mapping.as_ptr()) };
        }
    }
}

/// Where a segment is mapped, for detach callbacks.
pub(super) fn address_of(mapping: NonNull<pg_sys::dsm_segment>) -> NonNull<u8> {
    // SAFETY: a live mapping has an address, which is not null.
    unsafe {
        let address: *mut c_void = pg_sys::dsm_segment_address(mapping.as_ptr());
        NonNull::new_unchecked(address.cast())
    }
}
