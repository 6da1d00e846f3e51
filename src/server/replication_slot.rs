//! Physical replication slots (replication/slot.h).

use std::ffi::CString;

use pgrx::pg_sys;
use pgrx::pg_sys::panic::CaughtError;

/// Checks that the server supports replication slots. Raises otherwise.
pub fn check_requirements() {
    // SAFETY: reads settings of the server; an ERROR unwinds through pgrx's guard.
    unsafe {
        pg_sys::CheckSlotRequirements(
            // For no REPACK.
            #[cfg(pg19_or_newer)]
            false,
        );
    }
}

/// Creates a temporary physical slot owned by this process, and reserves WAL from the last
/// checkpoint on. After an error the process must end.
///
/// # Errors
/// The server's message.
pub fn create_temporary(name: &str) -> Result<(), String> {
    let name = CString::new(name).map_err(|error| error.to_string())?;
    pgrx::PgTryBuilder::new(|| {
        // SAFETY: guarded by pgrx. An ERROR is caught below.
        unsafe {
            pg_sys::ReplicationSlotCreate(
                name.as_ptr(),
                false,
                pg_sys::ReplicationSlotPersistency::RS_TEMPORARY,
                false,
                // For no REPACK.
                #[cfg(pg19_or_newer)]
                false,
                // Neither kept by a failover nor copied from a primary.
                #[cfg(pg17_or_newer)]
                false,
                #[cfg(pg17_or_newer)]
                false,
            );
            pg_sys::ReplicationSlotReserveWal();
            pg_sys::ReplicationSlotMarkDirty();
            pg_sys::ReplicationSlotSave();
        }
        Ok(())
    })
    .catch_others(|error| Err(message_of(&error)))
    .execute()
}

/// Lets go of the WAL before `lsn`, unless that has gone already, as PhysicalConfirmReceivedLocation() in replication/walsender.c. The
/// slot is one that this process has created.
pub fn advance(lsn: u64) {
    // SAFETY: guarded by pgrx. The slot of this process stays while it is MyReplicationSlot. Its fields
    // are written under its spinlock, in which nothing can raise.
    unsafe {
        let slot = pg_sys::MyReplicationSlot;
        if slot.is_null() {
            return;
        }
        let lock = &raw mut (*slot).mutex;
        pg_sys::SpinLockAcquire(lock);
        let moves = (*slot).data.restart_lsn < lsn;
        if moves {
            (*slot).data.restart_lsn = lsn;
        }
        pg_sys::SpinLockRelease(lock);
        if moves {
            pg_sys::ReplicationSlotMarkDirty();
            pg_sys::ReplicationSlotsComputeRequiredLSN();
        }
    }
}

fn message_of(error: &CaughtError) -> String {
    match error {
        CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic {
            ereport: report, ..
        } => report.message().to_owned(),
    }
}
