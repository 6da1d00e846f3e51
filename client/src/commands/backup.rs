//! Backup from start to end: one thread leads, each worker has its own, and the main thread watches
//! for signals and displays the progress.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use backup_format::wal::SegmentSize;

use crate::cli::configuration::{BackupConfig, WalMethod};
use crate::commands::archive_wait;
use crate::commands::completion::{self, say};
use crate::commands::file_streams::{self, Shared};
use crate::commands::hosts;
use crate::commands::new_entry;
use crate::commands::standby::{self, Standby};
use crate::commands::wal_stream::{self, WalReception};
use crate::console::messages;
use crate::console::progress::{Expected, Phase};
use crate::manifest::received_files::ReceivedFiles;
use crate::output::cleanup::SharedCleanupList;
use crate::output::free_space;
use crate::output::pipe::Commands;
use crate::output::standard_output;
use crate::output::target::Target;
use crate::output::wal_store::WalStore;
use crate::runtime::signals::Signals;
use crate::runtime::supervisor::{self, Watch};
use crate::server::cancel_statement::interruptible;
use crate::server::connection::Session;
use crate::server::extension::{self, Extension, Started};
use crate::server::manifest_upload;
use crate::server::opener::{self, Opener};
use crate::server::replication_slot::CreatedSlot;
use crate::server::requirements::{self, Wanted};
use crate::server::session;
use crate::server::silence;
use crate::server::workers::{Connections, OpenSessions, give_up};

/// Takes a backup.
///
/// # Errors
/// Whatever keeps it from being complete. What was made has been removed then, if that was wanted.
pub fn run(config: &BackupConfig) -> Result<()> {
    // May ask for a password, before anything else is on the terminal.
    let (mut opener, mut session) = Opener::connect(&config.address)?;
    session::prepare(&mut session, &opener)?;
    let extension = Extension::find(&session)?;
    if extension.has_send_wal() {
        // It came with the same version.
        opener.allow_largest_records();
    }
    let config = &choose_wal_method(config, &extension)?;
    check_privileges(config, &session)?;
    let earlier = match &config.incremental {
        Some(earlier) => Some(manifest_upload::check(&session, earlier)?),
        None => None,
    };
    let reserved = match &config.repository {
        Some(repository) => Some(new_entry::reserve(repository)?),
        None => None,
    };
    if config.wal == WalMethod::None {
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
    let slot = match &config.slot {
        Some(slot) => CreatedSlot::prepare(&session, slot)?,
        None => None,
    };
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
    let (aside, kill) = (opener.clone(), || commands.kill());
    let result = supervisor::run(watch, &signals, kill, move |shared| {
        let shared = Shared {
            earlier,
            reserved,
            host: None,
            config: &owned,
            jobs,
            cancellation: &shared.cancellation,
            counters: &shared.counters,
            commands: running,
        };
        lead(&shared, &opener, &mut session, &extension, &shared_cleanup)
    });
    result.inspect_err(|_| {
        cleanup.clean_up(config.clean, config.verbose);
        if let Some(slot) = slot {
            slot.drop_after_failure(&aside);
        }
    })
}

/// The configuration with a method for WAL that the extension knows.
fn choose_wal_method(config: &BackupConfig, extension: &Extension) -> Result<BackupConfig> {
    let mut config = config.clone();
    if config.wal == WalMethod::Stream && !extension.has_send_wal() {
        const HINT: &str = "HINT:  Run ALTER EXTENSION pg_parallel_backup UPDATE.";
        let lacks = "the extension on the server is too old to stream WAL";
        ensure!(
            !config.wal_is_chosen && config.slot.is_none(),
            "{lacks}\n{HINT}"
        );
        messages::warn(format_args!("{lacks}, which is fetched at the end\n{HINT}"));
        config.wal = WalMethod::Fetch;
    }
    Ok(config)
}

/// Checks that the role may call what the backup needs.
fn check_privileges(config: &BackupConfig, session: &Session) -> Result<()> {
    if config.to_stdout {
        return requirements::check_functions(session, &["base_backup"]);
    }
    let of_wal = (config.wal == WalMethod::Stream).then_some(requirements::OF_A_WAL_STREAM);
    let functions: Vec<_> = requirements::OF_A_BACKUP
        .into_iter()
        .chain(of_wal)
        .collect();
    requirements::check_functions(session, &functions)?;
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
    if config.wal == WalMethod::Stream {
        counters.expect_wal_stream();
    }
    if let Some(manifest) = &shared.earlier {
        say(config, "uploading the manifest of the earlier backup");
        interruptible(session, opener, cancellation, |session| {
            manifest_upload::upload(extension, session, manifest, cancellation)
        })?;
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
    let wanted = Wanted {
        workers: shared.jobs,
        wal: config.wal == WalMethod::Stream,
    };
    let sessions = requirements::open_workers((opener, session), wanted, cancellation)?;
    let native = sessions
        .iter()
        .filter(|session| session.is_native())
        .count();
    if native > 0 {
        say(
            config,
            &format!("{native} connections carry streams without libpq"),
        );
    }
    let sessions = OpenSessions::new(sessions);
    let started = interruptible(session, opener, cancellation, |session| {
        extension.start(session, &config.into())
    })?;
    let prepared = prepare(shared, (opener, session), extension, &started, cleanup);
    let (target, segment_size) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Err(give_up(extension, session, cancellation, error)),
    };
    let received = ReceivedFiles::new(extension::algorithm(config));
    let store = target.wal_store(config, segment_size, cancellation);
    let ending = AtomicBool::new(false);
    thread::scope(|scope| {
        if let Some(store) = &store {
            let (sessions, ending, started) = (&sessions, &ending, &started);
            scope.spawn(move || {
                let worker = counters.wal();
                let parts = (wal_stream::NAME.to_owned(), worker);
                let connections = Connections::new((opener, cancellation), parts, config.retries)
                    .with_session(sessions.take(wanted.workers));
                let reception = WalReception {
                    config,
                    extension,
                    started,
                    store,
                    cancellation,
                    ending,
                };
                reception.run(connections, worker);
            });
        }
        let parts = (&target, &received, store.as_ref());
        let copied = copy(
            shared,
            (opener, &sessions),
            (session, extension),
            &started,
            parts,
        );
        // From here on the WAL stream ends by itself.
        ending.store(true, Ordering::Release);
        if let Err(error) = copied {
            return Err(give_up(extension, session, cancellation, error));
        }
        close(shared, (opener, session), extension, archives, parts)
    })?;
    cancellation.check()?;
    let standby = if config.standby {
        Some(standby::settings(&Standby {
            server_version: session.server_version()?,
            conninfo: &session.parameters()?,
            database: opener::named_database(&config.address)?.as_deref(),
            slot: config.slot.as_ref().map(|slot| slot.name.as_str()),
        }))
    } else {
        None
    };
    // A lock that is held while the disk is waited for would keep the main thread from ending.
    let cleanup = cleanup.lock().clone();
    let parts = (shared.jobs, cancellation, counters);
    let wal = match &store {
        Some(store) => Some((store, started.start()?)),
        None => None,
    };
    completion::complete(config, parts, (&target, wal), received, standby, &cleanup)
}

/// What a backup begins with once it has started: its target, and for streamed WAL the size of segments.
fn prepare(
    shared: &Shared<'_>,
    (opener, session): (&Opener, &Session),
    extension: &Extension,
    started: &Started,
    cleanup: &SharedCleanupList,
) -> Result<(Target, Option<SegmentSize>)> {
    let Shared {
        config,
        cancellation,
        counters,
        ..
    } = *shared;
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
    if config.repository.is_some() {
        let text = format!("other hosts join it with --backup-id {}", started.backup_id);
        say(config, &text);
    }
    let mode = extension.directory_mode(session)?;
    let tablespaces = extension.tablespaces(session, None)?;
    if config.space_check {
        let sizes = extension.tablespace_sizes(session)?;
        free_space::check(config, started, &tablespaces, &sizes)?;
    }
    let segment_size = match config.wal {
        WalMethod::Stream => Some(session::wal_segment_size(session)?),
        WalMethod::None | WalMethod::Fetch => None,
    };
    let archives = (shared.jobs, &shared.commands);
    let entry = match &shared.reserved {
        Some(reserved) => Some(new_entry::describe(
            config,
            (reserved.clone(), shared.earlier.as_ref()),
            session,
            started,
        )?),
        None => None,
    };
    let cleanup = &mut cleanup.lock();
    let target = Target::create(config, &tablespaces, archives, mode, entry, cleanup)?;
    Ok((target, segment_size))
}

/// Where the files of a backup go: its target, the record of what has arrived, and the store of its WAL.
type Parts<'a> = (&'a Target, &'a ReceivedFiles, Option<&'a WalStore<'a>>);

/// Receives all files but the last.
fn copy(
    shared: &Shared<'_>,
    workers: (&Opener, &OpenSessions),
    (session, extension): (&Session, &Extension),
    started: &Started,
    (target, received, _): Parts<'_>,
) -> Result<()> {
    shared.counters.enter(Phase::Copying);
    let leader = (session, extension);
    file_streams::run_workers(shared, workers, leader, started, target, received)?;
    hosts::receive(shared, workers, leader, started, target, received)?;
    file_streams::receive_missing(shared, leader, started, target, received)?;
    say(shared.config, "all files received; ending the backup");
    Ok(())
}

/// Stops the backup and receives the last files.
fn close(
    shared: &Shared<'_>,
    (opener, session): (&Opener, &mut Session),
    extension: &Extension,
    archives: bool,
    (target, received, store): Parts<'_>,
) -> Result<()> {
    let Shared {
        config,
        cancellation,
        counters,
        ..
    } = *shared;
    counters.enter(Phase::Ending);
    let statement = extension.closing_copy(config);
    let mut close = || {
        interruptible(session, opener, cancellation, |session| {
            let wal = store.map(|store| (store, &counters.wal().counter));
            let streams = shared.streams(received, counters.leader());
            let sink = target.closing_sink(streams, wal)?;
            file_streams::receive(session, &statement, sink, received, None)
        })
    };
    let closed = if archives {
        let arrived = counters.leader().bytes();
        let is_over = || counters.leader().bytes() > arrived;
        archive_wait::watch(config.archive_timeout, cancellation, is_over, close)
    } else {
        close()
    };
    closed.context("could not end the backup")
}
