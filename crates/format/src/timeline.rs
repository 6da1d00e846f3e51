//! WAL ranges that the restore of a backup must replay, one for each timeline.

use std::error::Error;
use std::fmt;

use crate::lsn::Lsn;

/// Part of the write-ahead log on one timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalRange {
    /// The timeline.
    pub timeline: u32,
    /// Start of the range.
    pub start: Lsn,
    /// End of the range, exclusive.
    pub end: Lsn,
}

/// Timeline in the history of another, as returned by `readTimeLineHistory()`. It ends where the next
/// newer one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineEntry {
    /// The timeline.
    pub timeline: u32,
    /// Where it branched off its parent; zero if it has no parent.
    pub begin: Lsn,
}

/// Mismatch between the timelines of a backup and a timeline history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalRangeError {
    /// The newest timeline in the history that did not end before the backup started is not the one on
    /// which the backup ended.
    EndTimeline {
        /// The timeline on which the backup ended.
        expected: u32,
        /// The one in the history.
        found: u32,
    },
    /// The history ends in a timeline without a parent that is not the one on which the backup started.
    StartTimeline {
        /// The timeline on which the backup started.
        expected: u32,
        /// The one in the history.
        found: u32,
    },
    /// The history does not contain the timeline on which the backup started.
    NotInHistory {
        /// The timeline on which the backup started.
        start: u32,
        /// The timeline that the history belongs to.
        end: u32,
    },
}

impl fmt::Display for WalRangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EndTimeline { expected, found } => {
                write!(
                    f,
                    "expected end timeline {expected} but found timeline {found}"
                )
            }
            Self::StartTimeline { expected, found } => {
                write!(
                    f,
                    "expected start timeline {expected} but found timeline {found}"
                )
            }
            Self::NotInHistory { start, end } => {
                write!(
                    f,
                    "start timeline {start} not found in history of timeline {end}"
                )
            }
        }
    }
}

impl Error for WalRangeError {}

/// Returns the WAL ranges from `start` on one timeline to `end` on another, newest first.
///
/// `history` is the history of `end_timeline`, newest first, including `end_timeline` itself. The
/// rules are those of `AddWALInfoToBackupManifest()`.
///
/// # Errors
/// [`WalRangeError`] if `history` does not connect the two timelines.
pub fn wal_ranges(
    history: &[TimelineEntry],
    start_timeline: u32,
    start: Lsn,
    end_timeline: u32,
    end: Lsn,
) -> Result<Vec<WalRange>, WalRangeError> {
    const NONE: Lsn = Lsn(0);
    let mut ranges = Vec::new();
    let mut range_end = end;
    let mut entry_end = NONE;
    for entry in history {
        // Skip timelines that ended before the backup started.
        let ended_before = entry_end != NONE && entry_end < start;
        entry_end = entry.begin;
        if ended_before {
            continue;
        }
        if ranges.is_empty() && entry.timeline != end_timeline {
            return Err(WalRangeError::EndTimeline {
                expected: end_timeline,
                found: entry.timeline,
            });
        }
        let is_first = entry.timeline == start_timeline;
        if !is_first && entry.begin == NONE {
            return Err(WalRangeError::StartTimeline {
                expected: start_timeline,
                found: entry.timeline,
            });
        }
        ranges.push(WalRange {
            timeline: entry.timeline,
            start: if is_first { start } else { entry.begin },
            end: range_end,
        });
        if is_first {
            return Ok(ranges);
        }
        range_end = entry.begin;
    }
    Err(WalRangeError::NotInHistory {
        start: start_timeline,
        end: end_timeline,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(entries: &[(u32, u64)]) -> Vec<TimelineEntry> {
        entries
            .iter()
            .map(|&(timeline, begin)| TimelineEntry {
                timeline,
                begin: Lsn(begin),
            })
            .collect()
    }

    fn ranges(
        entries: &[(u32, u64)],
        start: (u32, u64),
        end: (u32, u64),
    ) -> Result<Vec<(u32, u64, u64)>, String> {
        wal_ranges(&history(entries), start.0, Lsn(start.1), end.0, Lsn(end.1))
            .map(|ranges| {
                ranges
                    .iter()
                    .map(|range| (range.timeline, range.start.0, range.end.0))
                    .collect()
            })
            .map_err(|error| error.to_string())
    }

    #[test]
    fn one_timeline_is_one_range() {
        assert_eq!(ranges(&[(1, 0)], (1, 10), (1, 20)), Ok(vec![(1, 10, 20)]));
    }

    #[test]
    fn older_timelines_do_not_matter() {
        assert_eq!(
            ranges(&[(3, 50), (2, 30), (1, 0)], (3, 60), (3, 70)),
            Ok(vec![(3, 60, 70)])
        );
    }

    #[test]
    fn a_timeline_that_began_during_the_backup_begins_a_range() {
        assert_eq!(
            ranges(&[(3, 50), (2, 30), (1, 0)], (1, 20), (3, 70)),
            Ok(vec![(3, 50, 70), (2, 30, 50), (1, 20, 30)])
        );
    }

    #[test]
    fn a_timeline_that_ended_where_the_backup_starts_is_no_older_one() {
        assert_eq!(
            ranges(&[(2, 30), (1, 0)], (1, 30), (2, 40)),
            Ok(vec![(2, 30, 40), (1, 30, 30)])
        );
        assert_eq!(
            ranges(&[(2, 30), (1, 0)], (1, 31), (2, 40)),
            Err("start timeline 1 not found in history of timeline 2".to_owned())
        );
    }

    #[test]
    fn a_history_of_another_timeline_is_refused() {
        assert_eq!(
            ranges(&[(3, 50), (1, 0)], (1, 20), (2, 70)),
            Err("expected end timeline 2 but found timeline 3".to_owned())
        );
    }

    #[test]
    fn a_history_of_other_ancestors_is_refused() {
        assert_eq!(
            ranges(&[(3, 50), (1, 0)], (2, 20), (3, 70)),
            Err("expected start timeline 2 but found timeline 1".to_owned())
        );
        assert_eq!(
            ranges(&[(3, 50)], (2, 20), (3, 70)),
            Err("start timeline 2 not found in history of timeline 3".to_owned())
        );
        assert_eq!(
            ranges(&[], (1, 20), (1, 70)),
            Err("start timeline 1 not found in history of timeline 1".to_owned())
        );
    }
}
