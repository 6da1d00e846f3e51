//! Incremental backups, from PostgreSQL 17 on: what they hold, what they refuse, and that they give the
//! cluster back. pg_combinebackup and pg_verifybackup judge.

use backup_tests::backup::{Backup, send_stop, spawn_workers, start, try_start};
use backup_tests::failure::{Failure, expect_failure};
use backup_tests::incremental::{
    combine, contents, files_below, is_too_old, manifest_of, take_after, try_start_after, upload,
};
use backup_tests::leftover;
use backup_tests::program::{command, major_version, succeed};
use backup_tests::replication::catch_up;
use backup_tests::server::Cluster;
use backup_tests::stepwise::listing;
use backup_tests::stream::{PsqlWorker, Worker, copy_of, copy_out};
use backup_tests::wait::{PATIENCE, wait_for};
use backup_tests::workload::{Pgbench, assert_balanced};

const PAGE: i64 = 8192;

fn summarizing() -> Cluster {
    Cluster::builder()
        .setting("summarize_wal", "on")
        .setting("autovacuum", "off")
        .start()
}

#[test]
fn older_servers_refuse_incremental_backups() {
    if major_version() >= 17 {
        return;
    }
    let cluster = Cluster::new();
    let mut client = cluster.connect();
    for failure in [
        expect_failure("upload_manifest()", upload(&mut client, b"{}", 2)),
        expect_failure(
            "start_backup()",
            try_start(&mut client, "incremental => true"),
        ),
    ] {
        failure.assert(
            "0A000",
            "incremental backups are not supported by this version of PostgreSQL",
        );
        assert!(failure.hint.contains("PostgreSQL 17"), "{failure}");
    }
    leftover::assert_none(&cluster);
    start(&mut client, "");
}

/// Whatever changes between two backups.
#[test]
fn a_chain_of_three_gives_every_change_back() {
    if is_too_old() {
        return;
    }
    chain_of_every_change(&summarizing()).stop_and_check_checksums();
}

#[test]
fn a_chain_without_checksums_gives_every_change_back() {
    if is_too_old() {
        return;
    }
    let cluster = Cluster::builder()
        .without_checksums()
        .setting("summarize_wal", "on")
        .start();
    chain_of_every_change(&cluster);
}

/// Returns a server on the combined backup, which has what the cluster has.
#[track_caller]
fn chain_of_every_change(cluster: &Cluster) -> Cluster {
    cluster.create_tablespace("elsewhere");
    cluster.execute(
        "CREATE TABLE kept AS SELECT g AS a, repeat('k', 200) AS b FROM generate_series(1, 20000) AS g;
         CREATE INDEX ON kept (a);
         CREATE TABLE updated AS TABLE kept;
         CREATE TABLE truncated AS TABLE kept;
         CREATE TABLE shrunk AS TABLE kept;
         CREATE TABLE rewritten AS TABLE kept;
         CREATE TABLE moved AS TABLE kept;
         CREATE TABLE dropped AS TABLE kept;
         CREATE UNLOGGED TABLE becomes_logged AS TABLE kept;
         CREATE TABLE becomes_unlogged AS TABLE kept;
         CREATE SEQUENCE numbers;
         SELECT nextval('numbers');",
    );
    for statement in [
        "CREATE DATABASE gone",
        "CREATE DATABASE stays",
        "VACUUM (FREEZE)",
    ] {
        cluster.execute(statement);
    }
    let full = Backup::take(cluster, 2);
    full.verify();

    for statement in [
        "UPDATE updated SET b = 'changed' WHERE a % 5000 = 0",
        "DELETE FROM shrunk WHERE a > 100",
        "VACUUM shrunk",
        "TRUNCATE truncated",
        "INSERT INTO truncated SELECT * FROM kept LIMIT 10",
        "VACUUM FULL rewritten",
        "REINDEX TABLE kept",
        "ALTER TABLE moved SET TABLESPACE elsewhere",
        "DROP TABLE dropped",
        "CREATE TABLE created AS TABLE kept",
        "ALTER TABLE becomes_logged SET LOGGED",
        "SELECT nextval('numbers') FROM generate_series(1, 100)",
        "DROP DATABASE gone",
        "CREATE DATABASE by_log STRATEGY wal_log",
        "CREATE DATABASE by_copy STRATEGY file_copy",
    ] {
        cluster.execute(statement);
    }
    let first = take_after(cluster, &full, 2);

    for statement in [
        "UPDATE updated SET b = 'changed again' WHERE a % 3000 = 0",
        "INSERT INTO shrunk SELECT * FROM kept",
        "ALTER TABLE moved SET TABLESPACE pg_default",
        "ALTER TABLE becomes_unlogged SET UNLOGGED",
        "INSERT INTO created SELECT * FROM kept",
        "DROP DATABASE by_copy",
        "CREATE DATABASE gone",
        "SELECT nextval('numbers')",
    ] {
        cluster.execute(statement);
    }
    let second = take_after(cluster, &first, 3);
    let expected = contents(cluster);

    let restored = combine(cluster, &[&full, &first, &second]).restore();
    assert_eq!(contents(&restored), expected);
    restored.amcheck();
    restored
}

#[test]
fn an_incremental_backup_holds_what_that_of_pg_basebackup_holds() {
    if is_too_old() {
        return;
    }
    let cluster = summarizing();
    cluster.execute(
        "CREATE TABLE t AS SELECT g AS a, repeat('t', 500) AS b FROM generate_series(1, 30000) AS g;
         CREATE INDEX ON t (a)",
    );
    cluster.execute("VACUUM (FREEZE, ANALYZE)");
    let full = Backup::take(&cluster, 2);
    cluster.execute("UPDATE t SET b = 'changed' WHERE a % 2000 = 0");
    cluster.execute("CREATE TABLE new AS SELECT generate_series(1, 1000) AS a");
    cluster.execute("CHECKPOINT");
    let ours = take_after(&cluster, &full, 2);

    let theirs = cluster.make_dir("theirs");
    succeed(
        command("pg_basebackup")
            .args(cluster.connection_args("postgres"))
            .args(["-c", "fast", "--no-sync", "-X", "none", "-D"])
            .arg(&theirs)
            .arg("--incremental")
            .arg(full.data_dir().join("backup_manifest")),
    );
    // What says when a backup was taken differs.
    let differs = |name: &str| {
        name.starts_with("pg_wal/")
            || ["backup_label", "backup_manifest", "global/pg_control"].contains(&name)
    };
    let of = |root: &std::path::Path| {
        let files = files_below(root).into_iter();
        files.filter(|(name, _)| !differs(name)).collect::<Vec<_>>()
    };
    let (ours, theirs) = (of(&ours.data_dir()), of(&theirs));
    let names = |files: &[(String, Vec<u8>)]| -> Vec<_> {
        files.iter().map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(names(&ours), names(&theirs));
    for ((name, ours), (_, theirs)) in ours.iter().zip(&theirs) {
        assert!(ours == theirs, "{name} differs");
    }
    let incremental = ours
        .iter()
        .filter(|(name, _)| name.contains("/INCREMENTAL."));
    assert!(incremental.count() > 100);
}

#[test]
fn the_listing_has_incremental_files_with_the_bytes_that_leave() {
    if is_too_old() {
        return;
    }
    let cluster = summarizing();
    cluster.execute(
        "CREATE TABLE t AS SELECT g AS a, repeat('t', 500) AS b FROM generate_series(1, 30000) AS g",
    );
    cluster.execute("VACUUM (FREEZE)");
    let full = Backup::take(&cluster, 1);
    cluster.execute("UPDATE t SET b = b WHERE a = 1");
    let mut leader = cluster.connect();
    let started = try_start_after(&mut leader, &manifest_of(&full)).expect("start_backup()");
    assert!(
        started.backup_label.contains("INCREMENTAL FROM LSN: "),
        "{}",
        started.backup_label
    );
    let path: String = leader
        .query_one("SELECT pg_relation_filepath('t')", &[])
        .expect("a path")
        .get(0);
    let (directory, name) = path.rsplit_once('/').expect("a directory");
    let incremental = format!("{directory}/INCREMENTAL.{name}");
    let listing = listing(&mut leader, "");
    assert!(!listing.iter().any(|entry| entry.path == path));
    let entry = listing.iter().find(|entry| entry.path == incremental);
    // A header, the page of the row, and that of its new version.
    let size = entry.expect("the incremental file").size;
    assert!([2 * PAGE, 3 * PAGE].contains(&size), "{size}");
    let sum: i64 = listing.iter().map(|entry| entry.size).sum();
    assert_eq!(sum, started.total_bytes);
    let whole: i64 = started.total_bytes;
    assert!(whole < 8 << 20, "{whole}");

    // By name it can be had alone, and again.
    let copy = copy_of(&format!(
        "send_backup_files(files => ARRAY['{incremental}'])"
    ));
    for _ in 0..2 {
        let stream = copy_out(&mut leader, &copy).expect("a stream");
        let member = backup_tests::member::expect(&stream, &incremental);
        assert_eq!(member.content.len() as i64, size);
        assert_eq!(member.content[..4], 0xD3AE_1F0D_u32.to_ne_bytes());
    }
    copy_out(&mut leader, &copy_of("send_backup_files()")).expect("the rest");
    let sent =
        "SELECT bytes_sent = bytes_total AND files_sent = files_total FROM backup_progress()";
    assert!(leader.query_one(sent, &[]).expect(sent).get::<_, bool>(0));
}

#[test]
fn one_statement_takes_an_incremental_backup() {
    if is_too_old() {
        return;
    }
    let cluster = summarizing();
    cluster.execute("CREATE TABLE t AS SELECT generate_series(1, 10000) AS a");
    let full = Backup::take(&cluster, 1);
    cluster.execute("INSERT INTO t VALUES (0)");
    let mut client = cluster.connect();
    upload(&mut client, &manifest_of(&full), 1 << 20).expect("upload_manifest()");
    let copy = copy_of("base_backup(fast => true, wal => true, incremental => true)");
    let incremental = Backup::folder(&cluster);
    incremental.unpack(&copy_out(&mut client, &copy).expect("base_backup()"));
    incremental.verify();
    let restored = combine(&cluster, &[&full, &incremental]).restore();
    assert_eq!(contents(&restored), contents(&cluster));
}

#[test]
fn chains_under_load_balance() {
    if is_too_old() {
        return;
    }
    let cluster = summarizing();
    Pgbench::fill(&cluster, 1);
    let full = Backup::take(&cluster, 2);
    let pgbench = Pgbench::run(&cluster, 200);
    let first = take_after(&cluster, &full, 2);
    let second = take_after(&cluster, &first, 2);
    pgbench.stop();
    let restored = combine(&cluster, &[&full, &first, &second]).restore();
    assert!(assert_balanced(&mut restored.connect()) > 0);
    restored.amcheck();
}

#[test]
fn a_lost_worker_returns_its_incremental_files() {
    if is_too_old() {
        return;
    }
    let cluster = summarizing();
    cluster.execute(
        "CREATE TABLE t AS SELECT g AS a, repeat('t', 800) AS b FROM generate_series(1, 60000) AS g",
    );
    let full = Backup::take(&cluster, 2);
    cluster.execute("UPDATE t SET b = 'changed' WHERE a % 20 = 0");
    let mut leader = cluster.connect();
    let started = try_start_after(&mut leader, &manifest_of(&full)).expect("start_backup()");
    // The first file is the largest: that of the table.
    let copy = copy_of(&format!(
        "send_backup_files({}, max_rate => 1024)",
        started.id
    ));
    let lost = PsqlWorker::spawn(&cluster, &copy);
    lost.wait_for_bytes(100_000);
    if major_version() >= 19 {
        let row = leader.query_one(
            "SELECT backup_type FROM pg_stat_progress_basebackup WHERE pid = $1",
            &[&lost.pid],
        );
        let row = row.expect("pg_stat_progress_basebackup");
        assert_eq!(row.get::<_, &str>(0), "incremental");
    }
    cluster.execute(&format!("SELECT pg_terminate_backend({})", lost.pid));
    cluster.wait_for_sql(
        "the files of the worker to return",
        "SELECT workers = 0 FROM backup_progress()",
    );
    let backup = Backup::folder(&cluster);
    for worker in spawn_workers(&cluster, started.id, 2) {
        backup.unpack(&worker.expect());
    }
    backup.unpack(&send_stop(&mut leader));
    backup.verify();
    let restored = combine(&cluster, &[&full, &backup]).restore();
    assert_eq!(contents(&restored), contents(&cluster));
}

/// The blocks of the list are gone when they are sent: replay brings what is missing.
#[test]
fn files_that_change_after_the_start_are_repaired_by_replay() {
    if is_too_old() {
        return;
    }
    let cluster = summarizing();
    for table in ["cut", "vanished", "grown"] {
        cluster.execute(&format!(
            "CREATE TABLE {table} AS
                 SELECT g AS a, repeat('t', 800) AS b FROM generate_series(1, 20000) AS g"
        ));
    }
    let full = Backup::take(&cluster, 2);
    for table in ["cut", "vanished", "grown"] {
        cluster.execute(&format!(
            "UPDATE {table} SET b = 'changed' WHERE a % 50 = 0"
        ));
    }
    let mut leader = cluster.connect();
    let started = try_start_after(&mut leader, &manifest_of(&full)).expect("start_backup()");
    for statement in [
        "DELETE FROM cut WHERE a > 5000",
        "VACUUM cut",
        "DROP TABLE vanished",
        "INSERT INTO grown SELECT g, 'new' FROM generate_series(1, 50000) AS g",
        "CHECKPOINT",
    ] {
        cluster.execute(statement);
    }
    let backup = Backup::folder(&cluster);
    for worker in spawn_workers(&cluster, started.id, 2) {
        backup.unpack(&worker.expect());
    }
    backup.unpack(&send_stop(&mut leader));
    backup.verify();
    let mut restored = combine(&cluster, &[&full, &backup]).restore();
    assert_eq!(contents(&restored), contents(&cluster));
    restored.amcheck();
    restored.stop_and_check_checksums();
}

#[test]
fn a_standby_gives_incremental_backups_also_after_its_promotion() {
    if is_too_old() {
        return;
    }
    let primary = summarizing();
    primary.execute("CREATE TABLE t AS SELECT generate_series(1, 50000) AS a");
    let standby = primary.standby();
    catch_up(&primary, &standby);
    let full = Backup::take(&standby, 2);
    primary.execute("INSERT INTO t SELECT generate_series(1, 1000)");
    // A backup of a standby starts at a restart point.
    primary.execute("CHECKPOINT");
    catch_up(&primary, &standby);
    let first = take_after(&standby, &full, 2);
    standby.execute("SELECT pg_promote()");
    standby.execute("INSERT INTO t SELECT generate_series(1, 500)");
    let second = take_after(&standby, &first, 2);
    let mut restored = combine(&standby, &[&full, &first, &second]).into_cluster();
    let _ = std::fs::remove_file(restored.data_dir().join("standby.signal"));
    restored.start();
    assert_eq!(contents(&restored), contents(&standby));
}

#[test]
fn what_does_not_lead_here_is_refused() {
    if is_too_old() {
        return;
    }
    let cluster = summarizing();
    let full = Backup::take(&cluster, 1);
    let manifest = manifest_of(&full);
    let mut client = cluster.connect();
    let failure = expect_failure("no upload", try_start(&mut client, "incremental => true"));
    failure.assert(
        "55000",
        "must upload a manifest before an incremental backup",
    );

    // Clusters made alike have one system identifier here.
    let foreign = Cluster::builder()
        .initdb_arg("--wal-segsize=1")
        .setting("summarize_wal", "on")
        .start();
    let failure = expect_failure(
        "foreign",
        try_start_after(&mut foreign.connect(), &manifest),
    );
    assert!(
        failure
            .message
            .starts_with("system identifier in backup manifest is "),
        "{failure}"
    );
    leftover::assert_none(&foreign);

    for (damaged, message) in [
        (
            manifest[..manifest.len() / 2].to_vec(),
            "could not parse backup manifest",
        ),
        (
            [&manifest[..1000], b"\"", &manifest[1000..]].concat(),
            "could not parse backup manifest",
        ),
        (
            String::from_utf8_lossy(&manifest)
                .replace("\"Size\": 8192", "\"Size\": 8193")
                .into(),
            "manifest checksum mismatch",
        ),
    ] {
        let failure = expect_failure("damaged", try_start_after(&mut client, &damaged));
        assert!(failure.message.starts_with(message), "{failure}");
    }
    leftover::assert_none(&cluster);
    // Each upload began anew.
    try_start_after(&mut client, &manifest).expect("start_backup()");
    client
        .execute("SELECT abort_backup()", &[])
        .expect("abort_backup()");
    let failure = expect_failure("used", try_start(&mut client, "incremental => true"));
    failure.assert(
        "55000",
        "must upload a manifest before an incremental backup",
    );
    let failure = client.query("SELECT upload_manifest(NULL)", &[]).map(drop);
    expect_failure("NULL", failure).assert("22004", "part of a manifest cannot be null");

    cluster.execute("ALTER SYSTEM SET summarize_wal = off");
    cluster.execute("SELECT pg_reload_conf()");
    let mut client = cluster.connect();
    cluster.wait_for_sql(
        "the setting",
        "SELECT NOT current_setting('summarize_wal')::boolean",
    );
    let failure = expect_failure("off", try_start_after(&mut client, &manifest));
    failure.assert(
        "55000",
        "incremental backups cannot be taken unless WAL summarization is enabled",
    );
}

/// Not all that has changed since a backup is in the summaries, which is said with their range.
#[track_caller]
fn assert_gap(cluster: &Cluster, earlier: &Backup) {
    let mut client = cluster.connect();
    let failure = expect_failure("gap", try_start_after(&mut client, &manifest_of(earlier)));
    assert_eq!(failure.sqlstate, "55000", "{failure}");
    assert!(
        failure
            .message
            .starts_with("WAL summaries are required on timeline 1 from "),
        "{failure}"
    );
    leftover::assert_none(cluster);
}

#[test]
fn missing_summaries_are_named_with_their_range() {
    if is_too_old() {
        return;
    }
    let mut cluster = summarizing();
    let full = Backup::take(&cluster, 1);
    cluster.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
    cluster.execute("CHECKPOINT");
    cluster.restart();
    cluster.execute("CHECKPOINT");
    // The summarizer goes on from there and makes none of those before again.
    cluster.wait_for_sql(
        "summaries",
        "SELECT summarizer_pid IS NOT NULL AND summarized_lsn >= redo_lsn
         FROM pg_get_wal_summarizer_state(), pg_control_checkpoint()",
    );
    let summaries = cluster.data_dir().join("pg_wal/summaries");
    for entry in std::fs::read_dir(summaries).expect("summaries") {
        std::fs::remove_file(entry.expect("a summary").path()).expect("removed");
    }
    assert_gap(&cluster, &full);
    start(&mut cluster.connect(), "");
}

/// With a lower wal_level not all changes are in the WAL.
#[test]
fn a_lower_wal_level_in_between_is_refused() {
    if is_too_old() {
        return;
    }
    let mut cluster = summarizing();
    let full = Backup::take(&cluster, 1);
    cluster.append_to_conf("wal_level = minimal\nmax_wal_senders = 0\nsummarize_wal = off\n");
    cluster.restart();
    cluster.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
    cluster.append_to_conf("wal_level = replica\nmax_wal_senders = 10\nsummarize_wal = on\n");
    cluster.restart();
    assert_gap(&cluster, &full);
}

#[test]
fn the_wait_for_summaries_is_shown_and_can_be_ended() {
    if is_too_old() {
        return;
    }
    let cancelled = wait_for_summaries_until("pg_cancel_backend");
    assert_eq!(cancelled.sqlstate, "57014", "{cancelled}");
    wait_for_summaries_until("pg_terminate_backend").assert_terminated();
}

/// Returns the failure of the start. Nothing of it is left on the server.
#[track_caller]
fn wait_for_summaries_until(end: &str) -> Failure {
    let cluster = summarizing();
    let full = Backup::take(&cluster, 1);
    let summarizer: i32 = cluster
        .connect()
        .query_one(
            "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walsummarizer'",
            &[],
        )
        .expect("the summarizer")
        .get(0);
    let stop = |name: &str| {
        succeed(std::process::Command::new("kill").args(["-s", name, &summarizer.to_string()]));
    };
    cluster.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
    stop("STOP");
    let mut leader = cluster.connect();
    upload(&mut leader, &manifest_of(&full), 5000).expect("upload_manifest()");
    let pid = backup_tests::session::backend_pid(&mut leader);
    let starting = std::thread::spawn(move || {
        let started = try_start(&mut leader, "incremental => true");
        (leader, started)
    });
    cluster.wait_for_sql(
        "the wait for summaries",
        "SELECT count(*) = 1 FROM backup_progress() WHERE phase = 'waiting for wal summaries'",
    );
    cluster.execute(&format!("SELECT {end}({pid})"));
    wait_for("the end of the start", PATIENCE, || starting.is_finished());
    stop("CONT");
    let (leader, started) = starting.join().expect("the thread");
    let failure = expect_failure("start_backup()", started);
    drop(leader);
    leftover::assert_none(&cluster);
    start(&mut cluster.connect(), "");
    failure
}

/// A page with a wrong checksum is found by its true block number.
#[test]
fn pages_of_incremental_files_are_verified() {
    if is_too_old() {
        return;
    }
    let cluster = summarizing();
    let mut client = cluster.connect();
    let path = backup_tests::page::quiet_table(&mut client, "t", 50, "");
    let full = Backup::take(&cluster, 1);
    let mut leader = cluster.connect();
    cluster.execute("UPDATE t SET filler = filler WHERE ctid >= '(40,1)'");
    cluster.execute("CHECKPOINT");
    let started = try_start_after(&mut leader, &manifest_of(&full)).expect("start_backup()");
    cluster.flip_bytes(&path, 41);
    let copy = copy_of(&format!("send_backup_files({})", started.id));
    let worker = Worker::spawn(&cluster, &copy);
    let notices = worker.notices.clone();
    let failure = worker.expect_failure();
    assert_eq!(failure.sqlstate, "XX001", "{failure}");
    let warnings = notices.warnings().join("\n");
    assert!(warnings.contains("block 41"), "{warnings}");
}
