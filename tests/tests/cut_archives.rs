//! Truncated archives, for example after a full disk. What is unpacked from them either starts no
//! server or is a complete backup.

use std::ops::Range;
use std::path::Path;

use backup_tests::backup::Backup;
use backup_tests::client::{backup_of, new_target};
use backup_tests::member;
use backup_tests::program::{command, run_with_input, succeed};
use backup_tests::server::Cluster;
use backup_tests::stepwise::Stepwise;
use backup_tests::stream::{copy_of, copy_out};
use backup_tests::wal::switch_wal;

const CONTROL_FILE: &str = "global/pg_control";
const MANIFEST: &str = "backup_manifest";

/// Member of an archive and its position.
struct Place {
    name: String,
    bytes: Range<usize>,
    /// Offset of its content.
    content: usize,
}

fn places(archive: &[u8]) -> Vec<Place> {
    let mut reader = tar::Archive::new(archive);
    let entries = reader.entries().expect("an archive");
    entries
        .map(|entry| {
            let entry = entry.expect("a member");
            let content = entry.raw_file_position() as usize;
            let end = content + (entry.size() as usize).next_multiple_of(512);
            Place {
                name: String::from_utf8_lossy(&entry.path_bytes()).into_owned(),
                bytes: entry.raw_header_position() as usize..end,
                content,
            }
        })
        .collect()
}

/// Offsets of the middle and end of each member, with the number of members complete at that
/// offset.
fn cuts(places: &[Place]) -> Vec<(usize, usize)> {
    let cuts = places.iter().enumerate().flat_map(|(number, place)| {
        let middle = (place.bytes.start + place.bytes.end) / 2;
        [(middle, number), (place.bytes.end, number + 1)]
    });
    cuts.collect()
}

/// Unpacks as much as possible with tar, and ignores its complaints about the end.
fn unpack_what_is_there(archive: &[u8], directory: &Path) {
    let mut tar = command("tar");
    tar.args(["--extract", "--file=-", "--no-same-owner", "--directory"]);
    run_with_input(tar.arg(directory), archive);
}

/// Cluster for which a closing archive has every possible member.
fn cluster() -> Cluster {
    let cluster = Cluster::builder()
        .initdb_arg("--wal-segsize=1")
        .setting("autovacuum", "off")
        .start();
    cluster.create_tablespace("outside");
    cluster.execute("CREATE TABLE in_tablespace (a int) TABLESPACE outside");
    cluster
}

#[test]
fn whatever_is_there_of_a_closing_archive_starts_no_server_or_is_whole() {
    let cluster = cluster();
    let mut taken = Stepwise::start(&cluster, "retain_wal => true");
    let files = taken.stream("send_backup_files()");
    // These rows are only in the WAL, and the checkpoint in pg_control is after them. Recovery from
    // that checkpoint misses them.
    cluster.execute("CREATE TABLE late AS SELECT generate_series(1, 1000) AS a");
    switch_wal(&mut cluster.connect());
    cluster.execute("CHECKPOINT");
    let closing = taken.closing_tar();
    let places = places(&closing);
    let names: Vec<_> = places.iter().map(|place| place.name.as_str()).collect();
    assert!(names.contains(&"tablespace_map"), "{names:?}");
    assert!(
        names.iter().filter(|name| name.ends_with(".done")).count() > 1,
        "{names:?}"
    );

    let mut refused = 0;
    let mut started = 0;
    let mut cuts = cuts(&places);
    cuts.push((closing.len(), places.len()));
    for (cut, whole) in cuts {
        let backup = Backup::folder(&cluster);
        backup.unpack(&files);
        unpack_what_is_there(&closing[..cut], &backup.data_dir());
        let unpacked = &names[..whole];
        let what = format!("{unpacked:?} and {} bytes", cut);
        if unpacked.contains(&MANIFEST) {
            backup.verify();
        }
        if !backup.data_dir().join(CONTROL_FILE).exists() {
            assert!(!unpacked.contains(&CONTROL_FILE), "{what}");
            // One attempt stands for all.
            if refused == 0 {
                let mut server = backup.into_cluster();
                let log = server.try_start().expect_err("a server started");
                assert!(log.contains("could not find the database system"), "{log}");
            }
            refused += 1;
            continue;
        }
        let mut server = backup.into_cluster();
        server.may_crash();
        match server.try_start() {
            Ok(()) => {
                let count: i64 = server
                    .connect()
                    .query_one("SELECT count(*) FROM late", &[])
                    .unwrap_or_else(|error| panic!("{what}: {error}"))
                    .get(0);
                assert_eq!(count, 1000, "{what}");
                started += 1;
            }
            Err(log) => assert!(!unpacked.contains(&CONTROL_FILE), "{what}: {log}"),
        }
    }
    assert!(refused > 8 && started > 2, "{refused} and {started}");
}

#[test]
fn an_archive_of_a_whole_backup_has_pg_control_when_all_else_is_there() {
    let cluster = cluster();
    let call = copy_of("base_backup(fast => true, wal => true)");
    let archive = copy_out(&mut cluster.connect(), &call).expect("base_backup()");
    let places = places(&archive);
    let needed: Vec<_> = places
        .iter()
        .map(|place| place.name.as_str())
        .filter(|name| *name != MANIFEST)
        .collect();
    assert!(needed.contains(&"backup_label") && needed.contains(&"tablespace_map"));
    let control = places
        .iter()
        .position(|place| place.name == CONTROL_FILE)
        .expect("pg_control");
    for (cut, whole) in cuts(&places) {
        // tar creates a file as soon as it has the header.
        let has_control = cut >= places[control].content;
        assert!(!has_control || whole >= needed.len() - 1, "{cut} bytes");
    }
    assert_eq!(needed.last(), Some(&CONTROL_FILE));

    let before_control = &archive[..places[control].bytes.start];
    let backup = Backup::folder(&cluster);
    unpack_what_is_there(before_control, &backup.data_dir());
    let log = backup
        .into_cluster()
        .try_start()
        .expect_err("a server started");
    assert!(log.contains("could not find the database system"), "{log}");

    let backup = Backup::folder(&cluster);
    backup.unpack(&archive);
    backup.verify();
    let last = member::members(&archive).pop().expect("a member");
    assert_eq!(last.name(), MANIFEST);
}

/// The program appends the closing members to the first archive.
#[test]
fn the_first_archive_of_the_program_ends_with_pg_control() {
    let cluster = cluster();
    for (jobs, first) in [("1", "base.tar"), ("2", "base.0.tar")] {
        let (_folder, target) = new_target();
        succeed(
            backup_of(&cluster)
                .args(["-Ft", "-X", "fetch", "-j", jobs, "-D"])
                .arg(&target),
        );
        let archive = std::fs::read(target.join(first)).expect("the first archive");
        let names: Vec<_> = member::members(&archive)
            .iter()
            .map(member::Member::name)
            .collect();
        assert!(names.iter().any(|name| name == "backup_label"), "{names:?}");
        assert!(
            names.iter().any(|name| name.ends_with(".done")),
            "{names:?}"
        );
        assert_eq!(names.last().map(String::as_str), Some(CONTROL_FILE));
    }
}
