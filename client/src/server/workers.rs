//! Worker threads, each with its own connection.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Error, Result};

use crate::cli::configuration::Silence;
use crate::console::messages;
use crate::console::progress::{Activity, Counters, Worker};
use crate::runtime::cancellation::Cancellation;
use crate::server::backend::Backend;
use crate::server::connection::{Failure, Session};
use crate::server::extension::Extension;
use crate::server::opener::Opener;
use crate::server::session;
use crate::server::silence;

/// Polling interval for cancellation.
const LOOK: Duration = Duration::from_millis(20);
/// Delay before a lost connection is replaced.
const PAUSE: Duration = Duration::from_millis(500);

/// Sessions that were opened before the start, for the workers to take.
pub struct OpenSessions(Mutex<Vec<Option<Session>>>);

impl OpenSessions {
    /// One for each worker, in the order of their numbers.
    pub fn new(sessions: Vec<Session>) -> Self {
        Self(Mutex::new(sessions.into_iter().map(Some).collect()))
    }

    /// Takes that of a worker.
    pub fn take(&self, number: usize) -> Option<Session> {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.get_mut(number)?.take()
    }
}

/// Runs all workers, while the leader's session sends a heartbeat. After an error or a cancellation
/// `end` is called at once, because workers that wait for the server must be ended there.
///
/// # Errors
/// An error if cancellation was requested, or the leader does not answer.
pub fn run(
    (counters, cancellation): (&Counters, &Cancellation),
    (leader, silence): (&Session, Silence),
    work: &(impl Fn(usize, &Worker) -> Result<()> + Sync),
    end: impl FnOnce(),
) -> Result<()> {
    let work = |number: usize, worker: &Worker| {
        let result = work(number, worker);
        worker.begins(Activity::Ended);
        if let Err(error) = result {
            // The others have nothing to work for.
            cancellation.fail(error.context(format!("worker {number} failed")));
        }
    };
    let work = &work;
    thread::scope(|scope| {
        let workers = counters.workers().iter().enumerate();
        let workers: Vec<_> = workers
            .map(|(number, worker)| scope.spawn(move || work(number, worker)))
            .collect();
        let mut last_heartbeat = Instant::now();
        while !workers.iter().all(|worker| worker.is_finished()) {
            thread::sleep(LOOK);
            let is_due = |interval| last_heartbeat.elapsed() >= interval;
            if silence.heartbeat.is_some_and(is_due) {
                if let Err(error) = check_leader(leader, silence) {
                    cancellation.fail(error);
                    break;
                }
                last_heartbeat = Instant::now();
            }
            if cancellation.is_requested() {
                end();
                break;
            }
        }
    });
    cancellation.check()?;
    // What comes next may wait long for the server. That is told from a dead connection here.
    check_leader(leader, silence)
}

/// Makes sure that the leader's session is there.
///
/// # Errors
/// An error if it does not answer.
pub fn check_leader(leader: &Session, silence: Silence) -> Result<()> {
    leader
        .check_answer(silence.answer_limit())
        .map_err(leader_lost)
}

/// Error for the loss of the leader's connection.
fn leader_lost(error: Error) -> Error {
    const HINT: &str = "If the server still runs, a firewall or gateway on the way may have dropped the connection: see --heartbeat.";
    let message = format!("{error:#}");
    let message = if message.contains("HINT:") {
        message
    } else {
        format!("{message}\nHINT:  {HINT}")
    };
    Error::from(Failure {
        message,
        connection_lost: true,
    })
    .context(LEADER_LOST)
}

/// Context of an error of the leader's connection.
const LEADER_LOST: &str = "the connection that leads the backup was lost";

/// Successive connections of one worker.
pub struct Connections<'a> {
    opener: &'a Opener,
    cancellation: &'a Cancellation,
    /// Name of the worker in messages.
    name: String,
    /// The worker, as others see it.
    pub worker: &'a Worker,
    retries: u32,
    session: Option<Session>,
    /// Backend of the last session.
    backend: Option<Backend>,
}

impl<'a> Connections<'a> {
    /// Creates them for a worker that may lose `retries` connections. Messages have its name.
    pub fn new(
        (opener, cancellation): (&'a Opener, &'a Cancellation),
        (name, worker): (String, &'a Worker),
        retries: u32,
    ) -> Self {
        Self {
            opener,
            cancellation,
            name,
            worker,
            retries,
            session: None,
            backend: None,
        }
    }

    /// Begins with a session that is open already.
    pub fn with_session(mut self, session: Option<Session>) -> Self {
        self.session = session;
        self
    }

    /// Runs a unit of work in a session, and again from its beginning in a new session after a
    /// loss.
    ///
    /// # Errors
    /// Errors of the work, unless the connection was lost and may be replaced.
    pub fn run<T>(&mut self, mut work: impl FnMut(&mut Session) -> Result<T>) -> Result<T> {
        loop {
            self.cancellation.check()?;
            match self.try_once(&mut work) {
                Err(error)
                    if self.retries > 0 && is_lost(&error) && !self.cancellation.is_requested() =>
                {
                    self.retries -= 1;
                    self.worker.begins(Activity::Lost);
                    messages::warn(format_args!(
                        "{} lost its connection and gets another: {error:#}",
                        self.name
                    ));
                    // What ended it may last a moment.
                    self.cancellation.wait(PAUSE);
                    self.end_lost_backend();
                }
                result => return result,
            }
        }
    }

    /// Ends the server process of the lost session. It may not have noticed the loss, and keeps its
    /// files until it has gone.
    fn end_lost_backend(&mut self) {
        if let Some(backend) = self.backend.take() {
            let ended = self.opener.open_aside();
            // Where that fails, the server has to notice by itself.
            let _ = ended.and_then(|other| backend.terminate(&other));
        }
    }

    /// Runs the work once. A session in which it failed is dropped.
    fn try_once<T>(&mut self, work: impl FnOnce(&mut Session) -> Result<T>) -> Result<T> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => {
                self.worker.begins(Activity::Connecting);
                session::open(self.opener)?
            }
        };
        if self.backend.is_none() {
            // From now on it is idle for moments only.
            silence::end_when_idle(&session, self.opener)?;
            self.backend = Some(Backend::of(&session)?);
        }
        let done = work(&mut session)?;
        self.session = Some(session);
        Ok(done)
    }
}

/// Whether the connection was lost, so that a new one may succeed.
pub fn is_lost(error: &Error) -> bool {
    error
        .downcast_ref::<Failure>()
        .is_some_and(|failure| failure.connection_lost)
}

/// Aborts the backup after an error, before the end of the session would. Returns the error, or the
/// loss of the leader's connection that caused it.
pub fn give_up(
    extension: &Extension,
    leader: &Session,
    cancellation: &Cancellation,
    error: Error,
) -> Error {
    match extension.abort(leader) {
        // That is why the workers failed.
        Err(lost) if is_lost(&lost) && error.to_string() != LEADER_LOST => {
            drop(cancellation.reason());
            leader_lost(lost)
        }
        _ => error,
    }
}
