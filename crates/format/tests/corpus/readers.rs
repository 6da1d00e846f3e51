//! All functions of the crate that read bytes, with properties of their results for any bytes.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use backup_format::archive::{Attributes, END, file_header};
use backup_format::checksum::Algorithm;
use backup_format::checksummed_files::ChecksummedFiles;
use backup_format::compression::Compression;
use backup_format::lsn::Lsn;
use backup_format::manifest::{File, PathStyle, Writer};
use backup_format::page::{self, PageHeader};
use backup_format::relation_file::{Fork, RelationFile};
use backup_format::wal::SegmentName;
use backup_format::{exclusion, path, relation_file, wal};
use serde_json::Value;

const ATTRIBUTES: Attributes = Attributes {
    mode: 0o600,
    uid: 0,
    gid: 0,
    mtime: 0,
};

/// Whether the parser of a subject of the corpus accepts these bytes. A parser that takes text does
/// not get invalid UTF-8.
pub fn accepts(subject: &str, bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(bytes).ok();
    match subject {
        "lsn" => text.is_some_and(|text| text.parse::<Lsn>().is_ok()),
        "compression" => text.is_some_and(|text| Compression::parse(text).is_ok()),
        "checksum_algorithm" => text.is_some_and(|text| Algorithm::parse(text).is_some()),
        "relation_file" => RelationFile::parse(bytes).is_some(),
        "wal_segment" => SegmentName::parse(bytes).is_some(),
        "history_file" => wal::timeline_of_history(bytes).is_some(),
        "escaped_path" => path::unescape(bytes).is_some(),
        _ => panic!("no parser decides on {subject}"),
    }
}

/// Runs all readers on the bytes.
pub fn read_everything(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        read_text(text);
    }
    read_names(bytes);
    read_paths(bytes);
    read_page(bytes);
    if !bytes.is_empty() && !bytes.contains(&0) {
        assert_eq!(names_in_archive(&[bytes]), [bytes]);
    }
    for style in [PathStyle::Utf8, PathStyle::Ascii] {
        let manifest = manifest(&[bytes.to_vec()], style);
        assert!(style == PathStyle::Utf8 || manifest.is_ascii());
        let value: Value = serde_json::from_slice(&manifest).expect("JSON");
        let file = &value["Files"][0];
        let path = match (file["Path"].as_str(), file["Encoded-Path"].as_str()) {
            (Some(path), None) => path.as_bytes().to_vec(),
            (None, Some(encoded)) => unhex(encoded),
            _ => panic!("{file}"),
        };
        assert_eq!(path, bytes);
    }
}

fn read_text(text: &str) {
    if let Ok(lsn) = text.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse(), Ok(lsn));
        let (high, low) = text.split_once('/').expect("a slash");
        let half = |digits| u64::from_str_radix(digits, 16).expect("digits");
        assert_eq!(lsn.0, half(high) << 32 | half(low));
    }
    match Compression::parse(text) {
        Ok(compression) => {
            let name = compression.method.name();
            let printed = match compression.level {
                Some(level) => format!("{name}:{level}"),
                None => name.to_owned(),
            };
            assert_eq!(Compression::parse(&printed), Ok(compression));
            let levels = compression.method.levels();
            assert!(
                compression
                    .level
                    .is_none_or(|level| levels.is_some_and(|levels| levels.contains(&level)))
            );
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    if let Some(algorithm) = Algorithm::parse(text) {
        assert!(
            algorithm
                .name()
                .unwrap_or("NONE")
                .eq_ignore_ascii_case(text)
        );
        assert_eq!(Algorithm::from_code(algorithm.code()), Some(algorithm));
    }
}

fn read_names(bytes: &[u8]) {
    if let Some(file) = RelationFile::parse(bytes) {
        let fork = match file.fork {
            Fork::Main => "",
            Fork::FreeSpaceMap => "_fsm",
            Fork::VisibilityMap => "_vm",
            Fork::Init => "_init",
        };
        let mut name = format!("{}{fork}", file.relfilenode);
        if file.segment > 0 {
            name.push_str(&format!(".{}", file.segment));
        }
        assert_eq!(name.as_bytes(), bytes);
        assert!(!relation_file::is_temporary_relation(bytes));
        let path = [b"base/1/", bytes].concat();
        for files in [ChecksummedFiles::AllButListed, ChecksummedFiles::Relations] {
            assert_eq!(files.segment(&path), Some(file.segment));
        }
        assert!(!exclusion::is_excluded_file(bytes));
    }
    if let Some(name) = SegmentName::parse(bytes) {
        assert_eq!(name.to_string().as_bytes(), bytes);
        assert_eq!(wal::timeline_of_history(bytes), None);
    }
    if let Some(timeline) = wal::timeline_of_history(bytes) {
        let segment = [&bytes[..8], b"0000000000000000"].concat();
        let name = SegmentName::parse(&segment).expect("a segment's name");
        assert_eq!(name.timeline, timeline);
    }
    exclusion::is_emptied_directory(bytes);
}

fn read_paths(bytes: &[u8]) {
    let escaped = path::escape(bytes);
    assert!(escaped.is_ascii());
    assert_eq!(path::unescape(escaped.as_bytes()).as_deref(), Some(bytes));
    if let Some(unescaped) = path::unescape(bytes) {
        assert!(unescaped.len() <= bytes.len());
        let again = path::escape(&unescaped);
        assert_eq!(path::unescape(again.as_bytes()), Some(unescaped));
    }
    let stripped = path::strip_current_directory(bytes);
    assert!(bytes.ends_with(stripped) && [0, 2].contains(&(bytes.len() - stripped.len())));
    // Only changes in the WAL can be repaired, and pages of relations are always verified.
    let relation = relation_file::relation_at(bytes);
    assert_eq!(
        ChecksummedFiles::Relations.segment(bytes),
        relation.map(|file| file.segment)
    );
    if let Some(file) = relation {
        assert!(relation_file::is_relation(bytes));
        assert_eq!(
            ChecksummedFiles::AllButListed.segment(bytes),
            Some(file.segment)
        );
        let in_global = bytes.starts_with(b"global/");
        assert!(!in_global || relation_file::database_of(bytes) == 0);
    }
    if exclusion::is_database_directory(bytes) {
        let file = [bytes, b"/16384"].concat();
        assert!(relation_file::is_relation(&file));
    }
    path::is_tablespace_link(bytes);
}

fn read_page(bytes: &[u8]) {
    let header = PageHeader::read(bytes);
    if page::is_all_zeros(bytes) {
        assert!(header.is_new() && header.checksum == 0 && header.lsn == Lsn(0));
    }
    for block in [0, 1, u32::MAX] {
        assert_ne!(page::checksum(bytes, block), 0);
    }
}

/// Builds an archive of empty files with these names. Returns the names that the `tar` crate reads.
pub fn names_in_archive(names: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut archive = Vec::new();
    for name in names {
        file_header(&mut archive, name, 0, &ATTRIBUTES);
    }
    archive.extend_from_slice(&END);
    tar::Archive::new(archive.as_slice())
        .entries()
        .expect("an archive")
        .map(|entry| entry.expect("a member").path_bytes().into_owned())
        .collect()
}

fn manifest(names: &[Vec<u8>], style: PathStyle) -> Vec<u8> {
    let mut writer = Writer::new(Algorithm::None, style, None);
    let mut out = Vec::new();
    writer.begin(&mut out);
    for path in names {
        let file = File {
            path,
            size: 0,
            mtime: 0,
            digest: &[],
        };
        writer.file(&mut out, &file);
    }
    writer.wal_ranges(&mut out, &[]);
    writer.finish(&mut out, &[0; 32]);
    out
}

/// Builds a manifest of files with these names. Returns the names that Python reads: it shares no code
/// with this crate.
pub fn names_read_by_python(names: &[Vec<u8>]) -> Vec<Vec<u8>> {
    const PROGRAM: &str = "import json, sys
for file in json.loads(sys.stdin.buffer.read().decode('utf-8'))['Files']:
    if 'Path' in file:
        print(file['Path'].encode('utf-8').hex())
    else:
        print(bytes.fromhex(file['Encoded-Path']).hex())";
    let mut python = Command::new("python3")
        .args(["-c", PROGRAM])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let manifest = manifest(names, PathStyle::Utf8);
    let mut input = python.stdin.take().unwrap();
    let mut text = String::new();
    std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(&manifest));
        let mut output = python.stdout.take().unwrap();
        output.read_to_string(&mut text).expect("lines")
    });
    assert!(python.wait().expect("python3").success());
    text.lines().map(unhex).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    assert!(text.len().is_multiple_of(2) && text.is_ascii());
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}
