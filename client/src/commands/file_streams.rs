//! Streams with the files of a backup: one after the other for each worker, and at the end what was lost with
//! a connection.

use anyhow::{Error, Result, anyhow};

use crate::cli::configuration::BackupConfig;
use crate::commands::completion::say;
use crate::commands::host_locks;
use crate::commands::lost_directories;
use crate::commands::new_entry::Reserved;
use crate::console::progress::{Activity, Counter, Counters, Worker};
use crate::manifest::received_files::ReceivedFiles;
use crate::output::pipe::Commands;
use crate::output::target::{Sink, Streams, Target};
use crate::runtime::cancellation::Cancellation;
use crate::server::connection::Session;
use crate::server::extension::{Extension, Started, WorkerCopy};
use crate::server::manifest_upload::EarlierManifest;
use crate::server::opener::Opener;
use crate::server::workers::{self, Connections, OpenSessions, is_lost};

/// State shared by all threads.
pub struct Shared<'a> {
    /// Manifest of the earlier backup, for an incremental one.
    pub earlier: Option<EarlierManifest>,
    /// Place in a repository, if the backup goes to one.
    pub reserved: Option<Reserved>,
    /// Number of this host, if another host leads the backup.
    pub host: Option<u32>,
    /// The configuration.
    pub config: &'a BackupConfig,
    /// Number of connections for files.
    pub jobs: usize,
    /// Cancellation flag.
    pub cancellation: &'a Cancellation,
    /// The progress.
    pub counters: &'a Counters,
    /// The commands that run.
    pub commands: Commands,
}

impl<'a> Shared<'a> {
    /// What streams have in common that count in `counter`.
    pub fn streams<'b>(&self, received: &'b ReceivedFiles, counter: &'b Counter) -> Streams<'b>
    where
        'a: 'b,
    {
        Streams {
            method: self.config.compress.of_streams().method,
            has_parts: false,
            received,
            cancellation: self.cancellation,
            counter,
        }
    }
}

/// Receives the files, with one thread for each worker.
///
/// # Errors
/// The first error of a worker or of the leader, as the reason of a cancellation.
pub fn run_workers(
    shared: &Shared<'_>,
    (opener, sessions): (&Opener, &OpenSessions),
    (leader, extension): (&Session, &Extension),
    started: &Started,
    target: &Target,
    received: &ReceivedFiles,
) -> Result<()> {
    let Shared {
        config,
        cancellation,
        counters,
        ..
    } = *shared;
    let copies: Vec<_> = target
        .requests()
        .into_iter()
        .map(|request| {
            let size = target.stream_size(config, shared.jobs);
            extension.worker_copy(started, request, size, config)
        })
        .collect();
    let work = |number: usize, worker: &Worker| {
        let name = format!("worker {number}");
        let connections = Connections::new((opener, cancellation), (name, worker), config.retries)
            .with_session(sessions.take(number));
        let worker = (number, worker);
        work(shared, &copies, (worker, connections), target, received)
    };
    workers::run(
        (counters, cancellation),
        (leader, opener.silence),
        &work,
        || {
            let _ = extension.abort(leader);
        },
    )
}

/// Requests directories and links that were lost with a connection.
///
/// # Errors
/// As [`lost_directories::complete`].
pub fn receive_missing(
    shared: &Shared<'_>,
    (leader, extension): (&Session, &Extension),
    started: &Started,
    target: &Target,
    received: &ReceivedFiles,
) -> Result<()> {
    let Shared {
        config, counters, ..
    } = *shared;
    let ask_again = |request, names: &[&str]| {
        let statement = extension.named_copy(started, request, names, config);
        let sink = target.late_sink(request, shared.streams(received, counters.leader()))?;
        receive(leader, &statement, sink, received, None)
    };
    let parts = (leader, extension);
    let wanted = (received, received.has_lost_hosts());
    let gone = lost_directories::complete(parts, started, target, wanted, ask_again)?;
    if gone > 0 {
        say(
            config,
            &format!(
                "{} gone since the backup began",
                lost_directories::count(gone)
            ),
        );
    }
    Ok(())
}

/// Runs one worker, with a new connection after each loss. A stream that has reached its limit is
/// followed by another, so that a loss costs no more than one.
fn work(
    shared: &Shared<'_>,
    copies: &[WorkerCopy],
    ((number, worker), mut connections): ((usize, &Worker), Connections<'_>),
    target: &Target,
    received: &ReceivedFiles,
) -> Result<()> {
    let shown = shared.config.progress.is_some().then_some(worker);
    for copy in copies {
        loop {
            let before = worker.counter.bytes();
            connections.run(|session| {
                worker.begins(Activity::Waiting);
                if let Some(host) = shared.host {
                    host_locks::register_worker(session, host)?;
                }
                let streams = Streams {
                    has_parts: copy.has_parts,
                    ..shared.streams(received, &worker.counter)
                };
                let sink = target.sink(copy.request, number, streams)?;
                receive(session, &copy.statement, sink, received, shown).map_err(|error| {
                    let may_go_on = shared.config.manifest.is_some() || !is_lost(&error);
                    if may_go_on {
                        error
                    } else {
                        cannot_go_on(&error)
                    }
                })
            })?;
            let bytes = worker.counter.bytes() - before;
            if copy.limit.is_none_or(|limit| bytes < limit) {
                break;
            }
        }
    }
    Ok(())
}

/// Error for a lost stream without a manifest. The server may have taken the stream for received,
/// so that its files do not come again, and only a manifest would tell.
fn cannot_go_on(lost: &Error) -> Error {
    anyhow!(
        "{lost:#}\nDETAIL:  Without a manifest nothing tells whether all files that were lost have come again."
    )
}

/// Receives one stream, and reports the current file of a worker. Its files count if it ends well.
///
/// # Errors
/// Errors of the server and of the sink.
pub fn receive(
    session: &Session,
    statement: &str,
    mut sink: Sink<'_>,
    received: &ReceivedFiles,
    worker: Option<&Worker>,
) -> Result<()> {
    let result = session.copy(statement, |bytes| {
        sink.take(bytes)?;
        if let Some((worker, file)) = worker.zip(sink.current()) {
            worker.begins(Activity::Receiving(file));
        }
        Ok(())
    });
    match result {
        Ok(()) => sink.finish(),
        Err(error) if is_lost(&error) => {
            received.lose_stream();
            let file = sink.current();
            sink.discard()?;
            Err(match file {
                Some(file) => error.context(format!("while receiving file \"{file}\"")),
                None => error,
            })
        }
        Err(error) => Err(error),
    }
}
