//! Rates of the last seconds.

use std::time::Duration;

/// For how long the past matters, in seconds: what is so long ago counts for a third of the present.
const MEMORY: f64 = 4.0;

/// Bytes per second, as a mean in which the past counts the less the longer it is ago.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    last: Option<(Duration, u64)>,
    sum: f64,
    /// Of all that is in the sum; less than one as long as there is little past.
    weight: f64,
}

impl Rate {
    /// So many bytes were there at a time, measured from any beginning.
    pub fn observe(&mut self, at: Duration, bytes: u64) {
        let Some((before, had)) = self.last.replace((at, bytes)) else {
            return;
        };
        let seconds = at.saturating_sub(before).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        // What a failed stream had brought is taken off, which is no rate.
        let now = bytes.saturating_sub(had) as f64 / seconds;
        let past = (-seconds / MEMORY).exp();
        self.sum = self.sum * past + now * (1.0 - past);
        self.weight = self.weight * past + (1.0 - past);
    }

    /// Bytes per second, zero where nothing is known.
    pub fn per_second(&self) -> f64 {
        if self.weight > 0.0 {
            self.sum / self.weight
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rate after each tenth of a second had so many bytes.
    fn after(tenths: impl IntoIterator<Item = u64>) -> f64 {
        let mut rate = Rate::default();
        let mut bytes = 0;
        rate.observe(Duration::ZERO, 0);
        for (number, more) in tenths.into_iter().enumerate() {
            bytes += more;
            rate.observe(Duration::from_millis(100 * (number as u64 + 1)), bytes);
        }
        rate.per_second()
    }

    #[test]
    fn what_is_steady_is_known_at_once() {
        assert_eq!(Rate::default().per_second(), 0.0);
        for count in [1, 10, 1000] {
            let rate = after(std::iter::repeat_n(500, count));
            assert!((rate - 5000.0).abs() < 1e-6, "{rate}");
        }
    }

    #[test]
    fn the_last_seconds_count_and_a_single_gap_does_not() {
        let slow_then_fast = std::iter::repeat_n(100, 600).chain(std::iter::repeat_n(900, 200));
        let rate = after(slow_then_fast);
        assert!((8900.0..9000.0).contains(&rate), "{rate}");
        let with_gap = std::iter::repeat_n(500, 100).chain([0, 0]);
        let rate = after(with_gap);
        assert!((4500.0..5000.0).contains(&rate), "{rate}");
    }

    #[test]
    fn what_is_taken_off_is_no_rate() {
        let mut rate = Rate::default();
        rate.observe(Duration::ZERO, 1000);
        rate.observe(Duration::from_secs(1), 0);
        assert_eq!(rate.per_second(), 0.0);
    }
}
