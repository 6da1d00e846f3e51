//! `check`: reads and verifies every file of a running cluster, by several connections at once, and
//! names what is damaged.
//!
//! The server reads and verifies the files as for a backup, into the blackhole. Each worker names
//! files in batches. A batch that ends early, because a file cannot be read, is repeated file by
//! file, so that no file hides another.

mod damage;
mod queue;
mod relations;
mod report;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Error, Result, ensure};

use crate::cli::configuration::CheckConfig;
use crate::console::escape;
use crate::console::messages;
use crate::console::progress::{Activity, Counters, Expected, Phase, Tally, Worker};
use crate::console::stderr;
use crate::runtime::cancellation::Cancellation;
use crate::runtime::signals::Signals;
use crate::runtime::supervisor::{self, Watch};
use crate::server::cancel_statement::interruptible;
use crate::server::connection::{Failure, Session};
use crate::server::extension::{DAMAGE, Extension, ListedFile, Started};
use crate::server::opener::Opener;
use crate::server::requirements::{self, Wanted};
use crate::server::session;
use crate::server::silence;
use crate::server::start_arguments::Start;
use crate::server::workers::{self, Connections, OpenSessions, give_up};

use damage::Findings;
use queue::Queue;
use relations::Named;

/// State shared by all threads.
struct Shared<'a> {
    config: &'a CheckConfig,
    cancellation: &'a Cancellation,
    counters: &'a Counters,
    findings: &'a Mutex<Findings>,
    /// Damage reported for the current files.
    heard: &'a Mutex<Findings>,
}

impl Shared<'_> {
    fn findings(&self) -> MutexGuard<'_, Findings> {
        locked(self.findings)
    }
}

fn locked(findings: &Mutex<Findings>) -> MutexGuard<'_, Findings> {
    findings.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Result of the check.
struct Checked {
    files: usize,
    bytes: u64,
    damaged: Vec<Named>,
}

/// Checks a cluster and reports damage.
///
/// # Errors
/// Where something is, and whatever keeps a file from being looked at.
pub fn run(config: &CheckConfig) -> Result<()> {
    // May ask for a password, before anything else is on the terminal.
    let (mut opener, mut session) = Opener::connect(&config.address)?;
    session::prepare(&mut session, &opener)?;
    let extension = Extension::find(&session)?;
    if extension.has_send_wal() {
        // It came with the same version.
        opener.allow_largest_records();
    }
    requirements::check_functions(&session, &requirements::OF_A_CHECK)?;
    ensure!(
        session::has_data_checksums(&session)?,
        "the cluster has no data checksums, by which damage could be told\n\
         HINT:  pg_checksums --enable adds them while the server is shut down."
    );

    // Each is named in its turn, and hides no other damage.
    requirements::list_unreadable_files(&session, &extension)?;
    let watch = Watch {
        name: "check",
        progress: config.progress,
        first: Phase::Starting,
        workers: extension.jobs(&session, config.jobs)?,
    };
    let signals = Signals::watch()?;
    let findings: Arc<Mutex<Findings>> = Arc::default();
    let heard: Arc<Mutex<Findings>> = Arc::default();
    let hearing = heard.clone();
    messages::listen(move |line| damage::hear(&mut locked(&hearing), line));
    let (kept, config) = (findings.clone(), config.clone());
    let result = supervisor::run(
        watch,
        &signals,
        || {},
        move |shared| {
            let shared = Shared {
                config: &config,
                cancellation: &shared.cancellation,
                counters: &shared.counters,
                findings: &kept,
                heard: &heard,
            };
            lead(&shared, &opener, &mut session, &extension)
        },
    );
    match result {
        Ok(checked) => report::conclude(&checked),
        Err(error) => {
            report::leave_off(std::mem::take(&mut *locked(&findings)));
            Err(error)
        }
    }
}

fn lead(
    shared: &Shared<'_>,
    opener: &Opener,
    session: &mut Session,
    extension: &Extension,
) -> Result<Checked> {
    let config = shared.config;
    say(config, "waiting for the checkpoint of the check's start");
    let start = Start {
        label: "pg_parallel_backup check",
        fast: config.fast,
        tablespace_map: false,
        max_rate: config.max_rate,
        verify_checksums: true,
        manifest: None,
        retain_wal: false,
        incremental: false,
    };
    let jobs = shared.counters.workers().len();
    let wanted = Wanted {
        workers: jobs,
        wal: false,
    };
    let sessions = requirements::open_workers((opener, session), wanted, shared.cancellation)?;
    let sessions = OpenSessions::new(sessions);
    let started = interruptible(session, opener, shared.cancellation, |session| {
        extension.start(session, &start)
    })?;
    let led = (|| {
        shared.cancellation.check()?;
        silence::end_without_heartbeat(session, opener)?;
        let queue = Queue::new(extension.files(session)?);
        shared.counters.expect(Expected {
            bytes: queue.bytes(),
            files: queue.files() as u64,
        });
        shared.counters.enter(Phase::Copying);
        say(config, &format!("checking {} files", queue.files()));
        run_workers(
            shared,
            (opener, &sessions),
            (session, extension),
            &started,
            &queue,
        )?;
        Ok(queue)
    })();
    let queue = match led {
        Ok(queue) => queue,
        Err(error) => return Err(give_up(extension, session, shared.cancellation, error)),
    };
    if let Err(error) = extension.abort(session) {
        // All has been looked at, and the backup ends with the session.
        messages::warn(format_args!(
            "could not end the backup on the server: {error:#}"
        ));
    }
    let findings = shared.findings().clone();
    Ok(Checked {
        files: queue.files(),
        bytes: queue.bytes(),
        damaged: relations::name(findings, opener, session, shared.cancellation)?,
    })
}

fn run_workers(
    shared: &Shared<'_>,
    (opener, sessions): (&Opener, &OpenSessions),
    (leader, extension): (&Session, &Extension),
    started: &Started,
    queue: &Queue,
) -> Result<()> {
    let Shared {
        config,
        cancellation,
        counters,
        ..
    } = *shared;
    let work = |number: usize, worker: &Worker| {
        let mut eye = Eye {
            shared,
            extension,
            backup_id: started.backup_id,
            connections: Connections::new(
                (opener, cancellation),
                (format!("worker {number}"), worker),
                config.retries,
            )
            .with_session(sessions.take(number)),
        };
        while let Some(batch) = queue.next() {
            eye.check(batch)?;
        }
        Ok(())
    };
    workers::run(
        (counters, cancellation),
        (leader, opener.silence),
        &work,
        || {
            // Where this fails, so it does when it is tried again.
            let _ = extension.abort(leader);
        },
    )
}

/// Worker thread with its connection.
struct Eye<'a> {
    shared: &'a Shared<'a>,
    extension: &'a Extension,
    backup_id: i64,
    connections: Connections<'a>,
}

/// Outcome of a batch.
enum Looked {
    /// All files were read, with this damage.
    Completely(Findings),
    /// The batch ended early: damage so far, and the error.
    Partly(Findings, Failure),
}

impl Eye<'_> {
    /// Verifies the files of a batch, together if possible.
    fn check(&mut self, batch: &[ListedFile]) -> Result<()> {
        match self.look_at(batch)? {
            Looked::Completely(mut findings) => {
                for file in batch {
                    let found = findings.get(&file.path);
                    if found.is_some_and(|damage| damage.unreadable.is_some()) {
                        // One that is just being extended may end within a page, for a moment.
                        findings.remove(&file.path);
                        findings.extend(self.check_alone(file)?);
                    }
                }
                self.note(batch, findings);
            }
            Looked::Partly(..) => {
                for file in batch {
                    let findings = self.check_alone(file)?;
                    self.note(std::slice::from_ref(file), findings);
                }
            }
        }
        Ok(())
    }

    fn check_alone(&mut self, file: &ListedFile) -> Result<Findings> {
        match self.look_at(std::slice::from_ref(file))? {
            Looked::Completely(findings) => Ok(findings),
            Looked::Partly(mut findings, failure) => {
                // Whatever is wrong with more than this file shows without any.
                if let Looked::Partly(..) = self.look_at(&[])? {
                    return Err(failure.into());
                }
                let damage = findings.entry(file.path.clone()).or_default();
                damage.unreadable = Some(failure.message);
                Ok(findings)
            }
        }
    }

    /// Has the server verify files. Damage reported over a lost connection is dropped.
    fn look_at(&mut self, files: &[ListedFile]) -> Result<Looked> {
        let paths: Vec<_> = files.iter().map(|file| file.path.as_slice()).collect();
        let (extension, backup_id, worker) =
            (self.extension, self.backup_id, self.connections.worker);
        let heard = self.shared.heard;
        let failure = self.connections.run(|session| {
            if let Some(file) = files.first() {
                worker.begins(Activity::Receiving(escape::name(&file.path)));
            }
            take(heard, &paths);
            let looked = extension.look_at(session, backup_id, &paths);
            match looked.map_err(Error::downcast::<Failure>) {
                Ok(()) => Ok(None),
                Err(Ok(failure)) if !failure.connection_lost => Ok(Some(failure)),
                Err(Ok(lost)) => {
                    // What it has said is not to be taken for what the next one says.
                    settle()?;
                    Err(lost.into())
                }
                Err(Err(other)) => Err(other),
            }
        })?;
        settle()?;
        let findings = take(heard, &paths);
        Ok(match failure {
            Some(failure)
                if failure.message.lines().next() != Some(DAMAGE) || findings.is_empty() =>
            {
                Looked::Partly(findings, failure)
            }
            _ => Looked::Completely(findings),
        })
    }

    fn note(&self, files: &[ListedFile], findings: Findings) {
        self.shared.findings().extend(findings);
        let mut tally = Tally::new(&self.connections.worker.counter);
        for file in files {
            tally.add_bytes(file.size);
            tally.add_file();
        }
        tally.keep();
    }
}

/// Waits until all lines written so far are parsed.
fn settle() -> Result<()> {
    stderr::settle().context("could not read the server's warnings")
}

/// Takes the damage reported for some files.
fn take(heard: &Mutex<Findings>, paths: &[&[u8]]) -> Findings {
    let mut heard = locked(heard);
    paths
        .iter()
        .filter_map(|path| heard.remove_entry(*path))
        .collect()
}

fn say(config: &CheckConfig, text: &str) {
    if config.verbose {
        messages::say(text);
    }
}
