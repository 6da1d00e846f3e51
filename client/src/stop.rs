//! The word to stop, which every thread looks for between two pieces of work.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};

/// Whether the backup is over before its time.
#[derive(Debug, Default)]
pub struct Stop(AtomicBool);

impl Stop {
    /// Has all threads stop.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether they are to.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// To be called before each piece of work.
    ///
    /// # Errors
    /// Where it is not to be done any more.
    pub fn check(&self) -> Result<()> {
        if self.is_requested() {
            bail!("stopped");
        }
        Ok(())
    }
}
