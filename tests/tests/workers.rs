//! Workers and leaders that end midway: the return of their files to the queue, the errors of the
//! others, and what is left behind.

use std::time::{Duration, Instant};

use backup_tests::backup::{Backup, send_stop, spawn_workers, start, try_send_stop};
use backup_tests::failure::{Failure, expect_failure};
use backup_tests::leftover;
use backup_tests::server::Cluster;
use backup_tests::session::backend_pid;
use backup_tests::stream::{PsqlWorker, Worker, copy_of, copy_out};
use backup_tests::wait::{PATIENCE, wait_for};
use backup_tests::workload::create_table;
use postgres::Client;

/// Rate that keeps a stream in the middle of the big table for half a minute.
const SLOWLY: &str = "max_rate => 1024";

const MEGABYTE: u64 = 1 << 20;

/// Cluster with a table of 32 MB, which the queue hands out first.
fn cluster_with_big_table() -> Cluster {
    let cluster = Cluster::builder()
        .setting("dynamic_shared_memory_type", "mmap")
        .setting("autovacuum", "off")
        .start();
    create_table(&cluster, "big", 32);
    cluster
}

fn slow_copy(id: i64) -> String {
    copy_of(&format!("send_backup_files({id}, {SLOWLY})"))
}

/// Number of workers and of files sent, as seen by another session.
fn progress(cluster: &Cluster) -> (i32, i64) {
    let row = cluster
        .connect()
        .query_one("SELECT workers, files_sent FROM backup_progress()", &[])
        .expect("backup_progress()");
    (row.get(0), row.get(1))
}

/// Waits until a failed stream has left the shared state and its files are back in the queue.
#[track_caller]
fn assert_all_returned(cluster: &Cluster) {
    wait_for("the worker to leave the backup", PATIENCE, || {
        progress(cluster).0 == 0
    });
    assert_eq!(progress(cluster), (0, 0));
    cluster.wait_for_sql(
        "the worker's own progress to vanish",
        "SELECT NOT EXISTS (SELECT FROM pg_stat_progress_basebackup)",
    );
}

/// Completes the backup with other workers, and checks it.
#[track_caller]
fn complete(cluster: &Cluster, leader: &mut Client, id: i64) {
    let backup = Backup::folder(cluster);
    for worker in spawn_workers(cluster, id, 2) {
        backup.unpack(&worker.expect());
    }
    backup.unpack(&send_stop(leader));
    backup.verify();
    let mut restored = backup.restore();
    restored.wait_for_sql("the rows", "SELECT count(*) = 32 * 1024 FROM big");
    restored.stop_and_check_checksums();
    leftover::assert_none(cluster);
}

fn signal(cluster: &Cluster, function: &str, backend: i32) {
    cluster.execute(&format!("SELECT {function}({backend})"));
}

#[test]
fn the_files_of_a_cancelled_worker_are_sent_by_others() {
    let cluster = cluster_with_big_table();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let worker = Worker::spawn(&cluster, &slow_copy(id));
    worker.wait_for_bytes(MEGABYTE);
    assert_eq!(progress(&cluster).0, 1);
    signal(&cluster, "pg_cancel_backend", worker.pid);
    worker
        .expect_failure()
        .assert("57014", "canceling statement due to user request");
    assert_all_returned(&cluster);
    complete(&cluster, &mut leader, id);
}

#[test]
fn the_files_of_a_terminated_worker_are_sent_by_others() {
    let cluster = cluster_with_big_table();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    // Terminated once during the wait for its rate, and once during the wait for its client.
    let slow = Worker::spawn(&cluster, &slow_copy(id));
    slow.wait_for_bytes(MEGABYTE);
    signal(&cluster, "pg_terminate_backend", slow.pid);
    slow.expect_failure().assert_terminated();
    assert_all_returned(&cluster);

    let copy = copy_of(&format!("send_backup_files({id})"));
    let halted = Worker::spawn_halting(&cluster, &copy, MEGABYTE);
    halted.wait_for_bytes(MEGABYTE);
    signal(&cluster, "pg_terminate_backend", halted.pid);
    cluster.wait_for_end_of(halted.pid);
    assert_all_returned(&cluster);
    halted.expect_failure();
    complete(&cluster, &mut leader, id);
}

#[test]
fn the_files_of_a_worker_without_its_client_are_sent_by_others() {
    let cluster = cluster_with_big_table();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let worker = PsqlWorker::spawn(&cluster, &slow_copy(id));
    worker.wait_for_bytes(MEGABYTE);
    worker.kill();
    cluster.wait_for_end_of(worker.pid);
    assert_all_returned(&cluster);
    complete(&cluster, &mut leader, id);
}

#[test]
fn a_statement_timeout_ends_a_worker_alone() {
    let cluster = cluster_with_big_table();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let mut session = cluster.connect();
    session
        .batch_execute("SET statement_timeout = '2s'")
        .expect("SET");
    expect_failure("the stream", copy_out(&mut session, &slow_copy(id)))
        .assert("57014", "canceling statement due to statement timeout");
    assert_all_returned(&cluster);
    complete(&cluster, &mut leader, id);
}

/// Ends the session of a leader that has three workers, one of them halted by its client.
#[track_caller]
fn assert_workers_follow(end: impl FnOnce(&Cluster, Client)) {
    let cluster = cluster_with_big_table();
    let mut leader = cluster.connect();
    let leader_pid = backend_pid(&mut leader);
    let id = start(&mut leader, "retain_wal => true").id;
    let message = format!("backup {id} has ended");
    let workers = [
        Worker::spawn(&cluster, &slow_copy(id)),
        Worker::spawn(&cluster, &slow_copy(id)),
    ];
    for worker in &workers {
        worker.wait_for_bytes(MEGABYTE / 4);
    }
    assert_eq!(leftover::shared_segments(&cluster).len(), 1);

    end(&cluster, leader);
    cluster.wait_for_end_of(leader_pid);
    let ended = Instant::now();
    for worker in workers {
        let failure = worker.expect_failure();
        failure.assert("55000", &message);
        assert!(!failure.detail.is_empty(), "{failure}");
    }
    // One second, plus what a loaded machine may add. The streams had half a minute to go.
    assert!(ended.elapsed() < Duration::from_secs(12), "{ended:?}");
    leftover::assert_none(&cluster);

    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    complete(&cluster, &mut leader, id);
}

#[test]
fn workers_fail_when_their_leader_is_terminated() {
    assert_workers_follow(|cluster, mut leader| {
        let pid = backend_pid(&mut leader);
        signal(cluster, "pg_terminate_backend", pid);
    });
}

#[test]
fn workers_fail_when_their_leader_disconnects() {
    assert_workers_follow(|_, leader| drop(leader));
}

#[test]
fn workers_fail_when_their_backup_is_aborted() {
    assert_workers_follow(|_, mut leader| {
        leader
            .batch_execute("SELECT abort_backup()")
            .expect("abort_backup()");
    });
}

#[test]
fn a_worker_that_its_client_halted_learns_of_the_end_as_well() {
    let cluster = cluster_with_big_table();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let copy = copy_of(&format!("send_backup_files({id})"));
    let worker = Worker::spawn_halting(&cluster, &copy, MEGABYTE);
    worker.wait_for_bytes(MEGABYTE);
    leader
        .batch_execute("SELECT abort_backup()")
        .expect("abort_backup()");
    // Its client continues to read, and gets the error instead of an apparently complete archive.
    worker
        .expect_failure()
        .assert("55000", &format!("backup {id} has ended"));
    leftover::assert_none(&cluster);
}

/// A stream that takes hours must not hold back vacuum for hours.
#[test]
fn a_stream_holds_back_no_vacuum_unless_it_is_part_of_a_transaction() {
    let cluster = cluster_with_big_table();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let copy = copy_of(&format!("send_backup_files({id})"));
    for block in [false, true] {
        let (mut client, notices) = cluster.connect_with_notices();
        if block {
            client.batch_execute("BEGIN").expect("BEGIN");
        }
        let halted = Worker::take_over(client, notices, &copy, MEGABYTE);
        halted.wait_for_bytes(MEGABYTE);
        let holds: bool = leader
            .query_one(
                "SELECT backend_xmin IS NOT NULL FROM pg_stat_activity WHERE pid = $1",
                &[&halted.pid],
            )
            .expect("pg_stat_activity")
            .get(0);
        assert_eq!(holds, block);
        signal(&cluster, "pg_terminate_backend", halted.pid);
        cluster.wait_for_end_of(halted.pid);
        halted.expect_failure();
    }
    complete(&cluster, &mut leader, id);
}

#[track_caller]
fn assert_incomplete(failure: &Failure, total: i64) -> i64 {
    assert_eq!(failure.sqlstate, "55000", "{failure}");
    let unsent: Option<i64> = failure
        .message
        .strip_prefix("backup is incomplete: ")
        .and_then(|rest| rest.strip_suffix(&format!(" of {total} files have not been sent")))
        .and_then(|number| number.parse().ok());
    assert!(
        !failure.detail.is_empty() && !failure.hint.is_empty(),
        "{failure}"
    );
    unsent.unwrap_or_else(|| panic!("{failure}"))
}

#[test]
fn stopping_with_files_unsent_is_an_error_and_the_backup_runs_on() {
    let cluster = cluster_with_big_table();
    let mut leader = cluster.connect();
    let started = start(&mut leader, "");
    let unsent = |leader: &mut Client| {
        let failure = expect_failure("stop_backup()", leader.query("SELECT stop_backup()", &[]));
        let first = assert_incomplete(&failure, started.file_count);
        let failure = expect_failure("send_stop_backup()", try_send_stop(leader, ""));
        assert_eq!(assert_incomplete(&failure, started.file_count), first);
        (first, failure)
    };
    let (number, _) = unsent(&mut leader);
    assert_eq!(number, started.file_count);

    // All files except three.
    let files = "ARRAY(SELECT path FROM backup_filelist()
                 WHERE path NOT IN ('PG_VERSION', 'base/1/PG_VERSION', 'pg_hba.conf'))";
    let copy = copy_of(&format!("send_backup_files(files => {files})"));
    let backup = Backup::folder(&cluster);
    backup.unpack(&copy_out(&mut leader, &copy).expect("most of the files"));
    let (number, failure) = unsent(&mut leader);
    assert_eq!(number, 3);
    for name in ["PG_VERSION", "base/1/PG_VERSION", "pg_hba.conf"] {
        assert!(failure.detail.contains(&format!("\"{name}\"")), "{failure}");
    }
    let copy = copy_of("send_backup_files()");
    backup.unpack(&copy_out(&mut leader, &copy).expect("the last files"));
    backup.unpack(&send_stop(&mut leader));
    backup.verify();
}

#[test]
fn an_incomplete_backup_stops_when_that_is_allowed() {
    let cluster = cluster_with_big_table();
    let mut leader = cluster.connect();
    for statement in [
        "SELECT stop_lsn FROM stop_backup(allow_incomplete => true)",
        "COPY (SELECT send_stop_backup(allow_incomplete => true)) TO STDOUT",
    ] {
        start(&mut leader, "");
        let done = if statement.starts_with("COPY") {
            copy_out(&mut leader, statement).map(|_| ())
        } else {
            leader
                .query_one(statement, &[])
                .map(|_| ())
                .map_err(Failure::from)
        };
        assert_eq!(done, Ok(()), "{statement}");
        leftover::assert_none(&cluster);
    }
}

#[test]
fn stopping_while_a_worker_streams_is_stopping_with_files_unsent() {
    let cluster = cluster_with_big_table();
    let mut leader = cluster.connect();
    let started = start(&mut leader, "");
    let copy = copy_of(&format!("send_backup_files({})", started.id));
    let halted = Worker::spawn_halting(&cluster, &copy, MEGABYTE);
    halted.wait_for_bytes(MEGABYTE);
    let backup = Backup::folder(&cluster);
    for worker in spawn_workers(&cluster, started.id, 1) {
        backup.unpack(&worker.expect());
    }
    let failure = expect_failure("stop_backup()", leader.query("SELECT stop_backup()", &[]));
    assert!(assert_incomplete(&failure, started.file_count) >= 1);
    // The worker is unaffected.
    backup.unpack(&halted.expect());
    backup.unpack(&send_stop(&mut leader));
    backup.verify();
}

#[test]
fn an_incomplete_stop_fails_the_workers_that_still_stream() {
    let cluster = cluster_with_big_table();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let worker = Worker::spawn(&cluster, &slow_copy(id));
    worker.wait_for_bytes(MEGABYTE);
    leader
        .query("SELECT stop_backup(allow_incomplete => true)", &[])
        .expect("stop_backup()");
    worker
        .expect_failure()
        .assert("55000", &format!("backup {id} has ended"));
    leftover::assert_none(&cluster);
}

#[test]
fn workers_beyond_the_last_file_send_an_empty_archive() {
    let cluster = cluster_with_big_table();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let backup = Backup::folder(&cluster);
    for worker in spawn_workers(&cluster, id, 8) {
        backup.unpack(&worker.expect());
    }
    for worker in spawn_workers(&cluster, id, 2) {
        assert_eq!(worker.expect(), vec![0; 1024]);
    }
    backup.unpack(&send_stop(&mut leader));
    backup.verify();
}
