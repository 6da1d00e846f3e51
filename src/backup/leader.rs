//! Leader: the session that starts, holds and stops a backup.
//!
//! A session leads at most one backup, which ends with the session in any case: the server's exit
//! handler takes the cluster out of backup mode, the detach handler of the backup's segment tells
//! the workers, and the lock that announces the backup is released.

use core::cell::RefCell;

use backup_format::checksum::Algorithm;

use crate::backup::files::SharedFiles;
use crate::backup::retention::RetentionWorker;
use crate::backup::state::{Options, Phase, SharedBackup};
use crate::server::backend_progress::{ProgressPhase, ProgressRow};
use crate::server::backup_control::{self, Earlier, StartedBackup, Tablespace};
use crate::server::clock;
use crate::server::incremental::{self, EarlierManifest};
use crate::server::lock_registry::{self, Registration};
use crate::server::parameters;
use crate::server::recovery;
use crate::server::report::{Error, Result, Sqlstate};
use crate::server::settings;

use super::options::StartOptions;
use super::walk;

/// The backup that this session leads.
pub struct Leader {
    /// The shared state.
    pub backup: SharedBackup,
    /// The shared files, once they are listed.
    files: Option<SharedFiles>,
    retention: RefCell<Option<RetentionWorker>>,
    /// Result of the start.
    pub started: StartedBackup,
    /// The manifest's algorithm; `None` for no manifest.
    pub manifest: Option<Algorithm>,
}

thread_local! {
    static LEADER: RefCell<Option<Leader>> = const { RefCell::new(None) };
}

/// Result row of start_backup().
pub struct StartSummary {
    /// The number by which workers join.
    pub backup_id: i64,
    /// Start position.
    pub start_lsn: u64,
    /// Timeline of the start position.
    pub timeline: u32,
    /// The content of backup_label.
    pub backup_label: Vec<u8>,
    /// The content of tablespace_map; empty where there is nothing to write.
    pub tablespace_map: Vec<u8>,
    /// Entries of the listing: files, directories and links.
    pub file_count: u64,
    /// Bytes of the files in the listing.
    pub total_bytes: u64,
}

/// Starts a backup that this session leads.
///
/// # Errors
/// `object_not_in_prerequisite_state` where a backup runs in this session; the server's own errors.
pub fn start(options: &StartOptions) -> Result<StartSummary> {
    if backup_control::is_running() {
        return Err(Error::new(
            Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "a backup is already in progress in this session",
        ));
    }
    let earlier = if options.incremental {
        Some(incremental::take_uploaded()?)
    } else {
        None
    };
    let shared_options = Options {
        max_rate: options.max_rate,
        verify_checksums: options.verify_checksums && settings::has_data_checksums(),
        algorithm: options.manifest.unwrap_or(Algorithm::None),
        started_in_recovery: recovery::is_in_recovery(),
        incremental: options.incremental,
    };
    let backup = SharedBackup::create(&options.label, shared_options, clock::current_timestamp())?;
    // From here on an ERROR ends the backup.
    let mut running = BackupGuard(Some(Leader {
        backup,
        files: None,
        retention: RefCell::new(None),
        started: StartedBackup::default(),
        manifest: options.manifest,
    }));
    let leader = running.leader_mut();
    lock_registry::announce(leader.registration());
    leader.enter_backup_mode(options, earlier.as_ref())?;
    leader.share_files(options.tablespace_map, earlier.as_ref())?;
    let summary = leader.summary();
    resume(running);
    Ok(summary)
}

/// Ends this session's backup without a result.
///
/// # Errors
/// `object_not_in_prerequisite_state` where this session leads no backup.
pub fn abort() -> Result<()> {
    take()?.end(Phase::Aborted);
    Ok(())
}

/// Looks at the backup that this session leads.
pub fn with_leader<T>(look: impl FnOnce(&Leader) -> T) -> Option<T> {
    LEADER.with_borrow(|leader| leader.as_ref().map(look))
}

/// Shared state of the backup that this session leads.
///
/// # Errors
/// `object_not_in_prerequisite_state` where this session leads no backup.
pub fn own_backup() -> Result<SharedBackup> {
    with_leader(|leader| leader.backup.clone()).ok_or_else(not_in_progress)
}

/// Takes the backup out of the session. The backup ends with the guard, unless it is given back
/// with [`resume`].
///
/// # Errors
/// `object_not_in_prerequisite_state` where this session leads no backup.
pub fn take() -> Result<BackupGuard> {
    if let Some(leader) = LEADER.take() {
        return Ok(BackupGuard(Some(leader)));
    }
    Err(if backup_control::is_running() {
        Error::new(
            Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the backup in progress was not started by start_backup()",
        )
        .hint("Use pg_backup_stop() to end it.")
    } else {
        not_in_progress()
    })
}

/// Gives the backup back to the session, which goes on with it.
pub fn resume(mut running: BackupGuard) {
    LEADER.set(running.0.take());
}

/// "backup is not in progress", as core says it.
#[must_use]
pub fn not_in_progress() -> Error {
    Error::new(
        Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "backup is not in progress",
    )
    .hint("Did you call start_backup()?")
}

impl Leader {
    fn registration(&self) -> Registration {
        Registration {
            handle: self.backup.handle(),
            nonce: self.backup.nonce(),
        }
    }

    /// The number by which workers join.
    #[must_use]
    pub fn backup_id(&self) -> i64 {
        self.registration().backup_id()
    }

    /// The shared files, once they are listed.
    #[must_use]
    pub fn files(&self) -> Option<SharedFiles> {
        self.files.clone()
    }

    /// Whether WAL retention has ended early.
    #[must_use]
    pub fn has_lost_retention(&self) -> bool {
        self.retention
            .borrow()
            .as_ref()
            .is_some_and(RetentionWorker::has_stopped)
    }

    /// Releases the retained WAL, and waits for the end of the retention worker.
    pub fn release_wal(&self) {
        if let Some(retention) = self.retention.take() {
            retention.release(&self.backup);
        }
    }

    fn enter_backup_mode(
        &mut self,
        options: &StartOptions,
        earlier: Option<&EarlierManifest>,
    ) -> Result<()> {
        if options.retain_wal {
            // Before the start, so that the slot holds the checkpoint's WAL from its first byte.
            self.retention
                .replace(Some(RetentionWorker::start(&self.backup)?));
        }
        self.backup.enter(Phase::WaitingForCheckpoint);
        let _row = ProgressRow::start(
            self.backup.backup_type(),
            ProgressPhase::WaitingForCheckpoint,
        );
        let on_wait = || self.backup.enter(Phase::WaitingForSummaries);
        let earlier = earlier.map(|manifest| Earlier {
            manifest,
            on_wait: &on_wait,
        });
        self.started = backup_control::start(&options.label, options.fast, earlier)?;
        self.backup.set_start_lsn(self.started.start_lsn);
        if !options.tablespace_map {
            self.started.tablespace_map.clear();
        }
        Ok(())
    }

    fn share_files(
        &mut self,
        tablespace_map: bool,
        earlier: Option<&EarlierManifest>,
    ) -> Result<()> {
        self.backup.enter(Phase::ListingFiles);
        let _row = ProgressRow::start(self.backup.backup_type(), ProgressPhase::EstimatingSize);
        // The tablespaces of the start, not of now: replay makes what came later.
        let tablespaces: &[Tablespace] = &self.started.tablespaces;
        let must_be_readable = !parameters::list_unreadable_files();
        let listing = walk::list(tablespaces, !tablespace_map, must_be_readable, earlier)?;
        let algorithm = self.backup.options().algorithm;
        // Only this checksum of a file follows from those of its parts.
        let has_parts =
            earlier.is_none() && matches!(algorithm, Algorithm::None | Algorithm::Crc32c);
        let files = SharedFiles::share(
            &listing,
            tablespaces,
            algorithm.digest_len(),
            has_parts,
            self.backup.nonce(),
        )?;
        self.backup.publish_files(files.handle());
        self.files = Some(files);
        Ok(())
    }

    fn summary(&self) -> StartSummary {
        let (file_count, total_bytes) = self.files.as_ref().map_or((0, 0), |files| {
            let table = files.table();
            (table.slots().len() as u64, table.header().bytes_total)
        });
        StartSummary {
            backup_id: self.backup_id(),
            start_lsn: self.started.start_lsn,
            timeline: self.started.timeline,
            backup_label: self.started.backup_label.clone(),
            tablespace_map: self.started.tablespace_map.clone(),
            file_count,
            total_bytes,
        }
    }
}

const GUARD_HOLDS_LEADER: &str = "a backup is taken out of its guard only when the guard ends";

/// Guard of a backup, which ends on drop.
pub struct BackupGuard(Option<Leader>);

impl BackupGuard {
    /// The leader's view of the backup.
    #[must_use]
    pub fn leader(&self) -> &Leader {
        match &self.0 {
            Some(leader) => leader,
            None => unreachable!("{GUARD_HOLDS_LEADER}"),
        }
    }

    fn leader_mut(&mut self) -> &mut Leader {
        match &mut self.0 {
            Some(leader) => leader,
            None => unreachable!("{GUARD_HOLDS_LEADER}"),
        }
    }

    /// Ends the backup, and waits until nothing of it is left.
    pub fn end(self, phase: Phase) {
        let leader = self.leader();
        leader.backup.enter(phase);
        leader.release_wal();
    }
}

impl Drop for BackupGuard {
    fn drop(&mut self) {
        if let Some(leader) = self.0.take() {
            close(leader);
        }
    }
}

/// Leaves backup mode and releases everything shared. Does not raise.
fn close(leader: Leader) {
    backup_control::abort();
    if !leader.backup.phase().has_ended() {
        leader.backup.enter(Phase::Aborted);
    }
    lock_registry::withdraw();
    if let Some(files) = leader.files {
        files.detach();
    }
    leader.backup.detach();
}

/// Ends the session's backup on drop: for statements that start a backup and do not leave one.
pub struct EndBackupOnDrop;

impl Drop for EndBackupOnDrop {
    fn drop(&mut self) {
        if let Some(leader) = LEADER.take() {
            close(leader);
        }
    }
}
