//! WAL sender of a backup: the one session at a time that streams its WAL while files are sent.
//!
//! COPY goes one way. So each call acknowledges what the calls before it have sent, and only that is
//! let go: a stream that fails has cost nothing.

use std::time::{Duration, Instant};

use backup_format::lsn::Lsn;
use backup_format::wal::SegmentSize;

use crate::backup::state::{BackupState, Phase};
use crate::server::interrupt::{self, WaitEvent};
use crate::server::recovery;
use crate::server::report::{Error, Result, Sqlstate};
use crate::server::segment::{DetachHandler, Memory};
use crate::server::settings;

use super::lookup::{self, Found};
use super::wal_range::WalRange;
use super::worker::{self, RunningCheck};

/// Interval at which the server's WAL is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Bytes of segments in one call: the server keeps them until the next one confirms them, and they are
/// sent again after a lost connection.
const MOST_BYTES: u64 = 64 << 20;

/// Number of segments in one call, where they are small.
const MOST_SEGMENTS: u64 = 16;

/// The session's right to send the WAL of a backup, which ends on drop.
pub struct WalSender {
    found: Found,
    segment_size: SegmentSize,
}

impl WalSender {
    /// Takes over the WAL stream of a backup; `None` stands for the one that this session leads.
    ///
    /// # Errors
    /// As [`lookup::find`]; `object_not_in_prerequisite_state` where the backup is being stopped;
    /// `object_in_use` where another session sends the WAL.
    pub fn join(backup_id: Option<i64>) -> Result<Self> {
        let found = lookup::find(backup_id)?;
        worker::check_running(&found.backup, found.backup_id)?;
        found.backup.wal.claim().map_err(|pid| {
            let backup_id = found.backup_id;
            Error::new(
                Sqlstate::ERRCODE_OBJECT_IN_USE,
                format!("the WAL of backup {backup_id} is being sent by another session"),
            )
            .detail(format!("The process of that session is {pid}."))
            .hint("A backup has one WAL stream at a time.")
        })?;
        let sender = Self {
            found,
            segment_size: settings::wal_segment_size(),
        };
        if !sender.found.is_own {
            sender.found.backup.on_detach::<SenderDetaches>();
        }
        Ok(sender)
    }

    /// The backup's state.
    #[must_use]
    pub fn backup(&self) -> &BackupState {
        &self.found.backup
    }

    /// The check for the stages of the stream, which may outlast the backup.
    #[must_use]
    pub fn running_check(&self) -> RunningCheck<'_> {
        RunningCheck::WalSender {
            backup: self.backup(),
            backup_id: self.found.backup_id,
        }
    }

    /// Lets go of the WAL before a position, which the caller has on its disk. Returns the number of
    /// the segment to send next. `None` acknowledges nothing.
    ///
    /// # Errors
    /// `invalid_parameter_value` where the position lies before what was acknowledged, or beyond what
    /// was sent.
    pub fn acknowledge(&self, lsn: Option<u64>) -> Result<u64> {
        let segment_of = |lsn| self.segment_size.segment_of(Lsn(lsn));
        let (wal, start) = (&self.backup().wal, self.backup().start_lsn());
        let acknowledged = wal.acknowledged().unwrap_or(start);
        let Some(lsn) = lsn else {
            return Ok(segment_of(acknowledged));
        };
        let refused = |what: &str, limit| {
            let (given, limit) = (Lsn(lsn), Lsn(limit));
            Error::new(
                Sqlstate::ERRCODE_INVALID_PARAMETER_VALUE,
                format!("position {given} is {what} {limit}"),
            )
        };
        if segment_of(lsn) < segment_of(acknowledged) {
            return Err(refused(
                "before the WAL that was acknowledged, which begins at",
                acknowledged,
            )
            .hint("Use NULL to go on where the last acknowledgement was."));
        }
        let sent = wal.sent().unwrap_or(start);
        if lsn > sent.max(acknowledged) {
            return Err(refused("beyond the WAL that was sent, which ends at", sent)
                .hint("Acknowledge the end of the last segment that you have on your disk."));
        }
        if lsn > acknowledged {
            wal.acknowledge(lsn);
            self.backup().retention.wake_worker();
        }
        Ok(segment_of(lsn))
    }

    /// Waits for segments that are complete, from a number on. `None` if there is none within `longest`,
    /// or if the backup stops.
    ///
    /// # Errors
    /// Where the backup has failed, a standby was promoted, or a segment has been removed.
    pub fn wait_for_segments(&self, first: u64, longest: Duration) -> Result<Option<WalRange>> {
        let began = Instant::now();
        loop {
            self.running_check().check()?;
            worker::check_not_promoted(self.backup())?;
            if self.backup().phase() != Phase::Streaming {
                return Ok(None);
            }
            let flushed = recovery::flushed_position();
            let incomplete = self.segment_size.segment_of(Lsn(flushed.lsn));
            if first < incomplete {
                let last = (incomplete - 1).min(first + self.most_segments() - 1);
                return self.segments(first, last, flushed.timeline).map(Some);
            }
            let left = longest.saturating_sub(began.elapsed());
            if left.is_zero() {
                return Ok(None);
            }
            interrupt::wait(left.min(LOOK), WaitEvent::Extension);
        }
    }

    fn most_segments(&self) -> u64 {
        (MOST_BYTES / u64::from(self.segment_size.bytes())).clamp(1, MOST_SEGMENTS)
    }

    /// The segments, and the histories that have not left yet.
    fn segments(&self, first: u64, last: u64, timeline: u32) -> Result<WalRange> {
        let mut wal = WalRange::find(first..=last, timeline, timeline)
            // A promotion renames the last segment of the old timeline.
            .map_err(|failure| worker::or_promotion(self.backup(), failure))?;
        let known = self.backup().wal.newest_history();
        wal.histories.retain(|history| history.timeline > known);
        Ok(wal)
    }

    /// Counts what has left in a stream that ended well.
    pub fn settle(&self, wal: &WalRange) {
        let state = &self.backup().wal;
        for history in &wal.histories {
            state.set_newest_history(history.timeline);
        }
        for segment in &wal.segments {
            state.count_segment(wal.end_of(segment));
        }
    }
}

impl Drop for WalSender {
    fn drop(&mut self) {
        self.backup().wal.release();
    }
}

/// Handler for the end of the sender's mapping, which a FATAL ends as well.
struct SenderDetaches;

impl DetachHandler for SenderDetaches {
    fn detached(memory: Memory<'_>, _argument: u32) {
        if let Some(state) = memory.value::<BackupState>(0) {
            state.wal.release();
        }
    }
}
