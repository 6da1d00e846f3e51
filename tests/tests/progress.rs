//! Progress of a running backup as seen by other sessions, and the counters at its end.

use std::fs::{self, File};
use std::thread::JoinHandle;

use backup_tests::backup::{Started, spawn_workers, start};
use backup_tests::failure::expect_failure;
use backup_tests::leftover;
use backup_tests::program::major_version;
use backup_tests::server::Cluster;
use backup_tests::session::backend_pid;
use backup_tests::stream::{Worker, copy_of, copy_out};
use backup_tests::wait::{PATIENCE, wait_for};
use backup_tests::workload::create_table;
use postgres::Client;

const MEGABYTE: u64 = 1 << 20;

/// Row of `backup_progress()`.
#[derive(Debug, PartialEq, Eq)]
struct Progress {
    id: i64,
    leader: i32,
    label: String,
    phase: String,
    workers: i32,
    files_total: i64,
    files_sent: i64,
    bytes_total: i64,
    bytes_sent: i64,
    failures: i64,
}

fn all_progress(client: &mut Client) -> Vec<Progress> {
    client
        .query(
            "SELECT backup_id, leader_pid, label, phase, workers, files_total, files_sent,
                    bytes_total, bytes_sent, checksum_failures
             FROM backup_progress()
             WHERE started_at BETWEEN now() - '10 min'::interval AND clock_timestamp()
             ORDER BY label",
            &[],
        )
        .expect("backup_progress()")
        .iter()
        .map(|row| Progress {
            id: row.get(0),
            leader: row.get(1),
            label: row.get(2),
            phase: row.get(3),
            workers: row.get(4),
            files_total: row.get(5),
            files_sent: row.get(6),
            bytes_total: row.get(7),
            bytes_sent: row.get(8),
            failures: row.get(9),
        })
        .collect()
}

#[track_caller]
fn wait_for_phase(cluster: &Cluster, phase: &str) {
    cluster.wait_for_sql(
        &format!("the phase '{phase}'"),
        &format!("SELECT bool_or(phase = '{phase}') FROM backup_progress()"),
    );
}

fn quiet_cluster() -> Cluster {
    let cluster = Cluster::builder().setting("autovacuum", "off").start();
    create_table(&cluster, "big", 16);
    cluster
}

#[test]
fn there_is_no_row_without_a_backup() {
    let cluster = Cluster::new();
    assert_eq!(all_progress(&mut cluster.connect()), []);
}

/// Backup whose start waits for a checkpoint that takes minutes, because the checkpointer sleeps after each
/// page.
struct SlowStart {
    cluster: Cluster,
    leader: i32,
    starting: JoinHandle<(Client, Result<(), postgres::Error>)>,
}

impl SlowStart {
    fn new() -> Self {
        let cluster = Cluster::builder()
            .setting("checkpoint_timeout", "30min")
            .start();
        cluster.execute(
            "CREATE TABLE dirty AS SELECT i, repeat('x', 900) FROM generate_series(1, 8000) AS i",
        );
        let mut leader = cluster.connect();
        let pid = backend_pid(&mut leader);
        let starting = std::thread::spawn(move || {
            let result = leader.batch_execute("SELECT start_backup('spread')");
            (leader, result)
        });
        wait_for_phase(&cluster, "waiting for checkpoint to finish");
        SlowStart {
            cluster,
            leader: pid,
            starting,
        }
    }

    /// Cancels the start. Returns the session.
    #[track_caller]
    fn cancel(self) -> (Cluster, Client) {
        self.cluster
            .execute(&format!("SELECT pg_cancel_backend({})", self.leader));
        let (leader, result) = self.starting.join().expect("the thread of the leader");
        expect_failure("start_backup()", result)
            .assert("57014", "canceling statement due to user request");
        (self.cluster, leader)
    }
}

#[test]
fn a_spread_checkpoint_is_visible_and_can_be_cancelled() {
    let start_that_waits = SlowStart::new();
    let seen = all_progress(&mut start_that_waits.cluster.connect());
    assert_eq!(seen.len(), 1);
    assert_eq!(
        (seen[0].leader, seen[0].label.as_str()),
        (start_that_waits.leader, "spread")
    );
    let (cluster, mut leader) = start_that_waits.cancel();
    leftover::assert_none(&cluster);
    // The session can start another backup.
    start(&mut leader, "");
}

#[test]
fn a_backup_that_waits_for_its_checkpoint_has_no_files_yet() {
    let start_that_waits = SlowStart::new();
    let mut other = start_that_waits.cluster.connect();
    let id = all_progress(&mut other)[0].id;
    let message = format!("backup {id} has not finished starting");
    let streamed = copy_out(&mut other, &copy_of(&format!("send_backup_files({id})")));
    let failure = streamed.expect_err("a stream of a backup that has not started");
    failure.assert("55000", &message);
    assert_eq!(failure.hint, "Wait until start_backup() has returned.");
    let listing = format!("SELECT count(*) FROM backup_filelist({id})");
    expect_failure(&listing, other.batch_execute(&listing)).assert("55000", &message);
    start_that_waits.cancel();
}

#[test]
fn a_running_backup_shows_its_workers() {
    let cluster = quiet_cluster();
    let mut observer = cluster.connect();
    let mut leader = cluster.connect();
    let pid = backend_pid(&mut leader);
    let started = start(&mut leader, "label => 'seen'");
    let seen = all_progress(&mut observer);
    assert_eq!(
        seen,
        [Progress {
            id: started.id,
            leader: pid,
            label: "seen".to_owned(),
            phase: "streaming database files".to_owned(),
            workers: 0,
            files_total: started.file_count,
            files_sent: 0,
            bytes_total: started.total_bytes,
            bytes_sent: 0,
            failures: 0,
        }]
    );

    let copy = copy_of(&format!(
        "send_backup_files({}, max_rate => 1024)",
        started.id
    ));
    let workers = [
        Worker::spawn(&cluster, &copy),
        Worker::spawn(&cluster, &copy),
    ];
    for worker in &workers {
        worker.wait_for_bytes(MEGABYTE);
    }
    let seen = &all_progress(&mut observer)[0];
    assert_eq!((seen.workers, seen.id), (2, started.id));
    assert!(
        (1..started.total_bytes).contains(&seen.bytes_sent),
        "{seen:?}"
    );

    let of_type = if major_version() >= 19 {
        "AND backup_type = 'full'"
    } else {
        ""
    };
    let mut pids: Vec<i32> = observer
        .query(
            &format!(
                "SELECT pid FROM pg_stat_progress_basebackup
                 WHERE phase = 'streaming database files'
                   AND backup_total > 0 AND backup_streamed > 0 {of_type}"
            ),
            &[],
        )
        .expect("pg_stat_progress_basebackup")
        .iter()
        .map(|row| row.get(0))
        .collect();
    let mut expected = workers.each_ref().map(|worker| worker.pid);
    pids.sort_unstable();
    expected.sort_unstable();
    assert_eq!(pids, expected);

    for worker in workers {
        cluster.execute(&format!("SELECT pg_cancel_backend({})", worker.pid));
        assert_eq!(worker.expect_failure().sqlstate, "57014");
    }
    cluster.wait_for_sql(
        "the rows of the workers to vanish",
        "SELECT NOT EXISTS (SELECT FROM pg_stat_progress_basebackup)",
    );
    assert_eq!(all_progress(&mut observer)[0].workers, 0);
}

#[test]
fn the_counters_are_exact_at_the_end() {
    let cluster = quiet_cluster();
    let mut observer = cluster.connect();
    let mut leader = cluster.connect();
    let Started {
        id,
        file_count,
        total_bytes,
        ..
    } = start(&mut leader, "");
    for worker in spawn_workers(&cluster, id, 3) {
        worker.expect();
    }
    let seen = &all_progress(&mut observer)[0];
    assert_eq!((seen.workers, seen.failures), (0, 0));
    assert_eq!(
        (seen.files_sent, seen.files_total),
        (file_count, file_count)
    );
    assert_eq!(
        (seen.bytes_sent, seen.bytes_total),
        (total_bytes, total_bytes)
    );

    let listed: (i64, i64) = {
        let row = leader
            .query_one(
                "SELECT count(*), sum(size) FILTER (WHERE type = 'f')::bigint
                 FROM backup_filelist()",
                &[],
            )
            .expect("backup_filelist()");
        (row.get(0), row.get(1))
    };
    assert_eq!(listed, (file_count, total_bytes));
    let sizes: i64 = leader
        .query_one("SELECT sum(size)::bigint FROM backup_tablespaces()", &[])
        .expect("backup_tablespaces()")
        .get(0);
    assert_eq!(sizes, total_bytes);
}

#[test]
fn the_counters_add_up_when_files_have_changed_their_size() {
    let cluster = quiet_cluster();
    let data = cluster.data_dir();
    let names = [
        "grows",
        "shrinks",
        "goes",
        "base/1/4000000001",
        "base/1/4000000002",
    ];
    for name in names {
        cluster.write_file(name, &[b'a'; 3000]);
    }
    let mut leader = cluster.connect();
    let started = start(&mut leader, "");
    for (name, length) in [
        ("grows", 300_000),
        ("shrinks", 1000),
        ("base/1/4000000001", 300_000),
        ("base/1/4000000002", 1000),
    ] {
        let file = File::options().write(true).open(data.join(name));
        file.and_then(|file| file.set_len(length))
            .expect("a file to resize");
    }
    fs::remove_file(data.join("goes")).expect("a file to remove");
    for worker in spawn_workers(&cluster, started.id, 2) {
        worker.expect();
    }
    let seen = &all_progress(&mut cluster.connect())[0];
    let all = (started.file_count, started.total_bytes);
    assert_eq!((seen.files_sent, seen.bytes_sent), all);
    assert_eq!((seen.files_total, seen.bytes_total), all);
}

#[test]
fn a_stop_that_waits_for_the_archive_is_visible() {
    let cluster = Cluster::builder()
        .setting("archive_mode", "on")
        .setting("archive_command", "false")
        .start();
    let (mut leader, notices) = cluster.connect_with_notices();
    start(&mut leader, "");
    copy_out(&mut leader, &copy_of("send_backup_files()")).expect("the files");
    let stopping = Worker::take_over(leader, notices, &copy_of("send_stop_backup()"), u64::MAX);
    wait_for_phase(&cluster, "stopping");
    cluster.execute("ALTER SYSTEM SET archive_command = 'true'");
    cluster.execute("SELECT pg_reload_conf()");
    stopping.expect();
    leftover::assert_none(&cluster);
}

#[test]
fn the_transfer_of_wal_is_visible() {
    let cluster = Cluster::new();
    let (mut leader, notices) = cluster.connect_with_notices();
    start(&mut leader, "");
    copy_out(&mut leader, &copy_of("send_backup_files()")).expect("the files");
    // A segment has 16 MB, so the server waits in the middle of the first.
    let copy = copy_of("send_stop_backup(wal => true)");
    let halted = Worker::take_over(leader, notices, &copy, 2 * MEGABYTE);
    halted.wait_for_bytes(2 * MEGABYTE);
    wait_for_phase(&cluster, "transferring wal files");
    halted.expect();
    leftover::assert_none(&cluster);
}

#[test]
fn phases_come_in_order() {
    const PHASES: [&str; 6] = [
        "initializing",
        "waiting for checkpoint to finish",
        "listing files",
        "streaming database files",
        "stopping",
        "transferring wal files",
    ];
    let cluster = Cluster::new();
    let mut observer = cluster.connect();
    let copy = copy_of("base_backup(fast => true, wal => true, max_rate => 16384)");
    let worker = Worker::spawn(&cluster, &copy);
    let mut reached = 0;
    let mut seen = Vec::new();
    wait_for("the end of the backup", PATIENCE, || {
        for row in all_progress(&mut observer) {
            let place = PHASES.iter().position(|phase| *phase == row.phase);
            let place = place.unwrap_or_else(|| panic!("there is no phase '{}'", row.phase));
            assert!(
                place >= reached,
                "'{}' after '{}'",
                row.phase,
                PHASES[reached]
            );
            reached = place;
            seen.push(row.phase);
        }
        worker.is_finished()
    });
    worker.expect();
    assert!(
        seen.iter().any(|phase| phase == "streaming database files"),
        "{seen:?}"
    );
}

#[test]
fn two_backups_have_a_row_each() {
    let cluster = Cluster::new();
    let mut observer = cluster.connect();
    let mut leaders = ["a", "b"].map(|label| {
        let mut leader = cluster.connect();
        let id = start(&mut leader, &format!("label => '{label}'")).id;
        (leader, id)
    });
    let ids: Vec<i64> = all_progress(&mut observer)
        .iter()
        .map(|row| row.id)
        .collect();
    assert_eq!(ids, leaders.each_ref().map(|(_, id)| *id));
    leaders[0]
        .0
        .batch_execute("SELECT abort_backup()")
        .expect("abort_backup()");
    let labels: Vec<String> = all_progress(&mut observer)
        .into_iter()
        .map(|row| row.label)
        .collect();
    assert_eq!(labels, ["b"]);
}
