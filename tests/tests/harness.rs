//! Tests of the test tools with `pg_basebackup`: what they accept and what they reject.

use std::ffi::OsStr;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use backup_tests::backup::Backup;
use backup_tests::leftover;
use backup_tests::program::{command, run, run_with_input};
use backup_tests::server::{Cluster, Shutdown};
use backup_tests::stream::{PsqlWorker, Worker};
use backup_tests::wait::{PATIENCE, wait_for};
use backup_tests::workload::{Pgbench, assert_balanced};

fn plain_cluster() -> Cluster {
    Cluster::builder().without_extension().start()
}

fn basebackup(cluster: &Cluster, args: &[&str]) -> Vec<u8> {
    let mut pg_basebackup = command("pg_basebackup");
    pg_basebackup
        .args(cluster.connection_args("postgres"))
        .args(["-c", "fast", "-D", "-", "-Ft"])
        .args(args);
    let output = run(&mut pg_basebackup);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

#[test]
fn a_base_backup_under_load_verifies_and_restores() {
    let cluster = plain_cluster();
    Pgbench::fill(&cluster, 1);
    let load = Pgbench::run(&cluster, 100);
    let backup = Backup::folder(&cluster);
    backup.unpack(&basebackup(&cluster, &["-X", "fetch"]));
    load.stop();
    backup.verify();
    let mut restored = backup.restore();
    assert!(assert_balanced(&mut restored.connect()) > 0);
    restored.amcheck();
    restored.stop_and_check_checksums();
}

#[test]
fn a_changed_file_is_refused() {
    let cluster = plain_cluster();
    let backup = Backup::folder(&cluster);
    backup.unpack(&basebackup(&cluster, &["-X", "fetch"]));
    std::fs::write(backup.data_dir().join("base/1/PG_VERSION"), "51\n").expect("PG_VERSION");
    let said = backup.expect_refusal(&[]);
    assert!(said.contains("base/1/PG_VERSION"), "{said}");
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let mut cluster = plain_cluster();
    cluster.stop(Shutdown::Immediate);
    cluster.append_to_conf("shared_buffers = nonsense\n");
    let log = cluster.try_start().expect_err("the server started");
    assert!(log.contains("nonsense"), "{log}");
}

#[test]
fn a_standby_follows() {
    let primary = plain_cluster();
    let standby = primary.standby();
    primary.execute("CREATE TABLE t AS SELECT 1 AS a");
    standby.wait_for_sql("the table", "SELECT to_regclass('t') IS NOT NULL");
}

#[test]
fn a_halted_worker_resumes() {
    let cluster = plain_cluster();
    let copy = "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 10000)) TO STDOUT";
    let mut worker = Worker::spawn_halting(&cluster, copy, 100_000);
    worker.wait_for_bytes(100_000);
    assert!(!worker.is_finished());
    worker.resume();
    assert_eq!(worker.expect().len(), 10_010_000);
}

#[test]
fn a_failing_stream_tells_its_sqlstate() {
    let cluster = plain_cluster();
    let worker = Worker::spawn(
        &cluster,
        "COPY (SELECT 1 / (5 - i) FROM generate_series(1, 9) AS i) TO STDOUT",
    );
    worker.expect_failure().assert("22012", "division by zero");
}

#[test]
fn a_terminated_worker_fails() {
    let cluster = plain_cluster();
    let worker = Worker::spawn(&cluster, "COPY (SELECT pg_sleep(1000)) TO STDOUT");
    cluster.wait_for_sql(
        "the worker to sleep",
        &format!(
            "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = {}",
            worker.pid
        ),
    );
    cluster.execute(&format!("SELECT pg_terminate_backend({})", worker.pid));
    worker.expect_failure().assert_terminated();
}

#[test]
fn a_killed_psql_leaves_the_server() {
    let cluster = plain_cluster();
    let worker = PsqlWorker::spawn(
        &cluster,
        "COPY (SELECT pg_sleep(0.001) FROM generate_series(1, 10000000)) TO STDOUT",
    );
    worker.kill();
    cluster.wait_for_end_of(worker.pid);
}

#[test]
fn what_tar_refuses_fails_the_test() {
    let mut tar = command("tar");
    tar.args(["--list", "--file=-"]);
    assert!(!run_with_input(&mut tar, b"no archive").status.success());
}

#[test]
fn a_crash_is_noticed() {
    let cluster = plain_cluster();
    let mut session = cluster.connect();
    let pid = backup_tests::session::backend_pid(&mut session);
    backup_tests::program::signal("SEGV", pid);
    wait_for("the crash in the log", PATIENCE, || {
        !cluster.crashes().is_empty()
    });
    cluster.may_crash();
}

#[test]
fn a_backup_that_the_server_still_counts_is_noticed() {
    let cluster = Cluster::builder()
        .without_extension()
        .setting("full_page_writes", "off")
        .start();
    if !cluster.has_module("pg_walinspect") {
        return;
    }
    cluster.execute("CREATE EXTENSION pg_walinspect");
    cluster.execute("CREATE TABLE probe AS SELECT 0 AS a");
    leftover::assert_none_counted(&cluster);
    let mut session = cluster.connect();
    session
        .batch_execute("SELECT pg_backup_start('left', true)")
        .expect("pg_backup_start()");
    let found = catch_unwind(AssertUnwindSafe(|| leftover::assert_none_counted(&cluster)));
    assert!(found.is_err());
    session
        .batch_execute("SELECT pg_backup_stop(false)")
        .expect("pg_backup_stop()");
    leftover::assert_none_counted(&cluster);
}

/// A file of tests that the program of all tests does not name would never run.
#[test]
fn every_file_of_tests_runs() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let program = fs::read_to_string(folder.join("outside.rs")).expect("the program");
    for entry in fs::read_dir(&folder).expect("the folder of tests") {
        let path = entry.expect("an entry").path();
        let name = path.file_stem().and_then(OsStr::to_str).expect("a name");
        let line = format!("mod {name};");
        assert!(
            name == "outside" || program.lines().any(|it| it == line),
            "{name} is not in tests/outside.rs"
        );
    }
}
