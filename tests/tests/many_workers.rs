//! 64 concurrent workers, even on a small machine: every file is sent exactly once, each worker
//! gets a share of the files and of the rate, and the files of workers that exit return to the
//! queue.

use std::time::Instant;

use backup_tests::archive::members;
use backup_tests::backup::{Backup, send_stop, start};
use backup_tests::leftover;
use backup_tests::notices::Notices;
use backup_tests::planted;
use backup_tests::server::Cluster;
use backup_tests::stepwise::listing;
use backup_tests::stream::{Worker, copy_of};
use backup_tests::wait::{PATIENCE, wait_for};
use postgres::Client;

const WORKERS: usize = 64;

const MEGABYTE: u64 = 1 << 20;

/// Size of the two zero blocks that end an archive.
const END_OF_ARCHIVE: usize = 1024;

/// OID of database `postgres` in every cluster.
const DATABASE: u32 = 5;

/// Common rate in kB/s. A message has 1 MB, so each worker gets a turn in less than three seconds.
const RATE: u64 = 24_576;

/// Cluster with additional planted files of this size.
fn cluster_with_planted(count: u32, size: u64) -> Cluster {
    let cluster = Cluster::builder()
        .setting("dynamic_shared_memory_type", "mmap")
        .setting("autovacuum", "off")
        .setting("max_connections", "100")
        .start();
    planted::relations(&cluster, DATABASE, count, size);
    cluster
}

/// Opens the sessions in advance, so that all workers can start at once.
fn connect_all(cluster: &Cluster) -> Vec<(Client, Notices)> {
    (0..WORKERS)
        .map(|_| cluster.connect_with_notices())
        .collect()
}

fn begin(sessions: Vec<(Client, Notices)>, id: i64) -> Vec<Worker> {
    let copy = copy_of(&format!("send_backup_files({id})"));
    sessions
        .into_iter()
        .map(|(client, notices)| Worker::take_over(client, notices, &copy, u64::MAX))
        .collect()
}

/// Waits until this many workers take part in the backup at the same time.
#[track_caller]
fn wait_for_workers(cluster: &Cluster, count: usize) {
    cluster.wait_for_sql(
        &format!("{count} workers at once"),
        &format!("SELECT workers = {count} FROM backup_progress()"),
    );
}

/// Checks that the streams contain each entry of the listing exactly once.
#[track_caller]
fn assert_sent_once(leader: &mut Client, streams: &[Vec<u8>]) {
    // Without the end markers of all but the last, the streams form one archive.
    let mut joined = Vec::new();
    for stream in streams {
        joined.truncate(joined.len().saturating_sub(END_OF_ARCHIVE));
        joined.extend_from_slice(stream);
    }
    let mut sent: Vec<String> = members(&joined)
        .into_iter()
        .map(|name| name.trim_end_matches('/').to_owned())
        .collect();
    sent.sort_unstable();
    let mut listed: Vec<String> = listing(leader, "")
        .into_iter()
        .map(|entry| entry.path)
        .collect();
    listed.sort_unstable();
    assert!(
        sent == listed,
        "{} entries were sent, {} are listed",
        sent.len(),
        listed.len()
    );
}

#[test]
fn every_file_is_sent_once_by_64_workers() {
    // Several queue batches per worker.
    let cluster = cluster_with_planted(10 * WORKERS as u32, MEGABYTE / 8);
    let mut leader = cluster.connect();
    let sessions = connect_all(&cluster);
    let id = start(&mut leader, "").id;
    let workers = begin(sessions, id);
    let streams: Vec<_> = workers.into_iter().map(Worker::expect).collect();
    assert_sent_once(&mut leader, &streams);

    let backup = Backup::folder(&cluster);
    for stream in &streams {
        backup.unpack(stream);
    }
    backup.unpack(&send_stop(&mut leader));
    backup.verify();
    let mut restored = backup.restore();
    restored.stop_and_check_checksums();
    leftover::assert_none(&cluster);
}

/// A worker that has reserved time on the common clock reserves no more before it has sent its
/// data, so turns rotate among the workers.
#[test]
fn no_worker_of_64_starves_under_a_common_rate() {
    let cluster = cluster_with_planted(2 * WORKERS as u32, 8 * MEGABYTE);
    let mut leader = cluster.connect();
    let sessions = connect_all(&cluster);
    let id = start(&mut leader, &format!("max_rate => {RATE}")).id;
    let began = Instant::now();
    let workers = begin(sessions, id);
    wait_for_workers(&cluster, WORKERS);

    let received = || workers.iter().map(Worker::received).collect::<Vec<_>>();
    let before = received();
    let mut growth = Vec::new();
    wait_for("a turn of each worker", PATIENCE, || {
        growth = received()
            .iter()
            .zip(&before)
            .map(|(now, before)| now - before)
            .collect();
        growth.iter().all(|bytes| *bytes > 0)
    });
    // By the time the last worker has had a turn, the others have had one or two. One more is
    // allowed for a machine too busy to read the sent data.
    assert!(
        growth.iter().all(|bytes| *bytes < 4 * MEGABYTE),
        "{growth:?}"
    );
    // The common rate holds, however busy the machine is.
    let bytes: u64 = received().iter().sum();
    let share = bytes as f64 / began.elapsed().as_secs_f64() / (RATE * 1024) as f64;
    assert!(share < 1.1, "{share} of the rate");

    leader
        .batch_execute("SELECT abort_backup()")
        .expect("abort_backup()");
    for worker in workers {
        worker
            .expect_failure()
            .assert("55000", &format!("backup {id} has ended"));
    }
    leftover::assert_none(&cluster);
}

#[test]
fn the_files_of_the_half_that_ends_are_sent_by_the_half_that_stays() {
    let cluster = cluster_with_planted(2 * WORKERS as u32, MEGABYTE);
    let mut leader = cluster.connect();
    let sessions = connect_all(&cluster);
    let id = start(&mut leader, &format!("max_rate => {RATE}")).id;
    let mut ending = begin(sessions, id);
    let staying = ending.split_off(WORKERS / 2);
    wait_for_workers(&cluster, WORKERS);
    let pids: Vec<i32> = ending.iter().map(|worker| worker.pid).collect();
    leader
        .execute(
            "SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid",
            &[&pids],
        )
        .expect("pg_terminate_backend()");
    for worker in ending {
        worker.expect_failure().assert_terminated();
    }
    let streams: Vec<_> = staying.into_iter().map(Worker::expect).collect();
    assert_sent_once(&mut leader, &streams);
    // The stop would report missing files.
    send_stop(&mut leader);
    leftover::assert_none(&cluster);
}
