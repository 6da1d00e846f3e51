//! Segment of one backup: leader, options and phase.
//!
//! The leader creates it before the backup starts, so that other sessions can see it wait for
//! its checkpoint. The list of files has a segment of its own ([`super::files`]), made when the number
//! of files is known.
//!
//! Fields that are not atomic are written once, before the backup is announced in the lock
//! registry. There are no locks.

use core::mem::{offset_of, size_of};
use core::ops::Deref;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use backup_format::checksum::Algorithm;

use crate::server::backend_progress::BackupType;
use crate::server::process;
use crate::server::report::Result;
use crate::server::segment::{self, DetachHandler, FromBytes, Memory, NewSegment, Segment};

use super::retention_state::Retention;
use super::wal_state::WalState;

const MAGIC: u64 = segment::magic(
    "backup",
    &[
        size_of::<BackupState>(),
        offset_of!(BackupState, started_at),
        offset_of!(BackupState, options),
        size_of::<SharedOptions>(),
        offset_of!(BackupState, label),
        offset_of!(BackupState, phase),
        offset_of!(BackupState, start_lsn),
        offset_of!(BackupState, rate_clock),
        offset_of!(BackupState, wal),
        offset_of!(BackupState, retention),
    ],
);

/// The longest label, in bytes (MAXPGPATH, the limit of do_pg_backup_start).
pub const LABEL_SIZE: usize = 1024;

/// Phases of a backup in order, and the ways in which it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Phase {
    /// The leader prepares the start.
    Initializing = 1,
    /// do_pg_backup_start runs; it waits for a checkpoint.
    WaitingForCheckpoint = 2,
    /// The summaries of the WAL before the start are awaited, for an incremental backup.
    WaitingForSummaries = 3,
    /// The directories are walked.
    ListingFiles = 4,
    /// Workers may send files.
    Streaming = 5,
    /// do_pg_backup_stop runs; it may wait for the archive.
    Stopping = 6,
    /// The closing archive carries WAL.
    TransferringWal = 7,
    /// Ended by a stop.
    Stopped = 8,
    /// Ended by an abort, or by an error of the leader.
    Aborted = 9,
    /// Ended with the leader's session.
    Abandoned = 10,
}

impl Phase {
    const ALL: [Self; 10] = [
        Self::Initializing,
        Self::WaitingForCheckpoint,
        Self::WaitingForSummaries,
        Self::ListingFiles,
        Self::Streaming,
        Self::Stopping,
        Self::TransferringWal,
        Self::Stopped,
        Self::Aborted,
        Self::Abandoned,
    ];

    /// The name that users see, in the words of pg_stat_progress_basebackup where it has some.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Initializing => "initializing",
            Self::WaitingForCheckpoint => "waiting for checkpoint to finish",
            Self::WaitingForSummaries => "waiting for wal summaries",
            Self::ListingFiles => "listing files",
            Self::Streaming => "streaming database files",
            Self::Stopping => "stopping",
            Self::TransferringWal => "transferring wal files",
            Self::Stopped => "stopped",
            Self::Aborted => "aborted",
            Self::Abandoned => "abandoned",
        }
    }

    /// Whether the backup is over.
    #[must_use]
    pub fn has_ended(self) -> bool {
        self >= Self::Stopped
    }
}

/// Options fixed at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// kB/s of all workers together.
    pub max_rate: Option<u32>,
    /// Whether pages are verified. Never set in a cluster without data checksums.
    pub verify_checksums: bool,
    /// The manifest's checksum algorithm.
    pub algorithm: Algorithm,
    /// Whether the leader's cluster was in recovery when the backup started.
    pub started_in_recovery: bool,
    /// Whether the backup holds only what has changed since another.
    pub incremental: bool,
}

/// Options as stored in the segment.
#[derive(FromBytes)]
#[repr(C)]
struct SharedOptions {
    /// 0 for none.
    max_rate: u32,
    /// [`Algorithm::code`].
    algorithm: u32,
    /// 0 or 1.
    verify_checksums: u32,
    /// 0 or 1.
    started_in_recovery: u32,
    /// 0 or 1.
    incremental: u32,
}

impl From<Options> for SharedOptions {
    fn from(options: Options) -> Self {
        Self {
            max_rate: options.max_rate.unwrap_or(0),
            algorithm: options.algorithm.code().into(),
            verify_checksums: options.verify_checksums.into(),
            started_in_recovery: options.started_in_recovery.into(),
            incremental: options.incremental.into(),
        }
    }
}

impl From<&SharedOptions> for Options {
    fn from(options: &SharedOptions) -> Self {
        let algorithm = u8::try_from(options.algorithm).ok();
        Self {
            max_rate: (options.max_rate != 0).then_some(options.max_rate),
            algorithm: algorithm
                .and_then(Algorithm::from_code)
                .unwrap_or(Algorithm::None),
            verify_checksums: options.verify_checksums != 0,
            started_in_recovery: options.started_in_recovery != 0,
            incremental: options.incremental != 0,
        }
    }
}

/// The layout of the segment.
#[derive(FromBytes)]
#[repr(C)]
pub struct BackupState {
    magic: AtomicU64,
    nonce: u32,
    leader_pid: i32,
    started_at: i64,
    options: SharedOptions,
    label_length: u32,
    label: [u8; LABEL_SIZE],
    phase: AtomicU32,
    files_handle: AtomicU32,
    start_lsn: AtomicU64,
    /// Microseconds of the monotonic clock at which the next byte of the backup may leave.
    pub rate_clock: AtomicU64,
    /// How far its WAL has come.
    pub wal: WalState,
    /// The background worker that holds the WAL.
    pub retention: Retention,
}

impl BackupState {
    /// The process of the leader.
    #[must_use]
    pub fn leader_pid(&self) -> i32 {
        self.leader_pid
    }

    /// When start_backup() was called, a timestamptz.
    #[must_use]
    pub fn started_at(&self) -> i64 {
        self.started_at
    }

    /// The options of the backup.
    #[must_use]
    pub fn options(&self) -> Options {
        Options::from(&self.options)
    }

    /// What the rows of its sessions in pg_stat_progress_basebackup say of it.
    #[must_use]
    pub fn backup_type(&self) -> BackupType {
        if self.options().incremental {
            BackupType::Incremental
        } else {
            BackupType::Full
        }
    }

    /// The label, in the encoding of the leader's database.
    #[must_use]
    pub fn label(&self) -> &[u8] {
        let length = (self.label_length as usize).min(LABEL_SIZE);
        &self.label[..length]
    }

    /// Current phase.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let code = self.phase.load(Ordering::Acquire);
        Phase::ALL
            .into_iter()
            .find(|phase| *phase as u32 == code)
            .unwrap_or(Phase::Abandoned)
    }

    /// Enters a phase. Called by the leader.
    pub fn enter(&self, phase: Phase) {
        self.phase.store(phase as u32, Ordering::Release);
    }

    /// The position from which a page counts as changed since the start.
    #[must_use]
    pub fn start_lsn(&self) -> u64 {
        self.start_lsn.load(Ordering::Acquire)
    }

    /// The segment with the list of files; 0 until there is one.
    #[must_use]
    pub fn files_handle(&self) -> u32 {
        self.files_handle.load(Ordering::Acquire)
    }

    /// Publishes the files, which opens the backup to workers.
    pub fn publish_files(&self, handle: u32) {
        self.files_handle.store(handle, Ordering::Release);
        self.enter(Phase::Streaming);
    }

    /// Sets the start position.
    pub fn set_start_lsn(&self, lsn: u64) {
        self.start_lsn.store(lsn, Ordering::Release);
    }
}

/// Mapped segment of a backup. Clones share the mapping.
#[derive(Clone, Debug)]
pub struct SharedBackup {
    segment: Segment,
}

impl SharedBackup {
    /// Creates the state of a new backup that this session leads.
    ///
    /// `label` holds at most [`LABEL_SIZE`] bytes; what is longer is cut, because the start of the
    /// backup refuses it anyway.
    ///
    /// # Errors
    /// Where the server has no shared memory left.
    pub fn create(label: &[u8], options: Options, started_at: i64) -> Result<Self> {
        let mut segment = NewSegment::create(size_of::<BackupState>())?;
        let nonce = random_nonce()?;
        let Some(state) = segment.value_mut::<BackupState>(0) else {
            unreachable!("the segment is as large as the structure");
        };
        let length = label.len().min(LABEL_SIZE);
        let mut whole_label = [0; LABEL_SIZE];
        whole_label[..length].copy_from_slice(&label[..length]);
        *state = BackupState {
            magic: AtomicU64::new(MAGIC),
            nonce,
            leader_pid: process::own_id(),
            started_at,
            options: options.into(),
            label_length: length as u32,
            label: whole_label,
            phase: AtomicU32::new(Phase::Initializing as u32),
            files_handle: AtomicU32::new(0),
            start_lsn: AtomicU64::new(0),
            rate_clock: AtomicU64::new(0),
            wal: WalState::default(),
            retention: Retention::default(),
        };
        let segment = segment.publish();
        segment.on_detach::<LeaderDetaches>(0);
        Ok(Self { segment })
    }

    /// Attaches to a backup that the lock registry has announced.
    ///
    /// `None` if it has ended meanwhile. The handle may denote a foreign segment by then, of which
    /// only magic number and nonce are read.
    #[must_use]
    pub fn attach(handle: u32, nonce: u32) -> Option<Self> {
        let segment = Segment::attach(handle)?;
        let is_this_backup = segment
            .memory()
            .value(0)
            .is_some_and(|state: &BackupState| {
                state.magic.load(Ordering::Acquire) == MAGIC && state.nonce == nonce
            });
        is_this_backup.then_some(Self { segment })
    }

    /// The segment's handle.
    #[must_use]
    pub fn handle(&self) -> u32 {
        self.segment.handle()
    }

    /// The random number that tells this backup from an earlier one with the same handle.
    #[must_use]
    pub fn nonce(&self) -> u32 {
        self.nonce
    }

    /// Registers a handler for the end of this mapping.
    pub fn on_detach<H: DetachHandler>(&self) {
        self.segment.on_detach::<H>(0);
    }

    /// Unpins the leader's mapping, which ends with the last clone.
    pub fn detach(self) {
        self.segment.unpin();
    }
}

impl Deref for SharedBackup {
    type Target = BackupState;

    fn deref(&self) -> &BackupState {
        match self.segment.memory().value(0) {
            Some(state) => state,
            None => unreachable!("it was checked when it was mapped"),
        }
    }
}

/// Handler for the end of the leader's mapping: by abort_backup(), a stop, or the end of its
/// session.
struct LeaderDetaches;

impl DetachHandler for LeaderDetaches {
    fn detached(memory: Memory<'_>, _argument: u32) {
        if let Some(state) = memory.value::<BackupState>(0) {
            if !state.phase().has_ended() {
                state.enter(Phase::Abandoned);
            }
            state.retention.wake_worker();
        }
    }
}

/// A random number that is not 0 and leaves room for the sign of a bigint.
fn random_nonce() -> Result<u32> {
    let bytes = process::random_bytes()?;
    Ok((u32::from_ne_bytes(bytes) & 0x7FFF_FFFF).max(1))
}
