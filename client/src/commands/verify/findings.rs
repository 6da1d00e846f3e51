//! Findings about a backup, reported as they are found.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, anyhow};

use crate::console::messages;

/// Findings about a backup.
#[derive(Debug)]
pub struct Findings {
    exit_on_error: bool,
    any: AtomicBool,
}

impl Findings {
    /// Creates an empty record; `exit_on_error` ends with the first finding.
    pub fn new(exit_on_error: bool) -> Self {
        Self {
            exit_on_error,
            any: AtomicBool::new(false),
        }
    }

    /// Reports a finding.
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

    /// Whether there was a finding.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }
}
