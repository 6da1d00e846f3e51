//! The manifest: its algorithms, its absence, the damage it detects, and its agreement with the
//! server's own manifest of the same cluster.

use std::collections::BTreeMap;
use std::fs;

use backup_tests::archive::{content, members};
use backup_tests::backup::{Backup, plain_lsn, try_start};
use backup_tests::failure::expect_failure;
use backup_tests::leftover;
use backup_tests::page::{flip_bytes, quiet_table, read_page};
use backup_tests::program::{command, succeed};
use backup_tests::server::Cluster;
use backup_tests::stepwise::Stepwise;
use backup_tests::stream::{copy_of, copy_out};
use serde_json::Value;

/// Manifest of an unpacked backup.
#[track_caller]
fn manifest_of(backup: &Backup) -> Value {
    let path = backup.data_dir().join("backup_manifest");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    parse(&text)
}

#[track_caller]
fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

#[track_caller]
fn files(manifest: &Value) -> &Vec<Value> {
    manifest["Files"].as_array().expect("Files is a list")
}

/// Size and checksum of each file, by path.
#[track_caller]
fn by_path(manifest: &Value) -> BTreeMap<String, (i64, String)> {
    files(manifest)
        .iter()
        .map(|file| {
            let path = file["Path"].as_str().expect("a path").to_owned();
            let size = file["Size"].as_i64().expect("a size");
            let checksum = file["Checksum"].as_str().expect("a checksum").to_owned();
            (path, (size, checksum))
        })
        .collect()
}

/// Takes a backup for each spelling of an algorithm's name. Checks that the manifest names the
/// algorithm and has checksums of this many digits.
#[track_caller]
fn assert_algorithm(cluster: &Cluster, algorithm: &str, digits: usize, names: &[&str]) {
    for name in names {
        let options = format!("manifest_checksums => '{name}'");
        let backup = Backup::take_with(cluster, 2, &options);
        backup.verify();
        let manifest = manifest_of(&backup);
        assert!(files(&manifest).len() > 100, "{name}: {manifest}");
        for file in files(&manifest) {
            assert_eq!(file["Checksum-Algorithm"], algorithm, "{name}: {file}");
            let checksum = file["Checksum"].as_str().expect("a checksum");
            assert_eq!(checksum.len(), digits, "{name}: {file}");
        }
    }
}

#[test]
fn crc32c_is_accepted_by_pg_verifybackup() {
    assert_algorithm(&Cluster::new(), "CRC32C", 8, &["CRC32C", "crc32c"]);
}

#[test]
fn sha224_is_accepted_by_pg_verifybackup() {
    assert_algorithm(&Cluster::new(), "SHA224", 56, &["SHA224", "Sha224"]);
}

#[test]
fn sha256_is_accepted_by_pg_verifybackup() {
    assert_algorithm(&Cluster::new(), "SHA256", 64, &["SHA256", "sha256"]);
}

#[test]
fn sha384_is_accepted_by_pg_verifybackup() {
    assert_algorithm(&Cluster::new(), "SHA384", 96, &["SHA384", "sHa384"]);
}

#[test]
fn sha512_is_accepted_by_pg_verifybackup() {
    assert_algorithm(&Cluster::new(), "SHA512", 128, &["SHA512", "sha512"]);
}

#[test]
fn a_manifest_without_checksums_is_accepted_by_pg_verifybackup() {
    let cluster = Cluster::new();
    for name in ["NONE", "none", "None"] {
        let backup = Backup::take_with(&cluster, 2, &format!("manifest_checksums => '{name}'"));
        backup.verify();
        let manifest = manifest_of(&backup);
        assert!(files(&manifest).len() > 100, "{name}: {manifest}");
        for file in files(&manifest) {
            assert!(file["Size"].is_i64(), "{name}: {file}");
            assert!(file.get("Checksum-Algorithm").is_none(), "{name}: {file}");
            assert!(file.get("Checksum").is_none(), "{name}: {file}");
        }
    }
}

#[test]
fn without_an_argument_the_algorithm_is_crc32c() {
    let cluster = Cluster::new();
    let backup = Backup::take(&cluster, 1);
    let whole = copy_of("base_backup(fast => true)");
    let archive = copy_out(&mut cluster.connect(), &whole).expect("base_backup()");
    let of_whole = String::from_utf8(content(&archive, "backup_manifest")).expect("text");
    for manifest in [manifest_of(&backup), parse(&of_whole)] {
        let named = |file: &&Value| file["Checksum-Algorithm"] == "CRC32C";
        let count = files(&manifest).iter().filter(named).count();
        assert_eq!(count, files(&manifest).len());
    }
}

#[test]
fn off_writes_no_manifest() {
    let cluster = Cluster::new();
    cluster.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS a");
    for name in ["OFF", "off"] {
        let options = format!("manifest_checksums => '{name}'");
        let mut taken = Stepwise::start(&cluster, &options);
        taken.send_files();
        let names = members(&taken.stop());
        assert!(!names.iter().any(|name| name == "backup_manifest"));
        assert!(names.iter().any(|name| name == "backup_label"), "{names:?}");
        let restored = taken.backup.restore();
        restored.wait_for_sql("the rows", "SELECT count(*) = 1000 FROM t");

        let mut taken = Stepwise::start(&cluster, &options);
        taken.send_files();
        let row = taken
            .leader
            .query_one(
                "SELECT backup_manifest, backup_label FROM stop_backup()",
                &[],
            )
            .expect("stop_backup()");
        assert_eq!(row.get::<_, Option<String>>(0), None);
        assert!(row.get::<_, String>(1).contains("LABEL: "));

        let whole = copy_of(&format!(
            "base_backup(fast => true, wal => true, {options})"
        ));
        let archive = copy_out(&mut taken.leader, &whole).expect("base_backup()");
        let names = members(&archive);
        assert!(!names.iter().any(|name| name == "backup_manifest"));
        let backup = Backup::folder(&cluster);
        backup.unpack(&archive);
        let restored = backup.restore();
        restored.wait_for_sql("the rows", "SELECT count(*) = 1000 FROM t");
    }
}

#[test]
fn an_unknown_algorithm_starts_no_backup() {
    let cluster = Cluster::builder()
        .setting("dynamic_shared_memory_type", "mmap")
        .start();
    let mut client = cluster.connect();
    for name in ["bogus", "", "CRC32", "SHA-256", " SHA256", "SHA256 ", "%s"] {
        let message = format!("unrecognized checksum algorithm: \"{name}\"");
        let options = format!("manifest_checksums => '{name}'");
        expect_failure(&options, try_start(&mut client, &options)).assert("22023", &message);
        let whole = copy_of(&format!("base_backup(fast => true, {options})"));
        expect_failure(&whole, copy_out(&mut client, &whole)).assert("22023", &message);
    }
    leftover::assert_none(&cluster);
}

#[test]
fn an_unknown_algorithm_is_named_as_it_was_given_in_latin1() {
    let cluster = Cluster::new();
    cluster.execute("CREATE DATABASE l1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    cluster.create_extension("l1");
    let result = try_start(
        &mut cluster.connect_to("l1"),
        "manifest_checksums => 'algorithm é'",
    );
    let failure = expect_failure("a start", result);
    assert_eq!(failure.sqlstate, "22023", "{failure}");
    // As text, or in the escape format of bytea.
    let named = ["\"algorithm é\"", r#""algorithm \351""#];
    let mut names = named.iter();
    assert!(names.any(|it| failure.message.ends_with(it)), "{failure}");
}

#[test]
fn a_changed_file_is_found_by_its_checksum() {
    let cluster = Cluster::new();
    let table = quiet_table(&mut cluster.connect(), "t", 5, "");
    for name in ["CRC32C", "SHA256"] {
        let backup = Backup::take_with(&cluster, 2, &format!("manifest_checksums => '{name}'"));
        backup.verify();
        let path = backup.data_dir().join(&table);
        let sound = fs::read(&path).expect("the table's file");
        let mut damaged = read_page(&path, 0);
        flip_bytes(&mut damaged);
        damaged.extend(&sound[damaged.len()..]);
        fs::write(&path, &damaged).expect("could not damage a file");
        let refusal = backup.expect_refusal(&[]);
        let expected = format!("checksum mismatch for file \"{table}\"");
        assert!(refusal.contains(&expected), "{name}: {refusal}");
        // The backup has no other defect.
        fs::write(&path, &sound).expect("could not repair a file");
        backup.verify();
    }
}

#[test]
fn a_changed_size_is_found_without_checksums() {
    let cluster = Cluster::new();
    let backup = Backup::take_with(&cluster, 2, "manifest_checksums => 'NONE'");
    let path = backup.data_dir().join("pg_hba.conf");
    let file = fs::File::options().write(true).open(path).expect("a file");
    file.set_len(7).expect("could not cut a file");
    let refusal = backup.expect_refusal(&[]);
    assert!(refusal.contains("\"pg_hba.conf\" has size 7 "), "{refusal}");
}

#[test]
fn a_changed_manifest_is_found_by_its_own_checksum() {
    let cluster = Cluster::new();
    let backup = Backup::take(&cluster, 2);
    let path = backup.data_dir().join("backup_manifest");
    let text = fs::read_to_string(&path).expect("backup_manifest");
    let changed = text.replacen("\"Size\": ", "\"Size\":  ", 1);
    assert_ne!(changed, text);
    fs::write(&path, changed).expect("could not change the manifest");
    let refusal = backup.expect_refusal(&[]);
    assert!(refusal.contains("manifest checksum mismatch"), "{refusal}");
}

/// Files that may differ between two backups of the same idle cluster: backup_label has LSNs and
/// times, and pg_control reflects the checkpoint at the start of each backup.
const OF_ONE_BACKUP: [&str; 2] = ["backup_label", "global/pg_control"];

#[test]
fn the_manifest_says_what_that_of_pg_basebackup_says() {
    let cluster = Cluster::builder().setting("autovacuum", "off").start();
    cluster.create_tablespace("elsewhere");
    cluster
        .execute("CREATE TABLE far TABLESPACE elsewhere AS SELECT generate_series(1, 9999) AS a");
    cluster.execute("CREATE UNLOGGED TABLE passing AS SELECT generate_series(1, 9999) AS a");
    cluster.execute("CREATE INDEX ON passing (a)");
    cluster.write_file("planted \"file\" é", b"planted");
    // Frozen rows get no hint bits. A session would otherwise set them between the two backups.
    cluster.execute("VACUUM (FREEZE)");

    let dir = cluster.make_dir("pg_basebackup");
    let mut pg_basebackup = command("pg_basebackup");
    pg_basebackup
        .args(cluster.connection_args("postgres"))
        .args(["-Ft", "-X", "none", "-c", "fast", "--no-sync"])
        .args(["-l", "pg_parallel_backup", "-D"])
        .arg(&dir);
    succeed(&mut pg_basebackup);
    let theirs = fs::read_to_string(dir.join("backup_manifest")).expect("a manifest");
    let mut theirs = by_path(&parse(&theirs));
    let mut ours = by_path(&manifest_of(&Backup::take(&cluster, 2)));

    let paths = |files: &BTreeMap<String, _>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(paths(&ours), paths(&theirs));
    for path in ["tablespace_map", "planted \"file\" é"] {
        assert!(ours.contains_key(path), "{ours:?}");
    }
    for path in OF_ONE_BACKUP {
        let (our, their) = (ours.remove(path), theirs.remove(path));
        assert_eq!(our.map(|file| file.0), their.map(|file| file.0), "{path}");
    }
    for (path, our) in &ours {
        assert_eq!(our, &theirs[path], "{path}");
    }
}

#[test]
fn wal_ranges_lead_from_the_start_to_the_stop() {
    let cluster = Cluster::new();
    let mut taken = Stepwise::start(&cluster, "");
    taken.send_files();
    cluster.execute("CREATE TABLE later AS SELECT generate_series(1, 1000)");
    let row = taken
        .leader
        .query_one(
            "SELECT stop_lsn::text, timeline, backup_manifest FROM stop_backup()",
            &[],
        )
        .expect("stop_backup()");
    let (stop_lsn, timeline): (String, i32) = (plain_lsn(row.get(0)), row.get(1));
    let start_lsn = &taken.started.start_lsn;
    assert_eq!((taken.started.timeline, timeline), (1, 1));
    assert_ne!(*start_lsn, stop_lsn);
    assert_eq!(
        parse(row.get(2))["WAL-Ranges"],
        serde_json::json!([{ "Timeline": 1, "Start-LSN": start_lsn, "End-LSN": stop_lsn }])
    );
}
