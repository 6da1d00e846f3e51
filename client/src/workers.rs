//! The threads that work beside each other, each with a connection of its own.

use std::thread::{Scope, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Error, Result};

use crate::connection::{Failure, Opener, Session};
use crate::messages;
use crate::progress::{Doing, Worker};
use crate::server::{self, Extension};
use crate::stop::Stop;

/// How long to wait before a connection that was lost is replaced.
const PAUSE: Duration = Duration::from_millis(500);

/// Begins all workers. When one fails, all are to stop.
pub fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    workers: &'scope [Worker],
    stop: &'scope Stop,
    work: &'scope (impl Fn(usize, &Worker) -> Result<()> + Sync),
) -> Vec<ScopedJoinHandle<'scope, ()>> {
    let work = move |(number, worker): (usize, &'scope Worker)| {
        let result = work(number, worker);
        worker.begins(Doing::Ended);
        if let Err(error) = result {
            // The others have nothing to work for.
            stop.fail(error.context(format!("worker {number} failed")));
        }
    };
    workers
        .iter()
        .enumerate()
        .map(|worker| scope.spawn(move || work(worker)))
        .collect()
}

/// The connections of one worker: one after the other, as they get lost.
pub struct Connections<'a> {
    opener: &'a Opener,
    stop: &'a Stop,
    number: usize,
    worker: &'a Worker,
    retries: u32,
    session: Option<Session>,
}

impl<'a> Connections<'a> {
    /// For a worker that may lose as many as `retries`.
    pub fn new(
        opener: &'a Opener,
        stop: &'a Stop,
        (number, worker): (usize, &'a Worker),
        retries: u32,
    ) -> Self {
        Self {
            opener,
            stop,
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
            self.stop.check()?;
            let result = (|| {
                let mut session = match self.session.take() {
                    Some(session) => session,
                    None => {
                        self.worker.begins(Doing::Connecting);
                        server::open(self.opener)?
                    }
                };
                self.worker.begins(Doing::Waiting);
                let done = work(&mut session)?;
                self.session = Some(session);
                Ok(done)
            })();
            match result {
                Err(error) if self.retries > 0 && is_lost(&error) && !self.stop.is_requested() => {
                    self.retries -= 1;
                    self.worker.begins(Doing::Lost);
                    messages::warn(format_args!(
                        "worker {} lost its connection and gets another: {error:#}",
                        self.number
                    ));
                    // What ended it may last a moment.
                    self.stop.wait(PAUSE);
                }
                result => return result,
            }
        }
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
pub fn give_up(extension: &Extension, leader: &Session, stop: &Stop, error: Error) -> Error {
    match extension.abort(leader) {
        // That is why the workers failed.
        Err(lost) if is_lost(&lost) => {
            drop(stop.reason());
            lost.context("the connection that leads the backup was lost")
        }
        _ => error,
    }
}
