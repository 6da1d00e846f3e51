//! Servers with too few resources for a backup, or for the WAL that it would retain. The start
//! fails, names the setting, and leaves nothing behind.

use backup_tests::backup::{start, try_start};
use backup_tests::builder::Builder;
use backup_tests::failure::{Failure, expect_failure};
use backup_tests::leftover;
use backup_tests::server::Cluster;
use backup_tests::stream::{copy_of, copy_out};
use postgres::Client;

fn builder() -> Builder {
    Cluster::builder().setting("dynamic_shared_memory_type", "mmap")
}

/// Errors of both functions that start a backup.
#[track_caller]
fn failed_starts(client: &mut Client, options: &str) -> [Failure; 2] {
    let whole = copy_of(&format!("base_backup(fast => true{options})"));
    let options = options.trim_start_matches(", ");
    [
        expect_failure("start_backup()", try_start(client, options)),
        expect_failure(&whole, copy_out(client, &whole)),
    ]
}

#[test]
fn wal_level_minimal_is_not_sufficient() {
    let cluster = builder()
        .setting("wal_level", "minimal")
        .setting("max_wal_senders", "0")
        .start();
    let mut client = cluster.connect();
    for options in ["", ", retain_wal => true"] {
        for failure in failed_starts(&mut client, options) {
            assert_eq!(failure.sqlstate, "55000", "{failure}");
            let said = format!("{} {}", failure.message, failure.hint);
            assert!(said.contains("wal_level"), "{failure}");
        }
        leftover::assert_none(&cluster);
    }
}

#[test]
fn without_replication_slots_no_wal_can_be_retained() {
    let cluster = builder().setting("max_replication_slots", "0").start();
    let mut client = cluster.connect();
    for failure in failed_starts(&mut client, ", retain_wal => true") {
        assert_eq!(failure.sqlstate, "55000", "{failure}");
        assert!(
            failure.message.contains("max_replication_slots"),
            "{failure}"
        );
    }
    leftover::assert_none(&cluster);
    start(&mut client, "");
}

#[test]
fn with_every_replication_slot_taken_no_wal_can_be_retained() {
    let cluster = builder().setting("max_replication_slots", "1").start();
    let mut client = cluster.connect();
    let taken = "SELECT pg_create_physical_replication_slot('taken')";
    client.batch_execute(taken).expect("a slot");
    for failure in failed_starts(&mut client, ", retain_wal => true") {
        failure.assert(
            "55000",
            "could not create the replication slot that retains the WAL of the backup",
        );
        assert_eq!(failure.detail, "all replication slots are in use");
        assert!(failure.hint.contains("max_replication_slots"), "{failure}");
    }
    client
        .batch_execute("SELECT pg_drop_replication_slot('taken')")
        .expect("pg_drop_replication_slot()");
    leftover::assert_none(&cluster);
    start(&mut client, "retain_wal => true");
}

#[test]
fn without_background_workers_no_wal_can_be_retained() {
    let cluster = builder().setting("max_worker_processes", "0").start();
    let mut client = cluster.connect();
    for failure in failed_starts(&mut client, ", retain_wal => true") {
        failure.assert(
            "53000",
            "could not register background worker to retain WAL",
        );
        assert!(failure.hint.contains("max_worker_processes"), "{failure}");
    }
    leftover::assert_none(&cluster);
    start(&mut client, "");
}
