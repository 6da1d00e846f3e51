//! The threads that work beside each other, each with a connection of its own.

use std::thread;
use std::time::Duration;

use anyhow::{Error, Result};

use crate::console::messages;
use crate::console::progress::{Activity, Counters, Worker};
use crate::runtime::cancellation::Cancellation;
use crate::server::connection::{Failure, Opener, Session};
use crate::server::extension::Extension;
use crate::server::session;

/// How often to look whether the workers are to stop.
const LOOK: Duration = Duration::from_millis(20);
/// How long to wait before a connection that was lost is replaced.
const PAUSE: Duration = Duration::from_millis(500);

/// Has all workers do their work, each with its number. When one fails, or the work is to stop for
/// another reason, `end` is called at once: workers that wait for the server must hear of it there.
///
/// # Errors
/// Where it was to stop.
pub fn run(
    counters: &Counters,
    cancellation: &Cancellation,
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
        while !workers.iter().all(|worker| worker.is_finished()) {
            thread::sleep(LOOK);
            if cancellation.is_requested() {
                end();
                break;
            }
        }
    });
    cancellation.check()
}

/// The connections of one worker: one after the other, as they get lost.
pub struct Connections<'a> {
    opener: &'a Opener,
    cancellation: &'a Cancellation,
    /// The worker's number.
    pub number: usize,
    /// The worker, as others see it.
    pub worker: &'a Worker,
    retries: u32,
    session: Option<Session>,
}

impl<'a> Connections<'a> {
    /// For a worker that may lose as many as `retries`.
    pub fn new(
        (opener, cancellation): (&'a Opener, &'a Cancellation),
        (number, worker): (usize, &'a Worker),
        retries: u32,
    ) -> Self {
        Self {
            opener,
            cancellation,
            number,
            worker,
            retries,
            session: None,
        }
    }

    /// Does a piece of work in a session, from its beginning with each one.
    ///
    /// # Errors
    /// Those of the work, where it was not the connection that was lost, or it was once too often.
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
                        "worker {} lost its connection and gets another: {error:#}",
                        self.number
                    ));
                    // What ended it may last a moment.
                    self.cancellation.wait(PAUSE);
                }
                result => return result,
            }
        }
    }

    /// A session in which the work has failed is used no more.
    fn try_once<T>(&mut self, work: impl FnOnce(&mut Session) -> Result<T>) -> Result<T> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => {
                self.worker.begins(Activity::Connecting);
                session::open(self.opener)?
            }
        };
        let done = work(&mut session)?;
        self.session = Some(session);
        Ok(done)
    }
}

/// Whether a connection is gone, so that another may fare better.
pub fn is_lost(error: &Error) -> bool {
    error
        .downcast_ref::<Failure>()
        .is_some_and(|failure| failure.connection_lost)
}

/// Ends the backup of its leader after an error, at once: the end of the session would end it too.
/// Returns the error, or the one that lies behind it.
pub fn give_up(
    extension: &Extension,
    leader: &Session,
    cancellation: &Cancellation,
    error: Error,
) -> Error {
    match extension.abort(leader) {
        // That is why the workers failed.
        Err(lost) if is_lost(&lost) => {
            drop(cancellation.reason());
            lost.context("the connection that leads the backup was lost")
        }
        _ => error,
    }
}
