//! Wait for the server's archive at the end of a backup without its WAL.
//!
//! The server archives until it can, however long that takes. Whoever waits is told for what, and may
//! set a limit.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Error, anyhow};

use crate::console::messages;
use crate::runtime::cancellation::Cancellation;

/// Polling interval.
const LOOK: Duration = Duration::from_millis(50);
/// Time between two messages.
const INTERVAL: Duration = Duration::from_secs(30);

/// Runs `work`. Until it is done, or `is_over` says that the wait is over, the wait is reported every 30
/// seconds, and cancels the backup when it takes longer than `limit`.
pub fn watch<T>(
    limit: Option<Duration>,
    cancellation: &Cancellation,
    is_over: impl Fn() -> bool + Sync,
    work: impl FnOnce() -> T,
) -> T {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let begin = Instant::now();
            let mut reminder = Reminder::default();
            while !done.load(Ordering::Relaxed) && !is_over() && !cancellation.is_requested() {
                let elapsed = begin.elapsed();
                if limit.is_some_and(|limit| elapsed >= limit) {
                    cancellation.fail(timeout(elapsed));
                    break;
                }
                if reminder.is_due(elapsed) {
                    messages::say(format_args!(
                        "still waiting for the server to archive WAL ({} s so far)",
                        elapsed.as_secs()
                    ));
                }
                thread::sleep(LOOK);
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    })
}

fn timeout(elapsed: Duration) -> Error {
    anyhow!(
        "the server has not archived the WAL of the backup within {} s (--archive-timeout)\n\
         HINT:  Look at archive_command or archive_library, at the view pg_stat_archiver (last_failed_wal) \
         and in the server's log. A backup with its WAL (-X stream or fetch) needs no archive.",
        elapsed.as_secs()
    )
}

/// Tells when a message is due.
#[derive(Debug, Default)]
struct Reminder {
    said: u32,
}

impl Reminder {
    fn is_due(&mut self, elapsed: Duration) -> bool {
        let is_due = elapsed >= INTERVAL * (self.said + 1);
        if is_due {
            self.said += 1;
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_due_every_thirty_seconds() {
        let mut reminder = Reminder::default();
        let due: Vec<_> = (0..3000)
            .map(|tick| Duration::from_millis(50 * tick))
            .filter(|&elapsed| reminder.is_due(elapsed))
            .map(|elapsed| elapsed.as_secs())
            .collect();
        assert_eq!(due, [30, 60, 90, 120]);
    }
}
