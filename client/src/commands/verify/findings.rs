//! What is wrong with a backup, as it is found.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, anyhow};

use crate::console::messages;

/// What is wrong with a backup.
#[derive(Debug)]
pub struct Findings {
    exit_on_error: bool,
    any: AtomicBool,
}

impl Findings {
    /// There is nothing yet; the first thing may be the last.
    pub fn new(exit_on_error: bool) -> Self {
        Self {
            exit_on_error,
            any: AtomicBool::new(false),
        }
    }

    /// Says what was found.
    ///
    /// # Errors
    /// It is the error itself where the first one ends the program.
    pub fn add(&self, text: impl Display) -> Result<()> {
        self.any.store(true, Ordering::Relaxed);
        if self.exit_on_error {
            return Err(anyhow!("{text}"));
        }
        messages::error(text);
        Ok(())
    }

    /// Whether there was anything.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }
}
