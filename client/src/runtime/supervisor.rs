//! Main thread: watches for signals and displays the progress while other threads work.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::cli::configuration::ProgressFormat;
use crate::console::messages;
use crate::console::progress::{Counters, Line, Phase};
use crate::runtime::cancellation::Cancellation;
use crate::runtime::signals::Signals;

/// Polling interval of the main thread.
const LOOK: Duration = Duration::from_millis(100);
/// Time limit for threads to stop after a cancellation. A thread that waits for a server or a disk
/// is left behind; the end of the process closes its connection.
const PATIENCE: Duration = Duration::from_secs(3);

/// State shared by all threads.
#[derive(Debug)]
pub struct Shared {
    /// Cancellation flag.
    pub cancellation: Cancellation,
    /// The progress.
    pub counters: Counters,
}

/// Parameters of the supervision.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// Name of the work, for messages.
    pub name: &'static str,
    /// Format of the progress; `None` for no progress.
    pub progress: Option<ProgressFormat>,
    /// First phase.
    pub first: Phase,
    /// Number of workers displayed.
    pub workers: usize,
}

/// Has another thread do the work, which is given what it shares with this one, and returns what
/// comes of it. What was done before a signal came stays. Otherwise `stop_others` is called, more
/// than once, for those who do not look for the word to stop.
///
/// # Errors
/// The first reason for a cancellation: an error of any thread, or a signal.
pub fn run<T: Send + 'static>(
    watch: Watch,
    signals: &Signals,
    stop_others: impl Fn(),
    work: impl FnOnce(&'static Shared) -> Result<T> + Send + 'static,
) -> Result<T> {
    // Threads may outlive this function's patience with them.
    let shared: &'static Shared = Box::leak(Box::new(Shared {
        cancellation: Cancellation::default(),
        counters: Counters::new(watch.workers),
    }));
    shared.counters.enter(watch.first);
    let (sender, outcome) = mpsc::channel();
    thread::spawn(move || {
        let _ = sender.send(work(shared));
    });

    let mut line = Line::begin(watch.progress);
    let mut patience = None;
    let result = loop {
        line.show(&shared.counters);
        match outcome.recv_timeout(LOOK) {
            Ok(result) => break result,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                break Err(anyhow!("a defect of this program ended the {}", watch.name));
            }
        }
        if let Some(signal) = signals.received() {
            shared
                .cancellation
                .fail(anyhow!("received {signal}, and ended the {}", watch.name));
        }
        if shared.cancellation.is_requested() {
            stop_others();
            if Instant::now() > *patience.get_or_insert_with(|| Instant::now() + PATIENCE) {
                break Err(anyhow!(
                    "the {} was ended while a thread did not",
                    watch.name
                ));
            }
        }
    };
    // The end of the progress comes after all that was said meanwhile.
    messages::settle();
    shared.counters.enter(match result {
        Ok(_) => Phase::Done,
        Err(_) => Phase::Failed,
    });
    line.finish(&shared.counters);
    result.map_err(|error| {
        stop_others();
        shared.cancellation.reason().unwrap_or(error)
    })
}
