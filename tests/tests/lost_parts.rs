//! Parts of large files whose worker fails: others send them again, and what has arrived stays.

use backup_tests::backup::start;
use backup_tests::parts::{
    IN_FIRST_PART, IN_SECOND_PART, PART_SIZE, cluster_with_large_table, complete, copy_in_parts,
    halt_in_parts, lose, offsets, split,
};
use backup_tests::stream::{Worker, copy_of, copy_out};
use backup_tests::wait::{PATIENCE, wait_for};

/// The worker that divided the file is lost in its first part, while another is at work that has asked for parts.
/// That one takes it in the stream that it is sending.
#[test]
fn a_part_of_a_lost_worker_goes_to_one_that_is_at_work() {
    let (cluster, path) = cluster_with_large_table();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let lost = halt_in_parts(&cluster, id, IN_FIRST_PART);
    let other = halt_in_parts(&cluster, id, IN_FIRST_PART);
    lose(&cluster, lost);
    let stream = other.expect();
    let from_end: Vec<_> = (0..5).rev().map(|number| number * PART_SIZE).collect();
    assert_eq!(offsets(&split(&stream).0, &path), from_end);
    complete(&cluster, &mut leader, &[stream]);
}

/// A stream that has ended with a part has sent that part, although the file is not whole.
#[test]
fn a_worker_that_is_lost_between_two_streams_loses_nothing() {
    let (cluster, path) = cluster_with_large_table();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let call = format!("send_backup_files({id}, parts => true, max_bytes => 1)");
    let (session, first) = Worker::spawn(&cluster, &copy_of(&call)).join_and_keep();
    let first = first.expect("a stream");
    assert_eq!(offsets(&split(&first).0, &path), [0]);
    drop(session);
    cluster.wait_for_sql(
        "the end of the worker",
        "SELECT bool_and(workers = 0) FROM backup_progress()",
    );
    let second = copy_out(&mut cluster.connect(), &copy_in_parts(id)).expect("a stream");
    let from_end: Vec<_> = (1..5).rev().map(|number| number * PART_SIZE).collect();
    assert_eq!(offsets(&split(&second).0, &path), from_end);
    complete(&cluster, &mut leader, &[first, second]);
}

/// The session goes on after an error in its second part, and another has a part meanwhile.
#[test]
fn parts_of_a_canceled_stream_come_again_in_the_same_session() {
    let (cluster, path) = cluster_with_large_table();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let first = halt_in_parts(&cluster, id, IN_SECOND_PART);
    let second = halt_in_parts(&cluster, id, IN_FIRST_PART);
    cluster.execute(&format!("SELECT pg_cancel_backend({})", first.pid));
    let (mut session, canceled) = first.join_and_keep();
    let failure = backup_tests::failure::expect_failure("the stream", canceled);
    failure.assert("57014", "canceling statement due to user request");
    let again = copy_out(&mut session, &copy_in_parts(id)).expect("a stream");
    let second = second.expect();
    let streams = [again, second];
    // Whichever of the two has taken the first ones again.
    let mut all: Vec<_> = streams
        .iter()
        .flat_map(|stream| offsets(&split(stream).0, &path))
        .collect();
    all.sort_unstable();
    let expected: Vec<_> = (0..5).map(|number| number * PART_SIZE).collect();
    assert_eq!(all, expected);
    complete(&cluster, &mut leader, &streams);
}

/// One after the other loses the last part that is missing. The counters agree in the end.
#[test]
fn a_part_that_is_lost_again_and_again_is_sent_once() {
    let (cluster, path) = cluster_with_large_table();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let mut lost = halt_in_parts(&cluster, id, IN_FIRST_PART);
    let others = copy_out(&mut cluster.connect(), &copy_in_parts(id)).expect("a stream");
    for _ in 0..3 {
        lose(&cluster, lost);
        lost = halt_in_parts(&cluster, id, IN_FIRST_PART);
    }
    let last = lost.expect();
    assert_eq!(offsets(&split(&last).0, &path), [0]);
    wait_for("all files and bytes to be counted", PATIENCE, || {
        let query = "SELECT workers = 0 AND files_sent = files_total AND bytes_sent = bytes_total
                     FROM backup_progress()";
        let row = leader.query_one(query, &[]);
        row.expect("one backup").get(0)
    });
    complete(&cluster, &mut leader, &[others, last]);
}
