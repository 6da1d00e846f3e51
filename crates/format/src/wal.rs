//! Names of WAL segments, and the gapless sequence of segments that a backup needs.

use std::error::Error;
use std::fmt;

use crate::lsn::Lsn;

/// Size of a WAL segment in bytes: a power of two from 1 MB to 1 GB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// `None` for an invalid size.
    pub fn new(bytes: u32) -> Option<Self> {
        let valid = bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes);
        valid.then_some(Self(bytes))
    }

    /// The size in bytes.
    pub fn bytes(self) -> u32 {
        self.0
    }

    /// Number of the segment that contains the byte at `lsn`.
    pub fn segment_of(self, lsn: Lsn) -> u64 {
        lsn.0 / u64::from(self.0)
    }

    /// Number of the segment that contains the byte before `lsn`: the last byte of a record that ends
    /// at `lsn`. Segment 0 for LSN 0, as no byte precedes it.
    pub fn segment_before(self, lsn: Lsn) -> u64 {
        self.segment_of(Lsn(lsn.0.saturating_sub(1)))
    }

    /// Position at which a segment ends.
    pub fn end_of(self, segment: u64) -> Lsn {
        Lsn(segment.saturating_add(1).saturating_mul(u64::from(self.0)))
    }

    /// File name of a segment.
    pub fn file_name(self, timeline: u32, segment: u64) -> String {
        self.name(timeline, segment).to_string()
    }

    /// Number of the segment with these second and third parts in its name.
    pub fn number_of(self, log: u32, seg: u32) -> u64 {
        u64::from(log) * self.segments_per_log() + u64::from(seg)
    }

    /// Number of segments with the same `log` in their names; `log` counts units of 4 GB.
    fn segments_per_log(self) -> u64 {
        (1 << 32) / u64::from(self.0)
    }

    /// Segment numbers beyond the largest LSN wrap around, as in the server.
    fn name(self, timeline: u32, segment: u64) -> SegmentName {
        SegmentName {
            timeline,
            log: (segment / self.segments_per_log()) as u32,
            seg: (segment % self.segments_per_log()) as u32,
        }
    }
}

/// File name of a WAL segment: three numbers of eight hexadecimal digits each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SegmentName {
    /// The timeline that wrote the segment.
    pub timeline: u32,
    /// The upper half of the LSNs in the segment.
    pub log: u32,
    /// The segment's number among those with the same `log`.
    pub seg: u32,
}

impl SegmentName {
    /// Parses a name of exactly 24 hexadecimal digits, letters in upper case.
    pub fn parse(name: &[u8]) -> Option<Self> {
        let name: &[u8; 24] = name.try_into().ok()?;
        let part = |at: usize| parse_hex(&name[at..at + 8]);
        Some(Self {
            timeline: part(0)?,
            log: part(8)?,
            seg: part(16)?,
        })
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { timeline, log, seg } = self;
        write!(f, "{timeline:08X}{log:08X}{seg:08X}")
    }
}

/// Timeline of a history file's name, `00000002.history`; `None` for another name.
pub fn timeline_of_history(name: &[u8]) -> Option<u32> {
    let timeline = name.strip_suffix(b".history")?;
    (timeline.len() == 8).then(|| parse_hex(timeline)).flatten()
}

/// Part of the WAL that a backup needs is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SequenceError {
    /// All of its segments are missing.
    NoFiles,
    /// File name of the first missing segment.
    Missing(String),
}

impl fmt::Display for SequenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFiles => write!(f, "could not find any WAL files"),
            Self::Missing(name) => write!(f, "could not find WAL file \"{name}\""),
        }
    }
}

impl Error for SequenceError {}

/// Selects the segments from number `start` to number `stop` from the names in a directory.
///
/// Segments of all timelines are selected: a backup from a standby may span several, and a surplus
/// file does no harm. The result is sorted by segment number, then by timeline. The oldest segment
/// comes first because the server removes it first.
///
/// # Errors
/// If the sequence has a gap, the name of the first missing segment on `timeline`.
pub fn select_segments(
    names: &[Vec<u8>],
    start: u64,
    stop: u64,
    timeline: u32,
    size: SegmentSize,
) -> Result<Vec<SegmentName>, SequenceError> {
    let position = |name: &SegmentName| (name.log, name.seg);
    let range = position(&size.name(timeline, start))..=position(&size.name(timeline, stop));
    let mut segments: Vec<_> = names
        .iter()
        .filter_map(|name| SegmentName::parse(name))
        .filter(|name| range.contains(&position(name)))
        .collect();
    if segments.is_empty() {
        return Err(SequenceError::NoFiles);
    }
    segments.sort_unstable_by_key(|name| (position(name), name.timeline));

    let missing = |segment| SequenceError::Missing(size.file_name(timeline, segment));
    let mut next = start;
    for name in &segments {
        let number = size.number_of(name.log, name.seg);
        // `next - 1` is the previous segment again, on another timeline.
        if number != next && number.checked_add(1) != Some(next) {
            return Err(missing(next));
        }
        next = number + 1;
    }
    if next <= stop {
        return Err(missing(next));
    }
    Ok(segments)
}

/// Parses up to eight hexadecimal digits in upper case.
fn parse_hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0_u32, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'A'..=b'F' => digit - b'A' + 10,
            _ => return None,
        };
        Some(number << 4 | u32::from(value))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn size(bytes: u32) -> SegmentSize {
        SegmentSize::new(bytes).expect("a valid segment size")
    }

    fn megabytes(count: u32) -> SegmentSize {
        size(count << 20)
    }

    /// Result of `select_segments` for segments of 16 MB on timeline 1, as file names.
    fn selected(names: &[&str], start: u64, stop: u64) -> Result<Vec<String>, SequenceError> {
        let names: Vec<_> = names.iter().map(|name| name.as_bytes().to_vec()).collect();
        select_segments(&names, start, stop, 1, megabytes(16))
            .map(|segments| segments.iter().map(SegmentName::to_string).collect())
    }

    fn missing(name: &str) -> Result<Vec<String>, SequenceError> {
        Err(SequenceError::Missing(name.to_owned()))
    }

    #[test]
    fn segment_sizes_are_powers_of_two_from_1_mb_to_1_gb() {
        for bytes in [0, 1, 512 << 10, 3 << 20, (16 << 20) + 1, 1 << 31, u32::MAX] {
            assert_eq!(SegmentSize::new(bytes), None, "{bytes}");
        }
        for bytes in [1 << 20, 16 << 20, 1 << 30] {
            assert_eq!(size(bytes).bytes(), bytes);
        }
    }

    #[test]
    fn a_boundary_is_in_one_segment_and_the_byte_before_it_in_another() {
        let size = megabytes(16);
        for (lsn, segment, before) in [
            (0, 0, 0),
            (1, 0, 0),
            (0x0100_0000, 1, 0),
            (0x0100_0001, 1, 1),
            (0x1_0000_0000, 256, 255),
            (u64::MAX, 0xFF_FFFF_FFFF, 0xFF_FFFF_FFFF),
        ] {
            assert_eq!(size.segment_of(Lsn(lsn)), segment, "{lsn:X}");
            assert_eq!(size.segment_before(Lsn(lsn)), before, "{lsn:X}");
        }
    }

    #[test]
    fn file_names_depend_on_the_segment_size() {
        for (megabyte, segment, name) in [
            (16, 1, "000000010000000000000001"),
            (16, 255, "0000000100000000000000FF"),
            (16, 256, "000000010000000100000000"),
            (1, 4095, "000000010000000000000FFF"),
            (1, 4096, "000000010000000100000000"),
            (1024, 3, "000000010000000000000003"),
            (1024, 4, "000000010000000100000000"),
        ] {
            assert_eq!(megabytes(megabyte).file_name(1, segment), name);
        }
        assert_eq!(
            megabytes(16).file_name(0xABCDEF, 0xFF_FFFF_FFFF),
            "00ABCDEFFFFFFFFF000000FF"
        );
        assert_eq!(megabytes(1).file_name(u32::MAX, u64::MAX).len(), 24);
    }

    #[test]
    fn segment_names_are_24_upper_case_hexadecimal_digits() {
        assert_eq!(
            SegmentName::parse(b"0000000A00000016000000B3"),
            Some(SegmentName {
                timeline: 0xA,
                log: 0x16,
                seg: 0xB3,
            })
        );
        assert!(SegmentName::parse(b"FFFFFFFFFFFFFFFFFFFFFFFF").is_some());
        for name in [
            "",
            "00000001000000000000000",
            "0000000100000000000000010",
            "0000000a00000016000000b3",
            "00000001000000000000000G",
            "+00000010000000000000001",
            "000000010000000000000001.partial",
            "000000010000000000000001.00000028.backup",
            "00000002.history",
            "archive_status",
        ] {
            assert_eq!(SegmentName::parse(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn history_files_are_told_by_their_names() {
        for (name, timeline) in [("00000002.history", 2), ("FFFFFFFF.history", u32::MAX)] {
            assert_eq!(
                timeline_of_history(name.as_bytes()),
                Some(timeline),
                "{name}"
            );
        }
        for name in [
            "",
            ".history",
            "0000002.history",
            "000000002.history",
            "0000000a.history",
            "00000002.history.done",
            "00000002.History",
            "00000002",
        ] {
            assert_eq!(timeline_of_history(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn segments_in_the_range_come_oldest_first() {
        let names = [
            "000000010000000100000001",
            "000000010000000100000000",
            "0000000100000000000000FE",
            "000000010000000100000002",
            "0000000100000000000000FF",
            "archive_status",
            "00000001.history",
            "0000000100000000000000FF.partial",
        ];
        assert_eq!(
            selected(&names, 255, 257),
            Ok(vec![
                "0000000100000000000000FF".to_owned(),
                "000000010000000100000000".to_owned(),
                "000000010000000100000001".to_owned(),
            ])
        );
    }

    #[test]
    fn segments_of_all_timelines_are_taken() {
        let names = [
            "000000030000000000000002",
            "000000010000000000000001",
            "000000020000000000000002",
            "000000010000000000000002",
            "000000030000000000000003",
        ];
        assert_eq!(
            selected(&names, 1, 3),
            Ok(vec![
                "000000010000000000000001".to_owned(),
                "000000010000000000000002".to_owned(),
                "000000020000000000000002".to_owned(),
                "000000030000000000000002".to_owned(),
                "000000030000000000000003".to_owned(),
            ])
        );
    }

    #[test]
    fn the_first_gap_is_named() {
        let names = [
            "000000010000000000000002",
            "000000010000000000000003",
            "000000010000000000000005",
            "000000010000000000000007",
        ];
        assert_eq!(selected(&names, 1, 3), missing("000000010000000000000001"));
        assert_eq!(selected(&names, 2, 7), missing("000000010000000000000004"));
        assert_eq!(selected(&names, 5, 6), missing("000000010000000000000006"));
        assert!(selected(&names, 2, 3).is_ok());
    }

    #[test]
    fn no_segment_in_the_range_is_an_error_of_its_own() {
        let names = ["000000010000000000000002"];
        assert_eq!(selected(&names, 3, 4), Err(SequenceError::NoFiles));
        assert_eq!(selected(&names, 4, 1), Err(SequenceError::NoFiles));
        assert_eq!(selected(&[], 0, u64::MAX), Err(SequenceError::NoFiles));
        assert_eq!(
            SequenceError::NoFiles.to_string(),
            "could not find any WAL files"
        );
        assert_eq!(
            SequenceError::Missing("000000010000000000000002".to_owned()).to_string(),
            "could not find WAL file \"000000010000000000000002\""
        );
    }

    #[test]
    fn a_name_that_no_segment_of_this_size_has_leaves_a_gap() {
        // With segments of 1 GB, the last number is 3; 4 is invalid.
        let names = ["000000010000000000000003", "000000010000000000000004"]
            .map(|name| name.as_bytes().to_vec());
        assert_eq!(
            select_segments(&names, 3, 5, 1, megabytes(1024)),
            Err(SequenceError::Missing(
                "000000010000000100000001".to_owned()
            ))
        );
    }
}
