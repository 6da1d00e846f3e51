//! Time: the monotonic clock that all sessions of a machine share, and the server's timestamps.

use pgrx::pg_sys;

/// Microseconds of the monotonic clock. Every process of the machine reads the same one, and it
/// does not jump when the time of day is set.
#[must_use]
pub fn monotonic_micros() -> u64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes one timespec that lives on this stack; this clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    (now.tv_sec as u64) * 1_000_000 + (now.tv_nsec as u64) / 1_000
}

/// The current time as a `timestamptz` (microseconds since 2000-01-01).
#[must_use]
pub fn current_timestamp() -> i64 {
    // SAFETY: reads the time of day, nothing else.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// The current time in seconds since 1970, as files carry it.
#[must_use]
pub fn current_unix_time() -> i64 {
    unix_time(current_timestamp())
}

const SECONDS_FROM_1970_TO_2000: i64 = 10_957 * 86_400;

/// A `timestamptz` for a file's time, given in seconds since 1970.
#[must_use]
pub fn timestamp(unix_time: i64) -> i64 {
    unix_time
        .saturating_sub(SECONDS_FROM_1970_TO_2000)
        .saturating_mul(1_000_000)
}

fn unix_time(timestamp: i64) -> i64 {
    timestamp.div_euclid(1_000_000) + SECONDS_FROM_1970_TO_2000
}
