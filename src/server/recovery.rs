//! Where the server's WAL stands, in recovery and out of it (access/xlog.h, access/xlogrecovery.h,
//! access/timeline.h).

use pgrx::pg_sys;

use backup_format::lsn::Lsn;
use backup_format::timeline::TimelineEntry;

/// TimeLineHistoryEntry in access/timeline.h, which pgrx does not bind.
#[repr(C)]
struct HistoryEntry {
    timeline: pg_sys::TimeLineID,
    begin: pg_sys::XLogRecPtr,
    end: pg_sys::XLogRecPtr,
}

#[allow(ffi_unwind_calls, non_snake_case)]
mod bindings {
    use pgrx::pg_sys;

    #[pgrx::pg_guard]
    unsafe extern "C-unwind" {
        pub fn readTimeLineHistory(target: pg_sys::TimeLineID) -> *mut pg_sys::List;
    }
}

/// Whether the server is in recovery.
#[must_use]
pub fn is_in_recovery() -> bool {
    // SAFETY: reads shared state.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// The position that no page's LSN can be beyond: where the next record goes, or in recovery the
/// end of the record that is being replayed, because its pages carry that LSN already.
#[must_use]
pub fn current_position() -> u64 {
    // SAFETY: both read shared state under a spinlock.
    unsafe {
        if pg_sys::RecoveryInProgress() {
            pg_sys::GetCurrentReplayRecPtr(core::ptr::null_mut())
        } else {
            pg_sys::GetXLogInsertRecPtr()
        }
    }
}

/// Where the WAL ends that is on the server's disk.
#[derive(Clone, Copy, Debug)]
pub struct Flushed {
    /// The position.
    pub lsn: u64,
    /// The timeline of the WAL before it.
    pub timeline: u32,
}

/// Where the WAL ends that is on the server's disk: in recovery what the WAL receiver has flushed on
/// the timeline that is replayed, or what was replayed (GetStandbyFlushRecPtr() in
/// replication/walsender.c).
#[must_use]
pub fn flushed_position() -> Flushed {
    let (mut timeline, mut received_timeline) = (0, 0);
    // SAFETY: all read shared state under spinlocks, and write to the variables.
    let lsn = unsafe {
        if pg_sys::RecoveryInProgress() {
            let received =
                pg_sys::GetWalRcvFlushRecPtr(core::ptr::null_mut(), &mut received_timeline);
            let replayed = pg_sys::GetXLogReplayRecPtr(&mut timeline);
            if received_timeline == timeline {
                received.max(replayed)
            } else {
                replayed
            }
        } else {
            pg_sys::GetFlushRecPtr(&mut timeline)
        }
    };
    Flushed { lsn, timeline }
}

/// The history of a timeline, newest first.
#[must_use]
pub fn timeline_history(timeline: u32) -> Vec<TimelineEntry> {
    let mut history = Vec::new();
    // SAFETY: guarded; the list is never NIL and holds TimeLineHistoryEntry structures.
    unsafe {
        let list = bindings::readTimeLineHistory(timeline);
        for index in 0..(*list).length {
            let entry: *const HistoryEntry = pg_sys::list_nth(list, index).cast();
            history.push(TimelineEntry {
                timeline: (*entry).timeline,
                begin: Lsn((*entry).begin),
            });
        }
    }
    history
}

/// Raises `undefined_file` if a WAL segment has been removed or recycled.
pub fn check_not_removed(segment: u64, timeline: u32) {
    // SAFETY: guarded by pgrx; reads shared state. Its callers in the server have failed to open the
    // segment, and it takes the SQLSTATE from what the system said then.
    unsafe {
        *libc::__errno_location() = libc::ENOENT;
        pg_sys::CheckXLogRemoved(segment, timeline);
    }
}
