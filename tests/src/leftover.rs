//! Checks that a backup that has ended leaves nothing on the server.

use std::fs;
use std::path::PathBuf;

use crate::server::Cluster;
use crate::wait::{PATIENCE, wait_for};

/// Queries that find something only while a backup or stream runs.
const TRACES: &[(&str, &str)] = &[
    (
        "a row of backup_progress()",
        "SELECT format('backup %s, phase %s', backup_id, phase) FROM backup_progress()",
    ),
    (
        "a row of pg_stat_progress_basebackup",
        "SELECT format('process %s', pid) FROM pg_stat_progress_basebackup",
    ),
    (
        "a replication slot",
        "SELECT slot_name::text FROM pg_replication_slots",
    ),
    (
        "a background worker",
        "SELECT format('process %s', pid) FROM pg_stat_activity
         WHERE backend_type LIKE 'pg_parallel_backup%'",
    ),
    (
        "a lock",
        "SELECT format('process %s: %s %s', pid, locktype, mode) FROM pg_locks
         WHERE locktype NOT IN ('relation', 'virtualxid', 'transactionid', 'extend')",
    ),
];

/// Waits until no trace of any backup is left, and fails with the remaining traces. Terminated
/// processes take a moment to clean up.
#[track_caller]
pub fn assert_none(cluster: &Cluster) {
    for (what, query) in TRACES {
        let mut client = cluster.connect();
        let mut found = Vec::new();
        wait_for(&format!("the end of {what}"), PATIENCE, || {
            found = client
                .query(*query, &[])
                .unwrap_or_else(|error| panic!("{query}\n{error}"))
                .iter()
                .map(|row| row.get::<_, String>(0))
                .collect();
            found.is_empty()
        });
    }
    wait_for("the end of the shared segments", PATIENCE, || {
        shared_segments(cluster).is_empty() && states(cluster) == 0
    });
    let mut found = Vec::new();
    wait_for("the end of files of a backup", PATIENCE, || {
        found = files(cluster);
        found.is_empty()
    });
}

/// Files and directories that exist only while a backup, a slot or a query exists.
fn files(cluster: &Cluster) -> Vec<PathBuf> {
    let data = cluster.data_dir();
    let mut found: Vec<PathBuf> = ["backup_label", "tablespace_map"]
        .iter()
        .map(|name| data.join(name))
        .filter(|path| path.exists())
        .collect();
    for dir in ["pg_replslot", "base/pgsql_tmp"] {
        let entries = fs::read_dir(data.join(dir)).into_iter().flatten();
        found.extend(entries.flatten().map(|entry| entry.path()));
    }
    found
}

/// Number of shared memory segments that hold a backup's state, identified by the letters in their
/// magic number. They are found in the same place as [`shared_segments`].
fn states(cluster: &Cluster) -> usize {
    let letters = u64::from_be_bytes(*b"pgpbk\0\0\0").to_ne_bytes();
    let entries = fs::read_dir(cluster.data_dir().join("pg_dynshmem"));
    entries
        .into_iter()
        .flatten()
        .filter_map(|entry| fs::read(entry.ok()?.path()).ok())
        .filter(|segment| segment.get(3..8) == Some(&letters[3..]))
        .count()
}

/// Sizes of the shared memory segments that hold the listing of a backup. Only a cluster with
/// `dynamic_shared_memory_type = mmap` keeps them in its data directory. For other clusters the
/// result is empty.
pub fn shared_segments(cluster: &Cluster) -> Vec<u64> {
    const PATH_IN_EVERY_LISTING: &[u8] = b"base/1/PG_VERSION";
    let entries = fs::read_dir(cluster.data_dir().join("pg_dynshmem"))
        .unwrap_or_else(|error| panic!("could not read pg_dynshmem: {error}"));
    entries
        .filter_map(|entry| fs::read(entry.ok()?.path()).ok())
        .filter(|segment| {
            segment
                .windows(PATH_IN_EVERY_LISTING.len())
                .any(|part| part == PATH_IN_EVERY_LISTING)
        })
        .map(|segment| segment.len() as u64)
        .collect()
}

/// Checks that the server counts no running backup. The cluster has `full_page_writes` off, so only
/// a backup causes full-page writes. The check needs a table `probe` with a numeric column `a`, and
/// the extension pg_walinspect.
#[track_caller]
pub fn assert_none_counted(cluster: &Cluster) {
    if !cluster.has_module("pg_walinspect") {
        return;
    }
    let mut client = cluster.connect();
    let mut position = || -> String {
        client
            .query_one("SELECT pg_current_wal_insert_lsn()::text", &[])
            .expect("the end of the WAL")
            .get(0)
    };
    let from = position();
    // Setting hint bits logs a full page in any case, so set them first.
    cluster.execute("SELECT count(*) FROM probe");
    cluster.execute("CHECKPOINT");
    cluster.execute("UPDATE probe SET a = a + 1");
    let to = position();
    wait_for("the WAL to be written", PATIENCE, || {
        client
            .query_one(
                "SELECT pg_current_wal_flush_lsn() >= $1::text::pg_lsn",
                &[&to],
            )
            .is_ok_and(|row| row.get(0))
    });
    let full: i64 = client
        .query_one(
            "SELECT count(*) FROM pg_get_wal_records_info($1::text::pg_lsn, $2::text::pg_lsn)
             WHERE resource_manager LIKE 'Heap%' AND fpi_length > 0",
            &[&from, &to],
        )
        .expect("pg_get_wal_records_info()")
        .get(0);
    assert_eq!(full, 0, "full pages are written as if a backup still ran");
}
