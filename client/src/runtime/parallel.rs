//! Work on many things with several threads.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;

use crate::console::progress::{Activity, Worker};
use crate::runtime::cancellation::Cancellation;

/// Does the same with each of many things, by a thread for each worker. They are begun in their order.
///
/// # Errors
/// The first one ends all, and the reason is with `stop`; so it is where that was requested before.
pub fn for_each<T: Sync>(
    things: &[T],
    workers: &[Worker],
    cancellation: &Cancellation,
    work: impl Fn(&Worker, &T) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let take = |worker: &Worker| {
        while let Some(thing) = things.get(next.fetch_add(1, Ordering::Relaxed)) {
            if cancellation.is_requested() {
                break;
            }
            if let Err(error) = work(worker, thing) {
                cancellation.fail(error);
            }
        }
        worker.begins(Activity::Ended);
    };
    let (busy, idle) = workers.split_at(workers.len().min(things.len()));
    idle.iter()
        .for_each(|worker| worker.begins(Activity::Ended));
    std::thread::scope(|scope| {
        for worker in busy {
            scope.spawn(|| take(worker));
        }
    });
    cancellation.check()
}
