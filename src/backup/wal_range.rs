//! The WAL that a backup needs: from the segment of its start to that of its stop
//! (perform_base_backup() in backup/basebackup.c).

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

/// The files of pg_wal that belong to a backup.
pub struct WalRange {
    /// Oldest first, without a gap.
    pub segments: Vec<Segment>,
    /// Timeline history files.
    pub histories: Vec<Vec<u8>>,
    /// The size of each segment.
    pub segment_size: SegmentSize,
}

/// Looks for the WAL of a backup that has stopped.
///
/// # Errors
/// Where a segment has been removed, or is missing for another reason; both name it.
pub fn find(leader: &Leader, stopped: StoppedBackup) -> Result<WalRange> {
    let size = settings::wal_segment_size();
    let start = size.segment_of(Lsn(leader.started.start_lsn));
    let stop = size.segment_before(Lsn(stopped.stop_lsn));
    let names = file::read_directory(b"pg_wal")?.unwrap_or_default();
    let names: Vec<_> = names.iter().map(<[u8]>::to_vec).collect();

    // Before anything is looked at: a removed segment deserves the server's own error.
    recovery::check_not_removed(start, leader.started.timeline);
    let segments = wal::select_segments(&names, start, stop, stopped.timeline, size)
        .map_err(|error| missing(&error, start, leader.started.timeline))?;
    let segments = segments
        .into_iter()
        .map(|segment| {
            let number = size.number_of(segment.log, segment.seg);
            let name = size.file_name(segment.timeline, number);
            Segment {
                name,
                number,
                timeline: segment.timeline,
            }
        })
        .collect();
    let mut histories: Vec<_> = names
        .into_iter()
        .filter(|name| wal::is_history_file(name))
        .collect();
    histories.sort();
    Ok(WalRange {
        segments,
        histories,
        segment_size: size,
    })
}

fn missing(error: &SequenceError, start: u64, timeline: u32) -> Error {
    // It may have gone between the check and the look.
    recovery::check_not_removed(start, timeline);
    let message = match error {
        SequenceError::NoFiles => "could not find any WAL files".to_owned(),
        SequenceError::Missing(name) => format!("could not find WAL file \"{name}\""),
    };
    Error::new(Sqlstate::ERRCODE_UNDEFINED_FILE, message)
        .hint("Use start_backup(retain_wal => true), or take the WAL from an archive.")
}
