//! Findings about a backup, reported as they are found.

use std::fmt::Display;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, anyhow};

use crate::console::messages;

/// Findings about a backup.
#[derive(Debug)]
pub struct Findings {
    exit_on_error: bool,
    /// The first ones.
    texts: Mutex<Vec<String>>,
}

/// Findings that are kept for programs.
const MOST_KEPT: usize = 1000;

impl Findings {
    /// Creates an empty record; `exit_on_error` ends with the first finding.
    pub fn new(exit_on_error: bool) -> Self {
        Self {
            exit_on_error,
            texts: Mutex::default(),
        }
    }

    /// Reports a finding.
    ///
    /// # Errors
    /// It is the error itself where the first one ends the program.
    pub fn add(&self, text: impl Display) -> Result<()> {
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if texts.len() < MOST_KEPT {
            texts.push(text.to_string());
        }
        drop(texts);
        if self.exit_on_error {
            return Err(anyhow!("{text}"));
        }
        messages::error(text);
        Ok(())
    }

    /// The first findings.
    pub fn into_texts(self) -> Vec<String> {
        let texts = self.texts.into_inner();
        texts.unwrap_or_else(PoisonError::into_inner)
    }
}
