//! A backup from its start to its end: one thread leads, each worker has its own, and the main
//! thread looks after signals and the progress.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow};

use crate::connection::{Failure, Opener, Session};
use crate::durable;
use crate::folder::CONTROL_FILE;
use crate::made::{Made, Shelf};
use crate::manifest;
use crate::messages;
use crate::pipe::Commands;
use crate::plan::{Format, Plan};
use crate::progress::Counters;
use crate::received::Received;
use crate::server::{self, Extension, Started};
use crate::signals::Signals;
use crate::standby;
use crate::stdout;
use crate::stop::Stop;
use crate::supervise::{self, Watch};
use crate::target::{Request, Sink, Streams, Target};

/// How long to wait before a connection that was lost is replaced.
const PAUSE: Duration = Duration::from_millis(500);

/// What all threads share.
struct Shared<'a> {
    plan: &'a Plan,
    stop: &'a Stop,
    counters: &'a Counters,
    commands: Commands,
}

impl Shared<'_> {
    fn streams(&self) -> Streams<'_> {
        Streams {
            method: self.plan.compress.of_streams().method,
            algorithm: server::algorithm(self.plan),
            stop: self.stop,
            counter: &self.counters.done,
        }
    }
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

    let watch = Watch {
        name: "backup",
        progress: plan.progress,
    };
    let (made, commands, owned) = (Shelf::default(), Commands::default(), plan.clone());
    let (shelf, running) = (made.clone(), commands.clone());
    let kill = || commands.kill();
    let result = supervise::run(watch, &signals, kill, move |shared| {
        let shared = Shared {
            plan: &owned,
            stop: &shared.stop,
            counters: &shared.counters,
            commands: running,
        };
        lead(&shared, &opener, &session, &extension, &shelf)
    });
    result.inspect_err(|_| made.clean_up(plan.clean, plan.verbose))
}

fn lead(
    shared: &Shared<'_>,
    opener: &Opener,
    session: &Session,
    extension: &Extension,
    made: &Shelf,
) -> Result<()> {
    let plan = shared.plan;
    say(plan, "waiting for the checkpoint of the backup's start");
    if plan.to_stdout {
        let statement = extension.whole_copy(plan);
        let (stop, counters) = (shared.stop, shared.counters);
        let count = stdout::pass_on(session, &statement, plan, stop, counters)?;
        say(plan, &format!("base backup of {count} files completed"));
        return Ok(());
    }
    let started = extension.start(session, plan)?;
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
        let target = Target::create(plan, &tablespaces, &shared.commands, mode, &mut made.lock())?;
        let received = Received::default();
        run_workers(shared, opener, extension, &started, &target, &received)?;
        say(plan, "all files are here; ending the backup");
        Ok((target, received))
    })();
    let (target, received) = match led {
        Ok(led) => led,
        // The end of the session would end the backup too; like this it is at once.
        Err(error) => match extension.abort(session) {
            // That is why the workers failed.
            Err(lost) if is_lost(&lost) => {
                drop(shared.stop.reason());
                return Err(lost.context("the connection that leads the backup was lost"));
            }
            _ => return Err(error),
        },
    };

    let sink = target.sink(Request::All, 0, shared.streams())?;
    receive(session, &extension.closing_copy(plan), sink, &received)
        .context("could not end the backup")?;
    let standby = if plan.standby {
        Some(standby::settings(
            &session.parameters()?,
            plan.slot.as_deref(),
        ))
    } else {
        None
    };
    complete(shared, &target, received, standby, &made.lock())
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
    target.end(plan.manifest.is_some(), shared.stop)?;
    if plan.sync.is_some() {
        say(plan, "syncing data to disk");
    }
    let mut last = vec![plan.target.clone()];
    if plan.format == Format::Plain {
        last.push(plan.target.join("global"));
    }
    durable::complete(plan.sync, made, plan.jobs, shared.stop, &last, || {
        target.finish(plan.manifest.is_some())
    })?;
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
        .map(|request| {
            (
                request,
                extension.worker_copy(started, request, shared.plan),
            )
        })
        .collect();
    let work = |number: usize| {
        shared.counters.workers.fetch_add(1, Ordering::Relaxed);
        let result = work(shared, opener, &requests, number, target, received);
        shared.counters.workers.fetch_sub(1, Ordering::Relaxed);
        if let Err(error) = result {
            // The others have nothing to work for.
            shared
                .stop
                .fail(error.context(format!("worker {number} failed")));
        }
    };
    thread::scope(|scope| {
        for number in 0..shared.plan.jobs {
            scope.spawn(move || work(number));
        }
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
    let mut retries = shared.plan.retries;
    let mut session = None;
    let mut requests = requests.iter().peekable();
    while let Some((request, statement)) = requests.peek() {
        shared.stop.check()?;
        let result = (|| {
            let session = match session.take() {
                Some(session) => session,
                None => server::open(opener)?,
            };
            let sink = target.sink(*request, number, shared.streams())?;
            receive(&session, statement, sink, received)?;
            Ok(session)
        })();
        match result {
            Ok(open) => {
                session = Some(open);
                requests.next();
            }
            Err(error) if retries > 0 && is_lost(&error) && !shared.stop.is_requested() => {
                retries -= 1;
                messages::warn(format_args!(
                    "worker {number} lost its connection and gets another: {error:#}"
                ));
                // What ended it may last a moment.
                shared.stop.wait(PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn is_lost(error: &Error) -> bool {
    error
        .downcast_ref::<Failure>()
        .is_some_and(|failure| failure.connection_lost)
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
