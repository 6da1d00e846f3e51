//! What commands that make a data directory of a backup have in common: the end of what they made, good or
//! bad.

use std::path::Path;

use anyhow::Result;

use crate::cli::configuration::{ProgressFormat, SyncMethod};
use crate::console::messages;
use crate::console::progress::Phase;
use crate::output::cleanup::SharedCleanupList;
use crate::output::sync;
use crate::runtime::signals::Signals;
use crate::runtime::supervisor::{self, Shared, Watch};

/// How a command works, besides its own options.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Name of the work, for messages.
    pub name: &'static str,
    /// Number of threads.
    pub jobs: usize,
    /// Method of synchronization; `None` for none.
    pub sync: Option<SyncMethod>,
    /// Whether to remove created files after an error.
    pub clean: bool,
    /// Whether to show the progress.
    pub progress: bool,
    /// Whether to report each step.
    pub verbose: bool,
}

/// Has another thread do the work. What was made has been removed after an error, if that was wanted.
///
/// # Errors
/// As [`supervisor::run`].
pub fn run(
    manner: Manner,
    work: impl FnOnce(&'static Shared, &SharedCleanupList) -> Result<()> + Send + 'static,
) -> Result<()> {
    let signals = Signals::watch()?;
    let watch = Watch {
        name: manner.name,
        progress: manner.progress.then_some(ProgressFormat::Text),
        first: Phase::Copying,
        workers: manner.jobs,
    };
    let cleanup = SharedCleanupList::default();
    let shared_cleanup = cleanup.clone();
    supervisor::run(
        watch,
        &signals,
        || (),
        move |shared| work(shared, &shared_cleanup),
    )
    .inspect_err(|_| cleanup.clean_up(manner.clean, manner.verbose))
}

/// Has everything on disk before `finish` makes the directory look like a backup.
///
/// # Errors
/// As [`sync::complete`].
pub fn complete(
    manner: Manner,
    target: &Path,
    shared: &Shared,
    cleanup: &SharedCleanupList,
    finish: impl FnOnce() -> Result<()>,
) -> Result<()> {
    // A lock that is held while the disk is waited for would keep the main thread from ending.
    let cleanup = cleanup.lock().clone();
    if manner.sync.is_some() {
        shared.counters.enter(Phase::Syncing);
        if manner.verbose {
            messages::say("syncing data to disk");
        }
    }
    let last = [target.to_owned(), target.join("global")];
    sync::complete(
        manner.sync,
        &cleanup,
        manner.jobs,
        &shared.cancellation,
        &last,
        finish,
    )?;
    if manner.verbose {
        messages::say(format_args!("{} completed", manner.name));
    }
    Ok(())
}
