//! A backup from its start to its end: one thread leads, each worker has its own, and the main
//! thread looks after signals and the progress.

use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context, Result, anyhow};

use crate::attend::attend;
use crate::connection::{Opener, Session};
use crate::durable;
use crate::folder::CONTROL_FILE;
use crate::interrupt::interruptible;
use crate::made::Made;
use crate::manifest;
use crate::messages;
use crate::plan::{Format, Plan};
use crate::progress::{Counters, Doing, Expected, Line, Phase, Worker};
use crate::received::Received;
use crate::server::{self, Extension, Start, Started};
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
    // May ask for a password, before anything else is on the terminal. A signal just ends the
    // program meanwhile.
    let (opener, mut session) = Opener::connect(&plan.address)?;
    let signals = Signals::watch()?;
    server::prepare(&session)?;
    let extension = Extension::find(&session)?;
    if !plan.wal {
        server::show_notices(&session)?;
    }

    // Threads may outlive this function's patience with them.
    let shared: &'static Shared<'static> = Box::leak(Box::new(Shared {
        plan: Box::leak(Box::new(plan.clone())),
        stop: Stop::default(),
        counters: Counters::new(if plan.to_stdout { 0 } else { plan.jobs }),
    }));
    let made: &'static Mutex<Made> = Box::leak(Box::default());
    let (sender, outcome) = mpsc::channel();
    thread::spawn(move || {
        let result = lead(shared, &opener, &mut session, &extension, made);
        let _ = sender.send(result);
    });

    let mut line = Line::begin(plan.progress);
    let result = attend("backup", &outcome, &signals, &shared.stop, || {
        line.show(&shared.counters);
    });
    shared.counters.enter(match result {
        Ok(()) => Phase::Done,
        Err(_) => Phase::Failed,
    });
    line.finish(&shared.counters);
    match result {
        // A backup that was complete before a signal came stays.
        Ok(()) => Ok(()),
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
    session: &mut Session,
    extension: &Extension,
    made: &Mutex<Made>,
) -> Result<()> {
    let Shared {
        plan,
        stop,
        counters,
    } = shared;
    say(plan, "waiting for the checkpoint of the backup's start");
    if plan.to_stdout {
        let statement = extension.whole_copy(plan);
        let count = interruptible(session, opener, stop, |session| {
            stdout::pass_on(session, &statement, plan.manifest, stop, counters)
        })?;
        say(plan, &format!("base backup of {count} files completed"));
        return Ok(());
    }
    let started = interruptible(session, opener, stop, |session| {
        extension.start(session, &Start::from(*plan))
    })?;
    let led = (|| {
        stop.check()?;
        counters.expect(Expected {
            bytes: started.total_bytes,
            files: started.file_count,
        });
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
        counters.enter(Phase::Copying);
        run_workers(
            shared,
            opener,
            (session, extension),
            &started,
            &target,
            &received,
        )?;
        say(plan, "all files are here; ending the backup");
        Ok((target, received))
    })();
    let (target, received) = match led {
        Ok(led) => led,
        Err(error) => return Err(give_up(extension, session, stop, error)),
    };

    counters.enter(Phase::Ending);
    let algorithm = server::algorithm(plan);
    let statement = extension.closing_copy(plan.wal);
    let closed = interruptible(session, opener, stop, |session| {
        let sink = target.sink(Request::All, 0, algorithm, stop, counters.leader())?;
        receive(session, &statement, sink, &received, None)
    });
    closed.context("could not end the backup")?;
    let standby = if plan.standby {
        Some(standby::settings(
            &session.parameters()?,
            plan.slot.as_deref(),
        ))
    } else {
        None
    };
    // A lock that is held while the disk is waited for would keep the main thread from ending.
    let made = lock(made).clone();
    complete(shared, &target, received, standby, &made)
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
    let Shared {
        plan,
        stop,
        counters,
    } = shared;
    counters.enter(Phase::Comparing);
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
    stop.check()?;
    if let Some(method) = plan.sync {
        say(plan, "syncing data to disk");
        counters.enter(Phase::Syncing);
        durable::sync(made, method, plan.jobs, stop)?;
    }
    stop.check()?;
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
    (leader, extension): (&Session, &Extension),
    started: &Started,
    target: &Target,
    received: &Received,
) -> Result<()> {
    let requests: Vec<_> = target
        .requests()
        .into_iter()
        .map(|request| (request, extension.worker_copy(started, request)))
        .collect();
    let work = |number: usize, worker: &Worker| {
        let connections = Connections::new(
            (opener, &shared.stop),
            (number, worker),
            shared.plan.retries,
        );
        work(shared, &requests, connections, target, received)
    };
    workers::run(&shared.counters, &shared.stop, &work, || {
        let _ = extension.abort(leader);
    })
}

/// One worker, with as many connections as it loses.
fn work(
    shared: &Shared<'_>,
    requests: &[(Request, String)],
    mut connections: Connections<'_>,
    target: &Target,
    received: &Received,
) -> Result<()> {
    let (number, worker) = (connections.number, connections.worker);
    let algorithm = server::algorithm(shared.plan);
    let shown = shared.plan.progress.is_some().then_some(worker);
    for (request, statement) in requests {
        connections.run(|session| {
            worker.begins(Doing::Waiting);
            let counter = &worker.counter;
            let sink = target.sink(*request, number, algorithm, &shared.stop, counter)?;
            receive(session, statement, sink, received, shown)
        })?;
    }
    Ok(())
}

/// Receives one stream, and shows what a worker receives. Its files count when it has ended well.
fn receive(
    session: &Session,
    statement: &str,
    mut sink: Sink<'_>,
    received: &Received,
    worker: Option<&Worker>,
) -> Result<()> {
    let result = session.copy(statement, |bytes| {
        sink.take(bytes)?;
        if let Some((worker, file)) = worker.zip(sink.current()) {
            worker.begins(Doing::Receiving(file));
        }
        Ok(())
    });
    match result {
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
