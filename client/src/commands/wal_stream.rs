//! Stream of a backup's WAL, beside its files.
//!
//! Each call of send_wal() brings segments that are complete, and acknowledges those of the calls before.
//! They are on disk by then, so that the server may let go of them. A call that fails has cost nothing: it
//! is repeated with the same position. The stop ends a call that waits, and brings all that was not
//! acknowledged.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Error, Result};
use backup_format::lsn::Lsn;

use crate::cli::configuration::BackupConfig;
use crate::console::progress::{Activity, Worker};
use crate::output::wal_receiver::WalStream;
use crate::output::wal_store::WalStore;
use crate::runtime::cancellation::Cancellation;
use crate::server::connection::{Failure, Session};
use crate::server::extension::{Extension, Started};
use crate::server::workers::Connections;
use crate::stream::input::Input;

/// Name of the stream in messages.
pub const NAME: &str = "the WAL stream";

/// Receiver of a backup's WAL while files are received.
pub struct WalReception<'a> {
    /// The configuration.
    pub config: &'a BackupConfig,
    /// The extension.
    pub extension: &'a Extension,
    /// The backup.
    pub started: &'a Started,
    /// Where the WAL goes.
    pub store: &'a WalStore<'a>,
    /// Cancellation flag.
    pub cancellation: &'a Cancellation,
    /// Set before the backup is stopped or aborted.
    pub ending: &'a AtomicBool,
}

impl WalReception<'_> {
    /// Receives WAL until the backup ends. An error fails the backup.
    pub fn run(&self, connections: Connections<'_>, worker: &Worker) {
        let result = self.receive_all(connections, worker);
        worker.begins(Activity::Ended);
        if let Err(error) = result {
            self.cancellation
                .fail(error.context(format!("{NAME} failed")));
        }
    }

    fn receive_all(&self, mut connections: Connections<'_>, worker: &Worker) -> Result<()> {
        let mut received = None;
        while !self.ending.load(Ordering::Acquire) {
            let end = connections.run(|session| {
                self.receive(session, received, worker)
                    .or_else(|error| self.unless_ending(error))
            });
            let end = end.or_else(|error| self.unless_ending(error))?;
            received = end.or(received);
        }
        Ok(())
    }

    /// Receives what one call brings. Returns the end of its newest segment.
    fn receive(
        &self,
        session: &Session,
        from: Option<Lsn>,
        worker: &Worker,
    ) -> Result<Option<Lsn>> {
        worker.begins(Activity::Waiting);
        let input = Input::new(self.config.compress.of_streams().method)?;
        let mut stream = WalStream::new(self.store, input, &worker.counter);
        let statement = self.extension.wal_copy(self.started, from, self.config);
        session.copy(&statement, |bytes| {
            self.cancellation.check()?;
            stream.take(bytes)?;
            if let Some(file) = stream.current() {
                worker.begins(Activity::Receiving(file));
            }
            Ok(())
        })?;
        stream.finish()
    }

    /// Once the end has begun, it does not matter how a call ends: the stop brings what is missing.
    fn unless_ending<T>(&self, error: Error) -> Result<Option<T>> {
        if self.ending.load(Ordering::Acquire) && error.is::<Failure>() {
            return Ok(None);
        }
        Err(error)
    }
}
