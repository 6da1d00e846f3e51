//! Streams are sent through COPY TO STDOUT only. Every other form is refused, in both the simple
//! and the extended query protocol, and leaves the session in sync.

use backup_tests::archive::members;
use backup_tests::backup::{Backup, send_stop, start};
use backup_tests::failure::{Failure, expect_failure};
use backup_tests::program::{command, run_with_input};
use backup_tests::server::Cluster;
use backup_tests::stream::{copy_of, copy_out};
use postgres::Client;

/// Calls of all streaming functions, to be placed in wrong contexts.
const CALLS: [&str; 3] = [
    "send_backup_files(files => ARRAY['PG_VERSION'])",
    "send_stop_backup(allow_incomplete => true)",
    "base_backup(fast => true)",
];

/// Correct statement, which sends one file.
const RIGHT: &str = "COPY (SELECT send_backup_files(files => ARRAY['PG_VERSION'])) TO STDOUT";

fn name_of(call: &str) -> &str {
    call.split('(').next().expect("a call has a name")
}

#[track_caller]
fn assert_refused(statement: &str, call: &str, failure: &Failure) {
    let name = name_of(call);
    let message = format!("{name}() can only be used in COPY (SELECT ...) TO STDOUT");
    assert!(
        failure.sqlstate == "0A000" && failure.message == message,
        "{statement}\n{failure}"
    );
    let shown = format!("COPY (SELECT {name}(");
    assert!(
        failure.hint.contains(&shown) && failure.hint.contains("TO STDOUT"),
        "{statement}\n{failure}"
    );
}

/// Checks that the session still answers, its backup still runs, and the correct statement works.
#[track_caller]
fn assert_in_step(leader: &mut Client, statement: &str) {
    let answer: i32 = leader
        .query_one("SELECT 42", &[])
        .unwrap_or_else(|error| panic!("after {statement}: {error}"))
        .get(0);
    assert_eq!(answer, 42, "after {statement}");
    match copy_out(leader, RIGHT) {
        Ok(archive) => assert_eq!(members(&archive), ["PG_VERSION"], "after {statement}"),
        Err(failure) => panic!("after {statement}: {failure}"),
    }
}

fn finish(leader: &mut Client) {
    leader
        .batch_execute("SELECT abort_backup()")
        .expect("the backup still runs");
}

#[test]
fn a_select_is_refused() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    start(&mut leader, "");
    for call in CALLS {
        for statement in [
            format!("SELECT {call}"),
            format!("SELECT * FROM {call}"),
            format!("SELECT count(*) FROM {call}"),
            format!("SELECT 1 WHERE EXISTS (SELECT {call})"),
        ] {
            let failure = expect_failure(&statement, leader.batch_execute(&statement));
            assert_refused(&statement, call, &failure);
            assert_in_step(&mut leader, &statement);
            let failure = expect_failure(&statement, leader.query(&statement, &[]));
            assert_refused(&statement, call, &failure);
            assert_in_step(&mut leader, &statement);
        }
    }
    finish(&mut leader);
}

#[test]
fn statements_around_a_select_are_refused() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    start(&mut leader, "");
    leader
        .batch_execute("CREATE TABLE sink (part bytea)")
        .expect("CREATE TABLE");
    for call in CALLS {
        for statement in [
            format!("CREATE TABLE other AS SELECT {call} AS part"),
            format!("CREATE MATERIALIZED VIEW other AS SELECT {call} AS part"),
            format!("INSERT INTO sink SELECT {call}"),
            format!("EXPLAIN ANALYZE SELECT {call}"),
            format!("DECLARE c CURSOR WITH HOLD FOR SELECT {call}"),
            format!("BEGIN; DECLARE c CURSOR FOR SELECT {call}; FETCH c"),
            format!("PREPARE p AS SELECT {call}; EXECUTE p"),
            format!("DO $do$BEGIN PERFORM {call}; END$do$"),
        ] {
            let failure = expect_failure(&statement, leader.batch_execute(&statement));
            assert_refused(&statement, call, &failure);
            leader
                .batch_execute("ROLLBACK; DEALLOCATE ALL")
                .expect("the end of the failed transaction");
            assert_in_step(&mut leader, &statement);
        }
    }
    finish(&mut leader);
}

#[test]
fn copy_to_a_file_or_a_program_is_refused() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    start(&mut leader, "");
    let target = cluster.make_dir("target").join("archive");
    for call in CALLS {
        for statement in [
            format!("COPY (SELECT {call}) TO '{}'", target.display()),
            format!(
                "COPY (SELECT {call}) TO PROGRAM 'cat >{}'",
                target.display()
            ),
        ] {
            let failure = expect_failure(&statement, leader.batch_execute(&statement));
            assert_refused(&statement, call, &failure);
            let length = std::fs::metadata(&target).map_or(0, |file| file.len());
            assert_eq!(length, 0, "{statement} wrote a part of the archive");
            assert_in_step(&mut leader, &statement);
        }
    }
    finish(&mut leader);
}

/// Statements that begin a COPY to the client; the refusal comes within the stream.
fn wrong_copies(call: &str) -> Vec<String> {
    vec![
        format!("COPY (SELECT {call}) TO STDOUT (FORMAT binary)"),
        format!("COPY (SELECT {call}) TO STDOUT BINARY"),
        format!("COPY (SELECT {call}) TO STDOUT (FORMAT csv)"),
        format!("COPY (SELECT {call}) TO STDOUT (FORMAT csv, HEADER)"),
        format!("COPY (SELECT {call}) TO STDOUT (HEADER)"),
        format!("COPY (SELECT {call} UNION ALL SELECT 'more') TO STDOUT"),
        format!("COPY (SELECT 'less' UNION ALL SELECT {call}) TO STDOUT"),
        format!("COPY (SELECT {call}, 1) TO STDOUT"),
        format!("COPY (SELECT {call}, {call}) TO STDOUT"),
        format!("COPY (SELECT {call} FROM generate_series(1, 2)) TO STDOUT"),
        format!("COPY (SELECT 'before' FROM (SELECT {call}) AS q) TO STDOUT"),
        "COPY (SELECT wrap_CALL()) TO STDOUT".replace("CALL", name_of(call)),
    ]
}

/// Creates functions that call the streaming functions below a COPY that is not their own.
fn create_wrappers(leader: &mut Client) {
    for call in CALLS {
        let statement = format!(
            "CREATE FUNCTION wrap_{}() RETURNS SETOF bytea LANGUAGE plpgsql
                 AS $$BEGIN RETURN QUERY SELECT {call}; END$$",
            name_of(call)
        );
        leader.batch_execute(&statement).expect("CREATE FUNCTION");
    }
}

#[test]
fn copy_of_another_form_is_refused() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    start(&mut leader, "");
    create_wrappers(&mut leader);
    for call in CALLS {
        for statement in wrong_copies(call) {
            let failure = expect_failure(&statement, copy_out(&mut leader, &statement));
            assert_refused(&statement, call, &failure);
            assert_in_step(&mut leader, &statement);
        }
    }
    finish(&mut leader);
}

/// psql uses the simple protocol, and would lose synchronization if the server did.
#[test]
fn psql_stays_in_step_after_each_refusal() {
    let cluster = Cluster::new();
    create_wrappers(&mut cluster.connect());
    let mut script = String::from("SELECT FROM start_backup(fast => true);\n");
    let mut refusals = 0;
    for call in CALLS {
        let wrong = wrong_copies(call)
            .into_iter()
            .chain([format!("SELECT {call}")]);
        for statement in wrong {
            script.push_str(&format!("{statement};\n\\echo in step\n"));
            refusals += 1;
        }
    }
    script.push_str("SELECT abort_backup();\n\\echo aborted\n");
    let mut psql = cluster.psql_command(&["-v", "ON_ERROR_STOP=0", "-f", "-"]);
    let output = run_with_input(&mut psql, script.as_bytes());
    let said = String::from_utf8_lossy(&output.stderr);
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        said.matches("can only be used in COPY (SELECT ...) TO STDOUT")
            .count(),
        refusals,
        "{said}"
    );
    assert_eq!(said.matches("ERROR:").count(), refusals, "{said}");
    assert_eq!(printed.matches("in step\n").count(), refusals, "{printed}");
    assert!(printed.trim_end().ends_with("aborted"), "{printed}");
}

#[test]
fn copy_within_plpgsql_is_refused_by_the_server() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    start(&mut leader, "");
    for call in CALLS {
        let statement = format!("DO $do$BEGIN EXECUTE $$COPY (SELECT {call}) TO STDOUT$$; END$do$");
        let failure = expect_failure(&statement, leader.batch_execute(&statement));
        assert_eq!(failure.sqlstate, "0A000", "{statement}\n{failure}");
        assert_in_step(&mut leader, &statement);
    }
    finish(&mut leader);
}

#[test]
fn a_refused_base_backup_starts_nothing() {
    let cluster = Cluster::new();
    let mut session = cluster.connect();
    let statement = "COPY (SELECT base_backup(fast => true)) TO STDOUT (FORMAT binary)";
    let failure = expect_failure(statement, copy_out(&mut session, statement));
    assert_refused(statement, CALLS[2], &failure);
    let failure = expect_failure("SELECT", session.batch_execute("SELECT abort_backup()"));
    failure.assert("55000", "backup is not in progress");
}

#[test]
fn psql_receives_the_archive_byte_for_byte() {
    let cluster = Cluster::new();
    let right = copy_of("base_backup(fast => true, wal => true)");
    let target = cluster.make_dir("target").join("archive");
    let meta = format!(
        "\\copy (SELECT base_backup(fast => true, wal => true)) TO '{}'",
        target.display()
    );
    let redirect = format!("{right} \\g {}\n", target.display());
    for way in ["-c", "\\copy", "\\g"] {
        let archive = match way {
            "-c" => cluster.psql(&["-c", &right]).stdout,
            "\\copy" => {
                cluster.psql(&["-c", &meta]);
                std::fs::read(&target).expect("the file of \\copy")
            }
            _ => {
                let mut psql = cluster.psql_command(&["-f", "-"]);
                run_with_input(&mut psql, redirect.as_bytes());
                std::fs::read(&target).expect("the file of \\g")
            }
        };
        let backup = Backup::folder(&cluster);
        backup.unpack(&archive);
        backup.verify();
        let _ = std::fs::remove_file(&target);
    }
}

#[test]
fn a_stream_works_within_a_transaction() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    let backup = Backup::folder(&cluster);
    leader
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        .expect("BEGIN");
    start(&mut leader, "");
    for call in ["send_backup_files()", "send_stop_backup(wal => true)"] {
        match copy_out(&mut leader, &copy_of(call)) {
            Ok(archive) => backup.unpack(&archive),
            Err(failure) => panic!("{call}: {failure}"),
        }
    }
    leader.batch_execute("COMMIT").expect("COMMIT");
    backup.verify();
}

#[test]
fn a_read_only_session_can_stream() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    leader
        .batch_execute("SET default_transaction_read_only = on")
        .expect("SET");
    let backup = Backup::folder(&cluster);
    start(&mut leader, "");
    match copy_out(&mut leader, &copy_of("send_backup_files()")) {
        Ok(archive) => backup.unpack(&archive),
        Err(failure) => panic!("{failure}"),
    }
    backup.unpack(&send_stop(&mut leader));
    backup.verify();
}

/// Another program reads the stream, as in an orchestration script.
#[test]
fn psql_into_tar_makes_a_backup() {
    let cluster = Cluster::new();
    let backup = Backup::folder(&cluster);
    let mut shell = command("sh");
    shell
        .args([
            "-c",
            "\"$1\" -X -q -d \"$2\" -c \"$3\" | tar -xf - -C \"$4\"",
            "sh",
        ])
        .arg(backup_tests::program::bindir().join("psql"))
        .arg(cluster.connection_string())
        .arg(copy_of("base_backup(fast => true, wal => true)"))
        .arg(backup.data_dir());
    backup_tests::program::succeed(&mut shell);
    backup.verify();
}
