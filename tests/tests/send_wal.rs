//! WAL that leaves while the backup runs: what send_wal() sends, lets go of and waits for.

use postgres::Client;

use backup_tests::backup::{Started, plain_lsn, start, try_send_stop};
use backup_tests::failure::expect_failure;
use backup_tests::leftover;
use backup_tests::member::{self, members};
use backup_tests::replication::catch_up;
use backup_tests::server::Cluster;
use backup_tests::stepwise::Stepwise;
use backup_tests::stream::{Worker, copy_of, copy_out};
use backup_tests::wait::{PATIENCE, wait_for};
use backup_tests::wal::{exists, forgetful, segment_of, switch_wal, write_much, write_until_gone};

const MEGABYTE: usize = 1024 * 1024;

/// Cluster with segments of 1 MB.
fn cluster() -> Cluster {
    Cluster::builder().initdb_arg("--wal-segsize=1").start()
}

/// Arguments of send_wal() for a backup, and no wait.
fn at_once(id: i64, from: Option<&str>) -> String {
    let from = from.map_or("NULL".to_owned(), |lsn| format!("'{lsn}'"));
    copy_of(&format!("send_wal({id}, {from}, wait => '0')"))
}

#[track_caller]
fn send_wal(client: &mut Client, id: i64, from: Option<&str>) -> Vec<u8> {
    let sent = copy_out(client, &at_once(id, from));
    sent.unwrap_or_else(|failure| panic!("send_wal({id}, {from:?}): {failure}"))
}

/// Names of the segments in an archive, each with its content checked and followed by its `.done`.
#[track_caller]
fn segments(archive: &[u8]) -> Vec<String> {
    let members = members(archive);
    let mut segments = Vec::new();
    for (number, member) in members.iter().enumerate() {
        let name = member.name();
        let name = name.strip_prefix("pg_wal/").expect("a file of pg_wal");
        if name.len() != 24 {
            continue;
        }
        assert_eq!(member.content.len(), MEGABYTE, "{name}");
        assert!(member.content.iter().any(|byte| *byte != 0), "{name}");
        let done = members.get(number + 1).map(|next| next.name());
        assert_eq!(done, Some(format!("pg_wal/archive_status/{name}.done")));
        segments.push(name.to_owned());
    }
    segments
}

/// Position at which a segment of 1 MB ends.
#[track_caller]
fn end_of(client: &mut Client, segment: &str) -> String {
    let row = client.query_one(
        "SELECT ((('x' || substr($1::text, 9, 8))::bit(32)::bigint << 32)
                 + ((('x' || substr($1::text, 17, 8))::bit(32)::bigint + 1) << 20))",
        &[&segment],
    );
    let end: i64 = row.expect("a position").get(0);
    format!("{:X}/{:X}", end >> 32, end & 0xFFFF_FFFF)
}

fn progress(client: &mut Client, id: i64) -> (i64, Option<String>) {
    let row = client
        .query_one(
            "SELECT wal_segments_sent, wal_sent_lsn::text FROM backup_progress() WHERE backup_id = $1",
            &[&id],
        )
        .expect("backup_progress()");
    (row.get(0), row.get::<_, Option<&str>>(1).map(plain_lsn))
}

/// Segment that is being written.
fn current_segment(client: &mut Client) -> String {
    client
        .query_one("SELECT pg_walfile_name(pg_current_wal_insert_lsn())", &[])
        .expect("pg_walfile_name()")
        .get(0)
}

/// Position from which the slot of a backup holds WAL.
fn held_from(cluster: &Cluster, started: &Started) -> String {
    let name = format!("pg_parallel_backup_{:x}", started.id);
    let row = cluster.connect().query_one(
        "SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = $1",
        &[&name],
    );
    let row = row.unwrap_or_else(|error| panic!("slot {name}: {error}"));
    plain_lsn(row.get(0))
}

/// Statement of a stream that waits for long.
fn waiting_long(id: i64) -> String {
    copy_of(&format!("send_wal({id}, wait => '1 day')"))
}

/// Starts such a stream, and waits until the server shows it.
#[track_caller]
fn spawn_waiting(cluster: &Cluster, id: i64) -> Worker {
    let worker = Worker::spawn(cluster, &waiting_long(id));
    cluster.wait_for_sql(
        "the row of the stream",
        &format!(
            "SELECT count(*) = 1 FROM pg_stat_progress_basebackup
             WHERE phase = 'transferring wal files' AND pid = {}",
            worker.pid
        ),
    );
    worker
}

#[test]
fn what_is_acknowledged_is_let_go_and_the_stop_brings_the_rest() {
    let cluster = forgetful().start();
    let mut taken = Stepwise::start(&cluster, "retain_wal => true");
    let id = taken.started.id;
    let mut client = cluster.connect();
    assert_eq!(progress(&mut client, id), (0, None));
    let first = segment_of(&mut client, &taken.started.start_lsn);
    write_much(&cluster);

    let archive = send_wal(&mut client, id, None);
    member::assert_ends_well(&archive);
    let sent = segments(&archive);
    assert!(sent.len() >= 12, "{sent:?}");
    assert_eq!(sent[0], first);
    assert!(sent.is_sorted(), "{sent:?}");
    let end = end_of(&mut client, sent.last().expect("a segment"));
    let expected = (sent.len() as i64, Some(end.clone()));
    assert_eq!(progress(&mut client, id), expected);

    // Nothing was acknowledged: it comes again, and counts once.
    let again = send_wal(&mut client, id, None);
    assert_eq!(segments(&again), sent);
    assert_eq!(progress(&mut client, id), expected);
    assert!(exists(&cluster, &first));

    // Up to the middle of a segment: that segment is still held, and comes.
    let third_end = end_of(&mut client, &sent[2]);
    let middle = third_end.replace("00000", "80000");
    let from_middle = send_wal(&mut client, id, Some(&middle));
    assert_eq!(segments(&from_middle), sent[3..]);
    wait_for("the slot to move", PATIENCE, || {
        held_from(&cluster, &taken.started) == third_end
    });
    write_until_gone(&cluster, &sent[2]);
    assert!(exists(&cluster, &sent[3]), "{} is gone", sent[3]);

    // A file that was acknowledged is not sent at the stop, and one that was not is.
    let fifth_end = end_of(&mut client, &sent[4]);
    let rest = segments(&send_wal(&mut client, id, Some(&fifth_end)));
    assert_eq!(rest[0], sent[5]);
    taken.send_files();
    taken.backup.unpack(&archive);
    let closing = taken.stop();
    assert!(member::find(&closing, &format!("pg_wal/{}", sent[4])).is_none());
    member::expect(&closing, &format!("pg_wal/{}", sent[5]));
    leftover::assert_none(&cluster);
    taken.backup.verify();
    taken.backup.restore();
}

#[test]
fn a_stream_waits_for_the_first_segment() {
    let cluster = cluster();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let mut client = cluster.connect();
    let empty = send_wal(&mut client, id, None);
    assert_eq!(segments(&empty), [""; 0]);
    member::assert_ends_well(&empty);

    let waiting = spawn_waiting(&cluster, id);
    assert!(!waiting.is_finished());
    switch_wal(&mut client);
    assert_eq!(segments(&waiting.expect()).len(), 1);
}

#[test]
fn a_stop_ends_a_stream_that_waits() {
    let cluster = cluster();
    let mut taken = Stepwise::start(&cluster, "retain_wal => true");
    let id = taken.started.id;
    taken.send_files();
    let waiting = spawn_waiting(&cluster, id);
    taken.stop();
    let (mut client, archive) = waiting.join_and_keep();
    let archive = archive.expect("a stream that ends well");
    assert_eq!(segments(&archive), [""; 0]);
    member::assert_ends_well(&archive);
    // The protocol is in step, and the backup is over.
    let failure = copy_out(&mut client, &waiting_long(id)).expect_err("the backup is over");
    assert_eq!(failure.sqlstate, "42704", "{failure}");
    leftover::assert_none(&cluster);
    taken.backup.verify();
}

#[test]
fn an_aborted_backup_fails_a_stream_that_waits() {
    let cluster = cluster();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let waiting = spawn_waiting(&cluster, id);
    leader
        .execute("SELECT abort_backup()", &[])
        .expect("abort_backup()");
    let failure = waiting.expect_failure();
    failure.assert("55000", &format!("backup {id} has ended"));
    leftover::assert_none(&cluster);
}

#[test]
fn a_wait_can_be_cancelled() {
    let cluster = cluster();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let waiting = spawn_waiting(&cluster, id);
    cluster.execute(&format!("SELECT pg_cancel_backend({})", waiting.pid));
    let (mut client, ended) = waiting.join_and_keep();
    let failure = ended.expect_err("the wait was cancelled");
    assert_eq!(failure.sqlstate, "57014", "{failure}");
    // The stream is free again, for the same session and for others.
    send_wal(&mut client, id, None);
    send_wal(&mut leader, id, None);
}

#[test]
fn positions_that_cannot_be_are_refused_and_change_nothing() {
    let cluster = cluster();
    let mut leader = cluster.connect();
    let started = start(&mut leader, "retain_wal => true");
    let id = started.id;
    let mut client = cluster.connect();
    let mut refused = |call: &str, sqlstate: &str, message: &str| {
        let failure = expect_failure(call, copy_out(&mut client, &copy_of(call)));
        failure.assert(sqlstate, message);
        assert_eq!(progress(&mut client, id).0, 0);
    };
    let start_lsn = &started.start_lsn;
    refused(
        &format!("send_wal({id}, 'FF/0', '0')"),
        "22023",
        &format!("position FF/0 is beyond the WAL that was sent, which ends at {start_lsn}"),
    );
    refused(
        &format!("send_wal({id}, '0/1', '0')"),
        "22023",
        &format!(
            "position 0/1 is before the WAL that was acknowledged, which begins at {start_lsn}"
        ),
    );
    refused(
        &format!("send_wal({id}, wait => '-1 s')"),
        "22023",
        "argument \"wait\" cannot be negative",
    );
    refused(
        &format!("send_wal({id}, wait => NULL)"),
        "22004",
        "argument \"wait\" cannot be null",
    );
    refused(
        &format!("send_wal({id}, compression => 'brotli')"),
        "22023",
        "unrecognized compression algorithm: \"brotli\"",
    );
    refused("send_wal(12345)", "42704", "backup 12345 does not exist");
    refused("send_wal()", "55000", "backup is not in progress");
    let failure = client.query("SELECT send_wal()", &[]).map(drop);
    expect_failure("SELECT send_wal()", failure).assert(
        "0A000",
        "send_wal() can only be used in COPY (SELECT ...) TO STDOUT",
    );
    // The start itself is a position, also that of its segment.
    send_wal(&mut client, id, Some(&started.start_lsn));

    switch_wal(&mut client);
    switch_wal(&mut client);
    let sent = segments(&send_wal(&mut client, id, None));
    let first_end = end_of(&mut client, &sent[0]);
    send_wal(&mut client, id, Some(&first_end));
    let call = format!("send_wal({id}, '{start_lsn}', '0')");
    let failure = expect_failure(&call, copy_out(&mut client, &copy_of(&call)));
    assert_eq!(failure.sqlstate, "22023", "{failure}");
    assert_eq!(segments(&send_wal(&mut client, id, None)), sent[1..]);
}

#[test]
fn one_session_at_a_time_sends_the_wal_and_a_killed_one_makes_room() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "retain_wal => true").id;
    let mut client = cluster.connect();
    switch_wal(&mut client);
    // More than the buffers between the two ends hold.
    let halted = Worker::spawn_halting(&cluster, &at_once(id, None), 1);
    halted.wait_for_bytes(1);
    let failure = expect_failure("a second stream", copy_out(&mut client, &at_once(id, None)));
    failure.assert(
        "55006",
        &format!("the WAL of backup {id} is being sent by another session"),
    );
    assert!(
        failure.detail.contains(&halted.pid.to_string()),
        "{failure}"
    );
    cluster.execute(&format!("SELECT pg_terminate_backend({})", halted.pid));
    wait_for("the stream to be free", PATIENCE, || {
        copy_out(&mut client, &at_once(id, None)).is_ok()
    });
    assert_eq!(progress(&mut client, id).0, 1);
    halted.expect_failure().assert_terminated();
}

#[test]
fn wal_that_is_gone_is_named() {
    let cluster = forgetful().start();
    let mut leader = cluster.connect();
    let started = start(&mut leader, "");
    let mut client = cluster.connect();
    let first = segment_of(&mut client, &started.start_lsn);
    write_until_gone(&cluster, &first);
    let sent = copy_out(&mut client, &at_once(started.id, None));
    expect_failure("send_wal()", sent).assert(
        "58P01",
        &format!("requested WAL segment {first} has already been removed"),
    );
    // The backup goes on: its WAL may be in an archive.
    copy_out(&mut leader, &copy_of("send_backup_files()")).expect("send_backup_files()");
    try_send_stop(&mut leader, "").expect("send_stop_backup()");
}

/// At 32 kB/s a segment of 16 MB would take over eight minutes, also one that the stop brings.
#[test]
fn no_rate_limit_holds_for_wal() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "max_rate => 32").id;
    let mut client = cluster.connect();
    switch_wal(&mut client);
    client
        .batch_execute("SET statement_timeout = '2 min'")
        .expect("SET");
    let archive = send_wal(&mut client, id, None);
    assert_eq!(members(&archive)[0].content.len(), 16 * MEGABYTE);

    leader
        .batch_execute("SET statement_timeout = '2 min'")
        .expect("SET");
    let rest = try_send_stop(
        &mut leader,
        "wal => true, wait => false, allow_incomplete => true",
    );
    let rest = rest.expect("send_stop_backup()");
    assert!(rest.len() > 16 * MEGABYTE, "{}", rest.len());
}

#[test]
fn a_standby_sends_what_it_has_flushed_until_it_is_promoted() {
    let primary = cluster();
    let standby = primary.standby();
    let mut taken = Stepwise::start(&standby, "retain_wal => true");
    let id = taken.started.id;
    let mut client = standby.connect();
    let mut on_primary = primary.connect();
    let first = segment_of(&mut on_primary, &taken.started.start_lsn);
    switch_wal(&mut on_primary);
    switch_wal(&mut on_primary);
    catch_up(&primary, &standby);
    // Received is enough, replayed is not needed.
    standby.execute("SELECT pg_wal_replay_pause()");
    let last = current_segment(&mut on_primary);
    switch_wal(&mut on_primary);
    let mut archive = Vec::new();
    wait_for("a segment that is not replayed", PATIENCE, || {
        archive = send_wal(&mut client, id, None);
        segments(&archive).last() == Some(&last)
    });
    assert_eq!(segments(&archive)[0], first);
    standby.execute("SELECT pg_wal_replay_resume()");
    let end = end_of(&mut client, &last);
    assert_eq!(segments(&send_wal(&mut client, id, Some(&end))), [""; 0]);
    catch_up(&primary, &standby);
    taken.send_files();
    taken.backup.unpack(&archive);
    taken.stop();
    taken.backup.verify();
    leftover::assert_none(&standby);

    let mut leader = standby.connect();
    let id = start(&mut leader, "").id;
    standby.execute("SELECT pg_promote()");
    let failure = expect_failure("send_wal()", copy_out(&mut client, &at_once(id, None)));
    failure.assert("55000", "the standby was promoted during online backup");
}

#[test]
fn a_timeline_history_is_sent_once() {
    let primary = cluster();
    let standby = primary.standby();
    standby.execute("SELECT pg_promote()");
    let mut leader = standby.connect();
    let id = start(&mut leader, "").id;
    let mut client = standby.connect();
    let history = "pg_wal/00000002.history";
    switch_wal(&mut client);
    let archive = send_wal(&mut client, id, None);
    let on_disk = std::fs::read(standby.data_dir().join(history));
    let sent = member::expect(&archive, history);
    assert_eq!(Some(sent.content), on_disk.ok());
    member::expect(&archive, "pg_wal/archive_status/00000002.history.done");
    assert_eq!(members(&archive)[0].name(), history);
    let again = send_wal(&mut client, id, None);
    assert!(member::find(&again, history).is_none());
    assert_eq!(segments(&again), segments(&archive));
    // The stop brings it again: it does not know what has arrived.
    copy_out(&mut leader, &copy_of("send_backup_files()")).expect("send_backup_files()");
    let closing = try_send_stop(&mut leader, "wal => true").expect("send_stop_backup()");
    member::expect(&closing, history);
}

/// A lost stream costs one call.
#[test]
fn a_call_sends_a_bounded_number_of_segments() {
    const SWITCHES: usize = 5;
    let cluster = Cluster::builder()
        .initdb_arg("--wal-segsize=32")
        .setting("max_wal_size", "2GB")
        .start();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "retain_wal => true").id;
    let mut client = cluster.connect();
    for _ in 0..SWITCHES {
        switch_wal(&mut client);
    }
    let sent = members(&send_wal(&mut client, id, None));
    let segments = sent.iter().filter(|member| !member.content.is_empty());
    assert_eq!(segments.count(), 2);
}

#[test]
fn wal_is_compressed_as_files_are() {
    let cluster = cluster();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let mut client = cluster.connect();
    switch_wal(&mut client);
    let plain = send_wal(&mut client, id, None);
    let copy = copy_of(&format!(
        "send_wal({id}, wait => '0', compression => 'gzip')"
    ));
    let compressed = copy_out(&mut client, &copy);
    let compressed = compressed.expect("a compressed stream");
    assert_eq!(compressed[..2], [0x1F, 0x8B]);
    assert!(compressed.len() < plain.len() / 2);
}
