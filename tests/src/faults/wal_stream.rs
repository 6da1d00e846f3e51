//! WAL stream beside the workers of a backup: calls of send_wal(), each with the end of what the calls
//! before have brought. A lost session is replaced, as a client would.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use super::injection::Injection;
use super::judgement::{ENDED, GONE};
use super::session::Session;
use super::site::Site;
use crate::failure::Failure;
use crate::stream::copy_of;
use crate::wait::{PATIENCE, wait_for};
use crate::wal::end_of_segments;

/// Pause after a failure, so that the server can notice that a session has gone.
const PAUSE: Duration = Duration::from_millis(50);

/// What a WAL stream has brought.
#[derive(Default)]
pub struct Brought {
    /// Archives of all calls that ended well.
    pub archives: Vec<Vec<u8>>,
    /// Errors of the others.
    pub failures: Vec<Failure>,
}

/// WAL stream in a thread of its own.
pub struct WalStream<'scope> {
    over: Arc<AtomicBool>,
    thread: std::thread::ScopedJoinHandle<'scope, Brought>,
}

impl<'scope> WalStream<'scope> {
    /// Starts to stream the WAL of a backup.
    pub fn spawn(
        scope: &'scope std::thread::Scope<'scope, '_>,
        site: &'scope Site,
        injection: &'scope Injection<'_>,
        id: i64,
    ) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let thread = scope.spawn({
            let over = Arc::clone(&over);
            move || stream(site, injection, id, &over)
        });
        Self { over, thread }
    }

    /// Waits for the end of the stream, after that of the backup.
    pub fn end(self) -> Brought {
        self.over.store(true, Ordering::SeqCst);
        wait_for("the WAL stream to end", PATIENCE * 2, || {
            self.thread.is_finished()
        });
        let brought = self.thread.join();
        brought.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn stream(site: &Site, injection: &Injection<'_>, id: i64, over: &AtomicBool) -> Brought {
    let mut brought = Brought::default();
    let mut position = "NULL".to_owned();
    let mut session = None;
    while !over.load(Ordering::SeqCst) {
        let open = match session.take() {
            Some(session) => Ok(session),
            None => Session::open(site).inspect(|session| injection.set_wal(session.aim())),
        };
        let result = open.and_then(|open| {
            if !site.is_standby() {
                site.try_execute(&["SELECT pg_switch_wal()"]);
            }
            let call = format!("send_wal({id}, {position}, wait => '100 ms')");
            let (open, result) = open.stream(&copy_of(&call), u64::MAX).end();
            session = Some(open);
            result
        });
        match result {
            Ok(archive) => {
                if let Some(end) = end_of_segments(&archive) {
                    position = format!("'{end}'");
                }
                brought.archives.push(archive);
            }
            // The session before has not noticed its end yet.
            Err(failure) if failure.sqlstate == "55006" => sleep(PAUSE),
            Err(failure) => {
                let is_lost = GONE.contains(&&*failure.sqlstate);
                if is_lost {
                    session = None;
                    sleep(PAUSE);
                }
                let has_ended = ENDED.contains(&&*failure.sqlstate);
                if brought.failures.last() != Some(&failure) {
                    brought.failures.push(failure);
                }
                if has_ended {
                    break;
                }
            }
        }
    }
    brought
}
