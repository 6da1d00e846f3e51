//! The snapshot of the running statement (utils/snapmgr.h), as other processes see it.

use pgrx::pg_sys;

/// Has this session no longer hold back vacuum, nor replay on a standby, while it streams.
///
/// COPY has a snapshot for its query, and as long as the session shows that snapshot's xmin, nobody
/// may remove rows that died since. A stream of hours would be hours of bloat, or on a standby a
/// recovery conflict. `pg_basebackup` has no snapshot. A stream needs none either: its COPY is the
/// call of one function, whose arguments have been computed, and which reads no table. So the xmin
/// is taken back, as `SnapshotResetXmin()` does when the last snapshot goes; a later statement
/// shows one of its own.
///
/// To be called only where nothing of the statement will read a table any more. Does nothing in a
/// transaction block, or where another statement is suspended: those have snapshots of their own.
pub fn clear_snapshot_xmin() {
    // SAFETY: reads this session's transaction state and portals, and writes one word of its own
    // entry in the process array, which others read as one word.
    unsafe {
        if !pg_sys::IsTransactionBlock() && pg_sys::ThereAreNoReadyPortals() {
            core::ptr::write_volatile(
                &raw mut (*pg_sys::MyProc).xmin,
                pg_sys::InvalidTransactionId,
            );
        }
    }
}
