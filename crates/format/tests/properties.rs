//! Properties of all names and positions.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use backup_format::backup_label::{self, BackupLabel};
use backup_format::checksum::Algorithm;
use backup_format::checksummed_files::ChecksummedFiles;
use backup_format::compression::{Compression, InvalidCompression, Method};
use backup_format::lsn::Lsn;
use backup_format::manifest::{TimelineEntry, WalRange, wal_ranges};
use backup_format::page::{PageHeader, is_all_zeros};
use backup_format::relation_file::{Fork, RelationFile};
use backup_format::wal::{SegmentName, SegmentSize, SequenceError, select_segments};
use backup_format::{exclusion, incremental, path, relation_file, wal};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Byte strings that resemble the names this crate parses.
fn near_name() -> impl Strategy<Value = Vec<u8>> {
    let text = "(pg_tblspc/|base/|global/|t)?[0-9]{0,11}(/PG_15_[0-9]{1,3})?(/|_)?(fsm|vm|init|[0-9]{0,11})(\\.[0-9]{0,21})?";
    prop_oneof![vec(any::<u8>(), 0..60), text.prop_map(String::into_bytes)]
}

/// The text with its letters in upper or lower case, as `upper` says.
fn in_any_case(text: &str, upper: &[bool]) -> String {
    text.chars()
        .zip(upper.iter().cycle())
        .map(|(letter, upper)| match upper {
            true => letter.to_ascii_uppercase(),
            false => letter.to_ascii_lowercase(),
        })
        .collect()
}

fn segment_size() -> impl Strategy<Value = SegmentSize> {
    (20_u32..=30).prop_map(|log2| SegmentSize::new(1 << log2).unwrap())
}

proptest! {
    #[test]
    fn an_incremental_header_comes_back(
        blocks in proptest::collection::btree_set(0_u32..131_072, 0..300),
        truncation_length in 0_u32..=131_072,
    ) {
        let header = incremental::header(blocks.iter().copied(), truncation_length, 8192);
        let start = incremental::Start::parse(header.first_chunk().unwrap(), 131_072).unwrap();
        prop_assert_eq!(start.truncation_length, truncation_length);
        let numbers = &header[incremental::Start::SIZE..][..start.numbers_size()];
        let numbers = incremental::parse_numbers(numbers, 131_072).unwrap();
        prop_assert!(numbers.into_iter().eq(blocks));
    }

    /// Whatever is changed in a header is an error, or another header that is possible.
    #[test]
    fn a_changed_header_is_never_impossible(
        blocks in proptest::collection::btree_set(0_u32..100, 1..30),
        place in 0_usize..130,
        byte in any::<u8>(),
    ) {
        let mut header = incremental::header(blocks.into_iter(), 50, 8192);
        header[place] = byte;
        if let Ok(start) = incremental::Start::parse(header.first_chunk().unwrap(), 100) {
            prop_assert!(start.count <= 100 && start.truncation_length <= 100);
            let numbers = &header[incremental::Start::SIZE..][..start.numbers_size()];
            if let Ok(numbers) = incremental::parse_numbers(numbers, 100) {
                prop_assert!(numbers.is_sorted() && numbers.iter().all(|&block| block < 100));
                prop_assert_eq!(numbers.len(), start.count as usize);
            }
        }
    }

    #[test]
    fn a_label_keeps_its_other_lines(lines in vec("[A-Z ]{0,20}: [ -~]{0,20}", 0..8), at in 0_usize..8) {
        let text = |lines: &[String]| lines.iter().map(|line| format!("{line}\n")).collect::<String>();
        let before = text(&lines);
        let mut lines = lines;
        let at = at.min(lines.len());
        lines.insert(at, "INCREMENTAL FROM TLI: 1".to_owned());
        lines.insert(at, "INCREMENTAL FROM LSN: 0/1".to_owned());
        let after = backup_label::without_incremental(text(&lines).as_bytes());
        prop_assume!(!before.contains("INCREMENTAL FROM"));
        prop_assert_eq!(after, before.into_bytes());
    }

    #[test]
    fn no_bytes_panic(bytes in near_name()) {
        RelationFile::parse(&bytes);
        relation_file::is_temporary_relation(&bytes);
        ChecksummedFiles::AllButListed.segment(&bytes);
        ChecksummedFiles::Relations.segment(&bytes);
        exclusion::is_excluded_file(&bytes);
        exclusion::is_emptied_directory(&bytes);
        exclusion::is_database_directory(&bytes);
        path::strip_current_directory(&bytes);
        path::unescape(&bytes);
        SegmentName::parse(&bytes);
        wal::timeline_of_history(&bytes);
        PageHeader::read(&bytes);
        let _ = BackupLabel::parse(&bytes);
        let _ = incremental::parse_numbers(&bytes, 131_072);
        if let Some(start) = bytes.first_chunk() {
            let _ = incremental::Start::parse(start, 131_072);
        }
        let _ = String::from_utf8_lossy(&bytes).parse::<Lsn>();
    }

    #[test]
    fn a_relation_file_and_its_name_determine_each_other(
        relfilenode in 1_u32..,
        (fork, suffix) in select(&[
            (Fork::Main, ""),
            (Fork::FreeSpaceMap, "_fsm"),
            (Fork::VisibilityMap, "_vm"),
            (Fork::Init, "_init"),
        ][..]),
        segment in prop_oneof![Just(0), any::<u32>()],
    ) {
        let end = if segment == 0 { String::new() } else { format!(".{segment}") };
        let name = format!("{relfilenode}{suffix}{end}");
        let file = RelationFile { relfilenode, fork, segment };
        prop_assert_eq!(RelationFile::parse(name.as_bytes()), Some(file));
        let path = format!("base/1/{name}");
        for files in [ChecksummedFiles::AllButListed, ChecksummedFiles::Relations] {
            prop_assert_eq!(files.segment(path.as_bytes()), Some(segment));
        }
        prop_assert!(!relation_file::is_temporary_relation(name.as_bytes()));
        let temporary = format!("t3_{name}");
        prop_assert!(relation_file::is_temporary_relation(temporary.as_bytes()));
        prop_assert_eq!(RelationFile::parse(temporary.as_bytes()), None);
    }

    #[test]
    fn what_is_read_as_a_relation_file_is_its_name(bytes in near_name()) {
        if let Some(file) = RelationFile::parse(&bytes) {
            let name = String::from_utf8(bytes).unwrap();
            let number = file.relfilenode.to_string();
            prop_assert!(name.starts_with(&number));
            prop_assert_eq!(name.contains('.'), file.segment > 0);
            prop_assert_eq!(name.contains('_'), file.fork != Fork::Main);
        }
    }

    #[test]
    fn an_escaped_path_is_ascii_and_read_back(bytes in vec(any::<u8>(), 0..300)) {
        let text = path::escape(&bytes);
        prop_assert!(text.is_ascii());
        prop_assert_eq!(path::unescape(text.as_bytes()), Some(bytes));
    }

    #[test]
    fn an_lsn_is_read_back(lsn in any::<u64>().prop_map(Lsn)) {
        prop_assert_eq!(lsn.to_string().parse(), Ok(lsn));
        prop_assert_eq!(lsn.to_string().to_lowercase().parse(), Ok(lsn));
    }

    #[test]
    fn a_segment_name_tells_the_segment(
        size in segment_size(),
        timeline in any::<u32>(),
        lsn in any::<u64>().prop_map(Lsn),
    ) {
        let segment = size.segment_of(lsn);
        let name = SegmentName::parse(size.file_name(timeline, segment).as_bytes()).unwrap();
        prop_assert_eq!(name.timeline, timeline);
        prop_assert_eq!(size.number_of(name.log, name.seg), segment);
        prop_assert!(size.segment_before(lsn) <= segment);
        prop_assert!(segment - size.segment_before(lsn) <= 1);
    }

    /// Model: searches the present segments for each number of the range.
    #[test]
    fn a_sequence_of_segments_has_no_gap(
        size in segment_size(),
        first in 0_u64..10_000,
        len in 1_u64..8,
        mut present in vec((1_u32..4, 0_u64..10), 0..40),
        shuffle in any::<prop::sample::Index>(),
    ) {
        if !present.is_empty() {
            let at = shuffle.index(present.len());
            present.rotate_left(at);
        }
        let names: Vec<_> = present
            .iter()
            .map(|&(timeline, segment)| size.file_name(timeline, first + segment).into_bytes())
            .collect();
        let holds = |number: u64| present.iter().any(|&(_, segment)| segment == number);
        let gap = (0..len).find(|&number| !holds(number));

        let result = select_segments(&names, first, first + len - 1, 9, size);
        match (gap, result) {
            (None, Ok(segments)) => {
                let numbers: Vec<_> = segments.iter().map(|s| size.number_of(s.log, s.seg)).collect();
                prop_assert!(numbers.is_sorted());
                let inside = present.iter().filter(|(_, segment)| *segment < len).count();
                prop_assert_eq!(numbers.len(), inside);
            }
            (Some(gap), Err(SequenceError::Missing(name))) => {
                prop_assert_eq!(name, size.file_name(9, first + gap));
            }
            (Some(_), Err(SequenceError::NoFiles)) => prop_assert!((0..len).all(|n| !holds(n))),
            (gap, result) => prop_assert!(false, "gap {gap:?}, but {result:?}"),
        }
    }

    #[test]
    fn no_numbers_panic(
        size in segment_size(),
        numbers in any::<(u64, u64, u32, u32)>(),
        names in vec(any::<[u32; 3]>(), 0..10),
    ) {
        let (start, stop, timeline, seg) = numbers;
        let names: Vec<_> = names
            .iter()
            .map(|[timeline, log, seg]| format!("{timeline:08X}{log:08X}{seg:08X}").into_bytes())
            .collect();
        let _ = select_segments(&names, start, stop, timeline, size);
        let _ = select_segments(&names, 0, u64::MAX, timeline, size);
        size.number_of(timeline, seg);
        size.file_name(timeline, start);
    }

    #[test]
    fn only_zeros_are_all_zeros(mut page in vec(0_u8..=0, 0..2000), at in any::<prop::sample::Index>(), byte in 1_u8..) {
        prop_assert!(is_all_zeros(&page));
        if !page.is_empty() {
            let at = at.index(page.len());
            page[at] = byte;
            prop_assert!(!is_all_zeros(&page));
        }
    }

    #[test]
    fn a_level_is_accepted_when_the_method_has_it(
        (method, lowest, highest) in select(&[
            (Method::Gzip, 1, 9),
            (Method::Lz4, 1, 12),
            (Method::Zstd, -131_072, 22),
        ][..]),
        level in prop_oneof![-2..30_i64, -131_080..-131_060_i64, any::<i64>()],
        upper in vec(any::<bool>(), 1..5),
    ) {
        let text = format!("{}:{level}", in_any_case(method.name(), &upper));
        let expected = match i32::try_from(level) {
            Ok(level) if (lowest..=highest).contains(&level) => {
                Ok(Compression { method, level: Some(level) })
            }
            _ => Err(InvalidCompression::InvalidLevel(method)),
        };
        prop_assert_eq!(Compression::parse(&text), expected);
        prop_assert_eq!(
            Compression::parse(&format!("none:{level}")),
            Err(InvalidCompression::InvalidLevel(Method::None))
        );
    }

    #[test]
    fn an_algorithm_is_known_by_its_name_in_any_case(
        name in select(&["NONE", "CRC32C", "SHA224", "SHA256", "SHA384", "SHA512"][..]),
        upper in vec(any::<bool>(), 1..7),
        more in "[0-9A-Za-z -]{1,3}",
    ) {
        let algorithm = Algorithm::parse(&in_any_case(name, &upper));
        prop_assert_eq!(algorithm.map(|found| found.name().unwrap_or("NONE")), Some(name));
        prop_assert_eq!(Algorithm::parse(&format!("{name}{more}")), None);
        prop_assert_eq!(Algorithm::parse(&format!("{more}{name}")), None);
    }

    /// The history is a chain of timelines, each starting some time after its parent.
    #[test]
    fn wal_ranges_lead_from_the_start_to_the_end(
        steps in vec((1_u32..4, 1_u64..1000), 1..8),
        first in any::<prop::sample::Index>(),
        within in any::<prop::sample::Index>(),
        beyond in 0_u64..1000,
    ) {
        let (mut timeline, mut begin) = (0, 0);
        let mut timelines = Vec::new();
        for (step, length) in steps {
            timeline += step;
            timelines.push(TimelineEntry { timeline, begin: Lsn(begin) });
            begin += length;
        }
        let last = *timelines.last().unwrap();
        let first = first.index(timelines.len());
        // A backup starts before its timeline ends; the last timeline has no end.
        let length = match timelines.get(first + 1) {
            Some(next) => next.begin.0 - timelines[first].begin.0,
            None => 1000,
        };
        let start = Lsn(timelines[first].begin.0 + within.index(length as usize) as u64);
        let end = Lsn(start.0.max(last.begin.0) + beyond);
        let mut expected = Vec::new();
        for (at, entry) in timelines.iter().enumerate().skip(first) {
            expected.insert(0, WalRange {
                timeline: entry.timeline,
                start: if at == first { start } else { entry.begin },
                end: timelines.get(at + 1).map_or(end, |next| next.begin),
            });
        }
        let history: Vec<_> = timelines.iter().rev().copied().collect();
        let ranges = wal_ranges(&history, timelines[first].timeline, start, last.timeline, end);
        prop_assert_eq!(ranges, Ok(expected));
    }

    #[test]
    fn no_histories_panic(
        history in vec((0_u32..6, 0_u64..20), 0..8),
        (start_timeline, end_timeline) in (0_u32..6, 0_u32..6),
        (start, end) in (0_u64..20, any::<u64>()),
    ) {
        let history: Vec<_> = history
            .into_iter()
            .map(|(timeline, begin)| TimelineEntry { timeline, begin: Lsn(begin) })
            .collect();
        match wal_ranges(&history, start_timeline, Lsn(start), end_timeline, Lsn(end)) {
            Ok(ranges) => {
                prop_assert_eq!(ranges.first().map(|range| range.timeline), Some(end_timeline));
                prop_assert_eq!(ranges.last().map(|range| range.timeline), Some(start_timeline));
                prop_assert!(ranges.windows(2).all(|pair| pair[0].start == pair[1].end));
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
