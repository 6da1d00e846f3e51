//! A backup belongs to a session: which calls that session may make, what a backup survives, and
//! how it coexists with core's backup functions.

use backup_tests::backup::{Backup, send_stop, spawn_workers, start, try_send_stop, try_start};
use backup_tests::failure::{Failure, expect_failure};
use backup_tests::leftover;
use backup_tests::server::Cluster;
use backup_tests::stream::{copy_of, copy_out};
use postgres::Client;

const NOT_IN_PROGRESS: &str = "backup is not in progress";
const ALREADY_IN_PROGRESS: &str = "a backup is already in progress in this session";
const NOT_OURS: &str = "the backup in progress was not started by start_backup()";
const NOT_CORES: &str = "cannot use pg_backup_stop() for a backup started by start_backup()";

/// Sends everything, stops, and verifies the result.
#[track_caller]
fn complete(cluster: &Cluster, leader: &mut Client, id: i64) -> Backup {
    let backup = Backup::folder(cluster);
    for worker in spawn_workers(cluster, id, 2) {
        backup.unpack(&worker.expect());
    }
    backup.unpack(&send_stop(leader));
    backup.verify();
    backup
}

/// Error of a statement that is not a COPY stream.
#[track_caller]
fn failure_of(client: &mut Client, statement: &str) -> Failure {
    expect_failure(statement, client.batch_execute(statement))
}

#[test]
fn two_leaders_run_a_backup_each() {
    let cluster = Cluster::new();
    cluster.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
    let mut first = cluster.connect();
    let mut second = cluster.connect();
    let one = start(&mut first, "label => 'one', retain_wal => true");
    let two = start(&mut second, "label => 'two', retain_wal => true");
    assert_ne!(one.id, two.id);

    let mut workers = spawn_workers(&cluster, one.id, 2);
    workers.extend(spawn_workers(&cluster, two.id, 2));
    let folders = [Backup::folder(&cluster), Backup::folder(&cluster)];
    for (number, worker) in workers.into_iter().enumerate() {
        folders[number / 2].unpack(&worker.expect());
    }
    folders[1].unpack(&send_stop(&mut second));
    folders[0].unpack(&send_stop(&mut first));
    for (folder, label) in folders.into_iter().zip(["one", "two"]) {
        folder.verify();
        let text =
            std::fs::read_to_string(folder.data_dir().join("backup_label")).expect("backup_label");
        assert!(text.contains(&format!("LABEL: {label}\n")), "{text}");
        let restored = folder.restore();
        restored.wait_for_sql("the rows", "SELECT count(*) = 1000 FROM t");
    }
    leftover::assert_none(&cluster);
}

#[test]
fn a_session_starts_one_backup_at_a_time() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    let started = start(&mut leader, "");
    expect_failure("a second start_backup()", try_start(&mut leader, ""))
        .assert("55000", ALREADY_IN_PROGRESS);
    let copy = copy_of("base_backup(fast => true)");
    expect_failure("base_backup()", copy_out(&mut leader, &copy))
        .assert("55000", ALREADY_IN_PROGRESS);
    complete(&cluster, &mut leader, started.id);
    let again = start(&mut leader, "");
    assert_ne!(again.id, started.id);
    complete(&cluster, &mut leader, again.id);
}

#[test]
fn stopping_without_a_backup_is_an_error() {
    let cluster = Cluster::new();
    let mut session = cluster.connect();
    for statement in ["SELECT stop_backup()", "SELECT abort_backup()"] {
        failure_of(&mut session, statement).assert("55000", NOT_IN_PROGRESS);
    }
    for _ in 0..2 {
        expect_failure("send_stop_backup()", try_send_stop(&mut session, ""))
            .assert("55000", NOT_IN_PROGRESS);
    }
    let copy = copy_of("send_backup_files()");
    expect_failure("send_backup_files()", copy_out(&mut session, &copy))
        .assert("55000", NOT_IN_PROGRESS);
    // The same applies after a backup has ended.
    start(&mut session, "");
    session
        .batch_execute("SELECT abort_backup()")
        .expect("abort_backup()");
    failure_of(&mut session, "SELECT abort_backup()").assert("55000", NOT_IN_PROGRESS);
    failure_of(&mut session, "SELECT stop_backup()").assert("55000", NOT_IN_PROGRESS);
}

#[test]
fn pg_backup_stop_refuses_a_backup_of_start_backup() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    let started = start(&mut leader, "");
    leader
        .batch_execute(
            "CREATE FUNCTION pg_temp.stop() RETURNS void LANGUAGE plpgsql
                 AS $$BEGIN PERFORM pg_backup_stop(false); END$$;
             CREATE FUNCTION pg_temp.stop_in_sql() RETURNS record LANGUAGE sql
                 AS 'SELECT pg_catalog.pg_backup_stop(false)';
             PREPARE stop AS SELECT * FROM pg_backup_stop()",
        )
        .expect("functions that call pg_backup_stop()");
    for statement in [
        "SELECT pg_backup_stop()",
        "SELECT * FROM pg_catalog.pg_backup_stop(false)",
        "EXECUTE stop",
        "SELECT pg_temp.stop()",
        "SELECT pg_temp.stop_in_sql()",
        "DO $$BEGIN PERFORM lsn FROM pg_backup_stop(false); END$$",
        "SELECT (pg_backup_stop(wait_for_archive => false)).lsn",
    ] {
        failure_of(&mut leader, statement).assert("55000", NOT_CORES);
    }
    failure_of(&mut leader, "SELECT pg_backup_start('again')").assert("55000", ALREADY_IN_PROGRESS);
    complete(&cluster, &mut leader, started.id);
    failure_of(&mut leader, "SELECT pg_backup_stop()").assert("55000", NOT_IN_PROGRESS);
}

/// A pg_backup_stop() that was looked up before the backup starts escapes our check. The server
/// must survive that.
#[test]
fn a_pg_backup_stop_that_was_looked_up_before_ends_the_backup_and_nothing_else() {
    let cluster = Cluster::new();
    let mut bystander = cluster.connect();
    for statement in [
        "DECLARE c CURSOR FOR SELECT pg_backup_stop(false)",
        "DECLARE c CURSOR FOR SELECT * FROM pg_backup_stop(false)",
    ] {
        let mut leader = cluster.connect();
        leader.batch_execute("BEGIN").expect("BEGIN");
        leader.batch_execute(statement).expect("DECLARE");
        start(&mut leader, "");
        // Version 15 fails because there is no label. Later versions return an empty one.
        let _ = leader.batch_execute("FETCH c");
        leader.batch_execute("ROLLBACK").expect("ROLLBACK");
        failure_of(&mut leader, "SELECT stop_backup(allow_incomplete => true)")
            .assert("55000", NOT_IN_PROGRESS);
        leftover::assert_none(&cluster);
        // The session is unaffected.
        let started = start(&mut leader, "");
        complete(&cluster, &mut leader, started.id);
    }
    bystander
        .batch_execute("SELECT 1")
        .expect("the server is still up");
}

#[test]
fn stop_backup_refuses_a_backup_of_pg_backup_start() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    leader
        .batch_execute("SELECT pg_backup_start('core', true)")
        .expect("pg_backup_start()");
    for statement in ["SELECT stop_backup()", "SELECT abort_backup()"] {
        failure_of(&mut leader, statement).assert("55000", NOT_OURS);
    }
    expect_failure("send_stop_backup()", try_send_stop(&mut leader, "")).assert("55000", NOT_OURS);
    expect_failure("start_backup()", try_start(&mut leader, ""))
        .assert("55000", ALREADY_IN_PROGRESS);
    let label: String = leader
        .query_one("SELECT labelfile FROM pg_backup_stop(false)", &[])
        .expect("pg_backup_stop()")
        .get(0);
    assert!(label.contains("LABEL: core\n"), "{label}");
    // Each kind of backup then works as if the other had never run.
    let started = start(&mut leader, "");
    complete(&cluster, &mut leader, started.id);
    leader
        .batch_execute("SELECT pg_backup_start('core', true); SELECT pg_backup_stop(false)")
        .expect("a backup of core's functions");
}

#[test]
fn a_backup_outlives_the_transaction_that_started_it() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    leader.batch_execute("BEGIN").expect("BEGIN");
    let started = start(&mut leader, "");
    leader.batch_execute("ROLLBACK").expect("ROLLBACK");
    complete(&cluster, &mut leader, started.id);
}

#[test]
fn a_backup_outlives_an_error_in_its_session() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    let started = start(&mut leader, "retain_wal => true");
    failure_of(&mut leader, "SELECT 1 / 0").assert("22012", "division by zero");
    failure_of(&mut leader, "BEGIN; SAVEPOINT a; SELECT 1 / 0");
    leader.batch_execute("ROLLBACK").expect("ROLLBACK");
    // The top-level error dropped the session's own temporary slots. The backup's slot belongs to
    // another process.
    let slots: i64 = leader
        .query_one(
            "SELECT count(*) FROM pg_replication_slots
             WHERE slot_name = 'pg_parallel_backup_' || to_hex($1::bigint) AND active",
            &[&started.id],
        )
        .expect("pg_replication_slots")
        .get(0);
    assert_eq!(slots, 1);
    complete(&cluster, &mut leader, started.id);
    leftover::assert_none(&cluster);
}

#[test]
fn a_backup_outlives_discard_all_and_stays_visible() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    let started = start(&mut leader, "");
    leader.batch_execute("DISCARD ALL").expect("DISCARD ALL");
    leader
        .batch_execute("SELECT pg_advisory_unlock_all()")
        .expect("pg_advisory_unlock_all()");
    let ids: Vec<i64> = cluster
        .connect()
        .query("SELECT backup_id FROM backup_progress()", &[])
        .expect("backup_progress()")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(ids, [started.id]);
    complete(&cluster, &mut leader, started.id);
}

#[test]
fn an_id_that_names_no_backup_is_refused() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    let ended = start(&mut leader, "").id;
    leader
        .batch_execute("SELECT abort_backup()")
        .expect("abort_backup()");
    let running = start(&mut leader, "").id;
    assert!(running > 0 && ended > 0 && running != ended);

    let mut session = cluster.connect();
    let mut guesses = vec![0, 1, -1, i64::MAX, i64::MIN, ended, -running];
    // Changing any single bit makes the ID invalid.
    guesses.extend((0..63).map(|bit| running ^ (1 << bit)));
    for guess in guesses {
        let message = format!("backup {guess} does not exist");
        for function in ["backup_filelist", "backup_tablespaces"] {
            let statement = format!("SELECT count(*) FROM {function}('{guess}'::bigint)");
            failure_of(&mut session, &statement).assert("42704", &message);
        }
        let copy = copy_of(&format!("send_backup_files('{guess}'::bigint)"));
        expect_failure(&copy, copy_out(&mut session, &copy)).assert("42704", &message);
    }
    complete(&cluster, &mut leader, running);
}

#[test]
fn backups_of_one_session_leave_nothing_behind() {
    let cluster = Cluster::builder()
        .setting("dynamic_shared_memory_type", "mmap")
        .start();
    let mut leader = cluster.connect();
    for round in 0..20 {
        let started = start(&mut leader, "retain_wal => true");
        assert_eq!(leftover::shared_segments(&cluster).len(), 1);
        if round % 2 == 0 {
            leader
                .batch_execute("SELECT abort_backup()")
                .expect("abort_backup()");
        } else {
            complete(&cluster, &mut leader, started.id);
        }
        leftover::assert_none(&cluster);
    }
}
