//! Course of a backup under a fault. Every step may fail; no step may hang.

use super::injection::Injection;
use super::one_statement;
use super::plan::{Fault, Ground, Plan, Stage};
use super::session::{Session, Stream, Task, wait_until};
use super::site::Site;
use super::wal_stream::WalStream;
use crate::failure::Failure;
use crate::stream::copy_of;

/// Rate in kB/s of a stream that a fault must hit midway.
pub(super) const RATE: u32 = 16 * 1024;

/// Result of a backup.
#[derive(Default)]
pub struct Course {
    /// Every stream, if the stop succeeded.
    pub archives: Option<Vec<Vec<u8>>>,
    pub worker_failures: Vec<Failure>,
    pub wal_failures: Vec<Failure>,
    /// Error of the first stop, if a second one was tried.
    pub first_stop: Option<Failure>,
    /// Step in which the backup failed, and the error.
    pub leader_failure: Option<(&'static str, Box<Failure>)>,
    /// Sessions that still exist at the end, whatever their state.
    pub leader: Option<Session>,
    pub workers: Vec<Session>,
}

pub(super) type Step<T> = Result<T, (&'static str, Box<Failure>)>;

pub(super) fn at<T, E: Into<Failure>>(step: &'static str, result: Result<T, E>) -> Step<T> {
    result.map_err(|error| (step, Box::new(error.into())))
}

/// Takes a backup according to a plan.
pub fn take(site: &Site, plan: &Plan, injection: &Injection) -> Course {
    let mut course = Course::default();
    let mut archives = Vec::new();
    let result = if plan.one_statement {
        one_statement::run(&mut course, site, plan, injection, &mut archives)
    } else {
        course.run(site, plan, injection, &mut archives)
    };
    match result {
        Ok(()) => course.archives = Some(archives),
        Err(failure) => {
            course.leader_failure = Some(failure);
            course.give_up(site);
        }
    }
    course
}

impl Course {
    fn run(
        &mut self,
        site: &Site,
        plan: &Plan,
        injection: &Injection,
        archives: &mut Vec<Vec<u8>>,
    ) -> Step<()> {
        let mut leader = at("connect", Session::open(site))?;
        injection.set_leader(leader.aim());
        if plan.fault == Fault::LockTimeOutLeader {
            at("set", leader.set("lock_timeout"))?;
        }
        injection.reach(Stage::BeforeStart);
        let (leader, started) = start(site, plan, injection, leader);
        self.leader = Some(leader);
        let id = at("start", started)?;

        if !plan.streams_wal {
            return self.finish(site, plan, injection, id, archives);
        }
        std::thread::scope(|scope| {
            let wal = WalStream::spawn(scope, site, injection, id);
            let finished = self.finish(site, plan, injection, id, archives);
            if finished.is_err() {
                self.give_up(site);
            }
            let brought = wal.end();
            archives.extend(brought.archives);
            self.wal_failures = brought.failures;
            finished
        })
    }

    /// Sends the files and stops.
    fn finish(
        &mut self,
        site: &Site,
        plan: &Plan,
        injection: &Injection,
        id: i64,
        archives: &mut Vec<Vec<u8>>,
    ) -> Step<()> {
        let Some(leader) = &mut self.leader else {
            return Ok(());
        };
        leader.idle(plan, injection, Stage::Started);
        self.stream(site, plan, injection, id, archives);
        let Some(mut leader) = self.leader.take() else {
            return Ok(());
        };
        leader.idle(plan, injection, Stage::Streamed);

        let (leader, stopped) = stop(site, plan, injection, leader);
        let leader = self.leader.insert(leader);
        let failure = match stopped {
            Ok(archive) => {
                archives.push(archive);
                return Ok(());
            }
            Err(failure) => failure,
        };
        injection.heal();
        if !leader.leads(site) || !plan.tries_again {
            return Err(("stop", Box::new(failure)));
        }
        self.first_stop = Some(failure);
        self.try_again(site, plan, id, archives)
    }

    /// Ends the backup as a client would, if an error has not already ended it.
    fn give_up(&mut self, site: &Site) {
        if let Some(leader) = &mut self.leader
            && leader.leads(site)
            && let Err(failure) = leader.client.batch_execute("SELECT abort_backup()")
            && !leader.client.is_closed()
        {
            panic!("abort_backup(): {}", Failure::from(failure));
        }
    }

    /// Sends the files that are still unsent, and stops.
    fn try_again(
        &mut self,
        site: &Site,
        plan: &Plan,
        id: i64,
        archives: &mut Vec<Vec<u8>>,
    ) -> Step<()> {
        wait_until(site, "the failed workers to be gone", |client| {
            let workers = "SELECT workers FROM backup_progress() WHERE backup_id = $1";
            let row = client.query_opt(workers, &[&id])?;
            Ok(row.is_none_or(|row| row.get::<_, i32>(0) == 0))
        });
        let worker = at("connect again", Session::open(site))?;
        let copy = copy_of(&format!("send_backup_files({id}, parts => {})", plan.parts));
        let (_, sent) = worker.stream(&copy, u64::MAX).end();
        archives.push(at("send again", sent)?);
        let Some(leader) = self.leader.take() else {
            return Ok(());
        };
        let (leader, stopped) = leader.stream(CLOSING, u64::MAX).end();
        self.leader = Some(leader);
        archives.push(at("stop again", stopped)?);
        Ok(())
    }

    /// Lets the workers send everything, as far as the fault allows.
    fn stream(
        &mut self,
        site: &Site,
        plan: &Plan,
        injection: &Injection,
        id: i64,
        archives: &mut Vec<Vec<u8>>,
    ) {
        let mut sessions = Vec::new();
        for number in 0..plan.workers {
            let opened = Session::open(site).and_then(|mut session| {
                if number == 0 {
                    session.prepare(plan)?;
                    injection.set_worker(session.aim());
                }
                Ok(session)
            });
            match opened {
                Ok(session) => sessions.push(session),
                Err(failure) => self.worker_failures.push(failure),
            }
        }
        // The lock must be held before the first worker looks up its function.
        injection.reach(Stage::Started);

        let call = format!("send_backup_files({id}, parts => {}", plan.parts);
        let all = copy_of(&format!("{call})"));
        let slow = copy_of(&format!("{call}, max_rate => {RATE})"));
        let some = copy_of(&format!(
            "send_backup_files({id}, files => ARRAY(
                 SELECT path FROM backup_filelist({id}) ORDER BY size DESC LIMIT 5))"
        ));
        let is_slow = matches!(plan.stage, Stage::Stream | Stage::Moment) && !plan.halting;
        let mut sessions = sessions.into_iter();
        if plan.stage == Stage::BetweenStreams
            && let Some(session) = sessions.next()
        {
            self.settle(session.stream(&some, u64::MAX), archives);
            if let Some(leader) = &mut self.leader {
                leader.idle(plan, injection, Stage::BetweenStreams);
            }
        }
        let halt_at = match plan.stage {
            Stage::Stream if plan.halting => plan.bytes.max(1),
            _ => u64::MAX,
        };
        let mut streams: Vec<Stream> = Vec::new();
        for (number, session) in sessions.enumerate() {
            let halt_at = if number == 0 { halt_at } else { u64::MAX };
            let copy = if is_slow { &slow } else { &all };
            streams.push(session.stream(copy, halt_at));
            if number == 0 && plan.stage == Stage::Stream && plan.bytes == 0 && !plan.halting {
                injection.strike();
            }
        }
        if plan.stage == Stage::Stream
            && let Some(first) = streams.first()
        {
            first.wait_for_bytes(plan.bytes);
            match &mut self.leader {
                Some(leader) => leader.idle(plan, injection, Stage::Stream),
                None => injection.strike(),
            }
        }
        for stream in streams {
            self.settle(stream, archives);
            if plan.fault == Fault::LockTimeOutWorker {
                // The first worker has run into the lock. The others have no timeout and wait for
                // its release.
                injection.heal();
            }
        }
    }

    fn settle(&mut self, stream: Stream, archives: &mut Vec<Vec<u8>>) {
        let (session, result) = stream.end();
        self.workers.push(session);
        match result {
            Ok(archive) => archives.push(archive),
            Err(failure) => self.worker_failures.push(failure),
        }
    }
}

/// Stop statement for all other faults and stages.
const CLOSING: &str = "COPY (SELECT send_stop_backup(wal => true, wait => false)) TO STDOUT";
/// Stop statement for a fault that strikes during the wait for the archive.
const CLOSING_WAITING: &str = "COPY (SELECT send_stop_backup(wal => true)) TO STDOUT";

fn start(
    site: &Site,
    plan: &Plan,
    injection: &Injection,
    mut leader: Session,
) -> (Session, Result<i64, Failure>) {
    let waits = plan.stage == Stage::Checkpoint;
    if waits
        && plan.fault == Fault::TimeOutLeader
        && let Err(failure) = leader.set("statement_timeout")
    {
        return (leader, Err(failure));
    }
    let statement = format!(
        "SELECT backup_id, start_lsn::text
         FROM start_backup('fault', fast => {}, retain_wal => {}, manifest_checksums => '{}')",
        !waits, plan.retain_wal, plan.algorithm,
    );
    let starting = Task::spawn(move || {
        let started = leader.client.query_one(&statement, &[]);
        let started = started.map(|row| (row.get::<_, i64>(0), row.get::<_, String>(1)));
        (leader, started.map_err(Failure::from))
    });
    if waits {
        wait_until(site, "the start to wait for its checkpoint", |client| {
            let phase = "SELECT FROM backup_progress()
                         WHERE phase = 'waiting for checkpoint to finish'";
            Ok(starting.is_finished() || client.query_opt(phase, &[])?.is_some())
        });
        injection.strike();
        // An immediate checkpoint speeds up the one in progress. A leader that has lost its client
        // may still be waiting for that one.
        site.try_execute(&["CHECKPOINT"]);
    }
    let (mut leader, started) = starting.join("the start of a backup");
    let started = started.map(|(id, start_lsn)| {
        injection.set_start_lsn(&start_lsn);
        id
    });
    if waits && plan.fault == Fault::TimeOutLeader {
        let _ = leader.client.batch_execute("RESET statement_timeout");
    }
    (leader, started)
}

fn stop(
    site: &Site,
    plan: &Plan,
    injection: &Injection,
    mut leader: Session,
) -> (Session, Result<Vec<u8>, Failure>) {
    let is_late = matches!(plan.stage, Stage::Stopping | Stage::Closing);
    if is_late
        && plan.fault == Fault::TimeOutLeader
        && let Err(failure) = leader.set("statement_timeout")
    {
        return (leader, Err(failure));
    }
    let pid = leader.pid;
    let ended = match plan.stage {
        Stage::Stopping if plan.ground != Ground::Standby => {
            site.hold_archive();
            let closing = leader.stream(CLOSING_WAITING, u64::MAX);
            wait_until(site, "the stop to wait for the archive", |client| {
                let waiting = "SELECT FROM pg_stat_activity
                               WHERE pid = $1 AND wait_event = 'BackupWaitWalArchive'";
                Ok(closing.is_finished() || client.query_opt(waiting, &[&pid])?.is_some())
            });
            injection.strike();
            site.release_archive();
            if !closing.is_finished() {
                site.wait_for_archiver();
            }
            closing.end()
        }
        Stage::Closing => {
            let closing = leader.stream(CLOSING, plan.bytes.max(1));
            closing.wait_for_bytes(plan.bytes);
            injection.strike();
            closing.end()
        }
        _ => leader.stream(CLOSING, u64::MAX).end(),
    };
    let (mut leader, stopped) = ended;
    if is_late && plan.fault == Fault::TimeOutLeader {
        let _ = leader.client.batch_execute("RESET statement_timeout");
    }
    (leader, stopped)
}
