//! Unusual layouts: entries in `pg_tblspc` that are not tablespaces, and a data directory behind a
//! symbolic link.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;

use backup_tests::archive;
use backup_tests::backup::Backup;
use backup_tests::program::{command, make_dir, succeed};
use backup_tests::server::Cluster;
use backup_tests::stepwise::Stepwise;
use serde_json::Value;

/// Paths in a manifest.
#[track_caller]
fn paths_in(manifest: &[u8]) -> BTreeSet<String> {
    let manifest: Value = serde_json::from_slice(manifest).expect("a manifest is JSON");
    let files = manifest["Files"].as_array().expect("Files is a list");
    files
        .iter()
        .map(|file| file["Path"].as_str().expect("a path").to_owned())
        .collect()
}

/// Other entries in `pg_tblspc` must not confuse the backup. Core sends entries that are not links
/// as they are, and so do we, whether or not the links are sent in the map.
#[test]
fn what_is_no_tablespace_is_sent_as_pg_basebackup_does() {
    let cluster = Cluster::builder().setting("autovacuum", "off").start();
    let (oid, location) = cluster.create_tablespace("real");
    cluster.execute("CREATE TABLE t TABLESPACE real AS SELECT generate_series(1, 1000) AS a");
    let places = cluster.data_dir().join("pg_tblspc");
    symlink("/nonexistent/place", places.join("99999")).expect("a link");
    cluster.write_file("pg_tblspc/file", b"a file");
    cluster.write_file("pg_tblspc/77777", b"a file with a number as its name");
    make_dir(&places.join("x"));
    cluster.write_file("pg_tblspc/x/file", b"a file in a directory");

    let dir = cluster.make_dir("pg_basebackup");
    let moved = |from: &str| format!("{from}={}", dir.join(from.replace('/', "_")).display());
    succeed(
        command("pg_basebackup")
            .args(cluster.connection_args("postgres"))
            .args(["-Fp", "-X", "none", "-c", "fast", "--no-sync"])
            .args(["-T", &moved("/nonexistent/place")])
            .args(["-T", &moved(&location.display().to_string()), "-D"])
            .arg(dir.join("data")),
    );
    let manifest = fs::read(dir.join("data/backup_manifest")).expect("a manifest");
    let mut expected = paths_in(&manifest);
    for path in ["pg_tblspc/file", "pg_tblspc/77777", "pg_tblspc/x/file"] {
        assert!(expected.contains(path), "{path}");
    }

    let mut taken = Stepwise::start(&cluster, "tablespace_map => false");
    let listed = |kind, taken: &mut Stepwise| -> Vec<String> {
        let entries = taken.listing().into_iter();
        let entries = entries.filter(|entry| entry.kind == kind);
        entries.map(|entry| entry.path).collect()
    };
    let links = [format!("pg_tblspc/{oid}"), "pg_tblspc/99999".to_owned()];
    assert_eq!(listed('l', &mut taken), links);
    taken.stream("send_backup_files()");
    let closing = taken.closing_tar();
    let without_map = paths_in(&archive::content(&closing, "backup_manifest"));
    let difference: Vec<_> = without_map.symmetric_difference(&expected).collect();
    assert_eq!(difference, [""; 0]);

    let mut taken = Stepwise::start(&cluster, "");
    assert_eq!(listed('l', &mut taken), [""; 0]);
    taken.send_files();
    let closing = taken.stop();
    let with_map = paths_in(&archive::content(&closing, "backup_manifest"));
    expected.insert("tablespace_map".to_owned());
    let difference: Vec<_> = with_map.symmetric_difference(&expected).collect();
    assert_eq!(difference, [""; 0]);
    taken.backup.verify();
}

#[test]
fn a_data_directory_behind_a_link_is_backed_up() {
    let mut cluster = Cluster::builder().create();
    let data = cluster.data_dir();
    let elsewhere = cluster.make_dir("elsewhere").join("real");
    fs::rename(&data, &elsewhere).expect("a data directory to rename");
    symlink(&elsewhere, &data).expect("a link");
    cluster.start();
    cluster.create_extension("postgres");
    // Two tablespaces are inside, one named through the link and one by the real path.
    make_dir(&elsewhere.join("through"));
    make_dir(&elsewhere.join("direct"));
    cluster.create_tablespace("outside");
    for (name, place) in [
        ("through", data.join("through")),
        ("direct", elsewhere.join("direct")),
    ] {
        cluster.execute(&format!(
            "CREATE TABLESPACE {name} LOCATION '{}'",
            place.display()
        ));
    }
    for name in ["outside", "through", "direct"] {
        cluster.execute(&format!(
            "CREATE TABLE {name}_t TABLESPACE {name} AS SELECT generate_series(1, 1000) AS a"
        ));
    }
    let backup = Backup::take(&cluster, 2);
    backup.verify();
    let mut restored = backup.restore();
    for name in ["outside", "through", "direct"] {
        restored.wait_for_sql(name, &format!("SELECT count(*) = 1000 FROM {name}_t"));
    }
    restored.amcheck();
    restored.stop_and_check_checksums();
}
