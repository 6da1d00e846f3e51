//! Signals that end the program in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// Notes signals from now on.
#[derive(Clone, Debug)]
pub struct Signals(Arc<AtomicUsize>);

impl Signals {
    /// Begins.
    ///
    /// # Errors
    /// The operating system's.
    pub fn watch() -> Result<Self> {
        let received = Arc::new(AtomicUsize::new(0));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let number = usize::try_from(signal).context("a signal's number is positive")?;
            flag::register_usize(signal, Arc::clone(&received), number)
                .context("could not set up signal handling")?;
        }
        Ok(Self(received))
    }

    /// The name of one that has come.
    pub fn received(&self) -> Option<&'static str> {
        match i32::try_from(self.0.load(Ordering::Relaxed)) {
            Ok(SIGINT) => Some("SIGINT"),
            Ok(SIGTERM) => Some("SIGTERM"),
            Ok(SIGHUP) => Some("SIGHUP"),
            _ => None,
        }
    }
}
