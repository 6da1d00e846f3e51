//! Restores from a WAL archive: where recovery begins and ends, and what a stop reports about the
//! archive.

use std::path::PathBuf;

use backup_tests::backup::Backup;
use backup_tests::last_files::stop_backup;
use backup_tests::server::Cluster;
use backup_tests::stepwise::Stepwise;
use backup_tests::stream::{Worker, copy_of};
use backup_tests::wait::{PATIENCE, wait_for};

/// Cluster that archives into a directory of its own.
fn archiving() -> (Cluster, PathBuf) {
    let mut cluster = Cluster::builder().create();
    let archive = cluster.make_dir("archive");
    cluster.append_to_conf(&format!(
        "archive_mode = on\narchive_command = 'cp %p {}/%f'\n",
        archive.display()
    ));
    cluster.start();
    cluster.create_extension("postgres");
    cluster.execute("CREATE TABLE t (stage text)");
    (cluster, archive)
}

fn insert(cluster: &Cluster, stage: &str) {
    cluster.execute(&format!("INSERT INTO t VALUES ('{stage}')"));
}

/// Switches to the next segment and waits until the current one is archived.
#[track_caller]
fn archive_all(cluster: &Cluster) {
    let row = cluster
        .connect()
        .query_one("SELECT pg_walfile_name(pg_switch_wal())", &[]);
    let segment: String = row.expect("pg_switch_wal()").get(0);
    cluster.wait_for_sql(
        "the archive to have all WAL",
        &format!("SELECT last_archived_wal >= '{segment}' FROM pg_stat_archiver"),
    );
}

/// Starts a cluster from a backup without WAL. `target` holds lines for postgresql.conf.
#[track_caller]
fn recover(backup: Backup, archive: &std::path::Path, target: &str) -> Cluster {
    let mut cluster = backup.into_cluster();
    cluster.append_to_conf(&format!(
        "archive_mode = off
         restore_command = 'cp {}/%f %p'
         recovery_target_action = promote\n{target}\n",
        archive.display()
    ));
    cluster.write_file("recovery.signal", b"");
    cluster.start();
    cluster.wait_for_sql("the end of recovery", "SELECT NOT pg_is_in_recovery()");
    cluster
}

#[track_caller]
fn stages(cluster: &Cluster) -> Vec<String> {
    let rows = cluster
        .connect()
        .query("SELECT stage FROM t ORDER BY ctid", &[]);
    let rows = rows.expect("the table");
    rows.iter().map(|row| row.get(0)).collect()
}

#[test]
fn a_backup_by_hand_is_restored_from_the_archive_alone() {
    let (cluster, archive) = archiving();
    insert(&cluster, "before");
    let mut taken = Stepwise::start(&cluster, "");
    taken.send_files();
    insert(&cluster, "during");
    taken.backup.write_last(&stop_backup(&mut taken.leader));
    taken.backup.verify_with(&["-n"]);
    insert(&cluster, "after");
    archive_all(&cluster);
    let mut restored = recover(taken.backup, &archive, "");
    assert_eq!(stages(&restored), ["before", "during", "after"]);
    restored.amcheck();
    restored.stop_and_check_checksums();
}

#[test]
fn recovery_ends_at_a_name_a_transaction_a_time_or_as_early_as_it_can() {
    let (cluster, archive) = archiving();
    insert(&cluster, "before");
    let mut taken = Stepwise::start(&cluster, "");
    let files = taken.send_files();
    insert(&cluster, "during");
    let closing = taken.stream("send_stop_backup()");
    let mut client = cluster.connect();
    let row = client.query_one(
        "INSERT INTO t VALUES ('wanted') RETURNING pg_current_xact_id()::text",
        &[],
    );
    let transaction: String = row.expect("INSERT").get(0);
    client
        .execute("SELECT pg_create_restore_point('here')", &[])
        .expect("pg_create_restore_point()");
    let row = client.query_one("SELECT clock_timestamp()::text", &[]);
    let time: String = row.expect("clock_timestamp()").get(0);
    insert(&cluster, "unwanted");
    archive_all(&cluster);

    let wanted = ["before", "during", "wanted"];
    for (target, expected) in [
        ("recovery_target = immediate".to_owned(), &wanted[..2]),
        ("recovery_target_name = here".to_owned(), &wanted),
        (format!("recovery_target_xid = {transaction}"), &wanted),
        (format!("recovery_target_time = '{time}'"), &wanted),
    ] {
        let backup = Backup::folder(&cluster);
        backup.unpack(&files);
        backup.unpack(&closing);
        backup.verify_with(&["-n"]);
        let restored = recover(backup, &archive, &target);
        assert_eq!(stages(&restored), expected, "{target}");
    }
}

/// The checkpoint in pg_control is later than rows that are in the WAL and not in the files.
#[test]
fn recovery_begins_where_the_label_says_and_without_it_rows_are_lost() {
    let cluster = Cluster::new();
    cluster.execute("CREATE TABLE t (a int)");
    let mut taken = Stepwise::start(&cluster, "");
    let files = taken.send_files();
    cluster.execute("INSERT INTO t SELECT generate_series(1, 1000)");
    cluster.execute("CHECKPOINT");
    let closing = taken.stop();
    let rows = |cluster: &Cluster| -> Option<i64> {
        let row = cluster.connect().query_one("SELECT count(*) FROM t", &[]);
        row.ok().map(|row| row.get(0))
    };

    let without = Backup::folder(&cluster);
    without.unpack(&files);
    without.unpack(&closing);
    std::fs::remove_file(without.data_dir().join("backup_label")).expect("backup_label");
    let mut without = without.into_cluster();
    if without.try_start().is_ok() {
        assert_ne!(rows(&without), Some(1000));
    }

    let restored = taken.backup.restore();
    assert_eq!(rows(&restored), Some(1000));
    let begin = format!("redo starts at {}\n", taken.started.start_lsn);
    let log = restored.log();
    assert!(log.contains(&begin), "{begin}{log}");
}

#[test]
fn a_stop_without_an_archive_tells_that_the_wal_is_left_to_the_caller() {
    let cluster = Cluster::new();
    let mut taken = Stepwise::start(&cluster, "");
    taken.send_files();
    taken.stream("send_stop_backup()");
    let notices = taken.notices.all();
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert_eq!(notices[0].severity(), "NOTICE");
    assert!(
        notices[0]
            .message()
            .starts_with("WAL archiving is not enabled; "),
        "{notices:?}"
    );
}

#[test]
fn a_stop_that_waits_for_the_archive_tells_so() {
    let cluster = Cluster::builder()
        .setting("archive_mode", "on")
        .setting("archive_command", "false")
        .start();
    let mut taken = Stepwise::start(&cluster, "");
    taken.send_files();
    let notices = taken.notices.clone();
    let stop = copy_of("send_stop_backup()");
    let stopping = Worker::take_over(taken.leader, taken.notices, &stop, u64::MAX);
    let told = || -> Vec<String> {
        let notices = notices.all();
        notices
            .iter()
            .map(|notice| notice.message().to_owned())
            .collect()
    };
    // The NOTICE arrives before any byte of the closing archive.
    wait_for("the word that it waits", PATIENCE, || !told().is_empty());
    assert_eq!(stopping.received(), 0);
    cluster.execute("ALTER SYSTEM SET archive_command = 'true'");
    cluster.execute("SELECT pg_reload_conf()");
    taken.backup.unpack(&stopping.expect());
    assert_eq!(
        told(),
        [
            "base backup done, waiting for required WAL segments to be archived",
            "all required WAL segments have been archived"
        ]
    );
}
