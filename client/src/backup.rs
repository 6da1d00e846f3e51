//! A backup from its start to its end: one thread leads, each worker has its own, and the main
//! thread looks after signals and the progress.

use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow};

use crate::attend::attend;
use crate::connection::{Opener, Session};
use crate::durable;
use crate::folder::CONTROL_FILE;
use crate::made::Made;
use crate::manifest;
use crate::messages;
use crate::plan::{Format, Plan};
use crate::progress::{Counters, Line};
use crate::received::Received;
use crate::server::{self, Extension, Started};
use crate::signals::Signals;
use crate::standby;
use crate::stdout;
use crate::stop::Stop;
use crate::target::{Request, Sink, Target};
use crate::workers::{self, Connections, give_up, is_lost};

/// What all threads share.
struct Shared<'a> {
    plan: &'a Plan,
    stop: Stop,
    counters: Counters,
}

/// Takes the backup that the options ask for.
///
/// # Errors
/// Whatever keeps it from being complete. What was made has been removed then, if that was wanted.
pub fn run(plan: &Plan) -> Result<()> {
    let signals = Signals::watch()?;
    // May ask for a password, before anything else is on the terminal.
    let (opener, session) = Opener::connect(&plan.address)?;
    server::prepare(&session)?;
    let extension = Extension::find(&session)?;
    if !plan.wal {
        server::show_notices(&session)?;
    }

    // Threads may outlive this function's patience with them.
    let shared: &'static Shared<'static> = Box::leak(Box::new(Shared {
        plan: Box::leak(Box::new(plan.clone())),
        stop: Stop::default(),
        counters: Counters::default(),
    }));
    let made: &'static Mutex<Made> = Box::leak(Box::default());
    let (sender, outcome) = mpsc::channel();
    thread::spawn(move || {
        let result = lead(shared, &opener, &session, &extension, made);
        let _ = sender.send(result);
    });

    let mut line = Line::begin();
    let result = attend("backup", &outcome, &signals, &shared.stop, || {
        if plan.progress {
            line.show(&shared.counters);
        }
    });
    match result {
        // A backup that was complete before a signal came stays.
        Ok(()) => {
            if plan.progress {
                line.finish(&shared.counters);
            }
            Ok(())
        }
        Err(error) => {
            clean_up(plan, &lock(made));
            Err(shared.stop.reason().unwrap_or(error))
        }
    }
}

fn lock(made: &Mutex<Made>) -> MutexGuard<'_, Made> {
    made.lock().unwrap_or_else(PoisonError::into_inner)
}

fn clean_up(plan: &Plan, made: &Made) {
    for path in made.paths() {
        if !plan.clean {
            messages::say(format_args!(
                "\"{}\" is not removed at user's request, and holds no backup",
                path.display()
            ));
        } else if plan.verbose {
            messages::say(format_args!("removing \"{}\"", path.display()));
        }
    }
    if plan.clean
        && let Err(error) = made.remove()
    {
        messages::warn(format_args!("could not remove all that was made: {error}"));
    }
}

fn lead(
    shared: &Shared<'_>,
    opener: &Opener,
    session: &Session,
    extension: &Extension,
    made: &Mutex<Made>,
) -> Result<()> {
    let plan = shared.plan;
    say(plan, "waiting for the checkpoint of the backup's start");
    if plan.to_stdout {
        let statement = extension.whole_copy(plan);
        let (stop, counters) = (&shared.stop, &shared.counters);
        let count = stdout::pass_on(session, &statement, plan.manifest, stop, counters)?;
        say(plan, &format!("base backup of {count} files completed"));
        return Ok(());
    }
    let started = extension.start(session, &plan.into())?;
    let led = (|| {
        shared.stop.check()?;
        let total = &shared.counters.total;
        total.store(started.total_bytes, Ordering::Relaxed);
        say(
            plan,
            &format!(
                "backup of {} files began at {} on timeline {}",
                started.file_count, started.start_lsn, started.timeline
            ),
        );
        let mode = extension.directory_mode(session)?;
        let tablespaces = extension.tablespaces(session)?;
        let target = Target::create(plan, &tablespaces, mode, &mut lock(made))?;
        let received = Received::default();
        run_workers(shared, opener, extension, &started, &target, &received)?;
        say(plan, "all files are here; ending the backup");
        Ok((target, received))
    })();
    let (target, received) = match led {
        Ok(led) => led,
        Err(error) => return Err(give_up(extension, session, &shared.stop, error)),
    };

    let algorithm = server::algorithm(plan);
    let sink = target.sink(
        Request::All,
        0,
        algorithm,
        &shared.stop,
        &shared.counters.done,
    )?;
    receive(session, &extension.closing_copy(plan.wal), sink, &received)
        .context("could not end the backup")?;
    let standby = if plan.standby {
        Some(standby::settings(
            &session.parameters()?,
            plan.slot.as_deref(),
        ))
    } else {
        None
    };
    complete(shared, &target, received, standby, &lock(made))
}

/// Everything has arrived: compares it with the manifest, has it reach the disk, and removes the
/// mark that keeps a server from starting on it.
fn complete(
    shared: &Shared<'_>,
    target: &Target,
    received: Received,
    standby: Option<String>,
    made: &Made,
) -> Result<()> {
    let plan = shared.plan;
    let files = received.into_files();
    if !files.contains_key(CONTROL_FILE) {
        return Err(anyhow!("the server did not send global/pg_control"));
    }
    if let Some(algorithm) = plan.manifest {
        let count = manifest::compare(&target.manifest()?, files, algorithm)?;
        say(plan, &format!("{count} files are as the manifest says"));
    }
    if let Some(settings) = standby {
        target.make_standby(&settings)?;
    }
    shared.stop.check()?;
    if let Some(method) = plan.sync {
        say(plan, "syncing data to disk");
        durable::sync(made, method, plan.jobs, &shared.stop)?;
    }
    shared.stop.check()?;
    target.finish(plan.manifest.is_some())?;
    if plan.sync.is_some() {
        durable::sync_one(&plan.target)?;
        if plan.format == Format::Plain {
            durable::sync_one(&plan.target.join("global"))?;
        }
    }
    say(plan, "base backup completed");
    Ok(())
}

fn run_workers(
    shared: &Shared<'_>,
    opener: &Opener,
    extension: &Extension,
    started: &Started,
    target: &Target,
    received: &Received,
) -> Result<()> {
    let requests: Vec<_> = target
        .requests()
        .into_iter()
        .map(|request| (request, extension.worker_copy(started, request)))
        .collect();
    let work = |number| work(shared, opener, &requests, number, target, received);
    thread::scope(|scope| {
        let (stop, counters) = (&shared.stop, &shared.counters);
        workers::spawn(scope, shared.plan.jobs, stop, counters, &work);
    });
    shared.stop.check()
}

/// One worker, with as many connections as it loses.
fn work(
    shared: &Shared<'_>,
    opener: &Opener,
    requests: &[(Request, String)],
    number: usize,
    target: &Target,
    received: &Received,
) -> Result<()> {
    let algorithm = server::algorithm(shared.plan);
    let mut connections = Connections::new(opener, &shared.stop, number, shared.plan.retries);
    for (request, statement) in requests {
        connections.run(|session| {
            let sink = target.sink(
                *request,
                number,
                algorithm,
                &shared.stop,
                &shared.counters.done,
            )?;
            receive(session, statement, sink, received)
        })?;
    }
    Ok(())
}

/// Receives one stream. Its files count when it has ended well.
fn receive(
    session: &Session,
    statement: &str,
    mut sink: Sink<'_>,
    received: &Received,
) -> Result<()> {
    match session.copy(statement, |bytes| sink.take(bytes)) {
        Ok(()) => {
            received.add(sink.finish()?);
            Ok(())
        }
        Err(error) if is_lost(&error) => {
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

fn say(plan: &Plan, text: &str) {
    if plan.verbose {
        messages::say(text);
    }
}
