//! Page cache footprint of a backup (fcntl.h, sys/mman.h, linux/mman.h): a backup leaves the cache as it found
//! it.
//!
//! A backup reads everything once and would evict what the server needs. So a stream looks
//! beforehand which parts of a file are cached, and has the system drop the others behind it.
//!
//! All calls are advice. On systems without them nothing is dropped.

use core::ops::Range;
use core::ptr;

use super::file::TransientFile;

/// Unit of bookkeeping in bytes.
const PART: u64 = 1024 * 1024;

/// Bytes between two calls that drop parts: cheap, and larger than the largest unit in which the
/// system keeps a file, which it drops only as a whole.
const STRIDE: u64 = 16 * PART;

/// Bytes of a range that the system reads ahead.
const AHEAD: u64 = 8 * PART;

/// Page cache footprint of a file, or a range of it, that is read once.
#[derive(Debug)]
pub struct CacheFootprint<'f> {
    file: &'f TransientFile,
    /// Where the range begins.
    start: u64,
    /// Where it ends, if the file goes on behind it.
    end: Option<u64>,
    /// Offset up to which the system was told to read ahead.
    ahead: u64,
    /// For each part whether any of it was cached before.
    cached: Vec<bool>,
    /// Offset up to which the cache is settled.
    done: u64,
    /// Offset read so far.
    passed: u64,
}

impl<'f> CacheFootprint<'f> {
    /// Looks at the first `size` bytes of a file, and has the system read ahead more than it would for other
    /// files.
    pub fn of_file(file: &'f TransientFile, size: u64) -> Self {
        let footprint = Self::new(file, &(0..size), None);
        #[cfg(target_os = "linux")]
        footprint.advise(0, 0, libc::POSIX_FADV_SEQUENTIAL);
        footprint
    }

    /// Looks at a range of a file, which begins at a multiple of 16 MB, and has the system read ahead in it. What
    /// is read beyond its end would be cached when somebody looks at that part of the file, and stay.
    pub fn of_range(file: &'f TransientFile, range: &Range<u64>) -> Self {
        let mut footprint = Self::new(file, range, Some(range.end));
        #[cfg(target_os = "linux")]
        footprint.advise(0, 0, libc::POSIX_FADV_RANDOM);
        footprint.read_ahead();
        footprint
    }

    fn new(file: &'f TransientFile, range: &Range<u64>, end: Option<u64>) -> Self {
        Self {
            file,
            start: range.start,
            end,
            ahead: range.start,
            cached: counted_parts(file, range)
                .or_else(|| cached_parts(file, range))
                .unwrap_or_default(),
            done: range.start,
            passed: range.start,
        }
    }

    /// Has the system read ahead in a range, where less than half of it is ahead.
    fn read_ahead(&mut self) {
        let Some(end) = self.end else {
            return;
        };
        if self.ahead < end && self.passed + AHEAD / 2 >= self.ahead {
            let window = self.ahead..end.min(self.ahead + AHEAD);
            let mut parts = window.clone().step_by(PART as usize);
            if parts.any(|offset| !self.was_cached(offset)) {
                #[cfg(target_os = "linux")]
                self.advise(
                    window.start,
                    window.end - window.start,
                    libc::POSIX_FADV_WILLNEED,
                );
            }
            self.ahead = window.end;
        }
    }

    /// Advises the system for a range of the file; length 0 is all of it from the offset.
    #[cfg(target_os = "linux")]
    fn advise(&self, offset: u64, length: u64, advice: core::ffi::c_int) {
        if let (Ok(offset), Ok(length)) =
            (libc::off_t::try_from(offset), libc::off_t::try_from(length))
        {
            // SAFETY: the borrowed file keeps the descriptor open during the call. The system keeps pages that
            // others have changed or mapped, whatever the advice.
            unsafe { libc::posix_fadvise(self.file.descriptor(), offset, length, advice) };
        }
    }

    /// All before `offset` has been read. To be called in the order of the offsets.
    pub fn passed(&mut self, offset: u64) {
        while self.passed + PART <= offset {
            if self.was_cached(self.passed) {
                self.forget();
                self.done = self.passed + PART;
            }
            self.passed += PART;
        }
        self.read_ahead();
        if self.passed - self.done >= STRIDE {
            self.forget();
            // The next time covers these once more: of the last, a piece may have been in use.
            self.done = self.passed - PART;
        }
    }

    /// The range has been read up to its end.
    pub fn finish(mut self, end: u64) {
        self.passed(end);
        if !self.was_cached(self.passed) {
            self.passed = end;
        }
        self.forget();
    }

    /// Unknown parts count as cached.
    fn was_cached(&self, offset: u64) -> bool {
        let part = usize::try_from((offset - self.start) / PART);
        part.map_or(true, |part| self.cached.get(part).copied().unwrap_or(true))
    }

    fn forget(&mut self) {
        #[cfg(target_os = "linux")]
        if self.passed > self.done {
            self.advise(
                self.done,
                self.passed - self.done,
                libc::POSIX_FADV_DONTNEED,
            );
        }
    }
}

/// struct cachestat_range in linux/mman.h.
#[cfg(target_os = "linux")]
#[repr(C)]
struct StatRange {
    offset: u64,
    length: u64,
}

/// struct cachestat in linux/mman.h.
#[cfg(target_os = "linux")]
#[derive(Default)]
#[repr(C)]
struct CacheStat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Whether any of a part is cached, for each part of a range, by cachestat(), which counts pages many times
/// faster than mincore() looks at them. `None` before Linux 6.5, and where the system refuses.
#[cfg(target_os = "linux")]
fn counted_parts(file: &TransientFile, range: &Range<u64>) -> Option<Vec<bool>> {
    let parts = range.clone().step_by(usize::try_from(PART).ok()?);
    let parts = parts.map(|offset| {
        // Counting takes a moment for each cached page. So the first is looked at alone: where it is cached, it tells.
        let end = range.end.min(offset + PART);
        let second = end.min(offset + FIRST);
        Some(is_any_cached(file, offset..second)? || is_any_cached(file, second..end)?)
    });
    parts.collect()
}

/// Bytes that are looked at before the rest of a part.
#[cfg(target_os = "linux")]
const FIRST: u64 = 4096;

/// Whether any of a range is cached.
#[cfg(target_os = "linux")]
fn is_any_cached(file: &TransientFile, range: Range<u64>) -> Option<bool> {
    /// The same number on every architecture.
    const CACHESTAT: libc::c_long = 451;
    if range.is_empty() {
        // For the system, a length of 0 means all that follows.
        return Some(false);
    }
    let range = StatRange {
        offset: range.start,
        length: range.end - range.start,
    };
    let mut stat = CacheStat::default();
    // SAFETY: the borrowed file keeps the descriptor open, and the system reads the one structure and fills the
    // other, which have its layout.
    let status = unsafe {
        libc::syscall(
            CACHESTAT,
            file.descriptor(),
            &raw const range,
            &raw mut stat,
            0_u32,
        )
    };
    (status == 0).then_some(stat.cached > 0)
}

/// There is no such call.
#[cfg(not(target_os = "linux"))]
fn counted_parts(_file: &TransientFile, _range: &Range<u64>) -> Option<Vec<bool>> {
    None
}

/// Whether any of a part is cached, for each part of a range. `None` where that cannot be told.
fn cached_parts(file: &TransientFile, range: &Range<u64>) -> Option<Vec<bool>> {
    let length = usize::try_from(range.end - range.start).ok();
    let length = length.filter(|&length| length > 0)?;
    let start = libc::off_t::try_from(range.start).ok()?;
    // SAFETY: asks for a constant of the system.
    let page_size = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
    // SAFETY: a new mapping that nothing else knows of. It is never read: with a file that becomes
    // shorter, that would kill the process.
    let mapping = unsafe {
        libc::mmap(
            ptr::null_mut(),
            length,
            libc::PROT_NONE,
            libc::MAP_SHARED,
            file.descriptor(),
            start,
        )
    };
    if mapping == libc::MAP_FAILED {
        return None;
    }
    let part = usize::try_from(PART).ok()?;
    let mut pages = vec![0u8; part.div_ceil(page_size)];
    let parts = (0..length).step_by(part).map(|offset| {
        let length = part.min(length - offset);
        // SAFETY: the range lies in the mapping, and there is a byte for each of its pages.
        let status =
            unsafe { libc::mincore(mapping.byte_add(offset), length, pages.as_mut_ptr().cast()) };
        let used = &pages[..length.div_ceil(page_size)];
        (status == 0).then(|| used.iter().any(|page| page & 1 != 0))
    });
    let parts = parts.collect();
    // SAFETY: the mapping from above, as a whole.
    unsafe { libc::munmap(mapping, length) };
    parts
}
