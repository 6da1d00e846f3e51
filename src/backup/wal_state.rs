//! State of the WAL stream in a backup's segment.
//!
//! One session at a time sends the WAL of a backup. It alone writes here; others read.

use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use crate::server::process;
use crate::server::segment::FromBytes;

/// How far the WAL of a backup has come. Positions are 0 until there is one.
#[derive(Default, FromBytes)]
#[repr(C)]
pub struct WalState {
    /// Process of the session that sends WAL; 0 for none.
    sender_pid: AtomicI32,
    newest_history: AtomicU32,
    /// 1 from the first stream on.
    has_begun: AtomicU32,
    /// Keeps the positions aligned.
    _unused: AtomicU32,
    acknowledged: AtomicU64,
    sent: AtomicU64,
    segments_sent: AtomicU64,
}

impl WalState {
    /// Claims the WAL stream for this process.
    ///
    /// # Errors
    /// The process that has it.
    pub fn claim(&self) -> Result<(), i32> {
        self.sender_pid
            .compare_exchange(0, process::own_id(), Ordering::AcqRel, Ordering::Acquire)
            .map(|_| self.has_begun.store(1, Ordering::Release))
    }

    /// Whether a session has streamed WAL, and what is left of it is not fetched WAL.
    #[must_use]
    pub fn is_streamed(&self) -> bool {
        self.has_begun.load(Ordering::Acquire) != 0
    }

    /// Gives the WAL stream back, if this process has it. Does not raise, and may run at process exit.
    pub fn release(&self) {
        let own = process::own_id();
        // Where another process has it there is nothing to give back.
        let _ = self
            .sender_pid
            .compare_exchange(own, 0, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Wakes the session that sends WAL. Does not raise.
    pub fn wake_sender(&self) {
        process::wake(self.sender_pid.load(Ordering::Acquire));
    }

    /// All WAL before it is on the caller's disk.
    #[must_use]
    pub fn acknowledged(&self) -> Option<u64> {
        position(&self.acknowledged)
    }

    /// Notes that all WAL before a position is on the caller's disk.
    pub fn acknowledge(&self, lsn: u64) {
        self.acknowledged.store(lsn, Ordering::Release);
    }

    /// All WAL of the backup before it has left.
    #[must_use]
    pub fn sent(&self) -> Option<u64> {
        position(&self.sent)
    }

    /// Number of segments that have left; one that left again counts once.
    #[must_use]
    pub fn segments_sent(&self) -> u64 {
        self.segments_sent.load(Ordering::Acquire)
    }

    /// The newest timeline whose history has left; 0 for none.
    #[must_use]
    pub fn newest_history(&self) -> u32 {
        self.newest_history.load(Ordering::Acquire)
    }

    /// Notes that all histories up to that of a timeline have left.
    pub fn set_newest_history(&self, timeline: u32) {
        self.newest_history.fetch_max(timeline, Ordering::AcqRel);
    }

    /// Notes that a segment has left, which ends at `end`.
    pub fn count_segment(&self, end: u64) {
        // A segment on a second timeline, or one that left again, ends where its like did.
        if self.sent.fetch_max(end, Ordering::AcqRel) < end {
            self.segments_sent.fetch_add(1, Ordering::AcqRel);
        }
    }
}

fn position(value: &AtomicU64) -> Option<u64> {
    Some(value.load(Ordering::Acquire)).filter(|&lsn| lsn != 0)
}
