//! Cancellation of a long statement on the server.

use std::panic::resume_unwind;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::runtime::cancellation::Cancellation;
use crate::server::backend::Backend;
use crate::server::connection::Session;
use crate::server::opener::Opener;

/// How often to look whether the backup is to stop.
const LOOK: Duration = Duration::from_millis(20);

/// Runs statements in a session. On cancellation another session cancels them on the server, and
/// they fail.
///
/// # Errors
/// Errors of the work.
pub fn interruptible<T: Send>(
    session: &mut Session,
    opener: &Opener,
    cancellation: &Cancellation,
    work: impl FnOnce(&Session) -> Result<T> + Send,
) -> Result<T> {
    let backend = Backend::of(session)?;
    thread::scope(|scope| {
        let (sender, ended) = mpsc::channel();
        let working = scope.spawn(move || {
            let result = work(session);
            // The other end waits for the thread itself where it no longer listens.
            let _ = sender.send(());
            result
        });
        while ended.recv_timeout(LOOK) == Err(mpsc::RecvTimeoutError::Timeout) {
            if cancellation.is_requested() {
                // Where that fails, the end of the program ends the session.
                let _ = opener.open_aside().and_then(|other| backend.cancel(&other));
                break;
            }
        }
        match working.join() {
            Ok(result) => result,
            Err(panic) => resume_unwind(panic),
        }
    })
}
