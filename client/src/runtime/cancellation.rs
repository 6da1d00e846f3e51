//! Cancellation flag, checked by every thread between units of work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Error, Result, bail};

/// Polling interval of a wait.
const LOOK: Duration = Duration::from_millis(20);

/// Cancellation flag with its reason.
#[derive(Debug, Default)]
pub struct Cancellation {
    requested: AtomicBool,
    reason: Mutex<Option<Error>>,
}

impl Cancellation {
    /// Requests cancellation. The first reason is kept.
    pub fn fail(&self, reason: Error) {
        let mut first = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.requested.swap(true, Ordering::Relaxed) {
            *first = Some(reason);
        }
    }

    /// Whether cancellation was requested.
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Relaxed)
    }

    /// Takes the reason of the cancellation.
    pub fn reason(&self) -> Option<Error> {
        self.reason
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Checks the flag; called before each unit of work.
    ///
    /// # Errors
    /// An error if cancellation was requested.
    pub fn check(&self) -> Result<()> {
        if self.is_requested() {
            bail!("the backup was ended");
        }
        Ok(())
    }

    /// Sleeps for a time, or until cancellation is requested.
    pub fn wait(&self, time: Duration) {
        let begin = Instant::now();
        while begin.elapsed() < time && !self.is_requested() {
            std::thread::sleep(LOOK);
        }
    }
}
