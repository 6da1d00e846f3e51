//! The part of the queue, from its start, in which no file waits to be taken.
//!
//! Workers share it, so that a stream that begins late need not look at a million slots that others have
//! taken. It holds for one generation of the queue: files that return begin a new one, and whoever has looked
//! at slots before that extends a prefix that nobody reads any more.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::server::segment::FromBytes;

/// The prefix, in shared memory: the generation in the upper half, the number of slots in the lower one.
#[derive(Debug, Default, FromBytes)]
#[repr(transparent)]
pub struct TakenPrefix(AtomicU64);

impl TakenPrefix {
    /// Number of slots in which no file waits in this generation.
    #[must_use]
    pub fn length(&self, generation: u64) -> usize {
        let prefix = self.0.load(Ordering::Relaxed);
        if prefix >> 32 == generation & u64::from(u32::MAX) {
            (prefix & u64::from(u32::MAX)) as usize
        } else {
            0
        }
    }

    /// Extends the prefix by what a worker has seen that had read this generation before.
    pub fn extend(&self, generation: u64, length: usize) {
        if let Ok(length) = u32::try_from(length) {
            // A later generation is the larger number.
            self.0
                .fetch_max(generation << 32 | u64::from(length), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_grows_and_holds_for_its_generation() {
        let prefix = TakenPrefix::default();
        assert_eq!(prefix.length(0), 0);
        prefix.extend(0, 5);
        prefix.extend(0, 3);
        assert_eq!((prefix.length(0), prefix.length(1)), (5, 0));
        prefix.extend(1, 2);
        assert_eq!((prefix.length(0), prefix.length(1)), (0, 2));
    }

    #[test]
    fn who_comes_late_with_an_earlier_generation_changes_nothing() {
        let prefix = TakenPrefix::default();
        prefix.extend(2, 1);
        prefix.extend(1, 9);
        assert_eq!((prefix.length(1), prefix.length(2)), (0, 1));
    }

    #[test]
    fn a_prefix_that_is_too_long_is_none() {
        let prefix = TakenPrefix::default();
        prefix.extend(1, 1 << 32);
        assert_eq!((prefix.length(0), prefix.length(1)), (0, 0));
    }
}
