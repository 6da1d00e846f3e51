//! Backups by the program of a server whose archive does not work.

use std::process::Command;

use backup_tests::client::{Running, backup_of, expect_failure, names_in, new_target, verify};
use backup_tests::leftover;
use backup_tests::program::{run, succeed};
use backup_tests::server::Cluster;

const WAITS: &str = "SELECT count(*) > 0 FROM pg_stat_activity
     WHERE wait_event = 'BackupWaitWalArchive' AND application_name = 'pg_parallel_backup'";

fn cluster() -> Cluster {
    Cluster::builder()
        .setting("archive_mode", "on")
        .setting("archive_command", "false")
        .start()
}

fn none(cluster: &Cluster, args: &[&str]) -> Command {
    let mut backup = backup_of(cluster);
    backup.args(["-X", "none", "-j", "2"]).args(args);
    backup
}

#[test]
fn a_backup_with_its_wal_does_not_wait_for_the_archive() {
    let cluster = cluster();
    let (folder, target) = new_target();
    succeed(backup_of(&cluster).arg("-D").arg(&target));
    verify(&target, &[]);
    let tar = folder.join("tar");
    succeed(backup_of(&cluster).args(["-Ft", "-D"]).arg(&tar));
    let output = run(backup_of(&cluster).args(["-D", "-"]));
    assert!(output.status.success());
    leftover::assert_none(&cluster);
}

#[test]
fn a_wait_for_the_archive_that_takes_too_long_fails_and_says_where_to_look() {
    let cluster = cluster();
    let (folder, target) = new_target();
    for format in ["-Fp", "-Ft"] {
        let mut backup = none(&cluster, &["--archive-timeout", "1", format, "-D"]);
        let said = expect_failure(backup.arg(&target));
        for part in [
            "the server has not archived the WAL of the backup within 1 s",
            "HINT:",
            "archive_command",
            "pg_stat_archiver",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(names_in(&folder).is_empty());
        leftover::assert_none(&cluster);
    }
}

#[test]
fn an_archive_that_works_in_time_is_waited_for() {
    let cluster = cluster();
    let (_folder, target) = new_target();
    let mut backup = none(&cluster, &["--archive-timeout", "600", "-D"]);
    let running = Running::start(backup.arg(&target));
    cluster.wait_for_sql("a backup that waits", WAITS);
    cluster.execute("ALTER SYSTEM SET archive_command = 'true'");
    cluster.execute("SELECT pg_reload_conf()");
    let (status, said) = running.end();
    assert_eq!(status, Some(0), "{said}");
    verify(&target, &["-n"]);
}

#[test]
fn the_time_limit_is_for_backups_that_wait() {
    let (folder, target) = new_target();
    let mut backup = backup_tests::client::program();
    backup.args(["-h", "/nowhere", "--archive-timeout", "1", "-D"]);
    let said = expect_failure(backup.arg(&target));
    assert!(said.contains("--archive-timeout is for -X none"), "{said}");
    assert!(names_in(&folder).is_empty());
}
