//! Progress and statistics of this session (commands/progress.h, pgstat.h).

use pgrx::pg_sys;

/// The rows of pg_stat_progress_basebackup's `phase`.
#[derive(Clone, Copy)]
#[repr(u32)]
pub enum ProgressPhase {
    /// "waiting for checkpoint to finish"
    WaitingForCheckpoint = pg_sys::PROGRESS_BASEBACKUP_PHASE_WAIT_CHECKPOINT,
    /// "estimating backup size"
    EstimatingSize = pg_sys::PROGRESS_BASEBACKUP_PHASE_ESTIMATE_BACKUP_SIZE,
    /// "streaming database files"
    Streaming = pg_sys::PROGRESS_BASEBACKUP_PHASE_STREAM_BACKUP,
    /// "waiting for wal archiving to finish"
    WaitingForArchive = pg_sys::PROGRESS_BASEBACKUP_PHASE_WAIT_WAL_ARCHIVE,
    /// "transferring wal files"
    TransferringWal = pg_sys::PROGRESS_BASEBACKUP_PHASE_TRANSFER_WAL,
}

/// What the column `backup_type` shows, from 19 on.
#[derive(Clone, Copy)]
pub enum BackupType {
    /// "full"
    Full,
    /// "incremental"
    Incremental,
}

/// This session's row in pg_stat_progress_basebackup. An ERROR clears it as well.
///
/// Below COPY it takes the place of the COPY's own row, whose numbers a COPY without rows would
/// never set.
pub struct ProgressRow;

impl ProgressRow {
    /// Shows the row.
    #[must_use]
    pub fn start(backup: BackupType, phase: ProgressPhase) -> Self {
        // SAFETY: writes this session's own slot.
        unsafe {
            pg_sys::pgstat_progress_start_command(
                pg_sys::ProgressCommandType::PROGRESS_COMMAND_BASEBACKUP,
                pg_sys::InvalidOid,
            );
        }
        let row = Self;
        row.set_type(backup);
        // As in core: an unknown total reads as NULL.
        row.set_bytes_total(-1);
        row.enter(phase);
        row
    }

    #[cfg(pg19_or_newer)]
    fn set_type(&self, backup: BackupType) {
        let code = match backup {
            BackupType::Full => pg_sys::PROGRESS_BASEBACKUP_BACKUP_TYPE_FULL,
            BackupType::Incremental => pg_sys::PROGRESS_BASEBACKUP_BACKUP_TYPE_INCREMENTAL,
        };
        update(pg_sys::PROGRESS_BASEBACKUP_BACKUP_TYPE, i64::from(code));
    }

    #[cfg(not(pg19_or_newer))]
    fn set_type(&self, _: BackupType) {}

    /// Goes on to another phase.
    pub fn enter(&self, phase: ProgressPhase) {
        update(pg_sys::PROGRESS_BASEBACKUP_PHASE, i64::from(phase as u32));
    }

    /// Bytes of the whole backup.
    pub fn set_bytes_total(&self, bytes: i64) {
        update(pg_sys::PROGRESS_BASEBACKUP_BACKUP_TOTAL, bytes);
    }

    /// Bytes that this session has sent.
    pub fn set_bytes_sent(&self, bytes: u64) {
        update(
            pg_sys::PROGRESS_BASEBACKUP_BACKUP_STREAMED,
            bytes.cast_signed(),
        );
    }
}

impl Drop for ProgressRow {
    fn drop(&mut self) {
        // SAFETY: writes this session's own slot.
        unsafe { pg_sys::pgstat_progress_end_command() };
    }
}

fn update(parameter: u32, value: i64) {
    // SAFETY: writes this session's own slot; the parameter is one of commands/progress.h.
    unsafe { pg_sys::pgstat_progress_update_param(parameter as i32, value) };
}

/// Adds bad pages to a database's row in pg_stat_database; 0 stands for shared objects.
pub fn report_checksum_failures(database: u32, failures: u32) {
    let failures = i32::try_from(failures).unwrap_or(i32::MAX);
    // SAFETY: guarded by pgrx; updates statistics.
    unsafe {
        #[cfg(pg18_or_newer)]
        pg_sys::pgstat_prepare_report_checksum_failure(pg_sys::Oid::from(database));
        pg_sys::pgstat_report_checksum_failures_in_db(pg_sys::Oid::from(database), failures);
    }
}
