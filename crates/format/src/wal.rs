//! Names of WAL segments, and the unbroken sequence of them that a backup needs.

use std::error::Error;
use std::fmt;

use crate::lsn::Lsn;

/// The size of a WAL segment in bytes: a power of two from 1 MB to 1 GB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSize(u32);

impl SegmentSize {
    /// `None` for a size that no cluster can have.
    pub fn new(bytes: u32) -> Option<Self> {
        let valid = bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&bytes);
        valid.then_some(Self(bytes))
    }

    /// The size in bytes.
    pub fn bytes(self) -> u32 {
        self.0
    }

    /// The number of the segment that holds the byte at `lsn`.
    pub fn segment_of(self, lsn: Lsn) -> u64 {
        lsn.0 / u64::from(self.0)
    }

    /// The number of the segment that holds the byte before `lsn`, where a record that ends at
    /// `lsn` has its end; segment 0 for LSN 0, before which there is none.
    pub fn segment_before(self, lsn: Lsn) -> u64 {
        self.segment_of(Lsn(lsn.0.saturating_sub(1)))
    }

    /// The name of a segment's file.
    pub fn file_name(self, timeline: u32, segment: u64) -> String {
        self.name(timeline, segment).to_string()
    }

    /// The number of the segment whose name has these second and third parts.
    pub fn number_of(self, log: u32, seg: u32) -> u64 {
        u64::from(log) * self.segments_per_log() + u64::from(seg)
    }

    /// The first part of a segment's number in its name counts units of 4 GB.
    fn segments_per_log(self) -> u64 {
        (1 << 32) / u64::from(self.0)
    }

    /// Numbers beyond the last segment that an LSN can reach wrap around, as in the server.
    fn name(self, timeline: u32, segment: u64) -> SegmentName {
        SegmentName {
            timeline,
            log: (segment / self.segments_per_log()) as u32,
            seg: (segment % self.segments_per_log()) as u32,
        }
    }
}

/// The name of a WAL segment's file: three numbers, each in eight hexadecimal digits.
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
    /// Reads a name of exactly 24 digits, letters in upper case.
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

/// Whether a file name is that of a timeline's history, `00000002.history`.
pub fn is_history_file(name: &[u8]) -> bool {
    name.strip_suffix(b".history")
        .is_some_and(|timeline| timeline.len() == 8 && parse_hex(timeline).is_some())
}

/// The WAL that a backup needs is not all there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SequenceError {
    /// There is not one segment of it.
    NoFiles,
    /// The segment of this file name is the first that is missing.
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

/// Picks the segments from number `start` to number `stop` among the names in a directory.
///
/// Segments are taken from whatever timeline: a backup from a standby may span several, and a
/// file too many does no harm. They come oldest first, since that is the one that the server
/// removes first; those of one number come in the order of their timelines.
///
/// # Errors
/// When the sequence has a gap, the name of the first missing segment, as `timeline` would have
/// named it.
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
        // The number before that is the same segment of another timeline.
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

/// Eight upper-case hexadecimal digits or fewer.
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
