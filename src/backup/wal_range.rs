//! The WAL that a backup needs: from the segment of its start to that of its stop
//! (perform_base_backup() in backup/basebackup.c).

use core::ops::RangeInclusive;

use backup_format::lsn::Lsn;
use backup_format::wal::{self, SegmentSize, SequenceError};

use crate::server::backup_control::StoppedBackup;
use crate::server::file;
use crate::server::recovery;
use crate::server::report::{Error, Result, Sqlstate};
use crate::server::settings;

use super::leader::Leader;

/// A WAL segment to send.
pub struct Segment {
    /// Its file name.
    pub name: String,
    /// Its number, for CheckXLogRemoved.
    pub number: u64,
    /// The timeline in its name.
    pub timeline: u32,
}

/// A timeline history file.
pub struct History {
    /// Its file name.
    pub name: Vec<u8>,
    /// The timeline in its name.
    pub timeline: u32,
}

/// Files of pg_wal that belong to a backup.
pub struct WalRange {
    /// Oldest first, without a gap.
    pub segments: Vec<Segment>,
    /// Those of all timelines, oldest first.
    pub histories: Vec<History>,
    /// The size of each segment.
    pub segment_size: SegmentSize,
}

impl WalRange {
    /// Looks for segments by their numbers. The newest is one of `timeline`, the oldest probably of
    /// `oldest_timeline`, for messages.
    ///
    /// # Errors
    /// Where a segment has been removed, or is missing for another reason; both name it.
    pub fn find(numbers: RangeInclusive<u64>, timeline: u32, oldest_timeline: u32) -> Result<Self> {
        let segment_size = settings::wal_segment_size();
        let (first, last) = (*numbers.start(), *numbers.end());
        let names = file::read_directory(b"pg_wal")?.unwrap_or_default();
        let names: Vec<_> = names.iter().map(<[u8]>::to_vec).collect();
        let segments = if numbers.is_empty() {
            Vec::new()
        } else {
            // Before anything is looked at: a removed segment deserves the server's own error.
            recovery::check_not_removed(first, oldest_timeline);
            wal::select_segments(&names, first, last, timeline, segment_size)
                .map_err(|error| missing(&error, first, oldest_timeline))?
        };
        let segments = segments
            .into_iter()
            .map(|segment| {
                let number = segment_size.number_of(segment.log, segment.seg);
                Segment {
                    name: segment.to_string(),
                    number,
                    timeline: segment.timeline,
                }
            })
            .collect();
        let mut histories: Vec<_> = names
            .into_iter()
            .filter_map(|name| {
                let timeline = wal::timeline_of_history(&name)?;
                Some(History { name, timeline })
            })
            .collect();
        histories.sort_by_key(|history| history.timeline);
        Ok(Self {
            segments,
            histories,
            segment_size,
        })
    }

    /// Looks for the WAL of a backup that has stopped, from what the caller has acknowledged on.
    ///
    /// # Errors
    /// As [`WalRange::find`].
    pub fn of_stopped(leader: &Leader, stopped: StoppedBackup) -> Result<Self> {
        let size = settings::wal_segment_size();
        let started = &leader.started;
        let acknowledged = leader.backup.wal.acknowledged();
        let start = size.segment_of(Lsn(acknowledged.unwrap_or(started.start_lsn)));
        let stop = size.segment_before(Lsn(stopped.stop_lsn));
        // On a standby more may have been acknowledged than was replayed.
        Self::find(start..=stop, stopped.timeline, started.timeline)
    }

    /// Position at which a segment ends.
    #[must_use]
    pub fn end_of(&self, segment: &Segment) -> u64 {
        self.segment_size.end_of(segment.number).0
    }
}

fn missing(error: &SequenceError, first: u64, timeline: u32) -> Error {
    // It may have gone between the check and the look.
    recovery::check_not_removed(first, timeline);
    let message = match error {
        SequenceError::NoFiles => "could not find any WAL files".to_owned(),
        SequenceError::Missing(name) => format!("could not find WAL file \"{name}\""),
    };
    Error::new(Sqlstate::ERRCODE_UNDEFINED_FILE, message)
        .hint("Use start_backup(retain_wal => true), or take the WAL from an archive.")
}
