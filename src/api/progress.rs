//! backup_progress(): the backups running on this server, visible in any session.

use core::sync::atomic::Ordering;

use pgrx::name;
use pgrx::prelude::*;

use crate::backup::lookup::{self, RunningBackup};
use crate::server::encoding;

type Row = (
    i64,
    i32,
    Vec<u8>,
    &'static str,
    i64,
    i32,
    i64,
    i64,
    i64,
    i64,
    i64,
);

type RowWithWal = (
    i64,
    i32,
    Vec<u8>,
    &'static str,
    i64,
    i32,
    i64,
    i64,
    i64,
    i64,
    i64,
    i64,
    Option<i64>,
);

/// backup_progress() since 0.3.0, with the columns about WAL.
#[pg_extern(sql = false)]
fn backup_progress_with_wal() -> TableIterator<
    'static,
    (
        name!(backup_id, i64),
        name!(leader_pid, i32),
        name!(label, Vec<u8>),
        name!(phase, &'static str),
        name!(started_at, i64),
        name!(workers, i32),
        name!(files_total, i64),
        name!(files_sent, i64),
        name!(bytes_total, i64),
        name!(bytes_sent, i64),
        name!(checksum_failures, i64),
        name!(wal_segments_sent, i64),
        name!(wal_sent_lsn, Option<i64>),
    ),
> {
    let running = lookup::running_backups();
    let rows: Vec<_> = running.iter().filter_map(row_with_wal).collect();
    TableIterator::new(rows)
}

fn row_with_wal(running: &RunningBackup) -> Option<RowWithWal> {
    let (id, pid, label, phase, start, workers, files, files_sent, bytes, bytes_sent, failures) =
        row(running)?;
    let wal = &running.backup.wal;
    Some((
        id,
        pid,
        label,
        phase,
        start,
        workers,
        files,
        files_sent,
        bytes,
        bytes_sent,
        failures,
        wal.segments_sent().cast_signed(),
        wal.sent().map(u64::cast_signed),
    ))
}

/// The function of versions up to 0.2.0, whose definitions can outlive their library.
#[pg_extern(sql = false)]
fn backup_progress() -> TableIterator<
    'static,
    (
        name!(backup_id, i64),
        name!(leader_pid, i32),
        name!(label, Vec<u8>),
        name!(phase, &'static str),
        name!(started_at, i64),
        name!(workers, i32),
        name!(files_total, i64),
        name!(files_sent, i64),
        name!(bytes_total, i64),
        name!(bytes_sent, i64),
        name!(checksum_failures, i64),
    ),
> {
    TableIterator::new(rows())
}

fn rows() -> Vec<Row> {
    lookup::running_backups().iter().filter_map(row).collect()
}

/// `None` if the backup has ended since the lookup.
fn row(running: &RunningBackup) -> Option<Row> {
    let backup = &running.backup;
    let phase = backup.phase();
    if phase.has_ended() {
        return None;
    }
    let mut counts = [0; 6];
    if let Some(files) = &running.files {
        let table = files.table();
        let header = table.header();
        counts = [
            u64::from(header.workers.load(Ordering::Relaxed)),
            table.slots().len() as u64,
            header.files_sent.load(Ordering::Relaxed),
            header.bytes_total,
            header.bytes_sent.load(Ordering::Relaxed),
            header.checksum_failures.load(Ordering::Relaxed),
        ];
    }
    let [
        workers,
        files_total,
        files_sent,
        bytes_total,
        bytes_sent,
        failures,
    ] = counts.map(u64::cast_signed);
    Some((
        running.backup_id,
        backup.leader_pid(),
        encoding::sql_text(backup.label()).into_owned(),
        phase.name(),
        backup.started_at(),
        i32::try_from(workers).unwrap_or(i32::MAX),
        files_total,
        files_sent,
        bytes_total,
        bytes_sent,
        failures,
    ))
}
