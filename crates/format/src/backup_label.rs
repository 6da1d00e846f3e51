//! The file `backup_label`: where a backup begins, and from where an incremental one goes on.
//!
//! Follows `backup_label.c` of pg_combinebackup, with its messages.

use core::fmt;

use crate::lsn::Lsn;

const START: &str = "START WAL LOCATION";
const START_TIMELINE: &str = "START TIMELINE";
const FROM_LSN: &str = "INCREMENTAL FROM LSN";
const FROM_TIMELINE: &str = "INCREMENTAL FROM TLI";

/// A position on a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The timeline.
    pub timeline: u32,
    /// The position in its WAL.
    pub lsn: Lsn,
}

/// What the tools need of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupLabel {
    /// Start of the backup.
    pub start: Position,
    /// Start of the backup before, in an incremental one.
    pub incremental_from: Option<Position>,
}

/// Reason why a file is no backup label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidBackupLabel {
    /// A line is missing.
    Missing(&'static str),
    /// The value of a line is none.
    Value(&'static str),
    /// A line is there without the other one.
    Requires(&'static str, &'static str),
}

impl fmt::Display for InvalidBackupLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(line) => write!(f, "could not find {line}"),
            Self::Value(line) => write!(f, "could not parse {line}"),
            Self::Requires(line, other) => write!(f, "{line} requires {other}"),
        }
    }
}

impl core::error::Error for InvalidBackupLabel {}

impl BackupLabel {
    /// Reads a file.
    ///
    /// # Errors
    /// Where a line is missing or has no value.
    pub fn parse(content: &[u8]) -> Result<Self, InvalidBackupLabel> {
        use InvalidBackupLabel::{Missing, Requires};
        let lsn = value(content, START, |text| {
            // The name of the segment follows.
            text.split_once(' ')?.0.parse().ok()
        })?;
        let timeline = value(content, START_TIMELINE, parse_timeline)?;
        let from_lsn: Option<Lsn> = value(content, FROM_LSN, |text| text.parse().ok())?;
        let from_timeline = value(content, FROM_TIMELINE, parse_timeline)?;
        Ok(Self {
            start: Position {
                timeline: timeline.ok_or(Missing(START_TIMELINE))?,
                lsn: lsn.ok_or(Missing(START))?,
            },
            incremental_from: match (from_timeline, from_lsn) {
                (Some(timeline), Some(lsn)) => Some(Position { timeline, lsn }),
                (None, None) => None,
                (Some(_), None) => return Err(Requires(FROM_TIMELINE, FROM_LSN)),
                (None, Some(_)) => return Err(Requires(FROM_LSN, FROM_TIMELINE)),
            },
        })
    }
}

/// The label of a backup that is no longer incremental.
pub fn without_incremental(content: &[u8]) -> Vec<u8> {
    let stays = |line: &&[u8]| {
        ![FROM_LSN, FROM_TIMELINE]
            .iter()
            .any(|name| rest_of(line, name).is_some())
    };
    content
        .split_inclusive(|&byte| byte == b'\n')
        .filter(stays)
        .collect::<Vec<_>>()
        .concat()
}

fn parse_timeline(text: &str) -> Option<u32> {
    text.parse().ok().filter(|&timeline| timeline > 0)
}

/// The value of the last line with that name, as PostgreSQL takes it.
fn value<T>(
    content: &[u8],
    name: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, InvalidBackupLabel> {
    let lines = content.split(|&byte| byte == b'\n');
    let Some(text) = lines.filter_map(|line| rest_of(line, name)).next_back() else {
        return Ok(None);
    };
    let value = std::str::from_utf8(text).ok().and_then(parse);
    value.map(Some).ok_or(InvalidBackupLabel::Value(name))
}

fn rest_of<'a>(line: &'a [u8], name: &str) -> Option<&'a [u8]> {
    line.strip_prefix(name.as_bytes())?.strip_prefix(b": ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const FULL: &str = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n\
        CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n\
        START TIME: 2026-11-29 22:00:00 UTC\nLABEL: one: two\nSTART TIMELINE: 1\n";

    fn position(timeline: u32, lsn: u64) -> Position {
        Position {
            timeline,
            lsn: Lsn(lsn),
        }
    }

    #[test]
    fn an_incremental_backup_names_the_one_before() {
        let full = BackupLabel::parse(FULL.as_bytes()).unwrap();
        assert_eq!(full.start, position(1, 0x0200_0028));
        assert_eq!(full.incremental_from, None);
        let text = format!("{FULL}INCREMENTAL FROM LSN: 1/A0\nINCREMENTAL FROM TLI: 7\n");
        let label = BackupLabel::parse(text.as_bytes()).unwrap();
        assert_eq!(label.incremental_from, Some(position(7, 0x1_0000_00A0)));
        assert_eq!(without_incremental(text.as_bytes()), FULL.as_bytes());
        assert_eq!(without_incremental(FULL.as_bytes()), FULL.as_bytes());
    }

    #[test]
    fn what_is_missing_or_no_value_is_named() {
        let reason = |text: String| BackupLabel::parse(text.as_bytes()).unwrap_err().to_string();
        let start = |text: &str| FULL.replace("0/2000028 (", text);
        for (text, expected) in [
            (String::new(), "could not find START TIMELINE"),
            (
                "START TIMELINE: 1\n".into(),
                "could not find START WAL LOCATION",
            ),
            (start("x ("), "could not parse START WAL LOCATION"),
            (start("0/2000028("), "could not parse START WAL LOCATION"),
            (
                format!("{FULL}START TIMELINE: 0\n"),
                "could not parse START TIMELINE",
            ),
            (
                format!("{FULL}INCREMENTAL FROM LSN: 0/1\n"),
                "INCREMENTAL FROM LSN requires INCREMENTAL FROM TLI",
            ),
            (
                format!("{FULL}INCREMENTAL FROM TLI: 1\n"),
                "INCREMENTAL FROM TLI requires INCREMENTAL FROM LSN",
            ),
            (
                format!("{FULL}INCREMENTAL FROM LSN: 0/1 \n"),
                "could not parse INCREMENTAL FROM LSN",
            ),
        ] {
            assert_eq!(reason(text), expected);
        }
    }
}
