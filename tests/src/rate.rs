//! Rates of streams, measured on a machine that others use too.

use std::time::Duration;

/// How often a rate is measured before it counts as too low.
const ATTEMPTS: usize = 3;

/// Checks that streams take as long as a limit of `kilobytes` a second allows. `measure` returns the bytes of each
/// and how long they took. No attempt may be faster. One of three has to be no slower: a machine that stands still
/// for some tenths of a second makes any of them slower, because a limit does not let a stream catch up.
#[track_caller]
pub fn assert_rate(kilobytes: u64, mut measure: impl FnMut() -> Vec<(usize, Duration)>) {
    let share = |(bytes, elapsed): (usize, Duration)| {
        bytes as f64 / elapsed.as_secs_f64() / (kilobytes * 1024) as f64
    };
    let mut seen = Vec::new();
    for _ in 0..ATTEMPTS {
        let shares: Vec<f64> = measure().into_iter().map(share).collect();
        assert!(
            !shares.is_empty() && shares.iter().all(|share| *share <= 1.1),
            "{shares:?} of {kilobytes} kB/s"
        );
        if shares.iter().all(|share| *share >= 0.9) {
            return;
        }
        seen.push(shares);
    }
    panic!("{seen:?} of {kilobytes} kB/s, in {ATTEMPTS} attempts");
}
