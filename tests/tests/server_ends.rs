//! The server goes down during a backup, by a crash of one of its processes or by a shutdown.

use std::fs;

use backup_tests::backup::{Backup, start};
use backup_tests::leftover;
use backup_tests::program::signal;
use backup_tests::server::{Cluster, Shutdown};
use backup_tests::session::backend_pid;
use backup_tests::stream::{Worker, copy_of};
use backup_tests::wait::{PATIENCE, wait_for};
use backup_tests::workload::create_table;
use postgres::{Client, NoTls};

const MEGABYTE: u64 = 1 << 20;

const READY: &str = "database system is ready to accept connections";

/// What the postmaster says of processes that have not ended five seconds after it asked them to.
const TOO_SLOW: &str = "to recalcitrant children";

fn cluster() -> Cluster {
    let cluster = Cluster::builder()
        .setting("dynamic_shared_memory_type", "mmap")
        .start();
    create_table(&cluster, "big", 16);
    cluster
}

/// Backup that retains its WAL, and a worker in the middle of a message that waits for its client.
#[track_caller]
fn in_mid_stream(cluster: &Cluster) -> (Client, Worker) {
    let mut leader = cluster.connect();
    let id = start(&mut leader, "retain_wal => true").id;
    let copy = copy_of(&format!("send_backup_files({id})"));
    let worker = Worker::spawn_halting(cluster, &copy, MEGABYTE);
    worker.wait_for_bytes(MEGABYTE);
    worker.wait_for_full_socket(cluster);
    (leader, worker)
}

#[track_caller]
fn slot_holder(cluster: &Cluster) -> i32 {
    let row = cluster.connect().query_one(
        "SELECT pid FROM pg_stat_activity
         WHERE backend_type = 'pg_parallel_backup WAL retention'",
        &[],
    );
    row.expect("the process of the slot").get(0)
}

/// Checks that the server is up again without a trace of the backup, and takes another.
#[track_caller]
fn assert_as_before(cluster: &Cluster) {
    leftover::assert_none(cluster);
    let slots = fs::read_dir(cluster.data_dir().join("pg_replslot")).expect("pg_replslot");
    assert_eq!(slots.count(), 0, "a slot is left on disk");
    for name in ["backup_label", "tablespace_map", "backup_manifest"] {
        assert!(!cluster.data_dir().join(name).exists(), "{name}");
    }
    let backup = Backup::take_with(cluster, 2, "retain_wal => true");
    backup.verify();
    leftover::assert_none(cluster);
}

#[test]
fn a_crash_of_any_process_of_the_backup_leaves_nothing() {
    let cluster = cluster();
    cluster.may_crash();
    type Victim = fn(&Cluster, &mut Client, &Worker) -> i32;
    let victims: [(&str, &str, Victim); 4] = [
        ("worker", "KILL", |_, _, worker| worker.pid),
        ("leader", "KILL", |_, leader, _| backend_pid(leader)),
        // A process that waits for its client would first try to send it a message.
        ("leader", "QUIT", |_, leader, _| backend_pid(leader)),
        ("process of the slot", "KILL", |cluster, _, _| {
            slot_holder(cluster)
        }),
    ];
    for (what, signal_name, victim) in victims {
        eprintln!("{what}, SIG{signal_name}");
        let (mut leader, worker) = in_mid_stream(&cluster);
        let starts = |cluster: &Cluster| cluster.log().matches(READY).count();
        let before = starts(&cluster);
        signal(signal_name, victim(&cluster, &mut leader, &worker));
        wait_for("the server to start again", PATIENCE, || {
            // Up to 15 the postmaster can miss a signal until something else wakes it.
            drop(cluster.config("postgres").connect(NoTls));
            starts(&cluster) > before
        });
        assert!(!cluster.log().contains(TOO_SLOW), "{}", cluster.log());
        worker.expect_failure();
        assert!(leader.batch_execute("SELECT 1").is_err());
        assert_as_before(&cluster);
    }
}

#[test]
fn a_fast_shutdown_does_not_wait_for_a_backup() {
    let mut cluster = cluster();
    let (_leader, worker) = in_mid_stream(&cluster);
    cluster.stop(Shutdown::Fast);
    worker.expect_failure().assert_terminated();
    cluster.start();
    assert_as_before(&cluster);
}

#[test]
fn an_immediate_shutdown_leaves_nothing() {
    let mut cluster = cluster();
    let (_leader, worker) = in_mid_stream(&cluster);
    cluster.stop(Shutdown::Immediate);
    assert!(!cluster.log().contains(TOO_SLOW), "{}", cluster.log());
    worker.expect_failure();
    cluster.start();
    assert_as_before(&cluster);
}
