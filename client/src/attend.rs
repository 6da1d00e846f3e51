//! What the main thread does while others work: it watches for signals and for the end.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::signals::Signals;
use crate::stop::Stop;

/// How often the main thread looks around.
const LOOK: Duration = Duration::from_millis(100);
/// How long threads may take to stop. One that waits for the server is left to the end of the
/// program, which ends its connection.
const PATIENCE: Duration = Duration::from_secs(3);

/// Waits for the outcome of `what`, and has it stop at a signal; calls `show` again and again.
///
/// # Errors
/// Those of the outcome, and where there is none.
pub fn attend<T>(
    what: &str,
    outcome: &Receiver<Result<T>>,
    signals: &Signals,
    stop: &Stop,
    mut show: impl FnMut(),
) -> Result<T> {
    let mut patience = None;
    loop {
        show();
        match outcome.recv_timeout(LOOK) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(anyhow!("the leading thread ended")),
        }
        if let Some(name) = signals.received() {
            stop.fail(anyhow!("received {name}, and ended the {what}"));
        }
        if stop.is_requested()
            && Instant::now() > *patience.get_or_insert_with(|| Instant::now() + PATIENCE)
        {
            return Err(anyhow!(
                "the {what} was ended while a connection gave no answer"
            ));
        }
    }
}
