//! A backup from its start to its end: one thread leads, each worker has its own, and the main
//! thread looks after signals and the progress.

use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow};

use crate::connection::{Failure, Opener, Session};
use crate::durable;
use crate::folder::CONTROL_FILE;
use crate::made::Made;
use crate::manifest;
use crate::options::{Format, Plan};
use crate::progress::{Counters, Line};
use crate::received::Received;
use crate::server::{self, Extension, Started};
use crate::signals::Signals;
use crate::stop::Stop;
use crate::target::{Request, Sink, Target};

/// How often the main thread looks around.
const LOOK: Duration = Duration::from_millis(100);
/// How long threads may take to stop after a signal. They hold connections, whose end the server
/// notices when the program ends.
const PATIENCE: Duration = Duration::from_secs(3);

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

    // Threads may outlive this function's patience with them: see end_after_signal().
    let shared: &'static Shared<'static> = Box::leak(Box::new(Shared {
        plan: Box::leak(Box::new(plan.clone())),
        stop: Stop::default(),
        counters: Counters::default(),
    }));
    let made: &'static std::sync::Mutex<Made> = Box::leak(Box::default());
    let (sender, outcome) = mpsc::channel();
    let leader = thread::spawn(move || {
        let result = lead(shared, &opener, &session, &extension, made);
        let _ = sender.send(result);
    });

    let mut line = Line::begin();
    let result = loop {
        match outcome.recv_timeout(LOOK) {
            Ok(result) => break result,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break Err(anyhow!("the leading thread ended")),
        }
        if plan.progress {
            line.show(&shared.counters);
        }
        if let Some(name) = signals.received() {
            shared.stop.request();
            break end_after_signal(name, &outcome);
        }
    };
    match result {
        Ok(()) => {
            if plan.progress {
                line.finish(&shared.counters);
            }
            let _ = leader.join();
            Ok(())
        }
        Err(error) => {
            line.interrupt();
            clean_up(
                plan,
                &made
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner),
            );
            Err(error)
        }
    }
}

/// Waits for the threads to stop, a while. One that waits for the server is left to the end of the
/// program.
fn end_after_signal(name: &str, outcome: &mpsc::Receiver<Result<()>>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    // A backup that was complete by then stays.
    if let Ok(Ok(())) = outcome.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        return Ok(());
    }
    Err(anyhow!("received {name}, and ended the backup"))
}

fn clean_up(plan: &Plan, made: &Made) {
    let mut paths = made.paths().peekable();
    if paths.peek().is_none() {
        return;
    }
    if !plan.clean {
        for path in paths {
            eprintln!(
                "pg_parallel_backup: \"{}\" is not removed: it holds no backup",
                path.display()
            );
        }
        return;
    }
    if plan.verbose {
        for path in paths {
            eprintln!("pg_parallel_backup: removing \"{}\"", path.display());
        }
    }
    if let Err(error) = made.remove() {
        eprintln!("pg_parallel_backup: warning: could not remove all that was made: {error}");
    }
}

fn lead(
    shared: &Shared<'_>,
    opener: &Opener,
    session: &Session,
    extension: &Extension,
    made: &std::sync::Mutex<Made>,
) -> Result<()> {
    let plan = shared.plan;
    say(plan, "waiting for the checkpoint of the backup's start");
    let started = extension.start(session, plan)?;
    shared.stop.check()?;
    shared
        .counters
        .total
        .store(started.total_bytes, Ordering::Relaxed);
    say(
        plan,
        &format!(
            "backup of {} files began at {} on timeline {}",
            started.file_count, started.start_lsn, started.timeline
        ),
    );
    let led = (|| {
        let tablespaces = extension.tablespaces(session)?;
        let target = {
            let mut made = made
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            Target::create(plan, &tablespaces, &mut made)?
        };
        let received = Received::default();
        run_workers(shared, opener, extension, &started, &target, &received)?;
        say(plan, "all files are here; ending the backup");
        Ok((target, received))
    })();
    let (target, received) = match led {
        Ok(led) => led,
        Err(error) => {
            // The end of the session would end it too; like this it is at once.
            let _ = extension.abort(session);
            return Err(error);
        }
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
    shared.stop.check()?;
    complete(shared, &target, received, made)
}

/// Everything has arrived: compares it with the manifest, has it reach the disk, and removes the
/// mark that keeps a server from starting on it.
fn complete(
    shared: &Shared<'_>,
    target: &Target,
    received: Received,
    made: &std::sync::Mutex<Made>,
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
    let made = made
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(method) = plan.sync {
        say(plan, "syncing data to disk");
        durable::sync(made.paths(), method, plan.jobs)?;
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
    let work = |number: usize| {
        shared.counters.workers.fetch_add(1, Ordering::Relaxed);
        let result = work(shared, opener, &requests, number, target, received)
            .with_context(|| format!("worker {number} failed"));
        shared.counters.workers.fetch_sub(1, Ordering::Relaxed);
        if result.is_err() {
            // The others have nothing to work for.
            shared.stop.request();
        }
        result
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..shared.plan.jobs)
            .map(|number| scope.spawn(move || work(number)))
            .collect();
        let mut first = None;
        for worker in workers {
            let result = worker
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a worker panicked")));
            // Those that were only told to stop say nothing about the reason.
            if let Err(error) = result
                && (first.is_none() || is_stop(first.as_ref()))
            {
                first = Some(error);
            }
        }
        first.map_or(Ok(()), Err)
    })
}

fn is_stop(error: Option<&Error>) -> bool {
    error.is_some_and(|error| error.root_cause().to_string() == "stopped")
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
            let sink = target.sink(
                *request,
                number,
                algorithm,
                &shared.stop,
                &shared.counters.done,
            )?;
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
                eprintln!(
                    "pg_parallel_backup: warning: worker {number} lost its connection, and gets another: {error:#}"
                );
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
    session.copy(statement, |bytes| sink.take(bytes))?;
    received.add(sink.finish()?);
    Ok(())
}

fn say(plan: &Plan, text: &str) {
    if plan.verbose {
        eprintln!("pg_parallel_backup: {text}");
    }
}
