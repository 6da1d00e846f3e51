//! Properties of the reader of indexes, whatever it is given.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use backup_mutation::changes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

const ARCHIVE: &str = "base.0.tar.zst";

const TOKENS: &[&[u8]] = &[
    b"{\"stored\":0,\"plain\":0}\n",
    b"{\"path\":\"x\",\"plain\":0}\n",
    b"{\"encoded_path\":\"ff\",\"plain\":0}\n",
    b"{\"stored\":1,\"plain\":1,\"members\":0,\"sha256\":\"\"}\n",
    b",\"type\":\"directory\"",
    b",\"type\":\"link\"",
    b",\"path\":\"y\"",
    b",\"size\":18446744073709551615",
    b",\"size\":18446744073709551616",
    b",\"plain\":18446744073709551615",
    b",\"checksum\":\"0\"",
    b"null",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"\\u0000",
    b"\\ud800",
    b"-1",
    b"1e9",
    b"\n",
    b"\xff",
    b"}",
    b"\"",
];

/// Entries in the order of an archive.
fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let path = prop_oneof![
        "[ -~]{1,12}".prop_map(String::into_bytes),
        "\\PC{1,6}".prop_map(String::into_bytes),
        vec(any::<u8>(), 1..12),
    ];
    let kind = select(&[Kind::File, Kind::File, Kind::Directory, Kind::Link][..]);
    let entry = (
        any::<bool>(),
        (0_u64..1 << 40, 0_u64..1 << 40),
        path,
        kind,
        any::<u64>(),
        vec(any::<u8>(), 0..5),
    );
    vec(entry, 0..6).prop_map(|drawn| {
        let mut last = Frame::default();
        let mut entries = vec![Entry::Frame(last)];
        for (is_frame, (stored, plain), path, kind, size, checksum) in drawn {
            last.plain += plain;
            entries.push(if is_frame {
                last.stored += stored;
                Entry::Frame(last)
            } else {
                Entry::Member(Member {
                    path,
                    kind,
                    size: if kind == Kind::File { size } else { 0 },
                    checksum,
                    plain: last.plain,
                })
            });
        }
        entries
    })
}

fn write(entries: &[Entry], totals: (u64, u64)) -> Vec<u8> {
    let mut index = IndexWriter::new(ARCHIVE, Method::Zstd, "CRC32C").unwrap();
    // The writer begins with the start of the archive.
    let entries = match entries {
        [Entry::Frame(first), rest @ ..] if *first == Frame::default() => rest,
        entries => entries,
    };
    for entry in entries {
        match entry {
            Entry::Frame(frame) => index.frame(*frame).unwrap(),
            Entry::Member(member) => index.member(member).unwrap(),
        }
    }
    let (file, _) = index.finish(totals.0, totals.1).unwrap();
    let mut text = Vec::new();
    file.reader().unwrap().read_to_end(&mut text).unwrap();
    text
}

fn read(text: &[u8]) -> Result<(Vec<Entry>, Totals)> {
    let mut reader = IndexReader::new(text, ARCHIVE)?;
    let mut entries = Vec::new();
    while let Some(entry) = reader.next()? {
        entries.push(entry);
        assert!(reader.line.len() as u64 <= LONGEST_LINE);
    }
    let totals = reader.totals().expect("totals after the last entry");
    Ok((entries, totals))
}

/// The lines before the last with another last line, whose checksum is right.
fn with_totals(mut lines: Vec<u8>, (plain, stored): (u64, u64)) -> Vec<u8> {
    let complete = lines.iter().rposition(|&byte| byte == b'\n');
    lines.truncate(complete.map_or(0, |end| end + 1));
    let lines_of = lines.split_inclusive(|&byte| byte == b'\n').skip(1);
    let is_member = |line: &[u8]| {
        let line: Option<Line> = serde_json::from_slice(line).ok();
        line.is_some_and(|line| line.path.is_some() || line.encoded_path.is_some())
    };
    let members = lines_of.filter(|line| is_member(line)).count();
    let sum = hex(&Sha256::digest(&lines));
    let last = format!(
        "{{\"stored\":{stored},\"plain\":{plain},\"members\":{members},\"sha256\":\"{sum}\"}}\n"
    );
    lines.extend_from_slice(last.as_bytes());
    lines
}

/// The place behind the last line but one.
fn lines_before_last(text: &[u8]) -> usize {
    let inner = &text[..text.len() - 1];
    inner.iter().rposition(|&byte| byte == b'\n').unwrap() + 1
}

proptest! {
    #[test]
    fn what_is_written_is_read(entries in entries()) {
        let text = write(&entries, (u64::MAX, u64::MAX));
        let (found, totals) = read(&text).unwrap();
        prop_assert_eq!(found, entries);
        prop_assert_eq!((totals.plain, totals.stored), (u64::MAX, u64::MAX));
    }

    /// Of an index with the right checksum, so that nothing but the parser stands in the way.
    #[test]
    fn a_changed_index_is_refused_or_sound(entries in entries(), changes in changes(TOKENS)) {
        let text = write(&entries, (u64::MAX, u64::MAX));
        let lines = changes.apply(&text[..lines_before_last(&text)]);
        let text = with_totals(lines, (u64::MAX, u64::MAX));
        if let Ok((mut found, totals)) = read(&text) {
            for entry in &mut found {
                // Only files have a size, and that of others is not written.
                if let Entry::Member(member) = entry && member.kind != Kind::File {
                    member.size = 0;
                }
            }
            if found.first() != Some(&Entry::Frame(Frame::default())) {
                found.insert(0, Entry::Frame(Frame::default()));
            }
            let places = found.iter().map(|entry| match entry {
                Entry::Frame(frame) => frame.plain,
                Entry::Member(member) => member.plain,
            });
            prop_assert!(places.is_sorted());
            let again = read(&write(&found, (totals.plain, totals.stored))).unwrap();
            prop_assert_eq!(again, (found, totals));
        }
    }

    /// Whatever is changed before the last line, its checksum tells.
    #[test]
    fn a_changed_index_has_a_wrong_checksum(entries in entries(), changes in changes(TOKENS)) {
        let before = write(&entries, (u64::MAX, u64::MAX));
        let after = changes.apply(&before);
        if read(&after).is_ok() {
            prop_assert!(after.starts_with(&before[..lines_before_last(&before)]));
        }
    }
}
