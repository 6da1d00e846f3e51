//! Parallel processing of a list.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

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
    let (busy, idle) = workers.split_at(workers.len().min(things.len()));
    idle.iter()
        .for_each(|worker| worker.begins(Activity::Ended));
    let take = || things.get(next.fetch_add(1, Ordering::Relaxed));
    run(busy, cancellation, take, work)
}

/// Processes what an iterator returns, which no list has to hold. An error in place of a thing is
/// that of the whole.
///
/// # Errors
/// As [`for_each`].
pub fn for_each_of<T>(
    things: impl Iterator<Item = Result<T>> + Send,
    workers: &[Worker],
    cancellation: &Cancellation,
    work: impl Fn(&Worker, T) -> Result<()> + Sync,
) -> Result<()> {
    let things = Mutex::new(things);
    let take = || things.lock().unwrap_or_else(PoisonError::into_inner).next();
    run(workers, cancellation, take, |worker, thing| {
        work(worker, thing?)
    })
}

fn run<T>(
    workers: &[Worker],
    cancellation: &Cancellation,
    take: impl Fn() -> Option<T> + Sync,
    work: impl Fn(&Worker, T) -> Result<()> + Sync,
) -> Result<()> {
    let work_on = |worker: &Worker| {
        while let Some(thing) = take() {
            if cancellation.is_requested() {
                break;
            }
            if let Err(error) = work(worker, thing) {
                cancellation.fail(error);
            }
        }
        worker.begins(Activity::Ended);
    };
    std::thread::scope(|scope| {
        for worker in workers {
            scope.spawn(|| work_on(worker));
        }
    });
    cancellation.check()
}
