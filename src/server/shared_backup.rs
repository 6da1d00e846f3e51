//! The segment that stands for one backup: who leads it, with which options, and how far it is.
//!
//! The leader creates it before the backup starts, so that other sessions can see it wait for
//! its checkpoint. The list of files has a segment of its own ([`super::shared_files`]), made
//! when the number of files is known.
//!
//! What is not atomic is written once, before the backup is announced in the lock registry, and
//! never again. No lock is held anywhere.

use core::mem::size_of;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use pgrx::pg_sys;

use super::report::{Error, Result, Sqlstate};
use super::segment::{self, Segment};
use super::wal_retention::Retention;

const MAGIC: u64 = segment::magic(*b"pgpbk");

/// The longest label, in bytes (MAXPGPATH, the limit of do_pg_backup_start).
pub const LABEL_SIZE: usize = 1024;

/// The steps of a backup, in their order, and the ways in which it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Phase {
    /// The leader prepares the start.
    Initializing = 1,
    /// do_pg_backup_start runs; it waits for a checkpoint.
    WaitingForCheckpoint = 2,
    /// The directories are walked.
    ListingFiles = 3,
    /// Workers may send files.
    Streaming = 4,
    /// do_pg_backup_stop runs; it may wait for the archive.
    Stopping = 5,
    /// The closing archive carries WAL.
    TransferringWal = 6,
    /// Ended by a stop.
    Stopped = 7,
    /// Ended by an abort, or by an error of the leader.
    Aborted = 8,
    /// Ended with the leader's session.
    Abandoned = 9,
}

impl Phase {
    const ALL: [Self; 9] = [
        Self::Initializing,
        Self::WaitingForCheckpoint,
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

/// What is fixed when the backup starts.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// kB/s of all workers together.
    pub max_rate: Option<u32>,
    /// Whether pages are verified. Never set in a cluster without data checksums.
    pub verify_checksums: bool,
    /// The code of the manifest's checksum algorithm.
    pub algorithm: backup_format::checksum::Algorithm,
    /// Whether the leader's cluster was in recovery when the backup started.
    pub started_in_recovery: bool,
}

/// The layout of the segment.
#[repr(C)]
pub struct BackupState {
    magic: AtomicU64,
    nonce: u32,
    leader_pid: i32,
    started_at: i64,
    options: Options,
    label_length: u32,
    label: [u8; LABEL_SIZE],
    phase: AtomicU32,
    files_handle: AtomicU32,
    start_lsn: AtomicU64,
    /// Microseconds of the monotonic clock at which the next byte of the backup may leave.
    pub rate_clock: AtomicU64,
    /// How the background worker that holds the WAL is doing.
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
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The label, in the encoding of the leader's database.
    #[must_use]
    pub fn label(&self) -> &[u8] {
        let length = (self.label_length as usize).min(LABEL_SIZE);
        &self.label[..length]
    }

    /// The current step.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let code = self.phase.load(Ordering::Acquire);
        Phase::ALL
            .into_iter()
            .find(|phase| *phase as u32 == code)
            .unwrap_or(Phase::Abandoned)
    }

    /// Goes on to another step. The leader alone calls it.
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

    /// Opens the backup to workers.
    pub fn publish_files(&self, handle: u32) {
        self.files_handle.store(handle, Ordering::Release);
        self.enter(Phase::Streaming);
    }

    /// Notes where the backup starts.
    pub fn set_start_lsn(&self, lsn: u64) {
        self.start_lsn.store(lsn, Ordering::Release);
    }
}

/// A backup's segment, mapped.
#[derive(Debug)]
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
        let segment = Segment::create_pinned(size_of::<BackupState>())?;
        let nonce = random_nonce()?;
        let state: *mut BackupState = segment.address().as_ptr().cast();
        let length = label.len().min(LABEL_SIZE);
        // SAFETY: the segment is page aligned and as large as the structure, zeros are valid for
        // every field but the options, which are written here, and no other process knows of it.
        unsafe {
            state.write_bytes(0, 1);
            (&raw mut (*state).options).write(options);
            (*state).nonce = nonce;
            (*state).leader_pid = pg_sys::MyProcPid;
            (*state).started_at = started_at;
            (*state).label_length = length as u32;
            (&raw mut (*state).label)
                .cast::<u8>()
                .copy_from_nonoverlapping(label.as_ptr(), length);
        }
        let backup = Self { segment };
        backup.enter(Phase::Initializing);
        backup.magic.store(MAGIC, Ordering::Release);
        // SAFETY: the callback stores to the segment and sends a signal; it does not raise.
        unsafe { backup.segment.on_detach(leader_detaches, 0) };
        Ok(backup)
    }

    /// Attaches to a backup that the lock registry has announced.
    ///
    /// `None` where it has ended meanwhile.
    #[must_use]
    pub fn attach(handle: u32, nonce: u32) -> Option<Self> {
        let segment = Segment::attach(handle)?;
        if segment.size() < size_of::<BackupState>() {
            return None;
        }
        let state: *const BackupState = segment.address().as_ptr().cast();
        // SAFETY: mapped, and large enough. The handle may have gone to a segment of somebody else
        // meanwhile, so that nothing but these numbers, which are valid whatever they are, is looked at.
        let is_this_backup =
            unsafe { (*state).magic.load(Ordering::Acquire) == MAGIC && (*state).nonce == nonce };
        is_this_backup.then_some(Self { segment })
    }

    /// The leader's own mapping, used for one statement.
    #[must_use]
    pub fn borrow_pinned(&self) -> Self {
        Self {
            segment: self.segment.borrow_pinned(),
        }
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

    /// Has the pid of the background worker forgotten when its mapping ends.
    pub(super) fn when_worker_exits(&self) {
        // SAFETY: the callback stores to the segment and does nothing else.
        unsafe { self.segment.on_detach(worker_detaches, 0) };
    }

    /// Ends the leader's mapping.
    pub fn detach(self) {
        self.segment.detach();
    }
}

impl Deref for SharedBackup {
    type Target = BackupState;

    fn deref(&self) -> &BackupState {
        // SAFETY: created or checked above to be a mapped BackupState. What other processes write
        // in it is atomic; the rest was written before the segment was announced.
        unsafe { self.segment.address().cast::<BackupState>().as_ref() }
    }
}

/// The leader's mapping ends: with abort_backup() and the stops, or with its session.
unsafe extern "C-unwind" fn leader_detaches(
    mapping: *mut pg_sys::dsm_segment,
    _argument: pg_sys::Datum,
) {
    let Some(mapping) = NonNull::new(mapping) else {
        return;
    };
    // SAFETY: the server calls back while the segment is still mapped, and only the leader
    // registers this callback, on a segment that it has filled.
    let state = unsafe { segment::address_of(mapping).cast::<BackupState>().as_ref() };
    if !state.phase().has_ended() {
        state.enter(Phase::Abandoned);
    }
    state.retention.wake_worker();
}

/// The background worker's mapping ends.
unsafe extern "C-unwind" fn worker_detaches(
    mapping: *mut pg_sys::dsm_segment,
    _argument: pg_sys::Datum,
) {
    if let Some(mapping) = NonNull::new(mapping) {
        // SAFETY: the server calls back while the segment is still mapped, and only the background
        // worker registers this callback, on a segment that it has checked.
        let state = unsafe { segment::address_of(mapping).cast::<BackupState>().as_ref() };
        state.retention.forget_worker();
    }
}

/// A random number that is not 0 and leaves room for the sign of a bigint.
fn random_nonce() -> Result<u32> {
    let mut bytes = [0_u8; 4];
    // SAFETY: writes as many bytes as the array has.
    let done = unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), bytes.len()) };
    if !done {
        return Err(Error::new(
            Sqlstate::ERRCODE_INTERNAL_ERROR,
            "could not generate a random number for the backup",
        ));
    }
    Ok((u32::from_ne_bytes(bytes) & 0x7FFF_FFFF).max(1))
}
