//! Leader statements interrupted while they stream. The backup ends and leaves nothing behind, not
//! even in the session.

use std::thread;

use backup_tests::backup::{Backup, start};
use backup_tests::failure::{Failure, expect_failure};
use backup_tests::leftover;
use backup_tests::server::Cluster;
use backup_tests::session::backend_pid;
use backup_tests::stepwise::Stepwise;
use backup_tests::stream::{PsqlWorker, Worker, copy_of, copy_out};
use backup_tests::workload::create_table;
use postgres::Client;

const MEGABYTE: u64 = 1 << 20;

/// Slow enough to catch a stream midway, however loaded the machine is.
const SLOW: &str = "fast => true, retain_wal => true, max_rate => 1024";

fn cluster() -> Cluster {
    let cluster = Cluster::builder()
        .setting("dynamic_shared_memory_type", "mmap")
        .setting("autovacuum", "off")
        .start();
    create_table(&cluster, "big", 16);
    cluster
}

/// Runs a COPY and cancels it when `moment` is true of `backup_progress()`. Returns the error and
/// the session, which survives.
#[track_caller]
fn cancel(cluster: &Cluster, mut client: Client, copy: &str, moment: &str) -> (Failure, Client) {
    let pid = backend_pid(&mut client);
    let thread = thread::spawn({
        let copy = copy.to_owned();
        move || (copy_out(&mut client, &copy), client)
    });
    cluster.wait_for_sql(
        "the middle of the stream",
        &format!("SELECT coalesce(bool_or({moment}), false) FROM backup_progress()"),
    );
    cluster.execute(&format!("SELECT pg_cancel_backend({pid})"));
    let (result, client) = thread.join().expect("the thread of the session");
    (expect_failure(copy, result), client)
}

/// Checks that the session can take another, complete backup.
#[track_caller]
fn take_another(cluster: &Cluster, mut client: Client) {
    let whole = copy_of("base_backup(fast => true, wal => true)");
    let stream = copy_out(&mut client, &whole).expect("base_backup()");
    let backup = Backup::folder(cluster);
    backup.unpack(&stream);
    backup.verify();
    leftover::assert_none(cluster);
}

#[test]
fn a_whole_backup_cancelled_in_mid_stream_is_over() {
    let cluster = cluster();
    let copy = copy_of(&format!("base_backup({SLOW})"));
    let (failure, client) = cancel(&cluster, cluster.connect(), &copy, "bytes_sent > 1000000");
    failure.assert("57014", "canceling statement due to user request");
    leftover::assert_none(&cluster);
    take_another(&cluster, client);
}

#[test]
fn a_closing_tar_cancelled_in_mid_stream_is_over() {
    let cluster = cluster();
    let taken = Stepwise::start(&cluster, "retain_wal => true, max_rate => 1024");
    let copy = copy_of("send_stop_backup(wal => true, allow_incomplete => true)");
    let moment = "phase = 'transferring wal files'";
    let (failure, mut client) = cancel(&cluster, taken.leader, &copy, moment);
    failure.assert("57014", "canceling statement due to user request");
    leftover::assert_none(&cluster);
    expect_failure("stop_backup()", client.query("SELECT stop_backup()", &[]))
        .assert("55000", "backup is not in progress");
    take_another(&cluster, client);
}

#[test]
fn a_time_limit_in_the_middle_of_a_whole_backup_ends_it() {
    let cluster = cluster();
    let mut client = cluster.connect();
    client
        .batch_execute("SET statement_timeout = '2s'")
        .expect("SET");
    let copy = copy_of(&format!("base_backup({SLOW})"));
    expect_failure(&copy, copy_out(&mut client, &copy))
        .assert("57014", "canceling statement due to statement timeout");
    leftover::assert_none(&cluster);
    client
        .batch_execute("SET statement_timeout = 0")
        .expect("SET");
    take_another(&cluster, client);
}

#[test]
fn a_whole_backup_without_its_client_is_over() {
    let cluster = cluster();
    let copy = copy_of(&format!("base_backup({SLOW})"));
    let psql = PsqlWorker::spawn(&cluster, &copy);
    psql.wait_for_bytes(MEGABYTE);
    psql.kill();
    cluster.wait_for_end_of(psql.pid);
    leftover::assert_none(&cluster);
    take_another(&cluster, cluster.connect());
}

#[test]
fn a_leader_terminated_in_the_middle_of_its_closing_tar_leaves_nothing() {
    let cluster = cluster();
    let mut taken = Stepwise::start(&cluster, "retain_wal => true");
    taken.send_files();
    let stop = copy_of("send_stop_backup(wal => true)");
    let stopping = Worker::take_over(taken.leader, taken.notices, &stop, 2 * MEGABYTE);
    stopping.wait_for_bytes(2 * MEGABYTE);
    cluster.execute(&format!("SELECT pg_terminate_backend({})", stopping.pid));
    cluster.wait_for_end_of(stopping.pid);
    leftover::assert_none(&cluster);
    stopping.expect_failure().assert_terminated();
    let mut client = cluster.connect();
    start(&mut client, "");
}
