//! The word to stop, which every thread looks for between two pieces of work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Error, Result, bail};

/// How often one who waits looks around.
const LOOK: Duration = Duration::from_millis(20);

/// Whether the backup is over before its time, and why.
#[derive(Debug, Default)]
pub struct Cancellation {
    requested: AtomicBool,
    reason: Mutex<Option<Error>>,
}

impl Cancellation {
    /// Has all threads stop. The first reason is the one that counts.
    pub fn fail(&self, reason: Error) {
        let mut first = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.requested.swap(true, Ordering::Relaxed) {
            *first = Some(reason);
        }
    }

    /// Whether threads are to stop.
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }

    /// Why they are.
    pub fn reason(&self) -> Option<Error> {
        self.reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// To be called before each piece of work.
    ///
    /// # Errors
    /// Where it is not to be done any more.
    pub fn check(&self) -> Result<()> {
        if self.is_requested() {
            bail!("the backup was ended");
        }
        Ok(())
    }

    /// Waits for a time, or until it is to stop.
    pub fn wait(&self, time: Duration) {
        let begin = Instant::now();
        while begin.elapsed() < time && !self.is_requested() {
            std::thread::sleep(LOOK);
        }
    }
}
