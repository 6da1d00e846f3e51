//! Relations that turn out to be unlogged during a backup: their init fork appears after the
//! directory was read, for example at the end of an index build.

use std::collections::BTreeSet;
use std::fs;
use std::thread::JoinHandle;

use backup_tests::archive::members;
use backup_tests::backup::{Backup, try_send_stop};
use backup_tests::client::{Running, backup_of, new_target, unpack_all_with};
use backup_tests::failure::expect_failure;
use backup_tests::member;
use backup_tests::parts::{IN_FIRST_PART, PART_SIZE, halt_in_parts, offsets, split};
use backup_tests::program::{account, run};
use backup_tests::replication::{catch_up, follow};
use backup_tests::server::Cluster;
use backup_tests::stepwise::Stepwise;
use backup_tests::stream::{Worker, copy_of};
use backup_tests::verification::ours;
use backup_tests::wait::{PATIENCE, wait_for};
use backup_tests::workload::path_of;
use postgres::Client;

/// Key of the advisory lock for which builds wait.
const GATE: i64 = 42;

/// Cluster with unlogged tables of 100,000 rows, and a function whose evaluation waits for the
/// gate.
fn cluster() -> Cluster {
    let cluster = cluster_without_tablespace("true");
    cluster.create_tablespace("outside");
    fill(&cluster, "there", "TABLESPACE outside");
    cluster
}

fn fill(cluster: &Cluster, table: &str, clause: &str) {
    cluster.execute(&format!(
        "CREATE UNLOGGED TABLE {table} (a int) {clause};
         INSERT INTO {table} SELECT 100001 - generate_series(1, 100000)"
    ));
}

fn cluster_without_tablespace(archive_command: &str) -> Cluster {
    let cluster = Cluster::builder()
        .setting("autovacuum", "off")
        .setting("archive_mode", "on")
        .setting("archive_command", archive_command)
        .start();
    cluster.execute(&format!(
        "CREATE FUNCTION gated(a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
         BEGIN
             IF a = 1 THEN
                 PERFORM pg_advisory_xact_lock({GATE});
             END IF;
             RETURN a;
         END $$"
    ));
    fill(&cluster, "here", "");
    cluster
}

#[track_caller]
fn wait_for_the_archive(cluster: &Cluster) {
    cluster.wait_for_sql(
        "the wait for the archive",
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'BackupWaitWalArchive'",
    );
}

#[track_caller]
fn open_archive(cluster: &Cluster) {
    cluster.execute("ALTER SYSTEM SET archive_command = 'true'");
    cluster.execute("SELECT pg_reload_conf()");
}

/// Build of an index that waits for the gate after its main fork was created.
struct Build {
    gate: Client,
    session: JoinHandle<()>,
    /// Path of the index's main fork.
    path: String,
}

impl Build {
    /// Starts the build with the gate closed.
    #[track_caller]
    fn begin(cluster: &Cluster, table: &str) -> Self {
        Self::begin_with(cluster, table, "")
    }

    /// Starts the build of an index with parameters of its own.
    #[track_caller]
    fn begin_with(cluster: &Cluster, table: &str, parameters: &str) -> Self {
        let mut gate = cluster.connect();
        gate.batch_execute(&format!("SELECT pg_advisory_lock({GATE})"))
            .expect("the gate");
        let path = path_of(&mut gate, table);
        let (directory, _) = path.rsplit_once('/').expect("a directory");
        let relations = || -> BTreeSet<String> {
            let entries = fs::read_dir(cluster.data_dir().join(directory)).expect("a directory");
            let names = entries.map(|entry| entry.expect("an entry").file_name());
            names
                .map(|name| name.to_string_lossy().into_owned())
                .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
                .collect()
        };
        let before = relations();
        let tablespace = if table == "there" {
            "TABLESPACE outside"
        } else {
            ""
        };
        let statement = format!(
            "CREATE INDEX {table}_index ON {table} USING hash (gated(a)) {parameters} {tablespace}"
        );
        let mut client = cluster.connect();
        let session = std::thread::spawn(move || {
            client.batch_execute(&statement).expect("CREATE INDEX");
        });
        wait_for("the build to wait", PATIENCE, || {
            let query = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
            !gate.query(query, &[]).expect("pg_locks").is_empty()
        });
        let after = relations();
        let mut new = after.difference(&before);
        let (Some(name), None) = (new.next(), new.next()) else {
            panic!("{before:?} and {after:?}");
        };
        let path = format!("{directory}/{name}");
        assert!(!cluster.data_dir().join(format!("{path}_init")).exists());
        Build {
            gate,
            session,
            path,
        }
    }

    /// Opens the gate and waits for the build to finish. Returns the path of the index.
    #[track_caller]
    fn end(mut self) -> String {
        self.gate
            .batch_execute(&format!("SELECT pg_advisory_unlock({GATE})"))
            .expect("the gate");
        self.session.join().expect("the build");
        self.path
    }
}

/// Checks that the table is empty and its index usable, as after a crash.
#[track_caller]
fn assert_usable(cluster: &Cluster, table: &str) {
    let mut client = cluster.connect();
    client
        .batch_execute(&format!(
            "SET enable_seqscan = off; INSERT INTO {table} SELECT generate_series(1, 1000)"
        ))
        .expect("INSERT");
    let count: i64 = client
        .query_one(
            &format!("SELECT count(*) FROM {table} WHERE gated(a) = 1"),
            &[],
        )
        .expect("an index scan")
        .get(0);
    assert_eq!(count, 1);
    cluster.amcheck();
}

/// Starts a standby from the backup that follows the source.
#[track_caller]
fn standby_of(backup: Backup, primary: &Cluster) -> Cluster {
    let mut standby = backup.into_cluster();
    follow(&standby, primary);
    standby.start();
    catch_up(primary, &standby);
    standby
}

#[track_caller]
fn promote(standby: &Cluster) {
    standby.execute("SELECT pg_promote()");
}

#[test]
fn an_index_whose_build_ends_between_stream_and_stop_gets_its_init_fork() {
    let cluster = cluster();
    for promoted in [false, true] {
        let build = Build::begin(&cluster, "here");
        let mut taken = Stepwise::start(&cluster, "");
        let stream = taken.send_files();
        let path = build.end();
        member::expect(&stream, &path);
        let closing = taken.stop();
        let names = members(&closing);
        let place = |name: &str| names.iter().position(|member| member == name);
        let init = place(&format!("{path}_init"));
        assert!(
            init.is_some() && init < place("global/pg_control"),
            "{names:?}"
        );
        taken.backup.verify();
        let server = if promoted {
            let standby = standby_of(taken.backup, &cluster);
            promote(&standby);
            standby
        } else {
            taken.backup.restore()
        };
        assert_usable(&server, "here");
        cluster.execute("DROP INDEX here_index");
    }
}

/// The WAL of the backup ends before the index is dropped.
#[test]
fn an_index_that_is_dropped_while_the_stop_waits_keeps_its_init_fork() {
    let cluster = cluster_without_tablespace("false");
    let build = Build::begin(&cluster, "here");
    let mut taken = Stepwise::start(&cluster, "");
    taken.send_files();
    let path = build.end();
    let Stepwise {
        leader,
        notices,
        backup,
        ..
    } = taken;
    let stop = copy_of("send_stop_backup(wal => true)");
    let stopping = Worker::take_over(leader, notices, &stop, u64::MAX);
    wait_for_the_archive(&cluster);
    cluster.execute("DROP INDEX here_index");
    open_archive(&cluster);
    let closing = stopping.expect();
    member::expect(&closing, &format!("{path}_init"));
    backup.unpack(&closing);
    backup.verify();
    assert_usable(&backup.restore(), "here");
}

#[test]
fn an_index_whose_build_ends_before_it_is_sent_is_left_out() {
    let cluster = cluster();
    for table in ["here", "there"] {
        let build = Build::begin(&cluster, table);
        let mut taken = Stepwise::start(&cluster, "");
        let path = build.end();
        let stream = taken.send_files();
        assert_eq!(member::find(&stream, &path), None);
        // WAL replay creates the init fork.
        let init = format!("{path}_init");
        assert_eq!(member::find(&stream, &init), None);
        assert_eq!(member::find(&taken.stop(), &init), None);
        taken.backup.verify();
        assert_usable(&taken.backup.restore(), table);
    }
}

#[test]
fn an_index_in_a_tablespace_gets_its_init_fork_where_its_main_fork_went_by_its_whole_name() {
    let cluster = cluster();
    let build = Build::begin(&cluster, "there");
    let mut taken = Stepwise::start(&cluster, "");
    taken.send_files();
    let path = build.end();
    member::expect(&taken.stop(), &format!("{path}_init"));
    taken.backup.verify();
    assert_usable(&taken.backup.restore(), "there");
}

/// A client that unpacks tablespaces elsewhere has no place for the init fork in the data
/// directory: the server would find a directory in place of the link.
#[test]
fn an_archive_of_a_tablespace_gets_no_more_members() {
    let cluster = cluster();
    let oid: i64 = cluster
        .connect()
        .query_one(
            "SELECT oid::int8 FROM pg_tablespace WHERE spcname = 'outside'",
            &[],
        )
        .expect("the tablespace")
        .get(0);
    let build = Build::begin(&cluster, "there");
    let mut taken = Stepwise::start(&cluster, "");
    for tablespace in [0, oid] {
        taken.stream(&format!(
            "send_backup_files(tablespace => {tablespace}::oid)"
        ));
    }
    build.end();
    let names = members(&taken.stop());
    assert!(
        !names.iter().any(|name| name.starts_with("pg_tblspc")),
        "{names:?}"
    );
}

#[test]
fn a_row_has_no_room_for_an_init_fork_and_the_backup_goes_on() {
    let cluster = cluster();
    let build = Build::begin(&cluster, "here");
    let mut taken = Stepwise::start(&cluster, "");
    taken.send_files();
    let path = build.end();
    let refused = taken.leader.query("SELECT * FROM stop_backup()", &[]);
    let failure = expect_failure("stop_backup()", refused);
    failure.assert(
        "55000",
        "relations have become unlogged since their files were sent",
    );
    assert!(failure.detail.contains(&path), "{failure}");
    assert!(failure.hint.contains("send_stop_backup()"), "{failure}");
    let closing = try_send_stop(&mut taken.leader, "").expect("send_stop_backup()");
    member::expect(&closing, &format!("{path}_init"));
}

/// Cluster whose unlogged table gets an index of more than two parts, as large from its beginning.
fn cluster_with_large_build() -> (Cluster, Build) {
    let cluster = cluster_without_tablespace("true");
    cluster.execute(
        "CREATE UNLOGGED TABLE wide (a int);
         INSERT INTO wide SELECT 200001 - generate_series(1, 200000)",
    );
    let build = Build::begin_with(&cluster, "wide", "WITH (fillfactor = 10)");
    let index = fs::metadata(cluster.data_dir().join(&build.path));
    let length = index.expect("the index").len();
    assert!(length > 2 * PART_SIZE, "{length}");
    (cluster, build)
}

/// Its parts are sent to the end, and recovery removes them.
#[test]
fn an_index_whose_build_ends_between_its_parts_gets_its_init_fork() {
    let (cluster, build) = cluster_with_large_build();
    let mut taken = Stepwise::start(&cluster, "");
    let first = halt_in_parts(&cluster, taken.started.id, IN_FIRST_PART);
    let path = build.end();
    let second = taken.stream("send_backup_files(parts => true)");
    let streams = [first.expect(), second];
    let counts = [0, 1].map(|number| offsets(&split(&streams[number]).0, &path).len());
    assert_eq!(counts[0], 1);
    assert!(counts[1] >= 2, "{counts:?}");
    // A row has no room for the init fork.
    let refused = taken.leader.query("SELECT * FROM stop_backup()", &[]);
    expect_failure("stop_backup()", refused).assert(
        "55000",
        "relations have become unlogged since their files were sent",
    );
    taken.backup.unpack_parts(&streams);
    let names = members(&taken.stop());
    assert!(names.contains(&format!("{path}_init")), "{names:?}");
    taken.backup.verify();
    assert_usable(&taken.backup.restore(), "wide");
}

#[test]
fn an_index_whose_build_ends_before_its_first_part_is_left_out() {
    let (cluster, build) = cluster_with_large_build();
    let mut taken = Stepwise::start(&cluster, "");
    let path = build.end();
    let stream = taken.stream("send_backup_files(parts => true)");
    let (parts, rest) = split(&stream);
    assert_eq!(offsets(&parts, &path).len(), 0);
    assert!(!members(&rest).contains(&path));
    taken.backup.unpack_parts(&[stream]);
    taken.stop();
    taken.backup.verify();
    assert_usable(&taken.backup.restore(), "wide");
}

/// At the stop this cannot be known. Core's backups contain the same main fork without its init
/// fork.
#[test]
fn an_index_whose_build_ends_after_the_stop_fails_one_recovery_as_in_backups_of_core() {
    for is_ours in [true, false] {
        let cluster = cluster_without_tablespace("true");
        let build = Build::begin(&cluster, "here");
        let mut standby = if is_ours {
            let mut taken = Stepwise::start(&cluster, "");
            taken.send_files();
            taken.stop();
            taken.backup.verify();
            let path = build.end();
            assert!(taken.backup.data_dir().join(path).exists());
            standby_of(taken.backup, &cluster)
        } else {
            let standby = cluster.standby();
            build.end();
            catch_up(&cluster, &standby);
            standby
        };
        let promoted = standby.connect().execute("SELECT pg_promote()", &[]);
        expect_failure("pg_promote()", promoted);
        wait_for("recovery to fail", PATIENCE, || standby.has_ended());
        let log = standby.log();
        assert!(
            log.contains("FATAL:  could not create file \"base/"),
            "{log}"
        );
        standby.start();
        promote(&standby);
        assert_usable(&standby, "here");
    }
}

/// The program waits for the archive after its workers have ended, because its backup has no WAL.
#[test]
fn the_program_keeps_an_init_fork_that_comes_with_the_last_files() {
    for arguments in [
        &["-Fp", "-j", "2"][..],
        &["-Ft", "-j", "2"],
        &["-Ft", "-Z", "gzip"],
    ] {
        let cluster = cluster_without_tablespace("false");
        let build = Build::begin(&cluster, "here");
        let (folder, target) = new_target();
        let mut backup = backup_of(&cluster);
        backup.args(arguments).args(["-X", "none", "-D"]);
        let backup = Running::start(backup.arg(&target));
        wait_for_the_archive(&cluster);
        let path = build.end();
        open_archive(&cluster);
        let (status, said) = backup.end();
        assert_eq!(status, Some(0), "{said}");
        let wal = cluster.data_dir().join("pg_wal").display().to_string();
        let its_wal = ["--wal-directory", &wal];
        let mut verify = ours(&its_wal, &target);
        let output = run(&mut verify);
        assert!(output.status.success(), "{}", account(&verify, &output));
        let mut standby = if arguments[0] == "-Fp" {
            Cluster::on(&target, folder)
        } else {
            unpack_all_with(&cluster, &target, &its_wal).into_cluster()
        };
        for suffix in ["", "_init"] {
            let file = standby.data_dir().join(format!("{path}{suffix}"));
            assert!(file.exists(), "{file:?}");
        }
        follow(&standby, &cluster);
        standby.start();
        catch_up(&cluster, &standby);
        promote(&standby);
        assert_usable(&standby, "here");
    }
}

#[test]
fn unlogged_tables_that_are_made_and_dropped_all_the_time_keep_no_server_from_starting() {
    let cluster = cluster();
    let mut client = cluster.connect();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let load = std::thread::spawn(move || {
        while matches!(
            stopped.try_recv(),
            Err(std::sync::mpsc::TryRecvError::Empty)
        ) {
            client
                .batch_execute(
                    "CREATE UNLOGGED TABLE short (a int PRIMARY KEY, b text);
                     INSERT INTO short SELECT generate_series(1, 100);
                     ALTER TABLE short SET LOGGED;
                     ALTER TABLE short SET UNLOGGED;
                     REINDEX TABLE short;
                     ALTER TABLE short SET TABLESPACE outside;
                     TRUNCATE short;
                     DROP TABLE IF EXISTS kept;
                     ALTER TABLE short RENAME TO kept;
                     ALTER INDEX short_pkey RENAME TO kept_pkey",
                )
                .expect("the load");
        }
    });
    for _ in 0..4 {
        let mut taken = Stepwise::start(&cluster, "");
        taken.send_files();
        taken.stop();
        taken.backup.verify();
        taken.backup.restore().amcheck();
    }
    drop(stop);
    load.join().expect("the load");
}
