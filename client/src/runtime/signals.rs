//! Signals that end the program in order.
//!
//! One that was ignored when the program started stays ignored: `nohup` has a lost terminal not end a
//! program, and a shell without job control has the keyboard not interrupt one in the background.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// Record of received signals.
#[derive(Clone, Debug)]
pub struct Signals(Arc<AtomicUsize>);

impl Signals {
    /// Begins. Until then a signal ends the program at once: this is called when the work begins that
    /// has to be ended in order, and not before something that may wait without looking.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn watch() -> Result<Self> {
        let received = Arc::new(AtomicUsize::new(0));
        let ignored = ignored_signals();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            if ignored & bit(signal) != 0 {
                continue;
            }
            let number = usize::try_from(signal).context("a signal's number is positive")?;
            flag::register_usize(signal, Arc::clone(&received), number)
                .context("could not set up signal handling")?;
        }
        Ok(Self(received))
    }

    /// Name of a signal that was received.
    pub fn received(&self) -> Option<&'static str> {
        match i32::try_from(self.0.load(Ordering::Relaxed)) {
            Ok(SIGINT) => Some("SIGINT"),
            Ok(SIGTERM) => Some("SIGTERM"),
            Ok(SIGHUP) => Some("SIGHUP"),
            _ => None,
        }
    }
}

/// The signals that this process ignores, as a mask ("SigIgn" of proc(5), in hexadecimal). Where the
/// system does not tell, none is taken for ignored.
fn ignored_signals() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.unwrap_or(0)
}

/// A signal's place in a mask.
fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}
