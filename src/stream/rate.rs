//! Arithmetic of a rate limit shared by several processes (backup/basebackup_throttle.c).
//!
//! Senders reserve time on one shared clock, the time at which the next byte may leave. A sender
//! advances it by the cost of its bytes at this rate. Nobody waits for anybody else. Time that is
//! not used for long is lost, so that no sender can make up for it in one go.

use std::sync::atomic::{AtomicU64, Ordering};

const MICROS_PER_SECOND: u64 = 1_000_000;

/// Messages per second at a limited rate, as often as core checks.
const PIECES_PER_SECOND: u64 = 8;

/// Transfer rate.
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

    /// Cost of a number of bytes in microseconds, rounded up.
    pub fn cost_micros(&self, bytes: u64) -> u64 {
        let cost = (u128::from(bytes) * u128::from(MICROS_PER_SECOND))
            .div_ceil(u128::from(self.bytes_per_second));
        u64::try_from(cost).unwrap_or(u64::MAX)
    }

    /// Bytes to send at a time, so that they take at most an eighth of a second: a multiple of
    /// `unit`, at most `most`, at least one `unit`.
    pub fn chunk(&self, most: usize, unit: usize) -> usize {
        let unit = unit.max(1);
        let even = usize::try_from(self.bytes_per_second / PIECES_PER_SECOND).unwrap_or(most);
        (even.min(most) / unit).max(1) * unit
    }
}

/// Reserves `cost` microseconds on the clock and returns when the caller may send, which can be
/// in the past. All times are in microseconds and on the clock that `now` is read from.
///
/// `burst` is the lag of the clock that can be made up for.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_cost_is_rounded_up() {
        let rate = Rate::from_kilobytes(1024);
        assert_eq!(rate.cost_micros(0), 0);
        assert_eq!(rate.cost_micros(1), 1);
        assert_eq!(rate.cost_micros(1 << 20), MICROS_PER_SECOND);
        assert_eq!(rate.cost_micros((1 << 20) + 1), MICROS_PER_SECOND + 1);
        assert_eq!(
            Rate::from_kilobytes(32).cost_micros(32 * 1024 * 60),
            60 * MICROS_PER_SECOND
        );
    }

    #[test]
    fn no_amount_overflows() {
        assert_eq!(Rate::from_kilobytes(0).cost_micros(u64::MAX), u64::MAX);
        assert_eq!(Rate::from_kilobytes(1).cost_micros(u64::MAX), u64::MAX);
        assert!(Rate::from_kilobytes(u32::MAX).cost_micros(u64::MAX) < u64::MAX);
    }

    #[test]
    fn a_chunk_takes_an_eighth_of_a_second_at_most() {
        let chunk = |kilobytes, most, unit| Rate::from_kilobytes(kilobytes).chunk(most, unit);
        assert_eq!(chunk(1024, 256 << 10, 8192), 128 << 10);
        assert_eq!(chunk(1_048_576, 256 << 10, 8192), 256 << 10);
        assert_eq!(chunk(100, 256 << 10, 8192), 8192);
        assert_eq!(chunk(32, 256 << 10, 8192), 8192);
        assert_eq!(chunk(32, 256 << 10, 512), 4096);
        assert_eq!(chunk(1024, 100_000, 8192), 98_304);
        assert_eq!(chunk(1024, 100, 8192), 8192);
        assert_eq!(chunk(1024, 100, 0), 100);
    }

    #[test]
    fn senders_queue_up_behind_each_other() {
        let clock = AtomicU64::new(0);
        assert_eq!(reserve(&clock, 1000, 50, 0), 1000);
        assert_eq!(reserve(&clock, 1010, 50, 0), 1050);
        assert_eq!(reserve(&clock, 1020, 50, 0), 1100);
        assert_eq!(clock.into_inner(), 1150);
    }

    #[test]
    fn unused_time_is_lost_but_for_the_burst() {
        let clock = AtomicU64::new(1000);
        assert_eq!(reserve(&clock, 9000, 50, 100), 8900);
        assert_eq!(reserve(&clock, 9000, 50, 100), 8950);
        assert_eq!(reserve(&clock, 9000, 50, 100), 9000);
        assert_eq!(reserve(&clock, 9000, 50, 100), 9050);
    }

    #[test]
    fn a_clock_at_its_end_stays_there() {
        let clock = AtomicU64::new(u64::MAX - 1);
        assert_eq!(reserve(&clock, 5, 10, 100), u64::MAX - 1);
        assert_eq!(reserve(&clock, 5, 10, u64::MAX), u64::MAX);
        assert_eq!(clock.into_inner(), u64::MAX);
    }

    #[test]
    fn no_reservation_is_lost_between_threads() {
        const THREADS: u64 = 4;
        const EACH: u64 = 10_000;
        let clock = AtomicU64::new(0);
        let mut starts: Vec<u64> = std::thread::scope(|scope| {
            let reserve_all = || (0..EACH).map(|_| reserve(&clock, 0, 3, 0)).collect();
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(reserve_all)).collect();
            threads
                .into_iter()
                .flat_map(|thread| -> Vec<u64> { thread.join().expect("a thread that ends") })
                .collect()
        });
        starts.sort_unstable();
        let expected: Vec<u64> = (0..THREADS * EACH).map(|turn| turn * 3).collect();
        assert_eq!(starts, expected);
    }

    proptest! {
        #[test]
        fn a_chunk_is_whole_units_and_costs_no_more_than_an_eighth_of_a_second(
            kilobytes in any::<u32>(),
            most in any::<usize>(),
            unit in any::<usize>(),
        ) {
            let rate = Rate::from_kilobytes(kilobytes);
            let chunk = rate.chunk(most, unit);
            let unit = unit.max(1);
            prop_assert_eq!(chunk % unit, 0);
            prop_assert!(chunk >= unit);
            prop_assert!(chunk == unit || chunk <= most);
            prop_assert!(chunk == unit || rate.cost_micros(chunk as u64) <= 125_000);
        }

        #[test]
        fn the_cost_is_the_smallest_time_in_which_the_rate_allows_the_bytes(
            kilobytes in 1_u32..,
            bytes in 0_u64..1 << 60,
        ) {
            let micros = u128::from(Rate::from_kilobytes(kilobytes).cost_micros(bytes));
            let allowed = |micros: u128| micros * u128::from(kilobytes) * 1024 / 1_000_000;
            prop_assert!(allowed(micros) >= u128::from(bytes));
            prop_assert!(micros == 0 || allowed(micros - 1) < u128::from(bytes));
        }

        /// Whatever the senders do, no window of time lets more through than its length and a burst.
        #[test]
        fn reservations_do_not_overlap(
            steps in vec((0_u64..2000, 0_u64..1000), 1..50),
            burst in 0_u64..500,
        ) {
            let clock = AtomicU64::new(0);
            let mut now = 1_000_000;
            let mut free_from = 0;
            for (pause, cost) in steps {
                now += pause;
                let start = reserve(&clock, now, cost, burst);
                prop_assert!(start >= free_from);
                prop_assert!(start >= now - burst);
                prop_assert!(start == free_from || start == now - burst);
                free_from = start + cost;
            }
        }

        #[test]
        fn no_times_panic(clock in any::<u64>(), now in any::<u64>(), cost in any::<u64>(), burst in any::<u64>()) {
            let clock = AtomicU64::new(clock);
            let start = reserve(&clock, now, cost, burst);
            prop_assert_eq!(clock.into_inner(), start.saturating_add(cost));
        }
    }
}
