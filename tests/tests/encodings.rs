//! Text that is not UTF-8: file names of arbitrary bytes, and sessions in databases with other
//! encodings. The clients use UTF8 unless a test says otherwise.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use backup_tests::archive::content;
use backup_tests::backup::{Backup, start, try_start};
use backup_tests::failure::expect_failure;
use backup_tests::member::{self, Member};
use backup_tests::notices::Notices;
use backup_tests::program::{self, command, give_to_owner, make_dir, succeed};
use backup_tests::server::Cluster;
use backup_tests::stepwise::{Stepwise, listing};
use backup_tests::stream::{Worker, copy_of, copy_out};

/// Invalid UTF-8, but valid LATIN1.
const STRAY: &[u8] = b"caf\xe9 name";

/// `STRAY` in the escape format of bytea.
const STRAY_ESCAPED: &str = r"caf\351 name";

/// File names of all kinds.
fn odd_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        STRAY,
        "café in UTF-8".as_bytes(),
        b"  spaces  around  ",
        b"it's a \"quote\" `or` not",
        b"back\\slash\\\\ \\",
        b"\\n\\t\\0 %s%n$HOME*?;&",
        b"a\nnew\nline",
        b"\ttab\r\x01\x1b\x7f",
        b"-rf",
        b"\xff\xfe\x80\xc3",
        b"\\377",
    ]
    .map(<[u8]>::to_vec)
    .into();
    // One longer than the name field of a tar header, and one of the maximum length in file
    // systems.
    names.push([b'l'; 150].to_vec());
    names.push([&b"\xe9\xff"[..], &[b'm'; 253]].concat());
    names
}

fn join(dir: &Path, name: &[u8]) -> PathBuf {
    dir.join(OsStr::from_bytes(name))
}

/// Creates a file in the data directory that contains its own name.
#[track_caller]
fn plant(cluster: &Cluster, name: &[u8]) {
    let path = join(&cluster.data_dir(), name);
    fs::write(&path, name).unwrap_or_else(|error| panic!("could not write {path:?}: {error}"));
    give_to_owner(&path);
}

/// Creates a directory in the data directory with such files. Returns their paths.
#[track_caller]
fn plant_in(cluster: &Cluster, folder: &[u8], names: &[Vec<u8>]) -> BTreeSet<Vec<u8>> {
    make_dir(&join(&cluster.data_dir(), folder));
    let paths = names.iter().map(|name| [folder, b"/", name].concat());
    paths.inspect(|path| plant(cluster, path)).collect()
}

/// Creates a database with this encoding and the extension. Returns its name.
#[track_caller]
fn create_database(cluster: &Cluster, encoding: &str) -> String {
    let name = format!("in_{}", encoding.to_lowercase());
    cluster.execute(&format!(
        "CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"
    ));
    cluster.create_extension(&name);
    name
}

/// Backup with its leader in another database.
#[track_caller]
fn start_in(cluster: &Cluster, database: &str, options: &str) -> Stepwise {
    let mut leader = cluster.connect_to(database);
    Stepwise {
        backup: Backup::folder(cluster),
        notices: Notices::default(),
        started: start(&mut leader, options),
        leader,
    }
}

fn send_of(listed: &str) -> String {
    let quoted = listed.replace('\'', "''");
    format!("send_backup_files(files => ARRAY['{quoted}'])")
}

/// Sends the file with this listed name.
#[track_caller]
fn send_named(taken: &mut Stepwise, listed: &str) -> Member {
    let stream = taken.stream(&send_of(listed));
    taken.backup.unpack(&stream);
    let mut members = member::members(&stream);
    assert_eq!(members.len(), 1, "{members:?}");
    members.remove(0)
}

/// Checks that files with these names are listed under distinct names, and that each is sent when
/// requested by its listed name. Returns the listed names.
#[track_caller]
fn assert_each_can_be_asked_for(encoding: &str, names: &[Vec<u8>]) -> Vec<String> {
    let cluster = Cluster::new();
    let database = create_database(&cluster, encoding);
    let paths = plant_in(&cluster, b"odd", names);
    let mut taken = start_in(&cluster, &database, "");
    let listed: Vec<String> = listing(&mut taken.leader, "")
        .into_iter()
        .map(|entry| entry.path)
        .filter(|path| path.starts_with("odd/"))
        .collect();
    let distinct: BTreeSet<&String> = listed.iter().collect();
    assert_eq!(distinct.len(), paths.len(), "{listed:#?}");
    let mut sent = BTreeSet::new();
    for name in &listed {
        let member = send_named(&mut taken, name);
        assert_eq!(member.content, member.path, "{name}");
        sent.insert(member.path);
    }
    assert_eq!(sent, paths);
    listed
}

#[test]
fn a_name_that_is_no_utf8_is_listed_escaped_and_sent_as_it_is() {
    let cluster = Cluster::new();
    plant(&cluster, STRAY);
    let mut taken = Stepwise::start(&cluster, "");
    let listed = taken.listing();
    assert!(listed.iter().any(|entry| entry.path == STRAY_ESCAPED));
    let sent = send_named(&mut taken, STRAY_ESCAPED);
    assert_eq!((&*sent.path, &*sent.content), (STRAY, STRAY));
    assert_eq!(send_named(&mut taken, &format!("./{STRAY_ESCAPED}")), sent);

    taken.send_files();
    let manifest = content(&taken.stop(), "backup_manifest");
    let encoded = r#""Encoded-Path": "636166e9206e616d65""#;
    assert!(member::contains(&manifest, encoded));
    taken.backup.verify();
}

#[test]
fn in_utf8_every_name_can_be_asked_for_as_it_is_listed() {
    assert_each_can_be_asked_for("UTF8", &odd_names());
}

#[test]
fn in_latin1_every_name_is_text_and_can_be_asked_for_as_it_is_listed() {
    let listed = assert_each_can_be_asked_for("LATIN1", &odd_names());
    assert!(listed.iter().any(|path| path == "odd/café name"));
}

#[test]
fn in_sql_ascii_every_name_can_be_asked_for_as_it_is_listed() {
    assert_each_can_be_asked_for("SQL_ASCII", &odd_names());
}

#[test]
fn in_win1252_a_name_without_meaning_can_be_asked_for_as_it_is_listed() {
    // Every byte is valid in WIN1252, but this one maps to no character in any other encoding.
    assert_each_can_be_asked_for("WIN1252", &[STRAY.to_vec(), b"\x81".to_vec()]);
}

#[test]
fn a_name_that_looks_like_an_escape_is_not_the_name_that_it_stands_for() {
    let names = ["a\u{e9}", r"a\303\251", r"a\\303\\251"].map(|name| name.as_bytes().to_vec());
    assert_each_can_be_asked_for("UTF8", &names);
}

#[test]
fn a_name_that_looks_like_the_escaped_name_of_another_file_is_told_from_it() {
    let names = [STRAY, STRAY_ESCAPED.as_bytes()].map(<[u8]>::to_vec);
    assert_each_can_be_asked_for("UTF8", &names);
}

#[test]
fn files_of_any_name_reach_the_backup_from_databases_of_any_encoding() {
    let cluster = Cluster::new();
    let mut paths = plant_in(&cluster, b"odd", &odd_names());
    paths.append(&mut plant_in(&cluster, b"odd/fol\xe9der", &odd_names()));
    for encoding in ["UTF8", "LATIN1", "SQL_ASCII"] {
        let database = create_database(&cluster, encoding);
        cluster
            .connect_to(&database)
            .batch_execute("CREATE TABLE t AS SELECT 'text with é'::text AS a")
            .expect("CREATE TABLE");
        let mut taken = start_in(&cluster, &database, "");
        let copy = copy_of(&format!("send_backup_files({})", taken.started.id));
        let workers = [(); 2].map(|()| {
            let client = cluster.connect_to(&database);
            Worker::take_over(client, Notices::default(), &copy, u64::MAX)
        });
        for worker in workers {
            taken.backup.unpack(&worker.expect());
        }
        taken.stop();
        taken.backup.verify();
        for path in &paths {
            let unpacked = join(&taken.backup.data_dir(), path);
            let content = fs::read(&unpacked).unwrap_or_else(|e| panic!("{unpacked:?}: {e}"));
            assert_eq!(&content, path, "{encoding}");
        }
        let restored = taken.backup.restore();
        let row = restored
            .connect_to(&database)
            .query_one("SELECT a FROM t", &[])
            .expect("the table");
        assert_eq!(row.get::<_, String>(0), "text with é", "{encoding}");
    }
}

/// Label of the only running backup, as seen by a session of that database.
#[track_caller]
fn label_seen_from(cluster: &Cluster, database: &str) -> String {
    cluster
        .connect_to(database)
        .query_one("SELECT label FROM backup_progress()", &[])
        .expect("backup_progress()")
        .get(0)
}

#[test]
fn a_label_of_latin1_is_escaped_where_it_is_no_text() {
    let cluster = Cluster::new();
    let database = create_database(&cluster, "LATIN1");
    let mut taken = start_in(&cluster, &database, "label => 'déjà vu'");
    assert!(taken.started.backup_label.contains("\nLABEL: déjà vu\n"));
    assert_eq!(label_seen_from(&cluster, &database), "déjà vu");
    assert_eq!(label_seen_from(&cluster, "postgres"), r"d\351j\340 vu");
    taken.send_files();
    let backup_label = content(&taken.stop(), "backup_label");
    assert!(backup_label.ends_with(b"\nLABEL: d\xe9j\xe0 vu\nSTART TIMELINE: 1\n"));
    taken.backup.verify();
}

#[test]
fn a_label_of_latin1_can_be_seen_from_sql_ascii() {
    let cluster = Cluster::new();
    let database = create_database(&cluster, "LATIN1");
    let other = create_database(&cluster, "SQL_ASCII");
    let _taken = start_in(&cluster, &database, "label => 'é'");
    assert_eq!(label_seen_from(&cluster, &other), r"\351");
}

/// Completes a backup with the row of `stop_backup`. Checks that its manifest reaches clients of
/// any encoding unchanged.
#[track_caller]
fn complete_by_hand(mut taken: Stepwise) {
    taken.send_files();
    let query = "SELECT backup_manifest, backup_label, pg_control FROM stop_backup()";
    let row = taken.leader.query_one(query, &[]).expect("stop_backup()");
    let manifest: &str = row.try_get(0).expect("the manifest is text, here too");
    assert!(manifest.is_ascii());
    for (name, bytes) in [
        ("backup_manifest", manifest.as_bytes()),
        ("backup_label", row.get::<_, &str>(1).as_bytes()),
        ("global/pg_control", row.get(2)),
    ] {
        let path = taken.backup.data_dir().join(name);
        fs::write(&path, bytes).expect("could not write a last file");
        give_to_owner(&path);
    }
    taken.backup.verify_with(&["-n"]);
}

#[test]
fn a_manifest_from_latin1_is_ascii() {
    let cluster = Cluster::new();
    plant_in(&cluster, b"odd", &odd_names());
    let database = create_database(&cluster, "LATIN1");
    complete_by_hand(start_in(&cluster, &database, ""));
}

#[test]
fn a_manifest_from_utf8_is_ascii_for_a_client_of_latin1() {
    let cluster = Cluster::new();
    plant(&cluster, "café".as_bytes());
    let mut taken = Stepwise::start(&cluster, "");
    let set = taken.leader.execute("SET client_encoding = 'LATIN1'", &[]);
    set.expect("SET");
    complete_by_hand(taken);
}

#[test]
fn an_unknown_name_that_is_not_ascii_is_refused() {
    let cluster = Cluster::new();
    for (encoding, shown) in [
        ("UTF8", "café"),
        ("LATIN1", r"caf\351"),
        ("SQL_ASCII", r"caf\303\251"),
    ] {
        let database = create_database(&cluster, encoding);
        let mut taken = start_in(&cluster, &database, "");
        let message = format!("file \"{shown}\" is not part of the backup");
        expect_failure(encoding, taken.try_stream(&send_of("café"))).assert("22023", &message);
        let version = format!("{}\n", program::major_version());
        assert_eq!(
            send_named(&mut taken, "PG_VERSION").content,
            version.as_bytes()
        );
    }
}

#[test]
fn errors_and_warnings_name_a_file_that_is_no_utf8() {
    let cluster = Cluster::new();
    plant(&cluster, STRAY);
    let data = cluster.data_dir();
    succeed(command("mkfifo").arg(join(&data, b"pipe \xe9")));
    let mut taken = Stepwise::start(&cluster, "");
    let skipped = r#"skipping special file "pipe \351""#;
    assert_eq!(taken.notices.warnings(), [skipped]);
    succeed(command("chmod").arg("000").arg(join(&data, STRAY)));
    let message = format!("could not open file \"{STRAY_ESCAPED}\": Permission denied");
    let started = try_start(&mut cluster.connect(), "");
    expect_failure("a start", started).assert("42501", &message);
    for call in ["send_backup_files()", &send_of(STRAY_ESCAPED)] {
        expect_failure(call, taken.try_stream(call)).assert("42501", &message);
    }
    let others = "SELECT array_agg(path) FROM backup_filelist() WHERE path NOT LIKE 'caf%'";
    taken.stream(&format!("send_backup_files(files => ({others}))"));
    let refused = expect_failure("a stop", taken.try_stream("send_stop_backup()"));
    assert_eq!(refused.detail, format!("Not sent: \"{STRAY_ESCAPED}\"."));
}

#[test]
fn a_map_that_is_no_text_is_in_no_row_but_in_the_file() {
    let cluster = Cluster::new();
    let database = create_database(&cluster, "LATIN1");
    make_dir(&join(cluster.socket_dir(), STRAY));
    let dir = cluster.socket_dir().display();
    cluster
        .connect_to(&database)
        .batch_execute(&format!("CREATE TABLESPACE far LOCATION '{dir}/café name'"))
        .expect("CREATE TABLESPACE");
    let mut client = cluster.connect();
    let copy = copy_of("base_backup(fast => true)");
    let whole = copy_out(&mut client, &copy).expect("base_backup()");
    let end = [b"/", STRAY, b"\n"].concat();
    assert!(content(&whole, "tablespace_map").ends_with(&end));
    // A column must be valid text, or clients cannot read the row that starts the backup. Any other
    // content of the file would misdirect a restore.
    let row = client
        .query_one("SELECT tablespace_map FROM start_backup(fast => true)", &[])
        .expect("start_backup()");
    assert_eq!(row.get::<_, Option<String>>(0), None);
    let stop = "SELECT * FROM stop_backup(allow_incomplete => true)";
    let failure = expect_failure(stop, client.query(stop, &[]));
    assert_eq!(failure.sqlstate, "22021", "{failure}");
    // The backup continues.
    let copy = copy_of("send_stop_backup(allow_incomplete => true)");
    let closing = copy_out(&mut client, &copy).expect("send_stop_backup()");
    assert!(content(&closing, "tablespace_map").ends_with(&end));
}
