//! What is shown while a backup runs, on standard error.

use std::io::{IsTerminal as _, Write as _};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::messages;

/// How often a line is written where there is no terminal.
const WITHOUT_TERMINAL: Duration = Duration::from_secs(5);
/// How often the line is written anew on a terminal.
const ON_TERMINAL: Duration = Duration::from_millis(500);

/// Numbers that all threads keep.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bytes of the backup's files; zero as long as they are not known.
    pub total: AtomicU64,
    /// Bytes written.
    pub done: AtomicU64,
    /// Workers that run.
    pub workers: AtomicU32,
}

/// The line.
#[derive(Debug)]
pub struct Line {
    on_terminal: bool,
    began: Instant,
    written: Option<Instant>,
}

impl Line {
    /// Begins, with the clock.
    pub fn begin() -> Self {
        Self {
            on_terminal: std::io::stderr().is_terminal(),
            began: Instant::now(),
            written: None,
        }
    }

    /// Writes the line if it is time.
    pub fn show(&mut self, counters: &Counters) {
        let pause = if self.on_terminal {
            ON_TERMINAL
        } else {
            WITHOUT_TERMINAL
        };
        if self
            .written
            .is_none_or(|written| written.elapsed() >= pause)
        {
            self.write(counters);
        }
    }

    /// Writes the last one, and leaves it.
    pub fn finish(&mut self, counters: &Counters) {
        self.write(counters);
        messages::leave_line();
    }

    fn write(&mut self, counters: &Counters) {
        self.written = Some(Instant::now());
        let text = text(
            counters.done.load(Ordering::Relaxed),
            counters.total.load(Ordering::Relaxed),
            counters.workers.load(Ordering::Relaxed),
            self.began.elapsed(),
        );
        if self.on_terminal {
            messages::show_line(&text);
        } else {
            // Nobody to show it to is no reason to fail.
            let _ = writeln!(std::io::stderr().lock(), "{text}");
        }
    }
}

/// Bytes in kB, as pg_basebackup shows them.
fn text(done: u64, total: u64, workers: u32, elapsed: Duration) -> String {
    const KB: u64 = 1024;
    if total == 0 && done == 0 {
        return "waiting for checkpoint".to_owned();
    }
    let seconds = elapsed.as_secs_f64().max(0.001);
    let rate = done as f64 / seconds;
    if total == 0 {
        return format!("{} kB, {} kB/s", done / KB, rate as u64 / KB);
    }
    // Files that are no relations, and the WAL, are beyond the total.
    let percent = done.saturating_mul(100) / total;
    let left = total.saturating_sub(done) as f64 / rate.max(1.0);
    let left = if done == 0 || done >= total {
        String::new()
    } else {
        format!(", {} left", clock(left as u64))
    };
    format!(
        "{}/{} kB ({}%), {} kB/s, {workers} workers{left}",
        done / KB,
        total.max(done) / KB,
        percent.min(100),
        rate as u64 / KB,
    )
}

fn clock(seconds: u64) -> String {
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_much_how_fast_and_how_long() {
        let ten = Duration::from_secs(10);
        assert_eq!(text(0, 0, 0, ten), "waiting for checkpoint");
        assert_eq!(text(100 << 20, 0, 0, ten), "102400 kB, 10240 kB/s");
        assert_eq!(
            text(100 << 20, 400 << 20, 2, ten),
            "102400/409600 kB (25%), 10240 kB/s, 2 workers, 00:00:30 left"
        );
        assert_eq!(
            text(401 << 20, 400 << 20, 0, ten),
            "410624/410624 kB (100%), 41062 kB/s, 0 workers"
        );
    }
}
