//! WAL of a backup: sent with it, removed, retained for it, or awaited.

use postgres::Client;

use backup_tests::backup::{Started, start, try_send_stop};
use backup_tests::failure::Failure;
use backup_tests::leftover;
use backup_tests::member;
use backup_tests::server::Cluster;
use backup_tests::session::backend_pid;
use backup_tests::stepwise::Stepwise;
use backup_tests::stream::{Worker, copy_of, copy_out};
use backup_tests::wal::{exists, forgetful, segment_of, switch_wal, write_much, write_until_gone};

/// Checks that the session's backup has a slot, and that the slot has its process.
fn assert_held(cluster: &Cluster, started: &Started) {
    let name = format!("pg_parallel_backup_{:x}", started.id);
    let row = cluster
        .connect()
        .query_one(
            "SELECT slot_type, temporary, restart_lsn <= $2::text::pg_lsn, backend_type
             FROM pg_replication_slots LEFT JOIN pg_stat_activity ON pid = active_pid
             WHERE slot_name = $1",
            &[&name, &started.start_lsn],
        )
        .unwrap_or_else(|error| panic!("slot {name}: {error}"));
    assert_eq!(row.get::<_, String>(0), "physical");
    assert!(row.get::<_, bool>(1), "the slot is not temporary");
    assert!(row.get::<_, bool>(2), "the slot holds too little");
    assert_eq!(
        row.get::<_, Option<String>>(3).as_deref(),
        Some("pg_parallel_backup WAL retention")
    );
}

#[test]
fn a_backup_with_its_wal_needs_no_archive() {
    let cluster = Cluster::builder().initdb_arg("--wal-segsize=1").start();
    let mut taken = Stepwise::start(&cluster, "");
    let mut client = cluster.connect();
    client
        .batch_execute("CREATE TABLE t AS SELECT generate_series(1, 50000) AS a")
        .expect("CREATE TABLE");
    switch_wal(&mut client);
    taken.send_files();
    let closing = taken.stop();
    taken.backup.verify();

    let members = member::members(&closing);
    let names: Vec<_> = members.iter().map(|member| member.name()).collect();
    let first = segment_of(&mut client, &taken.started.start_lsn);
    let segments: Vec<_> = names
        .iter()
        .filter_map(|name| name.strip_prefix("pg_wal/"))
        .filter(|name| !name.contains('/'))
        .collect();
    assert!(segments.len() >= 4, "{segments:?}");
    assert_eq!(segments[0], first);
    assert!(segments.is_sorted(), "{segments:?}");
    for segment in &segments {
        let done = format!("pg_wal/archive_status/{segment}.done");
        assert!(names.contains(&done), "{done}");
        let member = member::expect(&closing, &format!("pg_wal/{segment}"));
        assert_eq!(member.content.len(), 1 << 20);
    }
    assert_eq!(names.last().map(String::as_str), Some("backup_manifest"));

    let restored = taken.backup.restore();
    let row = restored.connect().query_one("SELECT count(*) FROM t", &[]);
    assert_eq!(row.expect("the table").get::<_, i64>(0), 50_000);
}

#[test]
fn timeline_histories_are_sent_with_the_wal() {
    let primary = Cluster::new();
    let standby = primary.standby();
    standby.execute("SELECT pg_promote()");
    let mut taken = Stepwise::start(&standby, "");
    assert_eq!(taken.started.timeline, 2);
    taken.send_files();
    let closing = taken.stop();
    let history = member::expect(&closing, "pg_wal/00000002.history");
    let on_disk = std::fs::read(standby.data_dir().join("pg_wal/00000002.history"));
    assert_eq!(Some(history.content), on_disk.ok());
    member::expect(&closing, "pg_wal/archive_status/00000002.history.done");
    taken.backup.verify();
    taken.backup.restore();
}

#[test]
fn wal_that_is_gone_is_named() {
    let cluster = forgetful().start();
    let mut taken = Stepwise::start(&cluster, "");
    let first = segment_of(&mut taken.leader, &taken.started.start_lsn);
    taken.send_files();
    write_until_gone(&cluster, &first);
    let failure = taken
        .try_stream("send_stop_backup(wal => true)")
        .expect_err("a backup with a gap in its WAL was accepted");
    failure.assert(
        "58P01",
        &format!("requested WAL segment {first} has already been removed"),
    );
    leftover::assert_none(&cluster);
    // The session can start another backup.
    start(&mut taken.leader, "");
}

#[test]
fn without_its_wal_a_backup_does_not_mind_that_it_is_gone() {
    let cluster = forgetful().start();
    let mut taken = Stepwise::start(&cluster, "");
    let first = segment_of(&mut taken.leader, &taken.started.start_lsn);
    taken.send_files();
    write_until_gone(&cluster, &first);
    let closing = taken.stream("send_stop_backup(wal => false)");
    for member in member::members(&closing) {
        assert!(!member.name().starts_with("pg_wal/"), "{}", member.name());
    }
    taken.backup.unpack(&closing);
    taken.backup.verify_with(&["-n"]);
}

#[test]
fn retained_wal_outlives_errors_of_the_leader() {
    let cluster = forgetful().start();
    let mut taken = Stepwise::start(&cluster, "retain_wal => true");
    assert_held(&cluster, &taken.started);
    let first = segment_of(&mut taken.leader, &taken.started.start_lsn);
    // An error at the top level of a session drops the session's temporary slots.
    let failure = taken.leader.batch_execute("SELECT 1 / 0");
    failure.expect_err("1 / 0");
    taken
        .leader
        .batch_execute("DISCARD ALL")
        .expect("DISCARD ALL");
    write_much(&cluster);
    assert_held(&cluster, &taken.started);
    assert!(exists(&cluster, &first), "{first} is gone");
    taken.send_files();
    let closing = taken.stop();
    member::expect(&closing, &format!("pg_wal/{first}"));
    taken.backup.verify();
    leftover::assert_none(&cluster);
    taken.backup.restore();
    // The WAL is no longer retained.
    write_until_gone(&cluster, &first);
}

#[test]
fn the_slot_goes_with_the_backup_however_it_ends() {
    let cluster = Cluster::new();
    type End = fn(Client, &Cluster);
    let ends: [(&str, End); 6] = [
        ("a stop", |mut leader, _| {
            copy_out(&mut leader, &copy_of("send_backup_files()")).expect("send_backup_files()");
            try_send_stop(&mut leader, "wal => true").expect("send_stop_backup()");
            std::mem::forget(leader);
        }),
        ("a stop without a stream", |mut leader, _| {
            leader
                .query("SELECT * FROM stop_backup(allow_incomplete => true)", &[])
                .expect("stop_backup()");
            std::mem::forget(leader);
        }),
        ("an abort", |mut leader, _| {
            leader
                .query("SELECT abort_backup()", &[])
                .expect("abort_backup()");
            std::mem::forget(leader);
        }),
        ("the end of the session", |leader, _| drop(leader)),
        ("pg_terminate_backend()", |mut leader, cluster| {
            let pid = backend_pid(&mut leader);
            cluster.execute(&format!("SELECT pg_terminate_backend({pid})"));
            std::mem::forget(leader);
        }),
        ("the end of the process of the slot", |leader, cluster| {
            cluster.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE backend_type = 'pg_parallel_backup WAL retention'",
            );
            drop(leader);
        }),
    ];
    for (what, end) in ends {
        eprintln!("{what}");
        let mut leader = cluster.connect();
        let started = start(&mut leader, "retain_wal => true");
        assert_held(&cluster, &started);
        end(leader, &cluster);
        leftover::assert_none(&cluster);
    }
}

#[test]
fn wal_that_is_retained_no_longer_is_told_at_the_stop() {
    let cluster = Cluster::new();
    let mut taken = Stepwise::start(&cluster, "retain_wal => true");
    cluster.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE backend_type = 'pg_parallel_backup WAL retention'",
    );
    cluster.wait_for_sql(
        "the end of the process of the slot",
        "SELECT NOT EXISTS (SELECT FROM pg_replication_slots)",
    );
    taken.send_files();
    taken.stop();
    // The WAL is still complete this time, but the caller must be warned.
    assert_eq!(
        taken.notices.warnings(),
        ["the background worker that retained the WAL of the backup has ended early"]
    );
    taken.backup.verify();
}

/// The process runs no statement that could be canceled.
#[test]
fn the_process_of_the_slot_survives_a_cancel() {
    let cluster = Cluster::new();
    let mut taken = Stepwise::start(&cluster, "retain_wal => true");
    cluster.execute(
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity
         WHERE backend_type = 'pg_parallel_backup WAL retention'",
    );
    taken.send_files();
    taken.stop();
    assert_eq!(taken.notices.warnings(), [""; 0]);
    leftover::assert_none(&cluster);
}

/// Cluster with a failing archive_command.
fn with_failing_archive() -> Cluster {
    Cluster::builder()
        .setting("archive_mode", "on")
        .setting("archive_command", "false")
        .start()
}

#[test]
fn a_stop_that_does_not_wait_returns_before_the_archive_has_the_wal() {
    let cluster = with_failing_archive();
    let mut taken = Stepwise::start(&cluster, "");
    taken.send_files();
    taken
        .leader
        .query_one("SELECT * FROM stop_backup(wait => false)", &[])
        .map_err(Failure::from)
        .expect("stop_backup(wait => false)");

    let mut taken = Stepwise::start(&cluster, "");
    taken.send_files();
    let closing = taken.stream("send_stop_backup(wal => true, wait => false)");
    taken.backup.unpack(&closing);
    taken.backup.verify();
}

#[test]
fn waiting_for_the_archive_can_be_cancelled() {
    let cluster = with_failing_archive();
    for stop in ["stop_backup()", "send_stop_backup(wal => false)"] {
        let mut taken = Stepwise::start(&cluster, "");
        taken.send_files();
        let pid = backend_pid(&mut taken.leader);
        let statement = if stop.starts_with("send") {
            copy_of(stop)
        } else {
            format!("SELECT * FROM {stop}")
        };
        let Stepwise {
            mut leader, backup, ..
        } = taken;
        let thread = std::thread::spawn(move || {
            let ended = if statement.starts_with("COPY") {
                copy_out(&mut leader, &statement).map(|_| ())
            } else {
                let rows = leader.query(&statement, &[]);
                rows.map(|_| ()).map_err(Failure::from)
            };
            (ended, leader)
        });
        cluster.wait_for_sql(
            "the wait for the archive",
            &format!(
                "SELECT wait_event = 'BackupWaitWalArchive' FROM pg_stat_activity
                 WHERE pid = {pid}"
            ),
        );
        cluster.execute(&format!("SELECT pg_cancel_backend({pid})"));
        let (ended, mut leader) = thread.join().expect("the thread of the leader");
        let failure = ended.expect_err("the wait ended without the archive");
        assert_eq!(failure.sqlstate, "57014", "{failure}");
        // Core ends the backup before it waits, so the backup is over here too.
        leftover::assert_none(&cluster);
        start(&mut leader, "");
        drop(backup);
    }
}

#[test]
fn a_stop_waits_for_an_archive_that_works() {
    let cluster = Cluster::builder().setting("archive_mode", "on");
    let cluster = cluster.setting("archive_command", "false").start();
    let mut taken = Stepwise::start(&cluster, "");
    taken.send_files();
    let id = taken.started.id;
    let Stepwise {
        leader,
        notices,
        backup,
        ..
    } = taken;
    let stop = copy_of("send_stop_backup(wal => true)");
    let stopping = Worker::take_over(leader, notices, &stop, u64::MAX);
    cluster.wait_for_sql(
        "the wait for the archive",
        &format!(
            "SELECT wait_event = 'BackupWaitWalArchive' FROM pg_stat_activity WHERE pid = {}",
            stopping.pid
        ),
    );
    assert!(!stopping.is_finished(), "backup {id} did not wait");
    cluster.execute("ALTER SYSTEM SET archive_command = 'true'");
    cluster.execute("SELECT pg_reload_conf()");
    backup.unpack(&stopping.expect());
    backup.verify();
}
