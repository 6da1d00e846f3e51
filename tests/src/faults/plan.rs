//! Plan of one run: which fault strikes, at which stage, and what kind of backup it hits.

use std::fmt;

use super::random::Random;

/// Fault to inject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No fault.
    Nothing,
    /// pg_cancel_backend() on the first worker. Other variants name their target in the same way.
    CancelWorker,
    TerminateWorker,
    /// SIGKILL. The postmaster then restarts all server processes.
    KillWorker,
    /// SIGSTOP, then SIGCONT after a while.
    PauseWorker,
    /// The connection between client and server breaks.
    CutWorker,
    /// The connection stalls for a while.
    StallWorker,
    /// As the faults of a worker, for the session that streams WAL.
    CancelWal,
    TerminateWal,
    KillWal,
    PauseWal,
    CutWal,
    StallWal,
    CancelLeader,
    TerminateLeader,
    KillLeader,
    PauseLeader,
    CutLeader,
    StallLeader,
    /// Termination of the background worker that retains the WAL.
    TerminateRetention,
    KillRetention,
    PauseRetention,
    /// statement_timeout fires.
    TimeOutWorker,
    TimeOutLeader,
    /// lock_timeout fires while another session holds a lock on pg_proc.
    LockTimeOutWorker,
    LockTimeOutLeader,
    /// idle_session_timeout fires between two statements of the leader.
    IdleTimeOutLeader,
    /// The disk of the data directory is full.
    FullDisk,
    /// The server has no permission to read the target.
    Unreadable,
    /// Reads of the target fail with EIO.
    FailingReads,
    /// SIGKILL to the postmaster.
    KillServer,
    /// An immediate shutdown.
    QuitServer,
    /// A fast shutdown.
    StopServer,
    /// The standby is promoted.
    Promotion,
    /// Continuous WAL switches and checkpoints.
    WalPressure,
    /// Tablespaces, databases and tables are created and dropped.
    Churn,
}

/// Stage of a backup at which a fault can strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before the leader connects.
    BeforeStart,
    /// The start is waiting for its checkpoint.
    Checkpoint,
    /// Between the start and the first worker.
    Started,
    /// The first worker has received some bytes.
    Stream,
    /// The first worker has ended; the others have not begun.
    BetweenStreams,
    /// Between the last worker and the stop.
    Streamed,
    /// The stop is waiting for the WAL archive.
    Stopping,
    /// The client has received some bytes of the closing archive.
    Closing,
    /// After a delay, whatever the stage.
    Moment,
}

/// Target of a read fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// File of a table that nothing else reads.
    Table,
    /// File of such a table in a tablespace.
    TableElsewhere,
    /// File that does not belong to a relation.
    SmallFile,
    /// Directory of a database.
    Directory,
    /// `global/pg_control`.
    ControlFile,
    /// WAL segments in `pg_wal`.
    Wal,
}

/// Kind of server for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// Primary with a tablespace.
    Primary,
    /// Primary with a tablespace, on a small disk of its own.
    SmallDisk,
    /// Standby of a primary under write load.
    Standby,
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Seed from which all other fields are derived.
    pub seed: u64,
    pub ground: Ground,
    pub fault: Fault,
    pub stage: Stage,
    pub target: Target,
    /// Bytes that the client receives before the fault strikes, for stages with a stream.
    pub bytes: u64,
    /// Delay in milliseconds before the fault strikes, for [`Stage::Moment`].
    pub delay: u64,
    /// Duration of a transient fault in milliseconds.
    pub duration: u64,
    pub workers: usize,
    /// Whether the first worker stops reading when the fault strikes. If not, its stream is
    /// rate-limited.
    pub halting: bool,
    pub retain_wal: bool,
    /// Whether WAL is streamed beside the files. Then it is retained.
    pub streams_wal: bool,
    pub algorithm: &'static str,
    /// Whether to resend files left unsent by a fault. If not, the backup is aborted.
    pub tries_again: bool,
    /// Whether to check the restored cluster with pg_amcheck.
    pub thorough: bool,
    /// Whether to take the backup with base_backup(). Its session is the leader and the only
    /// worker.
    pub one_statement: bool,
    /// Whether workers accept parts of large files.
    pub parts: bool,
}

impl Fault {
    pub const ALL: [Fault; 36] = [
        Fault::Nothing,
        Fault::CancelWorker,
        Fault::TerminateWorker,
        Fault::KillWorker,
        Fault::PauseWorker,
        Fault::CutWorker,
        Fault::StallWorker,
        Fault::CancelWal,
        Fault::TerminateWal,
        Fault::KillWal,
        Fault::PauseWal,
        Fault::CutWal,
        Fault::StallWal,
        Fault::CancelLeader,
        Fault::TerminateLeader,
        Fault::KillLeader,
        Fault::PauseLeader,
        Fault::CutLeader,
        Fault::StallLeader,
        Fault::TerminateRetention,
        Fault::KillRetention,
        Fault::PauseRetention,
        Fault::TimeOutWorker,
        Fault::TimeOutLeader,
        Fault::LockTimeOutWorker,
        Fault::LockTimeOutLeader,
        Fault::IdleTimeOutLeader,
        Fault::FullDisk,
        Fault::Unreadable,
        Fault::FailingReads,
        Fault::KillServer,
        Fault::QuitServer,
        Fault::StopServer,
        Fault::Promotion,
        Fault::WalPressure,
        Fault::Churn,
    ];

    /// Stages at which the fault can strike.
    pub fn stages(self) -> &'static [Stage] {
        use Stage::*;
        match self {
            Fault::Nothing => &[BeforeStart],
            Fault::CancelWorker
            | Fault::TerminateWorker
            | Fault::KillWorker
            | Fault::PauseWorker
            | Fault::CutWorker
            | Fault::StallWorker => &[Stream, Moment],
            Fault::CancelWal
            | Fault::TerminateWal
            | Fault::KillWal
            | Fault::PauseWal
            | Fault::CutWal
            | Fault::StallWal => &[Stream, BetweenStreams, Streamed, Closing],
            Fault::CancelLeader => &[Checkpoint, Stream, Stopping, Closing, Moment],
            Fault::TerminateLeader
            | Fault::KillLeader
            | Fault::PauseLeader
            | Fault::CutLeader
            | Fault::StallLeader => &[
                Checkpoint,
                Started,
                Stream,
                BetweenStreams,
                Streamed,
                Stopping,
                Closing,
                Moment,
            ],
            Fault::TerminateRetention | Fault::KillRetention | Fault::PauseRetention => {
                &[Checkpoint, Stream, Streamed, Stopping, Closing]
            }
            Fault::TimeOutWorker => &[Stream],
            Fault::TimeOutLeader => &[Checkpoint, Stopping, Closing],
            Fault::LockTimeOutWorker => &[Started],
            Fault::LockTimeOutLeader => &[BeforeStart, Streamed],
            Fault::IdleTimeOutLeader => &[Started, Stream, BetweenStreams, Streamed],
            Fault::FullDisk => &[
                BeforeStart,
                Checkpoint,
                Started,
                Stream,
                Streamed,
                Stopping,
                Closing,
                Moment,
            ],
            Fault::Unreadable | Fault::FailingReads => &[
                BeforeStart,
                Checkpoint,
                Started,
                Stream,
                Streamed,
                Stopping,
                Closing,
            ],
            Fault::KillServer | Fault::QuitServer | Fault::StopServer => &[
                BeforeStart,
                Checkpoint,
                Started,
                Stream,
                BetweenStreams,
                Streamed,
                Stopping,
                Closing,
                Moment,
            ],
            Fault::Promotion => &[
                BeforeStart,
                Started,
                Stream,
                BetweenStreams,
                Streamed,
                Closing,
                Moment,
            ],
            Fault::WalPressure | Fault::Churn => &[BeforeStart, Started, BetweenStreams],
        }
    }

    /// Whether the fault can strike a backup that is one statement in one session.
    fn suits_one_statement(self, stage: Stage) -> bool {
        let has_no_sense = matches!(
            self,
            Fault::LockTimeOutWorker | Fault::LockTimeOutLeader | Fault::IdleTimeOutLeader
        );
        !has_no_sense
            && !self.is_of_wal()
            && matches!(
                stage,
                Stage::BeforeStart
                    | Stage::Checkpoint
                    | Stage::Stream
                    | Stage::Stopping
                    | Stage::Moment
            )
    }

    pub(super) fn is_of_retention(self) -> bool {
        matches!(
            self,
            Fault::TerminateRetention | Fault::KillRetention | Fault::PauseRetention
        )
    }

    /// Whether it strikes a session that sends files.
    pub(super) fn is_of_worker(self) -> bool {
        matches!(
            self,
            Fault::CancelWorker
                | Fault::TerminateWorker
                | Fault::KillWorker
                | Fault::PauseWorker
                | Fault::CutWorker
                | Fault::StallWorker
        )
    }

    pub(super) fn is_of_wal(self) -> bool {
        matches!(
            self,
            Fault::CancelWal
                | Fault::TerminateWal
                | Fault::KillWal
                | Fault::PauseWal
                | Fault::CutWal
                | Fault::StallWal
        )
    }

    /// Whether a run on a standby adds anything to a run on a primary.
    pub(super) fn suits_standby(self) -> bool {
        !matches!(
            self,
            Fault::FullDisk
                | Fault::WalPressure
                | Fault::Churn
                | Fault::LockTimeOutWorker
                | Fault::LockTimeOutLeader
        )
    }
}

impl Plan {
    /// Plan for a seed.
    pub fn of(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let fault = random.pick(&Fault::ALL);
        let stage = random.pick(fault.stages());
        let standby = random.percent(20) && fault.suits_standby() && stage != Stage::Stopping;
        let ground = match fault {
            Fault::FullDisk => Ground::SmallDisk,
            Fault::Promotion => Ground::Standby,
            _ if standby => Ground::Standby,
            _ => Ground::Primary,
        };
        let target = random.pick(targets(fault, stage, ground));
        let largest = match stage {
            Stage::Closing => 4 << 20,
            _ => 14 << 20,
        };
        let one_statement = random.percent(20) && fault.suits_one_statement(stage);
        let streams_wal = !one_statement && (random.percent(30) || fault.is_of_wal());
        Plan {
            seed,
            ground,
            fault,
            stage,
            target,
            bytes: if random.percent(15) {
                0
            } else {
                random.below(largest)
            },
            delay: random.below(1200),
            duration: 50 + random.below(400),
            workers: 2 + random.below(2) as usize,
            halting: random.percent(60),
            // An unreadable segment must not be recycled.
            retain_wal: random.percent(60)
                || fault.is_of_retention()
                || target == Target::Wal
                || streams_wal,
            streams_wal,
            algorithm: random.pick(&["CRC32C", "CRC32C", "SHA256", "NONE"]),
            tries_again: random.percent(60),
            thorough: random.percent(20),
            one_statement,
            parts: random.percent(60) && !one_statement,
        }
    }

    /// Plan with the lowest seed that has this fault at this stage.
    pub fn first(fault: Fault, stage: Stage) -> Self {
        Self::search(fault, stage, false)
    }

    /// Same search for a backup in one statement. `None` if no such plan exists.
    pub fn first_in_one_statement(fault: Fault, stage: Stage) -> Option<Self> {
        fault
            .suits_one_statement(stage)
            .then(|| Self::search(fault, stage, true))
    }

    fn search(fault: Fault, stage: Stage, one_statement: bool) -> Self {
        (0..)
            .map(Plan::of)
            .find(|plan| {
                plan.one_statement == one_statement
                    && plan.fault == fault
                    && plan.stage == stage
                    && (plan.ground == Ground::Primary
                        || fault == Fault::Promotion
                        || fault == Fault::FullDisk)
            })
            .expect("every fault can strike in each of its stages")
    }
}

/// Targets whose failure affects only the backup. Other server processes write pg_control at each
/// checkpoint, and a standby reads WAL all the time.
pub(super) fn targets(fault: Fault, stage: Stage, ground: Ground) -> &'static [Target] {
    use Target::*;
    match (stage, ground) {
        (Stage::Streamed | Stage::Stopping, Ground::Primary) => &[ControlFile, Wal],
        (Stage::Closing, Ground::Primary) => &[Wal],
        (_, Ground::Standby) => &[Table, SmallFile, Directory],
        _ if fault == Fault::FailingReads => &[Table, TableElsewhere, SmallFile, ControlFile],
        _ => &[Table, TableElsewhere, SmallFile, Directory],
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {:<8} {:?} at {:?}",
            self.seed, self.fault, self.stage
        )?;
        match self.stage {
            Stage::Stream | Stage::Closing => write!(f, " {} kB", self.bytes / 1024)?,
            Stage::Moment => write!(f, " {} ms", self.delay)?,
            _ => {}
        }
        if matches!(self.fault, Fault::Unreadable | Fault::FailingReads) {
            write!(f, " of {:?}", self.target)?;
        }
        write!(
            f,
            ", {:?}, {}{}{}{}{}{}",
            self.ground,
            match (self.one_statement, self.workers) {
                (true, _) => "base_backup()",
                (false, 2) => "2 workers",
                _ => "3 workers",
            },
            if self.retain_wal {
                ", WAL retained"
            } else {
                ""
            },
            if self.streams_wal {
                " and streamed"
            } else {
                ""
            },
            if self.parts { ", in parts" } else { "" },
            if self.halting { "" } else { ", with a rate" },
            if self.tries_again { "" } else { ", gives up" },
        )
    }
}
