//! `check`: every damaged file is reported once, with its relation and database, and no error
//! prevents the check of the other files.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};

use backup_tests::client::{Running, expect_failure, program, terminate_a_worker};
use backup_tests::leftover;
use backup_tests::page::{PAGE_SIZE, quiet_table};
use backup_tests::program::{account, give_to_owner, run, signal};
use backup_tests::server::{Cluster, Shutdown};
use backup_tests::verification::append;
use backup_tests::wait::{PATIENCE, wait_for};
use backup_tests::workload::create_table;

/// Database name with characters special in SQL, in connection strings and in shells.
const ODD_NAME: &str = "it's \"a=b\" x";

fn quiet_cluster() -> Cluster {
    Cluster::builder().setting("autovacuum", "off").start()
}

fn check_as(cluster: &Cluster, role: &str) -> Command {
    let mut program = program();
    program
        .arg("check")
        .args(cluster.connection_args(role))
        .args(["-c", "fast", "-j", "2"]);
    program
}

fn check_of(cluster: &Cluster) -> Command {
    check_as(cluster, "postgres")
}

/// Runs a check. Returns the lines of standard output, and standard error.
#[track_caller]
fn outcome(cluster: &Cluster, command: &mut Command, status: i32) -> (Vec<String>, String) {
    let output = run(command);
    assert_eq!(
        output.status.code(),
        Some(status),
        "{}",
        account(command, &output)
    );
    leftover::assert_none(cluster);
    (lines(&output), text(&output.stderr))
}

fn lines(output: &Output) -> Vec<String> {
    text(&output.stdout).lines().map(str::to_owned).collect()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Path of the main fork of a relation, found by an expression that names it.
#[track_caller]
fn path_in(cluster: &Cluster, database: &str, relation: &str) -> String {
    let query = format!("SELECT pg_relation_filepath({relation})");
    let mut client = cluster.connect_to(database);
    client.query_one(&query, &[]).expect(relation).get(0)
}

#[track_caller]
fn run_in(cluster: &Cluster, database: &str, statements: &str) {
    let mut client = cluster.connect_to(database);
    client.batch_execute(statements).expect(statements);
}

/// Damages pages that the server neither has in memory nor will write.
fn damage(cluster: &mut Cluster, pages: &[(&str, &[u32])]) {
    cluster.stop(Shutdown::Fast);
    for (path, blocks) in pages {
        for block in *blocks {
            cluster.flip_bytes(path, *block);
        }
    }
    cluster.start();
}

/// Expected line for a damaged file.
fn line(path: &str, database: &str, relation: &str, kind: &str, damage: &str) -> String {
    [path, database, relation, kind, damage].join("\t")
}

fn sorted(mut lines: Vec<String>) -> Vec<String> {
    lines.sort();
    lines
}

#[test]
fn a_sound_cluster_is_found_sound() {
    let cluster = quiet_cluster();
    create_table(&cluster, "t", 4);
    for jobs in ["1", "7"] {
        let (found, said) = outcome(&cluster, check_of(&cluster).args(["-P", "-j", jobs]), 0);
        assert!(found.is_empty(), "{found:?}");
        assert!(said.contains("no damage found"), "{said}");
        assert!(said.contains("100 %, "), "{said}");
    }
}

#[test]
fn each_damaged_file_is_named_once_with_what_it_belongs_to() {
    let mut cluster = quiet_cluster();
    cluster.create_tablespace("elsewhere");
    cluster.execute(
        "CREATE SCHEMA \"S\"; CREATE TABLE wide (a int PRIMARY KEY, b text);
         ALTER TABLE wide ALTER b SET STORAGE EXTERNAL;
         INSERT INTO wide SELECT i, repeat('x', 9000) FROM generate_series(1, 400) i;
         CREATE MATERIALIZED VIEW \"S\".\"m v\" AS SELECT repeat('x', 500) FROM generate_series(1, 40);
         CREATE SEQUENCE \"S\".s;
         CREATE TABLE moved TABLESPACE elsewhere AS SELECT repeat('x', 500) FROM generate_series(1, 400)",
    );
    let t = quiet_table(&mut cluster.connect(), "t", 9, "");
    let toast = "(SELECT reltoastrelid FROM pg_class WHERE oid = 'wide'::regclass)";
    let in_postgres = |relation: &str| path_in(&cluster, "postgres", relation);
    let toast_name: String = cluster
        .connect()
        .query_one(&format!("SELECT {toast}::regclass::text"), &[])
        .expect("a TOAST table")
        .get(0);
    let space_map = format!("{t}_fsm");
    let segment = format!("{t}.1");
    let wide = in_postgres("'wide'");
    let key = in_postgres("'wide_pkey'");
    let toast_path = in_postgres(toast);
    let toast_key = in_postgres(&format!(
        "(SELECT indexrelid FROM pg_index WHERE indrelid = {toast})"
    ));
    let view = in_postgres("'\"S\".\"m v\"'");
    let sequence = in_postgres("'\"S\".s'");
    let moved = in_postgres("'moved'");
    let shared = in_postgres("'pg_shdescription'");
    // A second segment with a page that is valid at no position.
    let mut page = vec![0; PAGE_SIZE];
    page[4000] = 1;
    cluster.write_file(&segment, &page);
    damage(
        &mut cluster,
        &[
            (&t, &[0, 2, 3, 4, 7, 8]),
            (&space_map, &[0]),
            (&wide, &[1]),
            (&key, &[1]),
            (&toast_path, &[5]),
            (&toast_key, &[1]),
            (&view, &[0]),
            (&sequence, &[0]),
            (&moved, &[10, 11]),
            (&shared, &[0]),
        ],
    );
    let expected = sorted(vec![
        line(
            &t,
            "postgres",
            "public.t",
            "table",
            "blocks 0, 2, 3, 4, 7 and 1 more",
        ),
        line(&segment, "postgres", "public.t", "table", "block 0"),
        line(
            &space_map,
            "postgres",
            "public.t",
            "table, free space map",
            "block 0",
        ),
        line(&wide, "postgres", "public.wide", "table", "block 1"),
        line(
            &key,
            "postgres",
            "public.wide_pkey",
            "index of public.wide",
            "block 1",
        ),
        line(
            &toast_path,
            "postgres",
            &toast_name,
            "TOAST table of public.wide",
            "block 5",
        ),
        line(
            &toast_key,
            "postgres",
            &format!("{toast_name}_index"),
            "index of the TOAST table of public.wide",
            "block 1",
        ),
        line(
            &view,
            "postgres",
            "\"S\".\"m v\"",
            "materialized view",
            "block 0",
        ),
        line(&sequence, "postgres", "\"S\".s", "sequence", "block 0"),
        line(&moved, "postgres", "public.moved", "table", "blocks 10, 11"),
        line(
            &shared,
            "-",
            "pg_catalog.pg_shdescription",
            "table",
            "block 0",
        ),
    ]);
    for jobs in ["1", "4"] {
        let (found, said) = outcome(&cluster, check_of(&cluster).args(["-j", jobs]), 1);
        assert_eq!(sorted(found), expected);
        assert!(
            said.contains("error: 17 pages are damaged in 11 files\n"),
            "{said}"
        );
        assert!(said.contains(" files checked ("), "{said}");
        // The lines above already contain the server's findings.
        assert!(!said.contains("WARNING"), "{said}");
    }
}

#[test]
fn a_damaged_fork_is_told_from_the_others() {
    let mut cluster = quiet_cluster();
    cluster.execute("CREATE UNLOGGED TABLE u (a int PRIMARY KEY)");
    let map = quiet_table(&mut cluster.connect(), "t", 9, "") + "_vm";
    let init = path_in(&cluster, "postgres", "'u_pkey'") + "_init";
    damage(&mut cluster, &[(&map, &[0]), (&init, &[0])]);
    let expected = [
        (&map, "public.t", "table, visibility map"),
        (&init, "public.u_pkey", "index of public.u, initial state"),
    ];
    let expected = expected
        .map(|(path, relation, kind)| line(path, "postgres", relation, kind, "block 0"))
        .to_vec();
    let (found, _) = outcome(&cluster, &mut check_of(&cluster), 1);
    assert_eq!(sorted(found), sorted(expected));
}

#[test]
fn names_are_those_of_their_databases_whatever_these_are_called() {
    let mut cluster = quiet_cluster();
    let quoted = ODD_NAME.replace('"', "\"\"");
    cluster.execute(&format!("CREATE DATABASE \"{quoted}\""));
    cluster.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0");
    cluster.execute("CREATE DATABASE bytes ENCODING 'SQL_ASCII' TEMPLATE template0");
    cluster.execute("CREATE DATABASE broken");
    let rows = "AS SELECT repeat('x', 500) AS f FROM generate_series(1, 40)";
    run_in(&cluster, ODD_NAME, &format!("CREATE TABLE t {rows}"));
    run_in(
        &cluster,
        "latin",
        &format!("CREATE TABLE \"Maß\\t\" {rows}"),
    );
    run_in(
        &cluster,
        "bytes",
        &format!(
            "DO $$ BEGIN EXECUTE format('CREATE TABLE %I {}', convert_from('\\xdf09', 'SQL_ASCII')); END $$",
            rows.replace('\'', "''")
        ),
    );
    run_in(&cluster, "broken", &format!("CREATE TABLE t {rows}"));
    let odd = path_in(&cluster, ODD_NAME, "'t'");
    let any = "(SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace LIMIT 1)";
    let latin = path_in(&cluster, "latin", any);
    let bytes = path_in(&cluster, "bytes", any);
    let broken = path_in(&cluster, "broken", "'t'");
    let catalog = path_in(&cluster, "broken", "'pg_class'");
    let template: u32 = cluster
        .connect()
        .query_one(
            "SELECT oid FROM pg_database WHERE datname = 'template0'",
            &[],
        )
        .expect("template0")
        .get(0);
    let description = path_in(&cluster, "postgres", "'pg_description'");
    let file = description.rsplit('/').next().expect("a file name");
    let closed = format!("base/{template}/{file}");
    damage(
        &mut cluster,
        &[
            (&odd, &[0]),
            (&latin, &[0]),
            (&bytes, &[0]),
            (&broken, &[0]),
            (&catalog, &[0]),
            (&closed, &[1]),
        ],
    );
    let (found, said) = outcome(&cluster, &mut check_of(&cluster), 1);
    let expected = sorted(vec![
        line(&odd, ODD_NAME, "public.t", "table", "block 0"),
        line(&latin, "latin", "public.\"Maß\\\\t\"", "table", "block 0"),
        line(&bytes, "bytes", "public.\"\\337\\011\"", "table", "block 0"),
        line(&broken, "broken", "-", "-", "block 0"),
        line(&catalog, "broken", "-", "-", "block 0"),
        line(&closed, "template0", "-", "-", "block 1"),
    ]);
    assert_eq!(sorted(found), expected, "{said}");
    let expected =
        "relations of database \"template0\" cannot be named: it does not allow connections";
    assert!(said.contains(expected), "{said}");
    let expected = "relations of database \"broken\" cannot be named: ";
    assert!(said.contains(expected), "{said}");
    assert!(
        said.contains("error: 6 pages are damaged in 6 files\n"),
        "{said}"
    );
}

/// What a database is called is bytes, of an encoding that nobody knows.
#[test]
fn names_without_an_equivalent_are_shown_as_they_are() {
    let mut cluster = quiet_cluster();
    cluster.execute("CREATE DATABASE windows ENCODING 'WIN1252' TEMPLATE template0");
    cluster.execute("CREATE DATABASE latin");
    cluster.execute("CREATE DATABASE \"Maß\"");
    cluster.execute("CREATE DATABASE stray");
    cluster.create_extension("windows");
    let plain = quiet_table(&mut cluster.connect_to("windows"), "t", 9, "");
    let utf_8 = quiet_table(&mut cluster.connect_to("Maß"), "t", 9, "");
    let latin = quiet_table(&mut cluster.connect_to("latin"), "t", 9, "");
    let stray = quiet_table(&mut cluster.connect_to("stray"), "t", 9, "");
    // This byte maps to no character in any other encoding.
    let rename = |what: &str| {
        format!(
            "DO $$ BEGIN EXECUTE format('ALTER {what} RENAME TO %I', convert_from('\\x81', 'WIN1252')); END $$"
        )
    };
    run_in(&cluster, "windows", &rename("TABLE t"));
    run_in(&cluster, "windows", &rename("DATABASE stray"));
    run_in(&cluster, "windows", "ALTER DATABASE latin RENAME TO \"é\"");
    let pages = [&plain, &utf_8, &latin, &stray].map(|path| (path.as_str(), &[0][..]));
    damage(&mut cluster, &pages);
    let expected = sorted(vec![
        line(&plain, "windows", "public.\"\\201\"", "table", "block 0"),
        line(&utf_8, "Maß", "public.t", "table", "block 0"),
        line(&latin, "\\351", "-", "-", "block 0"),
        line(&stray, "\\201", "-", "-", "block 0"),
    ]);
    for database in ["postgres", "windows"] {
        let (found, said) = outcome(&cluster, check_of(&cluster).args(["-d", database]), 1);
        assert_eq!(sorted(found), expected, "{said}");
        for name in ["\\351", "\\201"] {
            let expected = format!(
                "relations of database \"{name}\" cannot be named: its name is not in UTF-8"
            );
            assert!(said.contains(&expected), "{said}");
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_hides_no_other() {
    let mut cluster = quiet_cluster();
    let mut paths = Vec::new();
    for number in 0..5 {
        paths.push(quiet_table(
            &mut cluster.connect(),
            &format!("t{number}"),
            9,
            "",
        ));
    }
    // The server has no permission to open these. It determines the segment number only after it
    // has opened a file.
    let misnamed = format!("{}.0", paths[0]);
    let closed = "base/closed";
    for name in [&misnamed, closed] {
        cluster.write_file(name, &[0; PAGE_SIZE]);
        let path = cluster.data_dir().join(name);
        fs::set_permissions(path, Permissions::from_mode(0o000)).expect("chmod");
    }
    // This file holds no pages, whatever its content.
    cluster.write_file(&format!("{}.abc", paths[0]), &[7; PAGE_SIZE]);
    let pages: Vec<_> = paths
        .iter()
        .map(|path| (path.as_str(), &[1, 4][..]))
        .collect();
    damage(&mut cluster, &pages);
    for jobs in ["1", "3"] {
        let (found, said) = outcome(&cluster, check_of(&cluster).args(["-j", jobs]), 1);
        let mut expected: Vec<_> = (0..5)
            .map(|number| {
                let name = format!("public.t{number}");
                line(&paths[number], "postgres", &name, "table", "blocks 1, 4")
            })
            .collect();
        let why = format!("could not open file \"{misnamed}\": Permission denied");
        expected.push(line(&misnamed, "postgres", "-", "-", &why));
        let why = format!("could not open file \"{closed}\": Permission denied");
        expected.push(line(closed, "-", "-", "-", &why));
        assert_eq!(sorted(found), sorted(expected), "{said}");
        let expected = "error: 10 pages are damaged in 5 files, \
                        and 2 files could not be checked to their ends\n";
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_file_that_ends_within_a_page_is_not_taken_for_sound() {
    let mut cluster = quiet_cluster();
    let path = quiet_table(&mut cluster.connect(), "torn", 9, "");
    cluster.stop(Shutdown::Fast);
    append(&cluster.data_dir().join(&path));
    cluster.start();
    let (lines, said) = outcome(&cluster, &mut check_of(&cluster), 1);
    let [line] = &lines[..] else {
        panic!("{lines:?}");
    };
    assert!(
        line.starts_with(&format!(
            "{path}\tpostgres\tpublic.torn\ttable\tcould not verify checksum in file"
        )),
        "{line}"
    );
    let sum = "1 file could not be checked to its end";
    assert!(said.contains(sum), "{said}");
    assert!(!said.contains("WARNING"), "{said}");
}

#[test]
fn wrong_values_are_refused_before_anything_happens() {
    for (args, message) in [
        (&["-j", "0"][..], "number of jobs must be from 1 to 1000"),
        (&["-r", "31"], "transfer rate \"31\" is out of range"),
        (&["-c", "slow"], "invalid value 'slow'"),
        (&["-D", "x"], "unexpected argument '-D'"),
        (&["x"], "unexpected argument 'x'"),
    ] {
        let said = expect_failure(program().arg("check").args(args));
        assert!(said.contains(message), "{said}");
    }
}

#[test]
fn damage_that_nobody_can_be_told_of_is_an_error() {
    let mut cluster = quiet_cluster();
    let path = quiet_table(&mut cluster.connect(), "t", 9, "");
    damage(&mut cluster, &[(&path, &[1])]);
    let full = fs::File::options()
        .write(true)
        .open("/dev/full")
        .expect("/dev/full");
    let mut check = check_of(&cluster);
    let child = check
        .stdout(full)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    let output = child.wait_with_output().expect("its end");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("could not write to standard output"),
        "{said}"
    );
    leftover::assert_none(&cluster);
}

#[test]
fn a_file_is_named_as_the_database_understands_it() {
    let cluster = quiet_cluster();
    cluster.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0");
    cluster.create_extension("latin");
    let name = [&b"base/Ma"[..], b"\xdf", b"e"].concat();
    let path = cluster.data_dir().join(OsStr::from_bytes(&name));
    fs::write(&path, "1").expect("a file");
    give_to_owner(&path);
    fs::set_permissions(&path, Permissions::from_mode(0o000)).expect("chmod");
    let (found, said) = outcome(&cluster, check_of(&cluster).args(["-d", "latin"]), 1);
    let why = "could not open file \"base/Ma\\337e\": Permission denied";
    assert_eq!(found, [line("base/Maße", "-", "-", "-", why)], "{said}");
}

#[test]
fn a_cluster_without_checksums_is_not_checked() {
    let cluster = Cluster::builder().without_checksums().start();
    let said = expect_failure(&mut check_of(&cluster));
    assert!(
        said.contains("error: the cluster has no data checksums"),
        "{said}"
    );
    assert!(said.contains("HINT:  pg_checksums --enable"), "{said}");
    // Nothing was started, not even the checkpoint of a backup.
    assert!(!cluster.log().contains("start_backup"), "{}", cluster.log());
    leftover::assert_none(&cluster);
}

#[test]
fn a_role_needs_execute_on_four_functions_and_names_what_it_may_connect_to() {
    let mut cluster = quiet_cluster();
    cluster.execute("CREATE ROLE checker LOGIN");
    cluster.execute("CREATE DATABASE closed");
    cluster.execute("REVOKE CONNECT ON DATABASE closed FROM PUBLIC");
    let open = quiet_table(&mut cluster.connect(), "t", 9, "");
    let closed = quiet_table(&mut cluster.connect_to("closed"), "t", 9, "");
    damage(&mut cluster, &[(&open, &[1]), (&closed, &[2])]);
    for function in ["start_backup", "backup_filelist", "send_backup_files"] {
        let said = expect_failure(&mut check_as(&cluster, "checker"));
        let expected = format!("permission denied for function {function}");
        assert!(said.contains(&expected), "{said}");
        leftover::assert_none(&cluster);
        cluster.execute(&format!("GRANT EXECUTE ON FUNCTION {function} TO checker"));
    }
    // Without the right to abort, the backup ends with its session.
    let (found, said) = outcome(&cluster, &mut check_as(&cluster, "checker"), 1);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        said.contains("warning: could not end the backup on the server"),
        "{said}"
    );
    cluster.execute("GRANT EXECUTE ON FUNCTION abort_backup TO checker");
    let (found, said) = outcome(&cluster, &mut check_as(&cluster, "checker"), 1);
    let expected = [
        line(&open, "postgres", "public.t", "table", "block 1"),
        line(&closed, "closed", "-", "-", "block 2"),
    ];
    assert_eq!(sorted(found), sorted(expected.to_vec()));
    assert!(
        said.contains("permission denied for database \"closed\""),
        "{said}"
    );
}

/// Starts a slow check and waits until part of it is done.
fn begun_check(cluster: &Cluster, args: &[&str]) -> Running {
    let check = Running::start(check_of(cluster).args(["-j", "2"]).args(args));
    cluster.wait_for_sql(
        "two workers that read",
        "SELECT count(*) = 2 AND sum(backup_streamed) > 0 FROM pg_stat_progress_basebackup
         WHERE backup_streamed > 0",
    );
    check
}

#[test]
fn signals_end_a_check() {
    let cluster = quiet_cluster();
    for name in ["INT", "TERM"] {
        let check = begun_check(&cluster, &["-r", "1M"]);
        check.signal(name);
        let (status, said) = check.end();
        assert_eq!(status, Some(1), "{said}");
        let expected = format!("error: received SIG{name}, and ended the check\n");
        assert!(said.contains(&expected), "{said}");
        leftover::assert_none(&cluster);
    }
    // The workers were busy, and learned of the end before the program exited.
    let log = cluster.log();
    let detail = "DETAIL:  Its leader has aborted it, or failed.";
    assert!(log.contains(detail), "{log}");
}

#[test]
fn a_worker_that_lost_its_connection_is_replaced() {
    let cluster = quiet_cluster();
    for (args, status) in [(&["-r", "8M"][..], 0), (&["-r", "8M", "--retries", "0"], 1)] {
        let check = begun_check(&cluster, args);
        terminate_a_worker(&cluster);
        let (ended, said) = check.end();
        assert_eq!(ended, Some(status), "{said}");
        let replaced = said.contains("lost its connection and gets another");
        assert_eq!(replaced, status == 0, "{said}");
        leftover::assert_none(&cluster);
    }
}

#[test]
fn without_its_leader_a_check_fails() {
    let cluster = quiet_cluster();
    let check = begun_check(&cluster, &["-r", "8M"]);
    cluster.execute("SELECT pg_terminate_backend(leader_pid) FROM backup_progress()");
    let (status, said) = check.end();
    assert_eq!(status, Some(1), "{said}");
    let expected = "error: the connection that leads the backup was lost";
    assert!(said.contains(expected), "{said}");
    leftover::assert_none(&cluster);
}

/// Creates a table whose file is the first to be checked, and damages it. Returns its path.
#[track_caller]
fn damaged_first(cluster: &mut Cluster, database: &str) -> String {
    let path = quiet_table(&mut cluster.connect_to(database), "first", 2500, "");
    damage(cluster, &[(&path, &[5])]);
    path
}

/// Starts a slow check, and waits until it is past that file. Others take it some seconds more.
#[track_caller]
fn check_past_the_first(cluster: &Cluster) -> Child {
    let child = check_of(cluster)
        .args(["-j", "1", "-r", "8M"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program");
    wait_for("the end of the first stream", PATIENCE, || {
        (cluster.log()).contains("checksum verification failure during base backup")
    });
    // The file is larger than what the second stream reads.
    cluster.wait_for_sql(
        "the second stream",
        "SELECT EXISTS (SELECT FROM pg_stat_progress_basebackup
             WHERE backup_streamed BETWEEN 1 AND 2500 * 8192 - 1)",
    );
    child
}

#[test]
fn damage_that_was_found_before_a_check_fails_is_reported() {
    let mut cluster = quiet_cluster();
    let path = damaged_first(&mut cluster, "postgres");
    let check = check_past_the_first(&cluster);
    cluster.execute("SELECT pg_terminate_backend(leader_pid) FROM backup_progress()");
    let output = check.wait_with_output().expect("its end");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    // There is no session that could tell what it belongs to.
    assert_eq!(lines(&output), [line(&path, "-", "-", "-", "block 5")]);
    assert!(said.contains("damage found before the error:\n"), "{said}");
    let expected = "error: the connection that leads the backup was lost";
    assert!(said.contains(expected), "{said}");
    leftover::assert_none(&cluster);
}

#[test]
fn a_database_that_is_dropped_meanwhile_takes_its_names_along() {
    let mut cluster = quiet_cluster();
    cluster.execute("CREATE DATABASE gone");
    let path = damaged_first(&mut cluster, "gone");
    let oid = path.split('/').nth(1).expect("the OID of a database");
    let check = check_past_the_first(&cluster);
    // It waits while the database is dropped, however long that takes.
    let pid = i32::try_from(check.id()).expect("a process");
    signal("STOP", pid);
    cluster.execute("DROP DATABASE gone");
    signal("CONT", pid);
    let output = check.wait_with_output().expect("its end");
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(lines(&output), [line(&path, "-", "-", "-", "block 5")]);
    let expected = format!("warning: there is no database with OID {oid}\n");
    assert!(said.contains(&expected), "{said}");
    // Those of its files that were still to be read are no damage.
    let expected = "error: 1 page is damaged in 1 file\n";
    assert!(said.contains(expected), "{said}");
    leftover::assert_none(&cluster);
}
