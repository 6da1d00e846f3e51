//! Compares manifests of this crate with those of PostgreSQL 15.20, byte for byte.
//!
//! `fixtures/backup_manifest.*` are manifests by pg_basebackup. Two, with different algorithms, are of a
//! cluster with a tablespace and unusual file names and times. One, without checksums, is of a standby
//! whose primary was promoted during the backup.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write;
use std::process::{Command, Stdio};

use backup_format::checksum::Algorithm;
use backup_format::lsn::Lsn;
use backup_format::manifest::{File, PathStyle, TimelineEntry, WalRange, Writer, wal_ranges};
use proptest::prelude::*;
use serde_json::Value;

const CRC32C: &[u8] = include_bytes!("fixtures/backup_manifest.crc32c");
const SHA256: &[u8] = include_bytes!("fixtures/backup_manifest.sha256");
const TIMELINES: &[u8] = include_bytes!("fixtures/backup_manifest.timelines");

/// Entry of a file, as read from a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OwnedFile {
    path: Vec<u8>,
    size: u64,
    mtime: i64,
    digest: Vec<u8>,
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2) && text.is_ascii());
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// Converts a time in a manifest to seconds since 1970, counting year by year.
fn seconds(text: &str) -> i64 {
    let number = |at: std::ops::Range<usize>| -> i64 { text[at].parse().unwrap() };
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    let (hour, minute, second) = (number(11..13), number(14..16), number(17..19));
    assert_eq!(&text[19..], " GMT");
    let is_leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let year_len = |year| 365 + i64::from(is_leap(year));
    let whole_years: i64 = match year {
        1970.. => (1970..year).map(year_len).sum(),
        _ => -(year..1970).map(year_len).sum::<i64>(),
    };
    let months = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let whole_months: i64 = months[..month as usize - 1].iter().sum();
    let leap_day = i64::from(month > 2 && is_leap(year));
    let days = whole_years + whole_months + leap_day + day - 1;
    ((days * 24 + hour) * 60 + minute) * 60 + second
}

fn parse_file(value: &Value) -> OwnedFile {
    let text = |key: &str| value[key].as_str();
    OwnedFile {
        path: match text("Path") {
            Some(path) => path.as_bytes().to_vec(),
            None => unhex(text("Encoded-Path").unwrap()),
        },
        size: value["Size"].as_u64().unwrap(),
        mtime: seconds(text("Last-Modified").unwrap()),
        digest: unhex(text("Checksum").unwrap_or_default()),
    }
}

fn parse_range(value: &Value) -> WalRange {
    let lsn = |key: &str| -> Lsn { value[key].as_str().unwrap().parse().unwrap() };
    WalRange {
        timeline: value["Timeline"].as_u64().unwrap().try_into().unwrap(),
        start: lsn("Start-LSN"),
        end: lsn("End-LSN"),
    }
}

fn parse(manifest: &[u8]) -> (Value, Vec<OwnedFile>, Vec<WalRange>) {
    let value: Value = serde_json::from_slice(manifest).unwrap();
    let files = value["Files"]
        .as_array()
        .unwrap()
        .iter()
        .map(parse_file)
        .collect();
    let ranges = value["WAL-Ranges"]
        .as_array()
        .unwrap()
        .iter()
        .map(parse_range)
        .collect();
    (value, files, ranges)
}

/// The manifest without its last line.
fn body(
    algorithm: Algorithm,
    style: PathStyle,
    files: &[OwnedFile],
    ranges: &[WalRange],
) -> Vec<u8> {
    let mut writer = Writer::new(algorithm, style, None);
    let mut out = Vec::new();
    writer.begin(&mut out);
    for OwnedFile {
        path,
        size,
        mtime,
        digest,
    } in files
    {
        writer.file(
            &mut out,
            &File {
                path,
                size: *size,
                mtime: *mtime,
                digest,
            },
        );
    }
    writer.wal_ranges(&mut out, ranges);
    out
}

/// SHA-256 by coreutils: an independent check of what the last line of a manifest covers.
fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut program = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("sha256sum");
    program.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = program.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    unhex(&text[..64]).try_into().unwrap()
}

fn assert_rewritten(manifest: &[u8], algorithm: Algorithm) {
    let (_, files, ranges) = parse(manifest);
    let mut out = body(algorithm, PathStyle::Utf8, &files, &ranges);
    let checksum = sha256(&out);
    Writer::new(algorithm, PathStyle::Utf8, None).finish(&mut out, &checksum);
    assert_eq!(
        String::from_utf8_lossy(&out),
        String::from_utf8_lossy(manifest)
    );
    assert_eq!(out, manifest);
}

#[test]
fn a_manifest_with_crc32c_is_that_of_the_server() {
    assert_rewritten(CRC32C, Algorithm::Crc32c);
}

#[test]
fn a_manifest_with_sha256_is_that_of_the_server() {
    assert_rewritten(SHA256, Algorithm::Sha256);
}

#[test]
fn a_manifest_without_checksums_is_that_of_the_server() {
    assert_rewritten(TIMELINES, Algorithm::None);
}

#[test]
fn the_fixtures_hold_what_they_are_for() {
    let (_, files, _) = parse(CRC32C);
    for path in [
        &b"odd/new\nline\ttab\rcr"[..],
        b"odd/ctl\x01\x08\x0c\x1f\x7f",
        b"odd/quote\"d",
        b"odd/back\\slash",
        b"odd/latin-\xe9",
        b"odd/\xed\xa0\x80surrogate",
        "odd/grüße € 😀".as_bytes(),
        b"pg_tblspc/16384/PG_15_202209061/5/16385",
    ] {
        assert!(files.iter().any(|file| file.path == path));
    }
    assert!(files.iter().any(|file| file.mtime == -1));
    assert_eq!(parse(TIMELINES).2.len(), 2);
}

#[test]
fn wal_ranges_over_two_timelines_are_those_of_the_server() {
    let expected = parse(TIMELINES).2;
    let [newer, older] = expected[..] else {
        panic!("two ranges");
    };
    let history = [
        TimelineEntry {
            timeline: newer.timeline,
            begin: newer.start,
        },
        TimelineEntry {
            timeline: older.timeline,
            begin: Lsn(0),
        },
    ];
    let ranges = wal_ranges(
        &history,
        older.timeline,
        older.start,
        newer.timeline,
        newer.end,
    );
    assert_eq!(ranges, Ok(expected));
}

#[test]
fn an_ascii_manifest_of_the_same_backup_is_ascii() {
    let (_, files, ranges) = parse(CRC32C);
    let mut out = body(Algorithm::Crc32c, PathStyle::Ascii, &files, &ranges);
    Writer::new(Algorithm::Crc32c, PathStyle::Ascii, None).finish(&mut out, &[0; 32]);
    assert!(out.is_ascii());
    let (_, files_again, ranges_again) = parse(&out);
    assert_eq!((files_again, ranges_again), (files, ranges));
}

fn any_file() -> impl Strategy<Value = OwnedFile> {
    // Years 1 to 9999, written with four digits.
    let mtime = -62_135_596_800_i64..253_402_300_800;
    let bytes = proptest::collection::vec(any::<u8>(), 1..200);
    let text = any::<String>().prop_map(String::into_bytes);
    let digest = proptest::collection::vec(any::<u8>(), 64);
    (prop_oneof![bytes, text], any::<u64>(), mtime, digest).prop_map(
        |(path, size, mtime, digest)| OwnedFile {
            path,
            size,
            mtime,
            digest,
        },
    )
}

proptest! {
    #[test]
    fn any_files_are_read_back_as_json(
        files in proptest::collection::vec(any_file(), 0..8),
        ranges in proptest::collection::vec(any::<(u32, u64, u64)>(), 0..4),
        ascii in any::<bool>(),
    ) {
        let style = if ascii { PathStyle::Ascii } else { PathStyle::Utf8 };
        let ranges: Vec<_> = ranges
            .into_iter()
            .map(|(timeline, start, end)| WalRange { timeline, start: Lsn(start), end: Lsn(end) })
            .collect();
        let mut out = body(Algorithm::Sha512, style, &files, &ranges);
        Writer::new(Algorithm::Sha512, style, None).finish(&mut out, &[0x5a; 32]);
        let (value, files_again, ranges_again) = parse(&out);
        prop_assert_eq!(files_again, files);
        prop_assert_eq!(ranges_again, ranges);
        prop_assert_eq!(&value["PostgreSQL-Backup-Manifest-Version"], 1);
        prop_assert_eq!(&value["Manifest-Checksum"], &Value::from("5a".repeat(32)));
        prop_assert!(!ascii || out.is_ascii());
    }

    #[test]
    fn no_time_panics(mtime in any::<i64>()) {
        let file = OwnedFile { path: b"f".to_vec(), size: 0, mtime, digest: Vec::new() };
        let out = body(Algorithm::None, PathStyle::Utf8, &[file], &[]);
        prop_assert!(out.is_ascii());
    }
}
