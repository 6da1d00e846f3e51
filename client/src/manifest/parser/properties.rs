//! Properties of the parser of manifests, whatever it is given.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use backup_format::manifest::{File, PathStyle, Writer};
use backup_mutation::{Pieces, changes, pieces, split};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::manifest::digest::Digest;
use crate::manifest::hex::hex;

const TOKENS: &[&[u8]] = &[
    b"\"Path\": \"x\", ",
    b"\"Encoded-Path\": \"ff\", ",
    b"\"Encoded-Path\"",
    b"\"Size\": 1e3, ",
    b"\"Size\": 18446744073709551616",
    b"\"Checksum\": \"\"",
    b"\"Checksum-Algorithm\": \"SHA256\", ",
    b"\"WAL-Ranges\": [], ",
    b"\"Files\": [ ], ",
    b"\"PostgreSQL-Backup-Manifest-Version\": 1, ",
    b"\"System-Identifier\": 1, ",
    b"{ \"Timeline\": 1, \"Start-LSN\": \"0/0\", \"End-LSN\": \"F/F\" }, ",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"\\u0000",
    b"\\ud800",
    b"null",
    b"-",
    b"\n",
    b",",
    b"\"",
    b"}",
    b"]",
    b"\x00",
    b"\xff",
];

/// A file as a property has it: path, size, checksum.
type Sample = (Vec<u8>, u64, Vec<u8>);

fn sample() -> impl Strategy<Value = Sample> {
    let path = prop_oneof![
        "[ -~]{1,12}".prop_map(String::into_bytes),
        vec(any::<u8>(), 1..12),
    ];
    (path, any::<u64>(), vec(any::<u8>(), 4))
}

fn style() -> impl Strategy<Value = PathStyle> {
    select(&[PathStyle::Utf8, PathStyle::Ascii, PathStyle::Encoded][..])
}

fn ranges() -> impl Strategy<Value = Vec<WalRange>> {
    let range = any::<(u32, u64, u64)>().prop_map(|(timeline, start, end)| WalRange {
        timeline,
        start: Lsn(start),
        end: Lsn(end),
    });
    vec(range, 0..3)
}

/// All lines but the last.
fn write(style: PathStyle, system: Option<u64>, files: &[Sample], ranges: &[WalRange]) -> Vec<u8> {
    let mut writer = Writer::new(Algorithm::Crc32c, style, system);
    let mut text = Vec::new();
    writer.begin(&mut text);
    for (path, size, digest) in files {
        let (size, mtime) = (*size, 0);
        writer.file(
            &mut text,
            &File {
                path,
                size,
                mtime,
                digest,
            },
        );
    }
    writer.wal_ranges(&mut text, ranges);
    text
}

/// Adds the last line, with the right checksum.
fn with_checksum(mut text: Vec<u8>) -> Vec<u8> {
    if text.last() != Some(&b'\n') {
        text.push(b'\n');
    }
    let mut digest = Digest::new(Algorithm::Sha256);
    digest.update(&text);
    let last = format!("\"Manifest-Checksum\": \"{}\"}}\n", hex(&digest.finish()));
    text.extend_from_slice(last.as_bytes());
    text
}

/// What a manifest says, comparable.
type Found = (
    Vec<(Vec<u8>, u64, Option<&'static str>, Vec<u8>)>,
    Option<u64>,
    Vec<WalRange>,
);

fn read(source: impl Read) -> Result<Found> {
    let mut files = Vec::new();
    let manifest = Manifest::read(source, |entry| {
        files.push((
            entry.path,
            entry.size,
            entry.algorithm.name(),
            entry.checksum,
        ));
    })?;
    Ok((files, manifest.system_identifier, manifest.wal_ranges))
}

/// What was accepted comes back when it is written again.
fn assert_sound((files, system, ranges): &Found) {
    let entry = |(path, size, algorithm, checksum): &(Vec<u8>, u64, Option<&str>, Vec<u8>)| {
        serde_json::json!({
            "Encoded-Path": hex(path),
            "Size": size,
            "Checksum-Algorithm": algorithm.unwrap_or("NONE"),
            "Checksum": hex(checksum),
        })
    };
    let range = |range: &WalRange| {
        serde_json::json!({
            "Timeline": range.timeline,
            "Start-LSN": range.start.to_string(),
            "End-LSN": range.end.to_string(),
        })
    };
    let version = match system {
        Some(system) => format!("2, \"System-Identifier\": {system}"),
        None => "1".to_owned(),
    };
    let text = format!(
        "{{ \"PostgreSQL-Backup-Manifest-Version\": {version}, \"Files\": {}, \"WAL-Ranges\": {},",
        serde_json::Value::from(files.iter().map(entry).collect::<Vec<_>>()),
        serde_json::Value::from(ranges.iter().map(range).collect::<Vec<_>>()),
    );
    let again = read(&with_checksum(text.into_bytes())[..]).expect("what was accepted is written");
    assert_eq!(&again, &(files.clone(), *system, ranges.clone()));
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        style in style(),
        system in any::<Option<u64>>(),
        files in vec(sample(), 0..5),
        ranges in ranges(),
        pieces in pieces(),
    ) {
        let text = with_checksum(write(style, system, &files, &ranges));
        let (found, found_system, found_ranges) = read(Pieces(split(&text, &pieces))).unwrap();
        let expected: Vec<_> = files
            .into_iter()
            .map(|(path, size, digest)| (path, size, Some("CRC32C"), digest))
            .collect();
        prop_assert_eq!(found, expected);
        prop_assert_eq!(found_system, system);
        prop_assert_eq!(found_ranges, ranges);
    }

    /// Of a text with the right checksum, so that nothing but the parser stands in the way.
    #[test]
    fn a_changed_manifest_is_refused_or_sound(
        style in style(),
        system in any::<Option<u64>>(),
        files in vec(sample(), 0..3),
        ranges in ranges(),
        changes in changes(TOKENS),
        pieces in pieces(),
    ) {
        let text = with_checksum(changes.apply(&write(style, system, &files, &ranges)));
        let whole = read(&text[..]);
        let in_pieces = read(Pieces(split(&text, &pieces)));
        prop_assert_eq!(whole.is_ok(), in_pieces.is_ok());
        if let (Ok(whole), Ok(in_pieces)) = (whole, in_pieces) {
            prop_assert_eq!(&whole, &in_pieces);
            assert_sound(&whole);
        }
    }

    /// Whatever is changed, its own checksum tells.
    #[test]
    fn a_changed_manifest_has_a_wrong_checksum(
        style in style(),
        files in vec(sample(), 0..3),
        changes in changes(TOKENS),
    ) {
        let lines = write(style, Some(1), &files, &[]);
        let before = with_checksum(lines.clone());
        let after = changes.apply(&before);
        if read(&after[..]).is_ok() {
            prop_assert!(after.starts_with(&lines));
        }
    }
}
