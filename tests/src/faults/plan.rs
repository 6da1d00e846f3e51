//! What happens in one run: which fault strikes where, and what kind of backup it strikes.

use std::fmt;

use super::random::Random;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    Nothing,
    /// pg_cancel_backend() of the first worker, and so on.
    CancelWorker,
    TerminateWorker,
    /// SIGKILL, after which the server restarts all its processes.
    KillWorker,
    /// SIGSTOP, and SIGCONT after a while.
    PauseWorker,
    /// The connection is cut between client and server.
    CutWorker,
    /// Nothing passes through the connection for a while.
    StallWorker,
    CancelLeader,
    TerminateLeader,
    KillLeader,
    PauseLeader,
    CutLeader,
    StallLeader,
    /// The background worker that retains the WAL.
    TerminateRetention,
    KillRetention,
    PauseRetention,
    /// statement_timeout strikes.
    TimeOutWorker,
    TimeOutLeader,
    /// lock_timeout strikes, while something else holds a lock on pg_proc.
    LockTimeOutWorker,
    LockTimeOutLeader,
    /// idle_session_timeout strikes between two statements of the leader.
    IdleTimeOutLeader,
    /// The disk of the data directory is full.
    FullDisk,
    /// The server may not read something.
    Unreadable,
    /// Reading something gives EIO.
    FailingReads,
    /// SIGKILL to the postmaster.
    KillServer,
    /// An immediate shutdown.
    QuitServer,
    /// A fast shutdown.
    StopServer,
    /// The standby is promoted.
    Promotion,
    /// WAL segments and checkpoints as fast as they go.
    WalPressure,
    /// Tablespaces, databases and tables come and go.
    Churn,
}

/// A step of a backup at which a fault can strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before the leader connects.
    BeforeStart,
    /// The start waits for its checkpoint.
    Checkpoint,
    /// Between the start and the first worker.
    Started,
    /// The first worker has received some bytes.
    Stream,
    /// The first worker has ended, and the others have not begun.
    BetweenStreams,
    /// Between the last worker and the stop.
    Streamed,
    /// The stop waits for the archive.
    Stopping,
    /// The client of the closing archive has received some bytes.
    Closing,
    /// After a time, wherever the backup is then.
    Moment,
}

/// What cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The file of a table that nothing else reads.
    Table,
    /// The same in a tablespace.
    TableElsewhere,
    /// A file that is none of a relation.
    SmallFile,
    /// A directory of a database.
    Directory,
    /// `global/pg_control`.
    ControlFile,
    /// The segments in `pg_wal`.
    Wal,
}

/// On what kind of server a run takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    /// A server with a tablespace.
    Primary,
    /// The same on a disk of its own, which is small.
    SmallDisk,
    /// A standby, whose primary is written to.
    Standby,
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// All the rest follows from it.
    pub seed: u64,
    pub ground: Ground,
    pub fault: Fault,
    pub stage: Stage,
    pub target: Target,
    /// Received by the client before the fault strikes, in the stages that have a stream.
    pub bytes: u64,
    /// Milliseconds before the fault strikes, for [`Stage::Moment`].
    pub delay: u64,
    /// Milliseconds that a fault lasts that passes by itself.
    pub duration: u64,
    pub workers: usize,
    /// The first worker stops reading when the fault strikes; otherwise its stream has a rate.
    pub halting: bool,
    pub retain_wal: bool,
    pub algorithm: &'static str,
    /// After a fault that leaves files unsent they are sent once more; otherwise the backup is
    /// aborted.
    pub tries_again: bool,
    /// The restored cluster is looked at with pg_amcheck.
    pub thorough: bool,
    /// The backup is one of base_backup(): its session is the leader and the only worker.
    pub one_statement: bool,
}

impl Fault {
    pub const ALL: [Fault; 30] = [
        Fault::Nothing,
        Fault::CancelWorker,
        Fault::TerminateWorker,
        Fault::KillWorker,
        Fault::PauseWorker,
        Fault::CutWorker,
        Fault::StallWorker,
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

    /// Where it can strike.
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

    /// Whether it can strike a backup that is one statement in one session.
    fn suits_one_statement(self, stage: Stage) -> bool {
        let has_no_sense = matches!(
            self,
            Fault::LockTimeOutWorker | Fault::LockTimeOutLeader | Fault::IdleTimeOutLeader
        );
        !has_no_sense
            && matches!(
                stage,
                Stage::BeforeStart
                    | Stage::Checkpoint
                    | Stage::Stream
                    | Stage::Stopping
                    | Stage::Moment
            )
    }

    fn is_of_retention(self) -> bool {
        matches!(
            self,
            Fault::TerminateRetention | Fault::KillRetention | Fault::PauseRetention
        )
    }

    /// Whether it also has a sense on a standby, besides what is tried on a primary.
    fn suits_standby(self) -> bool {
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
    /// The run that belongs to a seed.
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
            // A segment that is closed to readers must not be recycled.
            retain_wal: random.percent(60) || fault.is_of_retention() || target == Target::Wal,
            algorithm: random.pick(&["CRC32C", "CRC32C", "SHA256", "NONE"]),
            tries_again: random.percent(60),
            thorough: random.percent(20),
            one_statement: random.percent(20) && fault.suits_one_statement(stage),
        }
    }

    /// The first run by number that has this fault in this stage.
    pub fn first(fault: Fault, stage: Stage) -> Self {
        Self::search(fault, stage, false)
    }

    /// The same for a backup in one statement, if there is such a run.
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

/// What can be aimed at without hitting processes of the server that have nothing to do with a
/// backup: they write pg_control at each checkpoint, and a standby reads WAL all the time.
fn targets(fault: Fault, stage: Stage, ground: Ground) -> &'static [Target] {
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
            ", {:?}, {}{}{}{}",
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
            if self.halting { "" } else { ", with a rate" },
            if self.tries_again { "" } else { ", gives up" },
        )
    }
}
