//! The arithmetic of a rate limit that several processes share.
//!
//! All of them reserve time on one clock, which says when the next byte may leave: who sends
//! moves it on by what the bytes cost at this rate. Nobody waits for anybody else, and time that
//! is not used for long is lost, so that no process can make up for it in one go.

use std::sync::atomic::{AtomicU64, Ordering};

const MICROS_PER_SECOND: u64 = 1_000_000;

/// How often in a second data leaves, so that the stream flows evenly. Core checks as often.
const PIECES_PER_SECOND: u64 = 8;

/// A rate of transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    bytes_per_second: u64,
}

impl Rate {
    /// A rate in units of 1024 bytes per second. Zero, at which nothing would ever leave, counts
    /// as one.
    pub fn from_kilobytes(per_second: u32) -> Self {
        Self {
            bytes_per_second: u64::from(per_second.max(1)) * 1024,
        }
    }

    /// The time that a number of bytes takes, in microseconds, rounded up.
    pub fn cost_micros(&self, bytes: u64) -> u64 {
        let cost = (u128::from(bytes) * u128::from(MICROS_PER_SECOND))
            .div_ceil(u128::from(self.bytes_per_second));
        u64::try_from(cost).unwrap_or(u64::MAX)
    }

    /// How many bytes to send at a time, so that they take an eighth of a second at most: a
    /// multiple of `unit`, not more than `most`, but never less than one `unit`.
    pub fn chunk(&self, most: usize, unit: usize) -> usize {
        let unit = unit.max(1);
        let even = usize::try_from(self.bytes_per_second / PIECES_PER_SECOND).unwrap_or(most);
        (even.min(most) / unit).max(1) * unit
    }
}

/// Reserves `cost` microseconds on the clock and returns when the caller may send, which can be
/// in the past. All times are in microseconds and on the clock that `now` is read from.
///
/// `burst` is how far the clock may lag behind: so much time unused can be made up for.
pub fn reserve(clock: &AtomicU64, now: u64, cost: u64, burst: u64) -> u64 {
    // The clock orders nothing but itself, so relaxed access is enough.
    let mut next = clock.load(Ordering::Relaxed);
    loop {
        let start = next.max(now.saturating_sub(burst));
        let end = start.saturating_add(cost);
        match clock.compare_exchange_weak(next, end, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return start,
            Err(moved) => next = moved,
        }
    }
}
