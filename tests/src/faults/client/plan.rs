//! Plan of one run of the program: what kind of backup it takes, and what strikes it.

use std::fmt;

use super::run::NAME;
use crate::faults::plan::{Fault, Ground, Plan, Stage, targets};
use crate::faults::random::Random;
use crate::program::major_version;

/// Kind of backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Data directory.
    Plain,
    /// Directory of archives.
    Tar,
    /// Repository in a directory.
    Directory,
    /// Repository in an S3 server.
    Store,
}

/// Fault of the program or of the place of its backup. Those of the server are in [`Fault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL.
    KillProgram,
    /// SIGINT or SIGTERM.
    SignalProgram,
    /// SIGSTOP, then SIGCONT after a while.
    PauseProgram,
    /// Writes of the program find the disk full.
    FullTarget,
    /// The store refuses some requests that write, and asks to slow down.
    BusyStore,
    /// The store closes some connections in the middle of a body.
    CutStore,
    /// The answers to some requests are lost.
    DeafStore,
    /// The store denies all requests that write.
    DenyingStore,
    /// The store has no more space.
    FullStore,
}

/// What strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strike {
    Server(Fault),
    Program(Blow),
}

/// One run of the program.
#[derive(Clone, Copy, Debug)]
pub struct ClientPlan {
    /// Seed, server, fault, stage and the like. Its fault is [`Fault::Nothing`] if there is a blow.
    pub strike: Plan,
    pub blow: Option<Blow>,
    pub kind: Kind,
    /// Whether the backup has what changed since an earlier one.
    pub incremental: bool,
    pub jobs: usize,
    /// Whether WAL comes while the files arrive. If not, it comes with the last files.
    pub streams_wal: bool,
    /// Whether the server holds the WAL of the backup.
    pub has_slot: bool,
    /// Value of `-Z`.
    pub compression: &'static str,
    /// Value of `--stream-size`.
    pub stream_size: Option<&'static str>,
    /// Whether the rate is limited, so that a fault can hit the files.
    pub is_slow: bool,
    /// How often a lost connection is replaced.
    pub retries: u32,
}

const STRIKES: [Strike; 40] = {
    use Strike::{Program, Server};
    [
        Server(Fault::Nothing),
        Server(Fault::CancelWorker),
        Server(Fault::TerminateWorker),
        Server(Fault::KillWorker),
        Server(Fault::PauseWorker),
        Server(Fault::CutWorker),
        Server(Fault::StallWorker),
        Server(Fault::CancelWal),
        Server(Fault::TerminateWal),
        Server(Fault::KillWal),
        Server(Fault::PauseWal),
        Server(Fault::CutWal),
        Server(Fault::StallWal),
        Server(Fault::CancelLeader),
        Server(Fault::TerminateLeader),
        Server(Fault::KillLeader),
        Server(Fault::PauseLeader),
        Server(Fault::CutLeader),
        Server(Fault::StallLeader),
        Server(Fault::TerminateRetention),
        Server(Fault::KillRetention),
        Server(Fault::PauseRetention),
        Server(Fault::FullDisk),
        Server(Fault::Unreadable),
        Server(Fault::FailingReads),
        Server(Fault::KillServer),
        Server(Fault::QuitServer),
        Server(Fault::StopServer),
        Server(Fault::Promotion),
        Server(Fault::WalPressure),
        Server(Fault::Churn),
        Program(Blow::KillProgram),
        Program(Blow::SignalProgram),
        Program(Blow::PauseProgram),
        Program(Blow::FullTarget),
        Program(Blow::BusyStore),
        Program(Blow::CutStore),
        Program(Blow::DeafStore),
        Program(Blow::DenyingStore),
        Program(Blow::FullStore),
    ]
};

impl Strike {
    /// Stages at which it can strike the program.
    fn stages(self) -> &'static [Stage] {
        use Stage::*;
        match self {
            Strike::Server(Fault::Nothing) => &[BeforeStart],
            Strike::Server(fault) if fault.is_of_wal() => &[Stream, Moment],
            Strike::Server(
                Fault::CancelWorker
                | Fault::TerminateWorker
                | Fault::KillWorker
                | Fault::PauseWorker
                | Fault::CutWorker
                | Fault::StallWorker,
            ) => &[Stream, Moment],
            Strike::Server(Fault::Promotion) => &[BeforeStart, Stream, Moment],
            Strike::Server(Fault::WalPressure | Fault::Churn) => &[BeforeStart, Stream],
            Strike::Server(
                Fault::FullDisk
                | Fault::Unreadable
                | Fault::FailingReads
                | Fault::KillServer
                | Fault::QuitServer
                | Fault::StopServer,
            )
            | Strike::Program(Blow::FullTarget) => &[BeforeStart, Checkpoint, Stream, Moment],
            Strike::Program(
                Blow::BusyStore | Blow::CutStore | Blow::DeafStore | Blow::DenyingStore,
            ) => &[BeforeStart, Stream, Moment],
            Strike::Program(Blow::FullStore) => &[Stream],
            Strike::Server(_) | Strike::Program(_) => &[Checkpoint, Stream, Moment],
        }
    }
}

impl Blow {
    /// Whether it concerns an object store.
    fn is_of_store(self) -> bool {
        matches!(
            self,
            Blow::BusyStore
                | Blow::CutStore
                | Blow::DeafStore
                | Blow::DenyingStore
                | Blow::FullStore
        )
    }
}

impl ClientPlan {
    /// Plan for a seed. Versions before 17 have no incremental backups, and take full ones.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let strike = random.pick(&STRIKES);
        let stage = random.pick(strike.stages());
        let (fault, blow) = match strike {
            Strike::Server(fault) => (fault, None),
            Strike::Program(blow) => (Fault::Nothing, Some(blow)),
        };
        let standby = random.percent(15) && fault.suits_standby();
        let ground = match fault {
            Fault::FullDisk => Ground::SmallDisk,
            Fault::Promotion => Ground::Standby,
            _ if standby => Ground::Standby,
            _ => Ground::Primary,
        };
        let target = random.pick(targets(fault, stage, ground));
        let kind = match random.below(100) {
            _ if blow.is_some_and(Blow::is_of_store) => Kind::Store,
            0..40 => Kind::Plain,
            40..60 => Kind::Tar,
            60..80 => Kind::Directory,
            _ if blow == Some(Blow::FullTarget) => Kind::Directory,
            _ => Kind::Store,
        };
        let incremental = random.percent(40)
            && kind != Kind::Tar
            && ground == Ground::Primary
            && major_version() >= 17;
        let streams_wal = random.percent(80) || fault.is_of_wal();
        let bytes = match random.percent(15) {
            true => 0,
            // An incremental backup is small.
            false => random.below(if incremental { 2 << 20 } else { 64 << 20 }),
        };
        let is_slow = stage == Stage::Stream || random.percent(50);
        let delay = random.below(if is_slow { 3500 } else { 1200 });
        let duration = 50 + random.below(400);
        let has_slot = random.percent(90) || fault.is_of_retention();
        ClientPlan {
            strike: Plan {
                ground,
                fault,
                stage,
                target,
                bytes,
                delay,
                duration,
                retain_wal: has_slot,
                streams_wal,
                thorough: random.percent(20),
                one_statement: false,
                ..Plan::of(seed)
            },
            blow,
            kind,
            incremental,
            jobs: 1 + random.below(3) as usize,
            streams_wal,
            has_slot,
            compression: match kind {
                Kind::Plain => random.pick(&["none", "none", "none", "server-zstd", "server-lz4"]),
                _ => random.pick(&["none", "none", "zstd", "lz4", "gzip:1", "server-zstd"]),
            },
            stream_size: random.pick(&[None, None, Some("4MB"), Some("16MB")]),
            is_slow,
            retries: random.pick(&[0, 3, 3, 3]),
        }
    }

    /// Seed of the run.
    pub fn seed(&self) -> u64 {
        self.strike.seed
    }

    /// Plan with the lowest seed, from this one on, that fits.
    pub fn first_from(seed: u64, fits: impl Fn(&Self) -> bool) -> Self {
        (seed..)
            .map(ClientPlan::of)
            .find(fits)
            .expect("there is such a plan")
    }

    /// Name of what strikes.
    pub fn fault(&self) -> String {
        match self.blow {
            Some(blow) => format!("{blow:?}"),
            None => format!("{:?}", self.strike.fault),
        }
    }

    /// Name of the kind of backup.
    pub fn name_of_kind(&self) -> String {
        let incremental = if self.incremental { " incremental" } else { "" };
        format!("program {:?}{incremental}", self.kind)
    }

    /// Whether the program works with a repository.
    pub fn is_in_repository(&self) -> bool {
        matches!(self.kind, Kind::Directory | Kind::Store)
    }
}

impl fmt::Display for ClientPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let strike = &self.strike;
        let stage = strike.stage;
        write!(
            f,
            "seed {NAME}{:<8} {} at {stage:?}",
            strike.seed,
            self.fault()
        )?;
        match stage {
            Stage::Stream => write!(f, " {} kB", strike.bytes / 1024)?,
            Stage::Moment => write!(f, " {} ms", strike.delay)?,
            _ => {}
        }
        if matches!(strike.fault, Fault::Unreadable | Fault::FailingReads) {
            write!(f, " of {:?}", strike.target)?;
        }
        write!(
            f,
            ", {:?}, {}, -j {} -Z {} -X {} --retries {}{}{}{}",
            strike.ground,
            self.name_of_kind(),
            self.jobs,
            self.compression,
            if self.streams_wal { "stream" } else { "fetch" },
            self.retries,
            if self.has_slot { "" } else { " --no-slot" },
            if self.stream_size.is_some() {
                " --stream-size"
            } else {
                ""
            },
            if self.is_slow { " with a rate" } else { "" },
        )
    }
}
