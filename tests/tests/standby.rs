//! Backups of a standby, and the effect of a promotion on them.

use std::fs;

use backup_tests::backup::{Backup, start};
use backup_tests::failure::Failure;
use backup_tests::leftover;
use backup_tests::replication::{catch_up, follow};
use backup_tests::server::{Cluster, Shutdown};
use backup_tests::stepwise::Stepwise;
use backup_tests::stream::{Worker, copy_of};

const PROMOTED: &str = "the standby was promoted during online backup";

/// Backs up a standby while its primary writes, with rows from before, during and after the backup.
fn backup_of(primary: &Cluster, standby: &Cluster) -> Backup {
    primary.execute("CREATE TABLE t AS SELECT generate_series(1, 10000) AS a");
    catch_up(primary, standby);
    let mut taken = Stepwise::start(standby, "retain_wal => true");
    assert!(
        taken
            .started
            .backup_label
            .contains("BACKUP FROM: standby\n"),
        "{}",
        taken.started.backup_label
    );
    primary.execute("INSERT INTO t SELECT generate_series(1, 10000)");
    catch_up(primary, standby);
    taken.send_files();
    // Flushed WAL advances the LSN that a restore must reach.
    primary.execute("INSERT INTO t SELECT generate_series(1, 10000)");
    primary.execute("CHECKPOINT");
    catch_up(primary, standby);
    standby.execute("CHECKPOINT");
    taken.stop();
    taken.backup.verify();
    taken.backup
}

fn rows(cluster: &Cluster) -> i64 {
    cluster
        .connect()
        .query_one("SELECT count(*) FROM t", &[])
        .expect("the table")
        .get(0)
}

#[test]
fn a_backup_of_a_standby_becomes_another_standby() {
    let primary = Cluster::new();
    let standby = primary.standby();
    let restored = backup_of(&primary, &standby).restore();
    primary.execute("INSERT INTO t VALUES (0)");
    restored.wait_for_sql(
        "the new standby to follow",
        "SELECT count(*) = 30001 FROM t",
    );
}

#[test]
fn a_backup_of_a_standby_starts_alone() {
    let primary = Cluster::new();
    let standby = primary.standby();
    let mut restored = backup_of(&primary, &standby).into_cluster();
    drop(standby);
    drop(primary);
    fs::remove_file(restored.data_dir().join("standby.signal")).expect("standby.signal");
    restored.start();
    assert_eq!(rows(&restored), 30_000);
    restored.amcheck();
    restored.stop_and_check_checksums();
}

#[test]
fn several_workers_stream_from_a_standby_under_load() {
    let primary = Cluster::new();
    backup_tests::workload::Pgbench::fill(&primary, 1);
    let load = backup_tests::workload::Pgbench::run(&primary, 100);
    let standby = primary.standby();
    let backup = Backup::take_with(&standby, 3, "retain_wal => true");
    load.stop();
    backup.verify();
    let restored = backup.into_cluster();
    fs::remove_file(restored.data_dir().join("standby.signal")).expect("standby.signal");
    let mut restored = restored;
    restored.start();
    assert!(backup_tests::workload::assert_balanced(&mut restored.connect()) > 0);
}

#[test]
fn a_promotion_before_a_stream_fails_the_stream() {
    let primary = Cluster::new();
    let standby = primary.standby();
    let mut taken = Stepwise::start(&standby, "");
    standby.execute("SELECT pg_promote()");
    let failure = taken
        .try_stream("send_backup_files()")
        .expect_err("a stream of a promoted standby");
    failure.assert("55000", PROMOTED);
    end_and_start_again(&standby, taken);
}

#[test]
fn a_promotion_in_mid_stream_fails_the_stream_or_the_stop() {
    let primary = Cluster::new();
    backup_tests::workload::create_table(&primary, "big", 20);
    let standby = primary.standby();
    let mut taken = Stepwise::start(&standby, "");
    let copy = copy_of(&format!("send_backup_files({})", taken.started.id));
    let worker = Worker::spawn_halting(&standby, &copy, 1 << 20);
    worker.wait_for_bytes(1 << 20);
    standby.execute("SELECT pg_promote()");
    // The worker may have made its last check before the promotion. The stop always checks.
    if let Err(failure) = worker.join() {
        failure.assert("55000", PROMOTED);
    }
    let failure = taken
        .try_stream("send_stop_backup(allow_incomplete => true)")
        .expect_err("a backup of a promoted standby");
    failure.assert("55000", PROMOTED);
    end_and_start_again(&standby, taken);
}

#[test]
fn a_promotion_after_the_last_stream_fails_the_stop() {
    let primary = Cluster::new();
    let standby = primary.standby();
    let mut taken = Stepwise::start(&standby, "");
    taken.send_files();
    standby.execute("SELECT pg_promote()");
    let stopped = taken.leader.query("SELECT * FROM stop_backup()", &[]);
    let failure = Failure::from(stopped.expect_err("a backup of a promoted standby"));
    failure.assert("55000", PROMOTED);
    end_and_start_again(&standby, taken);
}

/// A failed backup must not block the next one in the same session.
fn end_and_start_again(promoted: &Cluster, mut taken: Stepwise) {
    if let Err(error) = taken.leader.batch_execute("SELECT abort_backup()") {
        Failure::from(error).assert("55000", "backup is not in progress");
    }
    leftover::assert_none(promoted);
    let started = start(&mut taken.leader, "");
    assert_eq!(started.timeline, 2);
}

#[test]
fn wal_without_full_pages_spoils_a_backup_of_a_standby() {
    let primary = Cluster::new();
    let standby = primary.standby();
    let mut taken = Stepwise::start(&standby, "");
    primary.execute("ALTER SYSTEM SET full_page_writes = off");
    primary.execute("SELECT pg_reload_conf()");
    primary.wait_for_sql(
        "full_page_writes to be off",
        "SELECT current_setting('full_page_writes') = 'off'",
    );
    // The checkpointer logs the change once it has read the setting.
    standby.wait_for_sql("the WAL that tells of it", {
        primary.execute("CHECKPOINT");
        catch_up(&primary, &standby);
        "SELECT NOT full_page_writes FROM pg_control_checkpoint()"
    });
    taken.send_files();
    let failure = taken
        .try_stream("send_stop_backup(wal => true)")
        .expect_err("a backup with torn pages");
    assert_eq!(failure.sqlstate, "55000", "{failure}");
    assert!(
        // Later versions quote the setting.
        failure
            .message
            .replace('"', "")
            .starts_with("WAL generated with full_page_writes=off was replayed"),
        "{failure}"
    );
}

#[test]
fn a_backup_of_a_primary_becomes_a_standby() {
    let primary = Cluster::new();
    primary.execute("CREATE TABLE t AS SELECT generate_series(1, 10000) AS a");
    let mut taken = Stepwise::start(&primary, "retain_wal => true");
    taken.send_files();
    primary.execute("INSERT INTO t SELECT generate_series(1, 10000)");
    taken.stop();
    taken.backup.verify();
    let mut standby = taken.backup.into_cluster();
    follow(&standby, &primary);
    standby.start();
    primary.execute("INSERT INTO t SELECT generate_series(1, 10000)");
    standby.wait_for_sql("the standby to follow", "SELECT count(*) = 30000 FROM t");
    standby.wait_for_sql("the standby to stay one", "SELECT pg_is_in_recovery()");
}

/// The upstream server of a standby is promoted. The standby remains a standby.
#[test]
fn a_timeline_that_the_primary_begins_during_the_backup_is_in_its_range() {
    let mut first = Cluster::new();
    first.execute("CREATE TABLE t AS SELECT generate_series(1, 10000) AS a");
    let second = first.standby();
    let third = second.standby();
    catch_up(&first, &third);
    let mut taken = Stepwise::start(&third, "retain_wal => true");
    assert_eq!(taken.started.timeline, 1);
    first.execute("INSERT INTO t SELECT generate_series(1, 10000)");
    catch_up(&first, &second);
    first.stop(Shutdown::Fast);
    second.execute("SELECT pg_promote()");
    second.execute("INSERT INTO t SELECT generate_series(1, 10000)");
    second.execute("CHECKPOINT");
    catch_up(&second, &third);
    // The standby can now start from the new timeline.
    third.execute("CHECKPOINT");
    taken.send_files();
    taken.stop();
    taken.backup.verify();

    let manifest = fs::read(taken.backup.data_dir().join("backup_manifest")).expect("a manifest");
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
    let ranges = manifest["WAL-Ranges"].as_array().expect("WAL-Ranges");
    let timelines: Vec<_> = ranges.iter().map(|range| &range["Timeline"]).collect();
    assert_eq!(timelines, [2, 1], "{ranges:?}");
    assert_eq!(ranges[1]["Start-LSN"], taken.started.start_lsn.as_str());
    assert_eq!(ranges[0]["Start-LSN"], ranges[1]["End-LSN"]);

    let mut restored = taken.backup.into_cluster();
    fs::remove_file(restored.data_dir().join("standby.signal")).expect("standby.signal");
    restored.start();
    assert_eq!(rows(&restored), 30_000);
    restored.amcheck();
    restored.stop_and_check_checksums();
}
