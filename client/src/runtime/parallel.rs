//! Parallel processing of a list.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;

use crate::console::progress::{Activity, Worker};
use crate::runtime::cancellation::Cancellation;

/// Processes the elements of a list in order, with one thread for each worker.
///
/// # Errors
/// The first error cancels the rest and is kept as the reason in `cancellation`; an earlier
/// cancellation is an error as well.
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
