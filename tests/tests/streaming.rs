//! Backups of a cluster that changes during the streams. The restored cluster must have the
//! contents of the source at the stop of the backup.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use backup_tests::backup::{Backup, send_stop, spawn_workers, start};
use backup_tests::server::Cluster;
use backup_tests::wait::{PATIENCE, wait_for};
use backup_tests::workload::{Pgbench, assert_balanced, create_table};
use postgres::Client;

/// Slow enough for the changes to overtake the streams. The changes cause checkpoints, after which
/// only the backup needs its WAL.
const OPTIONS: &str = "max_rate => 12288, retain_wal => true";

/// Session that repeats a round until told to stop.
struct Churn {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u32>,
}

impl Churn {
    /// Calls `round` with the numbers from 0 on, and waits until the first call is done. During a
    /// backup, one round follows each step of the backup, so the amount written does not depend on
    /// the speed of the machine.
    fn start(cluster: &Cluster, mut round: impl FnMut(&mut Client, u32) + Send + 'static) -> Self {
        let mut client = cluster.connect();
        round(&mut client, 0);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut number = 1;
            let mut seen = None;
            loop {
                wait_for("the next step of the backup", PATIENCE * 2, || {
                    let step = step_of_backup(&mut client);
                    stopped.load(Ordering::Relaxed) || seen.replace(step.clone()) != Some(step)
                });
                if stopped.load(Ordering::Relaxed) {
                    return number;
                }
                round(&mut client, number);
                number += 1;
            }
        });
        Churn { stop, thread }
    }

    /// Stops the session and returns the number of rounds.
    fn stop(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(rounds) => rounds,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Step of the running backup. It changes with the phase and with every 4 MB sent.
fn step_of_backup(client: &mut Client) -> String {
    client
        .query_one(
            "SELECT coalesce(max(format('%s %s', phase, bytes_sent / 4194304)), 'none')
             FROM backup_progress()",
            &[],
        )
        .expect("backup_progress()")
        .get(0)
}

fn execute(client: &mut Client, statements: &str) {
    for statement in statements.split(';') {
        client
            .batch_execute(statement)
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
}

/// Streams with four workers, then calls `mark` before the stop to leave a trace. Returns the
/// restored cluster.
#[track_caller]
fn back_up_and_restore(cluster: &Cluster, mark: impl FnOnce(&mut Client)) -> Cluster {
    let backup = Backup::folder(cluster);
    let mut leader = cluster.connect();
    let id = start(&mut leader, OPTIONS).id;
    for worker in spawn_workers(cluster, id, 4) {
        backup.unpack(&worker.expect());
    }
    mark(&mut cluster.connect());
    backup.unpack(&send_stop(&mut leader));
    backup.verify();
    backup.restore()
}

/// Checks that need the whole restored cluster.
#[track_caller]
fn assert_sound(mut restored: Cluster) {
    restored.amcheck();
    restored.stop_and_check_checksums();
}

fn number(client: &mut Client, query: &str) -> i64 {
    client
        .query_one(query, &[])
        .unwrap_or_else(|error| panic!("{query}: {error}"))
        .get(0)
}

#[test]
fn four_workers_under_write_load_make_a_backup_that_balances() {
    let cluster = Cluster::new();
    Pgbench::fill(&cluster, 2);
    let load = Pgbench::run(&cluster, 200);
    let mut written = 0;
    let restored = back_up_and_restore(&cluster, |client| {
        written = number(client, "SELECT count(*) FROM pgbench_history");
    });
    load.stop();
    let kept = assert_balanced(&mut restored.connect());
    assert!(kept >= written, "{kept} transactions of {written} are left");
    assert!(written > 0);
    assert_sound(restored);
}

#[test]
fn tables_that_change_while_workers_stream_are_restored() {
    let cluster = Cluster::new();
    create_table(&cluster, "steady", 24);
    cluster.execute(
        "CREATE TABLE grown (round int, filler text);
         CREATE TABLE shrunk AS SELECT i, repeat('x', 500) AS filler
             FROM generate_series(1, 5000) AS i;
         CREATE TABLE rewritten AS SELECT i, 0 AS round, repeat('x', 500) AS filler
             FROM generate_series(1, 5000) AS i;
         CREATE INDEX ON rewritten (i);
         CREATE TABLE emptied (round int)",
    );
    let churn = Churn::start(&cluster, |client, round| {
        execute(
            client,
            &format!(
                "CREATE TABLE made_{round} AS SELECT generate_series(1, 1000) AS i;
                 INSERT INTO grown SELECT {round}, repeat('y', 500) FROM generate_series(1, 500);
                 DELETE FROM shrunk WHERE i > 5000 - 50 * {round};
                 VACUUM shrunk;
                 UPDATE rewritten SET round = {round} WHERE i % 3 = {round} % 3;
                 VACUUM FULL rewritten;
                 TRUNCATE emptied;
                 INSERT INTO emptied VALUES ({round});
                 CHECKPOINT"
            ),
        );
        if round > 2 {
            execute(client, &format!("DROP TABLE made_{}", round - 2));
        }
    });
    let mut rounds_seen = 0;
    let restored = back_up_and_restore(&cluster, |client| {
        rounds_seen = number(client, "SELECT count(DISTINCT round) FROM grown");
    });
    assert!(churn.stop() > 1);

    let mut client = restored.connect();
    let rounds = number(&mut client, "SELECT count(DISTINCT round) FROM grown");
    assert!(
        rounds >= rounds_seen && rounds > 1,
        "{rounds} of {rounds_seen}"
    );
    for (query, expected) in [
        ("SELECT count(*) FROM steady", 24 * 1024),
        ("SELECT count(*) FROM rewritten", 5000),
        (
            "SELECT count(*) FROM grown WHERE filler = repeat('y', 500)",
            rounds * 500,
        ),
        // The number of rounds is one more than the largest round number.
        ("SELECT (max(round) + 1)::bigint FROM grown", rounds),
    ] {
        assert_eq!(number(&mut client, query), expected, "{query}");
    }
    // At most the changes of an interrupted round are missing.
    let rewritten = number(&mut client, "SELECT max(round)::bigint FROM rewritten");
    assert!(
        rewritten == rounds - 1 || rewritten == rounds - 2,
        "{rewritten} of {rounds}"
    );
    let emptied = number(&mut client, "SELECT count(*) FROM emptied");
    assert!(emptied <= 1);
    let shrunk = number(&mut client, "SELECT count(*) FROM shrunk");
    let most = (5000 - 50 * (rounds - 2)).max(0);
    assert!(shrunk <= most, "{shrunk} rows after {rounds} rounds");
    assert_sound(restored);
}

#[test]
fn relations_that_grow_past_the_listing_are_restored() {
    let cluster = Cluster::new();
    create_table(&cluster, "steady", 24);
    cluster.execute("CREATE TABLE big (round int, filler text); CREATE INDEX ON big (round)");
    let churn = Churn::start(&cluster, |client, round| {
        execute(
            client,
            &format!(
                "INSERT INTO big SELECT {round}, repeat('z', 900) FROM generate_series(1, 2000);
                 CHECKPOINT"
            ),
        );
    });
    let mut before = 0;
    let restored = back_up_and_restore(&cluster, |client| {
        before = number(client, "SELECT count(*) FROM big");
    });
    churn.stop();
    let mut client = restored.connect();
    let after = number(&mut client, "SELECT count(*) FROM big");
    assert!(
        after >= before && after % 2000 == 0,
        "{after} rows of {before}"
    );
    drop(client);
    assert_sound(restored);
}

#[test]
fn databases_made_and_dropped_while_workers_stream_are_restored() {
    let cluster = Cluster::new();
    create_table(&cluster, "steady", 8);
    cluster.execute("CREATE DATABASE goes");
    let churn = Churn::start(&cluster, |client, round| {
        let strategy = if round % 2 == 0 {
            "wal_log"
        } else {
            "file_copy"
        };
        execute(
            client,
            &format!("CREATE DATABASE round_{round} STRATEGY {strategy}"),
        );
        if round > 1 {
            execute(client, &format!("DROP DATABASE round_{}", round - 1));
        }
    });
    let mut made = 0;
    let restored = back_up_and_restore(&cluster, |client| {
        execute(client, "DROP DATABASE goes");
        // This database exists whatever the churn is doing.
        execute(client, "CREATE DATABASE stays STRATEGY file_copy");
        made = number(
            client,
            "SELECT count(*) FROM pg_database WHERE datname LIKE 'round_%'",
        );
    });
    assert!(churn.stop() > 1);
    assert!(made > 0);
    let mut client = restored.connect_to("stays");
    assert_eq!(
        number(
            &mut client,
            "SELECT count(*) FROM pg_database WHERE datname = 'goes'"
        ),
        0
    );
    let databases: Vec<String> = client
        .query(
            // A DROP DATABASE interrupted by the end of the backup leaves -2 here.
            "SELECT datname::text FROM pg_database WHERE datallowconn AND datconnlimit <> -2",
            &[],
        )
        .expect("pg_database")
        .iter()
        .map(|row| row.get(0))
        .collect();
    drop(client);
    for database in databases {
        let mut client = restored.connect_to(&database);
        assert!(number(&mut client, "SELECT count(*) FROM pg_class") > 0);
    }
    assert_sound(restored);
}

#[test]
fn one_statement_under_write_load_makes_a_backup_that_balances() {
    let cluster = Cluster::new();
    Pgbench::fill(&cluster, 1);
    let load = Pgbench::run(&cluster, 200);
    let backup = Backup::folder(&cluster);
    let mut session = cluster.connect();
    let stream = backup_tests::stream::copy_out(
        &mut session,
        "COPY (SELECT base_backup(fast => true, wal => true, retain_wal => true)) TO STDOUT",
    );
    load.stop();
    backup.unpack(&stream.expect("the stream"));
    backup.verify();
    let restored = backup.restore();
    assert!(assert_balanced(&mut restored.connect()) > 0);
    assert_sound(restored);
}

/// Workers come and go during the backup, each for a part of the files.
#[test]
fn workers_that_come_late_and_leave_early_make_a_backup() {
    let cluster = Cluster::new();
    Pgbench::fill(&cluster, 1);
    let load = Pgbench::run(&cluster, 100);
    let backup = Backup::folder(&cluster);
    let mut leader = cluster.connect();
    let id = start(&mut leader, OPTIONS).id;
    let mut lists = leader
        .query(
            "SELECT path FROM backup_filelist() WHERE path LIKE 'base/1/%'",
            &[],
        )
        .expect("backup_filelist()")
        .into_iter()
        .map(|row| row.get::<_, String>(0))
        .collect::<Vec<_>>();
    lists.truncate(40);
    let early = backup_tests::stream::copy_out(
        &mut cluster.connect(),
        &format!(
            "COPY (SELECT send_backup_files({id}, '{{{}}}')) TO STDOUT",
            lists.join(",")
        ),
    );
    backup.unpack(&early.expect("the early worker"));
    let first = spawn_workers(&cluster, id, 1);
    first[0].wait_for_bytes(1 << 20);
    let late = spawn_workers(&cluster, id, 2);
    wait_for("the late workers to take their files", PATIENCE, || {
        late.iter().all(|worker| worker.received() > 0)
    });
    for worker in first.into_iter().chain(late) {
        backup.unpack(&worker.expect());
    }
    backup.unpack(&send_stop(&mut leader));
    load.stop();
    backup.verify();
    let restored = backup.restore();
    assert_balanced(&mut restored.connect());
    assert_sound(restored);
}
