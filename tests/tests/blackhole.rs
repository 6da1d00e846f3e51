//! Target 'blackhole': files are read and verified, no data leaves the server, and no file counts
//! as sent.

use std::fs;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use backup_tests::archive::{content, members};
use backup_tests::backup::{spawn_workers, start};
use backup_tests::failure::{Failure, expect_failure};
use backup_tests::leftover;
use backup_tests::page::quiet_table;
use backup_tests::rate::assert_rate;
use backup_tests::server::Cluster;
use backup_tests::session::backend_pid;
use backup_tests::stepwise::{Stepwise, listing};
use backup_tests::stream::{Worker, copy_of, copy_out};
use backup_tests::workload::{create_table, path_of};
use postgres::Client;

type Thread = JoinHandle<Result<usize, Failure>>;

const SEND: &str = "COPY (SELECT send_backup_files()) TO STDOUT";
const FAILED: &str = "checksum verification failure during base backup";

fn quiet_cluster() -> Cluster {
    Cluster::builder()
        .setting("dynamic_shared_memory_type", "mmap")
        .setting("autovacuum", "off")
        .start()
}

/// Both forms of a blackhole worker, with further arguments.
fn forms(id: i64, arguments: &str) -> [String; 2] {
    let call = format!("send_backup_files({id}, target => 'blackhole'{arguments})");
    [format!("SELECT {call}"), copy_of(&call)]
}

/// Runs a SELECT or a COPY and returns the number of rows or bytes.
fn run(client: &mut Client, statement: &str) -> Result<usize, Failure> {
    if statement.starts_with("COPY") {
        return copy_out(client, statement).map(|bytes| bytes.len());
    }
    Ok(client.query(statement, &[])?.len())
}

/// Starts a blackhole worker in its own session and thread. It has read some data and needs many
/// more seconds.
fn spawn_slow(cluster: &Cluster, id: i64, form: usize) -> (i32, Thread) {
    let statement = forms(id, ", max_rate => 1024")[form].clone();
    let mut client = cluster.connect();
    let pid = backend_pid(&mut client);
    let thread = std::thread::spawn(move || run(&mut client, &statement));
    let query = "SELECT workers = 1 AND bytes_sent > 500000 FROM backup_progress()";
    cluster.wait_for_sql("a blackhole to have read something", query);
    (pid, thread)
}

/// The statement succeeds and returns nothing.
#[track_caller]
fn assert_silent(client: &mut Client, statement: &str) {
    assert_eq!(run(client, statement), Ok(0), "{statement}");
}

#[track_caller]
fn assert_fails(client: &mut Client, statement: &str, sqlstate: &str, message: &str) {
    let failure = expect_failure(statement, run(client, statement));
    assert_eq!(failure.sqlstate, sqlstate, "{statement}\n{failure}");
    assert!(failure.message.contains(message), "{statement}\n{failure}");
}

/// Number of workers, files sent, bytes sent and corrupt pages.
fn progress(cluster: &Cluster) -> (i32, i64, i64, i64) {
    let query = "SELECT workers, files_sent, bytes_sent, checksum_failures FROM backup_progress()";
    let row = cluster.connect().query_one(query, &[]).expect("one backup");
    (row.get(0), row.get(1), row.get(2), row.get(3))
}

fn totals(taken: &Stepwise, failures: i64) -> (i32, i64, i64, i64) {
    let started = &taken.started;
    (0, started.file_count, started.total_bytes, failures)
}

/// Checks that everything is counted as read and nothing as sent.
#[track_caller]
fn assert_read(cluster: &Cluster, taken: &mut Stepwise) {
    assert_eq!(progress(cluster), totals(taken, 0));
    let count = taken.started.file_count;
    let message = format!("backup is incomplete: {count} of {count} files have not been sent");
    let copy = copy_of("send_stop_backup(wal => true)");
    assert_fails(&mut taken.leader, &copy, "55000", &message);
    assert_fails(&mut taken.leader, "SELECT stop_backup()", "55000", &message);
}

/// Lets real workers send everything again, and checks the resulting backup.
#[track_caller]
fn complete(cluster: &Cluster, mut taken: Stepwise) {
    for worker in spawn_workers(cluster, taken.started.id, 2) {
        taken.backup.unpack(&worker.expect());
    }
    assert_eq!(progress(cluster), totals(&taken, 0));
    taken.stop();
    taken.backup.verify();
    leftover::assert_none(cluster);
}

#[test]
fn a_leader_reads_everything_in_either_form_and_sends_nothing() {
    let cluster = quiet_cluster();
    create_table(&cluster, "t", 8);
    let call = "send_backup_files(target => 'blackhole')";
    let select = format!("SELECT {call}");
    let from = format!("SELECT * FROM {}", call.to_uppercase());
    for statement in [select, from, copy_of(call)] {
        let mut taken = Stepwise::start(&cluster, "");
        assert_silent(&mut taken.leader, &statement);
        assert_read(&cluster, &mut taken);
        complete(&cluster, taken);
    }
}

#[test]
fn several_blackholes_share_the_work() {
    let cluster = quiet_cluster();
    for number in 0..12 {
        let path = quiet_table(&mut cluster.connect(), &format!("t{number}"), 200, "");
        cluster.flip_bytes(&path, 150);
    }
    let taken = Stepwise::start(&cluster, "");
    let copy = &forms(taken.started.id, "")[1];
    let workers = [(); 4].map(|()| Worker::spawn(&cluster, copy));
    let notices = workers.each_ref().map(|worker| worker.notices.clone());
    for worker in workers {
        let received = worker.received_counter();
        if let Err(failure) = worker.join() {
            failure.assert("XX001", FAILED);
        }
        assert_eq!(received.load(Ordering::Relaxed), 0);
    }
    // Each bad page was reported by one worker, so each file was read by one worker.
    let mut warnings: Vec<_> = notices.iter().flat_map(|it| it.warnings()).collect();
    warnings.retain(|warning| !warning.contains("total"));
    assert_eq!(warnings.len(), 12, "{warnings:?}");
    assert_eq!(progress(&cluster), totals(&taken, 12));
}

#[test]
fn what_went_into_a_blackhole_is_not_read_by_another_but_sent_by_a_worker() {
    let cluster = quiet_cluster();
    let path = quiet_table(&mut cluster.connect(), "t", 9, "");
    let mut taken = Stepwise::start(&cluster, "");
    let forms = forms(taken.started.id, "");
    assert_silent(&mut cluster.connect(), &forms[0]);
    // Any later read of the file fails.
    cluster.flip_bytes(&path, 3);
    for statement in forms {
        assert_silent(&mut cluster.connect(), &statement);
    }
    assert_read(&cluster, &mut taken);
    assert_fails(&mut taken.leader, SEND, "XX001", FAILED);
    assert_eq!(progress(&cluster), totals(&taken, 1));
}

#[test]
fn bad_pages_are_reported_as_in_a_stream_and_can_be_mended_before_it() {
    let cluster = quiet_cluster();
    let path = quiet_table(&mut cluster.connect(), "t", 9, "");
    let flip = || [0, 2, 3, 4, 7, 8].map(|block| cluster.flip_bytes(&path, block));
    flip();
    let mut taken = Stepwise::start(&cluster, "");
    assert_fails(&mut taken.leader, SEND, "XX001", FAILED);
    let expected = taken.notices.warnings();
    assert_eq!(expected.len(), 8, "{expected:?}");
    assert_eq!(run(&mut taken.leader, "SELECT abort_backup()"), Ok(1));
    let mut taken = Stepwise::start(&cluster, "");
    let [select, copy] = forms(taken.started.id, "");
    assert_fails(&mut taken.leader, &select, "XX001", FAILED);
    assert_eq!(taken.notices.warnings(), expected);
    assert_eq!(progress(&cluster), totals(&taken, 6));
    let query = "SELECT sum(checksum_failures) = 12 FROM pg_stat_database";
    cluster.wait_for_sql("the bad pages of both in the statistics", query);
    // The bad pages were already found. Nothing looks for them again before they are sent.
    assert_silent(&mut taken.leader, &copy);
    flip();
    complete(&cluster, taken);
}

#[test]
fn targets_have_two_names() {
    let cluster = quiet_cluster();
    let mut leader = cluster.connect();
    start(&mut leader, "");
    let call = "send_backup_files(files => ARRAY['PG_VERSION'], target =>";
    for target in ["", "blackhole ", "black hole", "server", "client:1"] {
        let message = format!("unrecognized target: \"{target}\"");
        let call = format!("{call} '{target}')");
        assert_fails(&mut leader, &copy_of(&call), "22023", &message);
        assert_fails(&mut leader, &format!("SELECT {call}"), "22023", &message);
    }
    let null = format!("{call} NULL)");
    assert_fails(&mut leader, &copy_of(&null), "22004", "target");
    assert_fails(&mut leader, &format!("SELECT {null}"), "22004", "target");
    for target in ["client", "CLIENT", "Client"] {
        let call = format!("{call} '{target}')");
        assert_eq!(run(&mut leader, &copy_of(&call)), Ok(2048));
        // Only the target 'blackhole' works without COPY.
        assert_fails(&mut leader, &format!("SELECT {call}"), "0A000", "COPY");
    }
}

#[test]
fn a_role_with_execute_runs_a_prepared_blackhole_again_also_within_transactions() {
    let cluster = quiet_cluster();
    cluster.execute("CREATE ROLE r LOGIN; GRANT EXECUTE ON FUNCTION send_backup_files TO r");
    let mut reader = cluster.connect_as("r");
    let query = "SELECT send_backup_files($1, target => $2)";
    let prepared = reader.prepare(query).expect("PREPARE");
    // After five executions the server may switch to a generic plan.
    for round in 0..8 {
        let mut taken = Stepwise::start(&cluster, "");
        let begin = ["BEGIN", "BEGIN READ ONLY", "SELECT 1"][round % 3];
        reader.batch_execute(begin).expect("BEGIN");
        let rows = reader.query(&prepared, &[&taken.started.id, &"blackhole"]);
        assert_eq!(rows.expect("a blackhole").len(), 0);
        // Files that were read stay read; transactions do not matter.
        reader.batch_execute("ROLLBACK").expect("ROLLBACK");
        assert_read(&cluster, &mut taken);
        assert_eq!(run(&mut taken.leader, "SELECT abort_backup()"), Ok(1));
    }
}

#[test]
fn a_blackhole_that_fails_gives_its_files_back() {
    let cluster = quiet_cluster();
    create_table(&cluster, "big", 16);
    for form in [0, 1] {
        let mut taken = Stepwise::start(&cluster, "");
        let id = taken.started.id;
        for end in ["cancel", "terminate"] {
            let (pid, thread) = spawn_slow(&cluster, id, form);
            cluster.execute(&format!("SELECT pg_{end}_backend({pid})"));
            let failure = expect_failure(end, thread.join().expect("no panic"));
            // After a termination the client may see the closed connection first.
            assert!(end != "cancel" || failure.sqlstate == "57014", "{failure}");
            let query = "SELECT workers = 0 FROM backup_progress()";
            cluster.wait_for_sql("the worker to leave the backup", query);
            assert_eq!(progress(&cluster), (0, 0, 0, 0), "{end}");
        }
        assert_silent(&mut taken.leader, &forms(id, "")[form]);
        assert_read(&cluster, &mut taken);
        complete(&cluster, taken);

        let mut leader = cluster.connect();
        let id = start(&mut leader, "").id;
        let (_, thread) = spawn_slow(&cluster, id, form);
        drop(leader);
        let begin = Instant::now();
        let failure = expect_failure("a blackhole", thread.join().expect("no panic"));
        failure.assert("55000", &format!("backup {id} has ended"));
        assert!(begin.elapsed() < Duration::from_secs(12), "{begin:?}");
        leftover::assert_none(&cluster);
    }
}

#[test]
fn the_rate_is_that_of_the_archive() {
    let cluster = quiet_cluster();
    create_table(&cluster, "t", 8);
    let path = path_of(&mut cluster.connect(), "t");
    let file = fs::metadata(cluster.data_dir().join(&path)).expect("its file");
    for (whole, own) in [("2048", "NULL"), ("NULL", "2048")] {
        assert_rate(2048, || {
            let mut leader = cluster.connect();
            let id = start(&mut leader, &format!("max_rate => {whole}")).id;
            let arguments = format!(", files => ARRAY['{path}'], max_rate => {own}");
            let begin = Instant::now();
            assert_silent(&mut leader, &forms(id, &arguments)[0]);
            vec![(file.len() as usize, begin.elapsed())]
        });
    }
}

#[test]
fn a_tablespace_goes_alone_into_a_blackhole_and_into_no_manifest() {
    let cluster = quiet_cluster();
    let (oid, _) = cluster.create_tablespace("elsewhere");
    quiet_table(&mut cluster.connect(), "t", 9, "TABLESPACE elsewhere");
    let mut taken = Stepwise::start(&cluster, "");
    let id = taken.started.id;
    let mut files = 0;
    for (form, tablespace) in [oid, 0].iter().enumerate() {
        let statement = &forms(id, &format!(", tablespace => {tablespace}"))[form];
        assert_silent(&mut cluster.connect(), statement);
        files += listing(&mut taken.leader, &format!("{id}, {tablespace}")).len() as i64;
        assert_eq!(progress(&cluster).1, files, "{statement}");
    }
    assert_read(&cluster, &mut taken);
    assert_fails(
        &mut taken.leader,
        &forms(id, ", tablespace => 1")[0],
        "42704",
        "",
    );
    let closing = taken.stream("send_stop_backup(allow_incomplete => true)");
    let manifest = String::from_utf8(content(&closing, "backup_manifest")).expect("text");
    assert!(manifest.contains("\"backup_label\""), "{manifest}");
    assert!(!manifest.contains("PG_VERSION"), "{manifest}");
}

#[test]
fn files_by_name_are_read_each_time_and_stay_what_they_were() {
    let cluster = quiet_cluster();
    let path = quiet_table(&mut cluster.connect(), "t", 9, "");
    let mut taken = Stepwise::start(&cluster, "");
    let id = taken.started.id;
    let stream = taken.stream(&format!("send_backup_files(files => ARRAY['{path}'])"));
    taken.backup.unpack(&stream);
    let files = format!(", files => ARRAY['./{path}', 'PG_VERSION', 'base']");
    for statement in forms(id, &files) {
        assert_silent(&mut cluster.connect(), &statement);
        cluster.flip_bytes(&path, 3);
        assert_fails(&mut cluster.connect(), &statement, "XX001", FAILED);
        cluster.flip_bytes(&path, 3);
    }
    let [unlisted, _] = forms(id, ", files => ARRAY['PG_VERSION', 'pg_wal/0']");
    assert_fails(&mut taken.leader, &unlisted, "22023", "\"pg_wal/0\"");
    // Blackhole reads change neither the sent nor the unsent files.
    let count = members(&taken.send_files()).len() as i64;
    assert_eq!(count, taken.started.file_count - 1);
    taken.stop();
    taken.backup.verify();
}

#[test]
fn workers_and_blackholes_run_beside_each_other() {
    let cluster = quiet_cluster();
    create_table(&cluster, "t", 16);
    let mut taken = Stepwise::start(&cluster, "");
    let copy = &forms(taken.started.id, "")[1];
    let blackholes = [(); 2].map(|()| Worker::spawn(&cluster, copy));
    for worker in spawn_workers(&cluster, taken.started.id, 2) {
        taken.backup.unpack(&worker.expect());
    }
    for blackhole in blackholes {
        assert_eq!(blackhole.expect(), [0; 0]);
    }
    // Send the files that the blackholes held while the workers ran.
    taken.send_files();
    taken.stop();
    taken.backup.verify();
}
