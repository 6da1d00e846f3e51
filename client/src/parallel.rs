//! Work on many things with several threads.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;

use crate::stop::Stop;

/// Does the same with each of many things, by several threads. They are begun in their order.
///
/// # Errors
/// The first one ends all, and the reason is with `stop`; so it is where that was requested before.
pub fn for_each<T: Sync>(
    things: &[T],
    jobs: usize,
    stop: &Stop,
    work: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let take = || {
        while let Some(thing) = things.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.is_requested() {
                return;
            }
            if let Err(error) = work(thing) {
                stop.fail(error);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, things.len().max(1)) {
            scope.spawn(take);
        }
    });
    stop.check()
}
