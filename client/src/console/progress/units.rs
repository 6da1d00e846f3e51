//! Sizes and durations as people read them. Units are those of PostgreSQL's `pg_size_pretty()`:
//! 1 kB is 1024 bytes, 1 MB is 1024 kB.

use std::time::Duration;

const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];

/// A size in the largest unit that leaves at least 1, with one decimal place below 100. It is
/// rounded down, so that it reaches the total no earlier than the bytes do.
pub fn size(bytes: u64) -> String {
    let (mut unit, mut scale) = (0, 1024_u64);
    while bytes / scale >= 1024 && unit + 1 < UNITS.len() {
        (unit, scale) = (unit + 1, scale * 1024);
    }
    let whole = bytes / scale;
    if unit == 0 || whole >= 100 {
        format!("{whole} {}", UNITS[unit])
    } else {
        // Smaller than 1024, so that ten times as much fits.
        let tenth = bytes % scale * 10 / scale;
        format!("{whole}.{tenth} {}", UNITS[unit])
    }
}

/// Bytes per second.
pub fn rate(bytes: f64) -> String {
    format!("{}/s", size(bytes as u64))
}

/// A duration in its two largest units.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_the_unit_that_suits_it() {
        for (bytes, expected) in [
            (0, "0 kB"),
            (1023, "0 kB"),
            (1024 * 1024 - 1, "1023 kB"),
            (1024 * 1024, "1.0 MB"),
            (99 << 20 | 0xf_ffff, "99.9 MB"),
            (100 << 20 | 0xf_ffff, "100 MB"),
            (927 << 20, "927 MB"),
            ((1 << 30) - 1, "1023 MB"),
            (3 << 29, "1.5 GB"),
            (5 << 40, "5.0 TB"),
            (u64::MAX, "16383 PB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
        assert_eq!(rate(209_715_200.0), "200 MB/s");
    }

    #[test]
    fn a_duration_has_two_units() {
        for (seconds, expected) in [
            (0, "0 s"),
            (59, "59 s"),
            (80, "1 min 20 s"),
            (3599, "59 min 59 s"),
            (3600, "1 h 0 min"),
            (360_000, "100 h 0 min"),
        ] {
            assert_eq!(duration(Duration::from_secs(seconds)), expected);
        }
    }
}
