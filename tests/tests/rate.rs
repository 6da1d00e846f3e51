//! Rate limits. They promise how long a stream takes, so these tests measure time.

use std::time::Instant;

use backup_tests::backup::{send_stop, spawn_workers, start, try_start};
use backup_tests::failure::expect_failure;
use backup_tests::rate::assert_rate;
use backup_tests::server::Cluster;
use backup_tests::stream::{Worker, copy_of, copy_out};
use backup_tests::workload::{create_table, path_of};
use postgres::Client;

fn cluster_with_tables(count: u32, megabytes: u32) -> Cluster {
    let cluster = Cluster::builder().setting("autovacuum", "off").start();
    for number in 0..count {
        create_table(&cluster, &format!("t{number}"), megabytes);
    }
    cluster
}

fn abort(leader: &mut Client) {
    let aborted = leader.batch_execute("SELECT abort_backup()");
    aborted.expect("abort_backup()");
}

#[test]
fn three_workers_share_the_rate_of_the_backup() {
    const RATE: u64 = 8192;
    let cluster = cluster_with_tables(6, 4);
    let mut leader = cluster.connect();
    assert_rate(RATE, || {
        let started = start(&mut leader, &format!("max_rate => {RATE}"));
        let begin = Instant::now();
        let workers = spawn_workers(&cluster, started.id, 3);
        let streams: Vec<usize> = workers
            .into_iter()
            .map(|worker| worker.expect().len())
            .collect();
        let elapsed = begin.elapsed();
        // Each worker had its share of the rate.
        assert!(streams.iter().all(|bytes| *bytes > 2 << 20), "{streams:?}");
        send_stop(&mut leader);
        vec![(streams.iter().sum(), elapsed)]
    });
}

#[test]
fn each_stream_keeps_its_own_rate() {
    const RATE: u64 = 2048;
    let cluster = cluster_with_tables(2, 8);
    let mut leader = cluster.connect();
    let files = [0, 1].map(|number| path_of(&mut leader, &format!("t{number}")));
    assert_rate(RATE, || {
        let id = start(&mut leader, "").id;
        let begin = Instant::now();
        let workers = files.each_ref().map(|file| {
            let call = format!("send_backup_files({id}, ARRAY['{file}'], max_rate => {RATE})");
            Worker::spawn(&cluster, &copy_of(&call))
        });
        let streams = workers.map(|worker| (worker.expect().len(), begin.elapsed()));
        abort(&mut leader);
        streams.to_vec()
    });
}

#[test]
fn the_lower_of_two_rates_holds() {
    let cluster = cluster_with_tables(1, 8);
    let mut leader = cluster.connect();
    let file = path_of(&mut leader, "t0");
    for (whole, own) in [(2048, 1_048_576), (1_048_576, 2048)] {
        assert_rate(2048, || {
            start(&mut leader, &format!("max_rate => {whole}"));
            let begin = Instant::now();
            let call = format!("send_backup_files(files => ARRAY['{file}'], max_rate => {own})");
            let stream = copy_out(&mut leader, &copy_of(&call)).expect("a stream");
            let elapsed = begin.elapsed();
            abort(&mut leader);
            vec![(stream.len(), elapsed)]
        });
    }
}

#[test]
fn a_rate_out_of_range_is_refused() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    for rate in [31, 0, -1, 1_048_577, i32::MAX, i32::MIN] {
        let message =
            format!("{rate} is outside the valid range for parameter \"max_rate\" (32 .. 1048576)");
        let option = format!("max_rate => {rate}");
        expect_failure(&option, try_start(&mut leader, &option)).assert("22003", &message);
        let copy = copy_of(&format!("base_backup(fast => true, {option})"));
        expect_failure(&copy, copy_out(&mut leader, &copy)).assert("22003", &message);
        // Neither failed call has left a backup behind.
        start(&mut leader, "");
        let copy = copy_of(&format!("send_backup_files({option})"));
        expect_failure(&copy, copy_out(&mut leader, &copy)).assert("22003", &message);
        leader
            .batch_execute("SELECT abort_backup()")
            .expect("abort_backup()");
    }
}

#[test]
fn the_bounds_of_the_range_are_within_it() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    for rate in [32, 1_048_576] {
        start(&mut leader, &format!("max_rate => {rate}"));
        let call = format!("send_backup_files(files => ARRAY['PG_VERSION'], max_rate => {rate})");
        let stream = copy_out(&mut leader, &copy_of(&call)).expect("a stream");
        assert_eq!(stream.len(), 2048);
        leader
            .batch_execute("SELECT abort_backup()")
            .expect("abort_backup()");
    }
}
