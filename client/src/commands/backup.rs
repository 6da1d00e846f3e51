//! Backup from start to end: one thread leads, each worker has its own, and the main thread watches
//! for signals and displays the progress.

use anyhow::{Context, Error, Result, anyhow};

use crate::cli::configuration::BackupConfig;
use crate::commands::archive_wait;
use crate::commands::completion::{self, say};
use crate::commands::lost_directories;
use crate::commands::standby::{self, Standby};
use crate::console::messages;
use crate::console::progress::{Activity, Counter, Counters, Expected, Phase, Worker};
use crate::manifest::received_files::ReceivedFiles;
use crate::output::cleanup::SharedCleanupList;
use crate::output::free_space;
use crate::output::pipe::Commands;
use crate::output::standard_output;
use crate::output::target::{Sink, Streams, Target};
use crate::runtime::cancellation::Cancellation;
use crate::runtime::signals::Signals;
use crate::runtime::supervisor::{self, Watch};
use crate::server::cancel_statement::interruptible;
use crate::server::connection::Session;
use crate::server::extension::{self, Extension, Started};
use crate::server::opener::{self, Opener};
use crate::server::requirements;
use crate::server::session;
use crate::server::silence;
use crate::server::workers::{self, Connections, OpenSessions, give_up, is_lost};
use crate::stream::part::Request;

/// State shared by all threads.
struct Shared<'a> {
    config: &'a BackupConfig,
    /// Number of connections for files.
    jobs: usize,
    cancellation: &'a Cancellation,
    counters: &'a Counters,
    commands: Commands,
}

impl<'a> Shared<'a> {
    fn streams<'b>(&self, received: &'b ReceivedFiles, counter: &'b Counter) -> Streams<'b>
    where
        'a: 'b,
    {
        Streams {
            method: self.config.compress.of_streams().method,
            received,
            cancellation: self.cancellation,
            counter,
        }
    }
}

/// Takes a backup.
///
/// # Errors
/// Whatever keeps it from being complete. What was made has been removed then, if that was wanted.
pub fn run(config: &BackupConfig) -> Result<()> {
    // May ask for a password, before anything else is on the terminal.
    let (opener, mut session) = Opener::connect(&config.address)?;
    session::prepare(&mut session, &opener)?;
    let extension = Extension::find(&session)?;
    check_privileges(config, &session)?;
    if !config.wal {
        session::show_notices(&session)?;
    }
    if config.manifest_force_encode {
        extension.force_encode(&session)?;
    }
    let jobs = if config.to_stdout {
        // The session that leads sends everything.
        0
    } else {
        extension.jobs(&session, config.jobs)?
    };

    let signals = Signals::watch()?;
    let watch = Watch {
        name: "backup",
        progress: config.progress,
        first: Phase::Starting,
        workers: jobs,
    };
    let (cleanup, commands, owned) = (
        SharedCleanupList::default(),
        Commands::default(),
        config.clone(),
    );
    let (shared_cleanup, running) = (cleanup.clone(), commands.clone());
    let kill = || commands.kill();
    let result = supervisor::run(watch, &signals, kill, move |shared| {
        let shared = Shared {
            config: &owned,
            jobs,
            cancellation: &shared.cancellation,
            counters: &shared.counters,
            commands: running,
        };
        lead(&shared, &opener, &mut session, &extension, &shared_cleanup)
    });
    result.inspect_err(|_| cleanup.clean_up(config.clean, config.verbose))
}

/// Checks that the role may call what the backup needs.
fn check_privileges(config: &BackupConfig, session: &Session) -> Result<()> {
    if config.to_stdout {
        return requirements::check_functions(session, &["base_backup"]);
    }
    requirements::check_functions(session, &requirements::OF_A_BACKUP)?;
    if config.retries > 0
        && let Some(lacks) = requirements::lacks(session, requirements::AFTER_A_LOSS)?
    {
        messages::warn(format_args!(
            "the loss of a connection may end the backup\nDETAIL:  {lacks}"
        ));
    }
    Ok(())
}

fn lead(
    shared: &Shared<'_>,
    opener: &Opener,
    session: &mut Session,
    extension: &Extension,
    cleanup: &SharedCleanupList,
) -> Result<()> {
    let Shared {
        config,
        cancellation,
        counters,
        ..
    } = *shared;
    let archives = extension::waits_for_archive(config) && session::archives(session)?;
    if archives {
        counters.expect_archiving();
    }
    say(config, "waiting for the checkpoint of the backup's start");
    if config.to_stdout {
        let statement = extension.whole_copy(config);
        let count = interruptible(session, opener, cancellation, |session| {
            standard_output::pass_on(session, &statement, config, cancellation, counters)
        })?;
        say(config, &format!("base backup of {count} files completed"));
        return Ok(());
    }
    let sessions = requirements::open_workers((opener, session), shared.jobs, cancellation)?;
    let sessions = OpenSessions::new(sessions);
    let started = interruptible(session, opener, cancellation, |session| {
        extension.start(session, &config.into())
    })?;
    let led = (|| {
        cancellation.check()?;
        silence::end_without_heartbeat(session, opener)?;
        counters.expect(Expected {
            bytes: started.total_bytes,
            files: started.file_count,
        });
        say(
            config,
            &format!(
                "backup of {} files began at {} on timeline {}",
                started.file_count, started.start_lsn, started.timeline
            ),
        );
        let mode = extension.directory_mode(session)?;
        let tablespaces = extension.tablespaces(session)?;
        if config.space_check {
            let sizes = extension.tablespace_sizes(session)?;
            free_space::check(config, &started, &tablespaces, &sizes)?;
        }
        let archives = (shared.jobs, &shared.commands);
        let target = Target::create(config, &tablespaces, archives, mode, &mut cleanup.lock())?;
        let received = ReceivedFiles::new(extension::algorithm(config));
        counters.enter(Phase::Copying);
        run_workers(
            shared,
            (opener, &sessions),
            (session, extension),
            &started,
            &target,
            &received,
        )?;
        receive_missing(shared, (session, extension), &started, &target, &received)?;
        say(config, "all files received; ending the backup");
        Ok((target, received))
    })();
    let (target, received) = match led {
        Ok(led) => led,
        Err(error) => return Err(give_up(extension, session, cancellation, error)),
    };

    counters.enter(Phase::Ending);
    let statement = extension.closing_copy(config);
    let mut close = || {
        interruptible(session, opener, cancellation, |session| {
            let sink = target.sink(
                Request::All,
                (0, 0),
                shared.streams(&received, counters.leader()),
            )?;
            receive(session, &statement, sink, &received, None)
        })
    };
    let closed = if archives {
        let arrived = counters.leader().bytes();
        let is_over = || counters.leader().bytes() > arrived;
        archive_wait::watch(config.archive_timeout, cancellation, is_over, close)
    } else {
        close()
    };
    closed.context("could not end the backup")?;
    let standby = if config.standby {
        Some(standby::settings(&Standby {
            server_version: session.server_version(),
            conninfo: &session.parameters()?,
            database: opener::named_database(&config.address)?.as_deref(),
            slot: config.slot.as_deref(),
        }))
    } else {
        None
    };
    // A lock that is held while the disk is waited for would keep the main thread from ending.
    let cleanup = cleanup.lock().clone();
    let parts = (shared.jobs, cancellation, counters);
    completion::complete(config, parts, &target, received, standby, &cleanup)
}

fn run_workers(
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
    let requests: Vec<_> = target
        .requests()
        .into_iter()
        .map(|request| {
            let size = target.stream_size(config, shared.jobs);
            let (statement, limit) = extension.worker_copy(started, request, size, config);
            (request, statement, limit)
        })
        .collect();
    let work = |number: usize, worker: &Worker| {
        let connections =
            Connections::new((opener, cancellation), (number, worker), config.retries)
                .with_session(sessions.take(number));
        work(shared, &requests, connections, target, received)
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
fn receive_missing(
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
    let gone = lost_directories::complete(parts, started, target, received, ask_again)?;
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
    requests: &[(Request, String, Option<u64>)],
    mut connections: Connections<'_>,
    target: &Target,
    received: &ReceivedFiles,
) -> Result<()> {
    let Connections { number, worker, .. } = connections;
    let shown = shared.config.progress.is_some().then_some(worker);
    for (request, statement, limit) in requests {
        for stream in 0.. {
            let before = worker.counter.bytes();
            connections.run(|session| {
                worker.begins(Activity::Waiting);
                let streams = shared.streams(received, &worker.counter);
                let sink = target.sink(*request, (number, stream), streams)?;
                receive(session, statement, sink, received, shown).map_err(|error| {
                    let may_go_on = shared.config.manifest.is_some() || !is_lost(&error);
                    if may_go_on {
                        error
                    } else {
                        cannot_go_on(&error)
                    }
                })
            })?;
            let bytes = worker.counter.bytes() - before;
            if limit.is_none_or(|limit| bytes < limit) {
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
fn receive(
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
            sink.discard();
            Err(match file {
                Some(file) => error.context(format!("while receiving file \"{file}\"")),
                None => error,
            })
        }
        Err(error) => Err(error),
    }
}
