//! Backup labels, arguments that may not be null, and the last files of a backup as written by a
//! caller of `stop_backup`.

use std::fs;

use backup_tests::archive::{content, members};
use backup_tests::backup::{Started, start, try_start};
use backup_tests::failure::{Failure, expect_failure};
use backup_tests::last_files::stop_backup;
use backup_tests::leftover;
use backup_tests::server::Cluster;
use backup_tests::stepwise::Stepwise;
use backup_tests::stream::{copy_of, copy_out};
use postgres::Client;

/// Maximum length of a label in bytes: MAXPGPATH.
const LONGEST: usize = 1024;

const TOO_LONG: &str = "backup label too long (max 1024 bytes)";

/// Cluster that keeps its shared memory segments in files, so that leaked ones are visible.
fn cluster_with_visible_segments() -> Cluster {
    Cluster::builder()
        .setting("dynamic_shared_memory_type", "mmap")
        .start()
}

/// Named argument for a label.
fn label_of(label: &str) -> String {
    format!("label => '{}'", label.replace('\'', "''"))
}

#[track_caller]
fn query(client: &mut Client, statement: &str) -> Result<(), Failure> {
    client.query(statement, &[]).map(|_| ()).map_err(Into::into)
}

#[track_caller]
fn abort(client: &mut Client) {
    query(client, "SELECT abort_backup()").expect("abort_backup()");
}

/// Labels of the running backups.
#[track_caller]
fn running_labels(cluster: &Cluster) -> Vec<String> {
    let rows = cluster
        .connect()
        .query("SELECT label FROM backup_progress()", &[])
        .expect("backup_progress()");
    rows.iter().map(|row| row.get(0)).collect()
}

/// Checks that backup_label has the label where core puts it: before the timeline, on the second to
/// last line.
#[track_caller]
fn assert_has_label(backup_label: &str, label: &str) {
    let end = format!("\nLABEL: {label}\nSTART TIMELINE: 1\n");
    assert!(backup_label.ends_with(&end), "{backup_label}");
}

#[test]
fn an_empty_label_is_a_label() {
    let cluster = Cluster::new();
    let mut taken = Stepwise::start(&cluster, &label_of(""));
    assert_eq!(running_labels(&cluster), [""]);
    taken.send_files();
    taken.stop();
    taken.backup.verify();
    let file = taken.backup.data_dir().join("backup_label");
    assert_has_label(&fs::read_to_string(file).expect("backup_label"), "");
    taken.backup.restore();
}

#[test]
fn a_backup_without_a_label_has_the_name_of_the_extension() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    let started = start(&mut leader, "");
    assert_has_label(&started.backup_label, "pg_parallel_backup");
    assert_eq!(running_labels(&cluster), ["pg_parallel_backup"]);
    abort(&mut leader);

    let whole = copy_of("base_backup(fast => true)");
    let archive = copy_out(&mut leader, &whole).expect("base_backup()");
    let backup_label = content(&archive, "backup_label");
    assert_has_label(
        &String::from_utf8_lossy(&backup_label),
        "pg_parallel_backup",
    );
}

#[test]
fn a_label_arrives_as_it_was_given() {
    let cluster = Cluster::new();
    for label in [
        "it's \"100 %\" %s%n%%",
        "back\\slash \\n \\\\ $1 ${HOME} `id` ; --",
        " spaces around, a\ttab ",
        "Grüße, 日本, 🐘",
        "two\nlines",
        &"%".repeat(LONGEST),
    ] {
        let mut taken = Stepwise::start(&cluster, &label_of(label));
        assert_has_label(&taken.started.backup_label, label);
        assert_eq!(running_labels(&cluster), [label]);
        taken.send_files();
        let closing = taken.stop();
        let backup_label = content(&closing, "backup_label");
        assert_has_label(&String::from_utf8_lossy(&backup_label), label);
        taken.backup.verify();
        taken.backup.restore();
    }
}

#[test]
fn a_label_of_1024_bytes_is_the_longest() {
    let cluster = cluster_with_visible_segments();
    let mut leader = cluster.connect();
    let longest = "x".repeat(LONGEST);
    let longer = format!("{longest}x");
    for retain_wal in [false, true] {
        let options = |label: &str| format!("{}, retain_wal => {retain_wal}", label_of(label));
        let failure = expect_failure(
            "a start with 1025 bytes",
            try_start(&mut leader, &options(&longer)),
        );
        failure.assert("22023", TOO_LONG);
        expect_failure("stop_backup()", query(&mut leader, "SELECT stop_backup()"))
            .assert("55000", "backup is not in progress");
        leftover::assert_none(&cluster);

        let started = start(&mut leader, &options(&longest));
        assert_has_label(&started.backup_label, &longest);
        assert_eq!(running_labels(&cluster), [longest.as_str()]);
        abort(&mut leader);
    }
    let whole = copy_of(&format!("base_backup({}, fast => true)", label_of(&longer)));
    expect_failure(&whole, copy_out(&mut leader, &whole)).assert("22023", TOO_LONG);
    leftover::assert_none(&cluster);
    start(&mut leader, "");
}

#[test]
fn the_limit_counts_bytes_in_the_encoding_of_the_database() {
    let cluster = Cluster::new();
    cluster.execute("CREATE DATABASE l1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    cluster.create_extension("l1");
    for (database, character, bytes) in
        [("postgres", "é", 2), ("postgres", "🐘", 4), ("l1", "é", 1)]
    {
        let mut leader = cluster.connect_to(database);
        let longest = character.repeat(LONGEST / bytes);
        let started = start(&mut leader, &label_of(&longest));
        assert_has_label(&started.backup_label, &longest);
        abort(&mut leader);
        let longer = format!("{longest}{character}");
        expect_failure("a start", try_start(&mut leader, &label_of(&longer)))
            .assert("22023", TOO_LONG);
    }
}

/// Arguments of `start_backup` that may not be null.
const OF_START: [&str; 6] = [
    "label",
    "fast",
    "tablespace_map",
    "verify_checksums",
    "manifest_checksums",
    "retain_wal",
];

/// Call with one null argument.
fn call_with_null(function: &str, argument: &str) -> String {
    // Without `fast`, a start that is not refused would wait for a spread checkpoint.
    let fast = if function.contains("stop") || argument == "fast" {
        ""
    } else {
        "fast => true, "
    };
    format!("{function}({fast}{argument} => NULL)")
}

#[track_caller]
fn assert_null_refused(argument: &str, failure: &Failure) {
    failure.assert("22004", &format!("argument \"{argument}\" cannot be null"));
}

#[test]
fn a_null_argument_starts_no_backup() {
    let cluster = cluster_with_visible_segments();
    let mut client = cluster.connect();
    for argument in OF_START {
        let call = call_with_null("start_backup", argument);
        let result = query(&mut client, &format!("SELECT * FROM {call}"));
        assert_null_refused(argument, &expect_failure(&call, result));
        expect_failure(
            "abort_backup()",
            query(&mut client, "SELECT abort_backup()"),
        )
        .assert("55000", "backup is not in progress");
    }
    for argument in OF_START.iter().chain(&["wal", "wait", "allow_incomplete"]) {
        let copy = copy_of(&call_with_null("base_backup", argument));
        assert_null_refused(
            argument,
            &expect_failure(&copy, copy_out(&mut client, &copy)),
        );
    }
    leftover::assert_none(&cluster);
}

#[test]
fn a_null_argument_of_a_stop_leaves_the_backup_running() {
    let cluster = Cluster::new();
    let mut taken = Stepwise::start(&cluster, "");
    // Everything is sent, so a stop that replaced a null by its default would succeed.
    taken.send_files();
    for argument in ["wait", "allow_incomplete"] {
        let call = call_with_null("stop_backup", argument);
        let result = query(&mut taken.leader, &format!("SELECT * FROM {call}"));
        assert_null_refused(argument, &expect_failure(&call, result));
    }
    for argument in ["wal", "wait", "allow_incomplete"] {
        let call = call_with_null("send_stop_backup", argument);
        assert_null_refused(argument, &expect_failure(&call, taken.try_stream(&call)));
    }
    assert_eq!(running_labels(&cluster), ["pg_parallel_backup"]);
    taken.stop();
    taken.backup.verify();
}

/// Cluster with a table in a tablespace, so that there is something to map.
fn cluster_with_tablespace() -> Cluster {
    let cluster = Cluster::new();
    cluster.create_tablespace("elsewhere");
    cluster.execute("CREATE TABLE far TABLESPACE elsewhere AS SELECT generate_series(1, 1000)");
    cluster
}

#[track_caller]
fn start_and_send(cluster: &Cluster) -> (Stepwise, Started) {
    let mut taken = Stepwise::start(cluster, &label_of("by hand"));
    taken.send_files();
    let started = taken.started.clone();
    (taken, started)
}

#[test]
fn start_and_stop_and_the_closing_tar_tell_the_same_label_and_map() {
    let cluster = cluster_with_tablespace();
    let (mut taken, started) = start_and_send(&cluster);
    assert_has_label(&started.backup_label, "by hand");
    assert!(started.tablespace_map.contains("elsewhere"), "{started:?}");
    let last = stop_backup(&mut taken.leader);
    assert_eq!(last.backup_label, started.backup_label);
    assert_eq!(last.tablespace_map, started.tablespace_map);

    let (mut taken, started) = start_and_send(&cluster);
    let closing = taken.closing_tar();
    let text = |name| String::from_utf8_lossy(&content(&closing, name)).into_owned();
    assert_eq!(text("backup_label"), started.backup_label);
    assert_eq!(text("tablespace_map"), started.tablespace_map);
}

#[test]
fn the_row_of_a_stop_completes_a_backup_by_hand() {
    let cluster = cluster_with_tablespace();
    let (mut taken, _) = start_and_send(&cluster);
    let control_file = cluster.data_dir().join("global/pg_control");
    let before_stop = fs::read(control_file).expect("pg_control");
    let last = stop_backup(&mut taken.leader);
    assert_eq!(last.pg_control, before_stop);

    taken
        .backup
        .write("backup_manifest", last.backup_manifest.as_bytes());
    for (name, bytes) in [
        ("backup_label", last.backup_label.as_bytes()),
        ("tablespace_map", last.tablespace_map.as_bytes()),
        ("global/pg_control", &last.pg_control),
    ] {
        // Each of these files is in the manifest, and nothing else is missing.
        let refusal = taken.backup.expect_refusal(&["-n"]);
        let missing = format!("\"{name}\" is present in the manifest but not on disk");
        assert!(refusal.contains(&missing), "{refusal}");
        taken.backup.write(name, bytes);
    }
    taken.backup.verify_with(&["-n"]);
}

#[test]
fn the_row_of_a_stop_without_tablespaces_has_an_empty_map() {
    let cluster = Cluster::new();
    let (mut taken, started) = start_and_send(&cluster);
    assert_eq!(started.tablespace_map, "");
    assert_eq!(stop_backup(&mut taken.leader).tablespace_map, "");
    let (mut taken, _) = start_and_send(&cluster);
    let names = members(&taken.closing_tar());
    assert!(!names.iter().any(|name| name == "tablespace_map"));
    assert!(names.iter().any(|name| name == "backup_label"));
}
