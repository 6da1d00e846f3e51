//! Streams of WAL that no server sends: what is no WAL is refused, what comes twice is there once, and what
//! is missing is named.

use std::fs;

use backup_tests::client::{expect_failure, names_in, new_target};
use backup_tests::crafted::{archive, file};
use backup_tests::program::{command, succeed};
use backup_tests::standin::{Script, StandIn};

const MEGABYTE: usize = 1024 * 1024;
/// The segment in which the stand-in's backup starts, and those after it.
const FIRST: &str = "000000010000000000000020";
const SECOND: &str = "000000010000000000000021";
const THIRD: &str = "000000010000000000000022";

/// A segment with its mark.
fn segment(name: &str) -> Vec<u8> {
    [
        file(&format!("pg_wal/{name}"), &vec![b'x'; MEGABYTE]),
        file(&format!("pg_wal/archive_status/{name}.done"), b""),
    ]
    .concat()
}

/// Backup with these segments in the WAL stream and in the closing stream.
fn script(streamed: &[&str], closing: &[&str]) -> Script {
    let members = |names: &[&str]| names.iter().map(|name| segment(name)).collect::<Vec<_>>();
    let mut last = members(closing);
    last.push(file("global/pg_control", b"control"));
    Script {
        wal: Some(archive(&members(streamed))),
        closing: archive(&last),
        ..Script::honest()
    }
}

#[track_caller]
fn assert_refused(script: &Script, word: &str) {
    for format in ["-Fp", "-Ft"] {
        let server = StandIn::start(script.clone());
        let (folder, target) = new_target();
        let said = expect_failure(&mut server.backup(&target, &["--no-manifest", format]));
        assert!(said.contains(word), "{word}: {said}");
        assert!(names_in(&folder).is_empty(), "{said}");
    }
}

#[test]
fn a_segment_that_comes_twice_is_there_once() {
    let script = || script(&[FIRST, SECOND], &[SECOND, THIRD]);
    let (_folder, target) = new_target();
    succeed(&mut StandIn::start(script()).backup(&target, &["--no-manifest"]));
    let names = names_in(&target.join("pg_wal"));
    assert_eq!(names, [FIRST, SECOND, THIRD, "archive_status"]);
    let done = [FIRST, SECOND, THIRD].map(|name| format!("{name}.done"));
    assert_eq!(names_in(&target.join("pg_wal/archive_status")), done);
    let content = fs::read(target.join("pg_wal").join(SECOND)).expect("a segment");
    assert!(content == vec![b'x'; MEGABYTE]);

    let (_folder, target) = new_target();
    succeed(&mut StandIn::start(script()).backup(&target, &["--no-manifest", "-Ft"]));
    let list = succeed(command("tar").arg("-tf").arg(target.join("pg_wal.tar")));
    let mut members: Vec<_> = list.lines().collect();
    members.sort_unstable();
    let marks = done.map(|name| format!("archive_status/{name}"));
    let mut expected: Vec<_> = marks.iter().map(String::as_str).collect();
    expected.extend([FIRST, SECOND, THIRD]);
    expected.sort_unstable();
    assert_eq!(members, expected);
    let whole = fs::read(target.join("pg_wal.tar")).expect("the archive");
    assert!(whole.ends_with(&[0; 1024]));
}

#[test]
fn what_is_missing_is_named() {
    let missing = |name: &str| format!("could not find WAL file \"{name}\"");
    assert_refused(&script(&[FIRST], &[THIRD]), &missing(SECOND));
    assert_refused(&script(&[], &[SECOND]), &missing(FIRST));
    assert_refused(&script(&[], &[]), "could not find any WAL files");
}

#[test]
fn what_is_no_wal_is_refused() {
    for name in [
        "base/1",
        "../outside/evil",
        "pg_wal/../evil",
        "pg_wal/archive_status/../evil.done",
        "pg_wal/evil",
        "pg_wal/000000010000000000000020.partial",
        "/tmp/pgpb-evil",
    ] {
        let wal = archive(&[file(name, &vec![0; MEGABYTE])]);
        let script = Script {
            wal: Some(wal),
            ..script(&[], &[FIRST])
        };
        let word = format!("the server sent \"{name}\" as WAL, which is refused");
        assert_refused(&script, &word);
    }
}

#[test]
fn a_segment_of_another_size_is_refused() {
    let short = archive(&[file(&format!("pg_wal/{FIRST}"), b"short")]);
    let script = Script {
        wal: Some(short),
        ..script(&[], &[FIRST])
    };
    let word = format!("unexpected WAL file size \"{FIRST}\"");
    assert_refused(&script, &word);
}

#[test]
fn a_stream_that_is_cut_is_refused() {
    for length in [100_000, MEGABYTE + 512, MEGABYTE + 1024] {
        let mut script = script(&[FIRST], &[FIRST]);
        if let Some(wal) = &mut script.wal {
            wal.truncate(length);
        }
        assert_refused(&script, "the archive is incomplete");
    }
}
