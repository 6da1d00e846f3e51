//! Registry of running backups in the server's lock table (storage/lock.h).
//!
//! The leader of a backup holds a session-level lock whose tag carries the handle and the nonce of
//! the backup's segment. The lock table is visible from every session, and the server cleans it
//! up whatever way the leader ends. The lock method is that of advisory locks, since its session
//! locks outlive a transaction's abort; the last field of the tag has a value that no
//! pg_advisory_lock() can produce. DISCARD ALL and pg_advisory_unlock_all() drop it, so the leader
//! takes it again before the transaction that did so commits.

use core::cell::Cell;

use pgrx::pg_sys;

/// The advisory lock functions use 1 and 2.
const TAG_CLASS: u16 = 0x5042;

/// Entry of the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The handle of the backup's segment.
    pub handle: u32,
    /// The nonce in the backup's segment.
    pub nonce: u32,
}

impl Registration {
    /// The `backup_id`.
    #[must_use]
    pub fn backup_id(self) -> i64 {
        (i64::from(self.nonce) << 32) | i64::from(self.handle)
    }

    /// The registration that a number stands for. `None` for a number that no backup can have.
    #[must_use]
    pub fn from_backup_id(backup_id: i64) -> Option<Self> {
        let nonce = u32::try_from(backup_id >> 32).ok()?;
        let handle = (backup_id & 0xFFFF_FFFF) as u32;
        (nonce != 0 && handle != 0).then_some(Self { handle, nonce })
    }

    fn lock_tag(self) -> pg_sys::LOCKTAG {
        pg_sys::LOCKTAG {
            locktag_field1: 0,
            locktag_field2: self.handle,
            locktag_field3: self.nonce,
            locktag_field4: TAG_CLASS,
            locktag_type: pg_sys::LockTagType::LOCKTAG_ADVISORY as u8,
            locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
        }
    }

    fn of_lock_tag(tag: &pg_sys::LOCKTAG) -> Option<Self> {
        let ours = tag.locktag_type == pg_sys::LockTagType::LOCKTAG_ADVISORY as u8
            && tag.locktag_field4 == TAG_CLASS
            && tag.locktag_field1 == 0;
        ours.then_some(Self {
            handle: tag.locktag_field2,
            nonce: tag.locktag_field3,
        })
    }
}

thread_local! {
    /// What this session has announced.
    static ANNOUNCED: Cell<Option<Registration>> = const { Cell::new(None) };
    static CALLBACK_REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// Announces the backup that this session leads.
pub fn announce(registration: Registration) {
    if !CALLBACK_REGISTERED.replace(true) {
        // SAFETY: the library is never unloaded, so the callback stays valid.
        unsafe { pg_sys::RegisterXactCallback(Some(before_commit), core::ptr::null_mut()) };
    }
    take_lock(registration);
    ANNOUNCED.set(Some(registration));
}

/// Withdraws the announcement, if any. Does not raise.
pub fn withdraw() {
    let Some(registration) = ANNOUNCED.take() else {
        return;
    };
    if is_held(registration) {
        let tag = registration.lock_tag();
        // SAFETY: the lock is held by this session, so the release has nothing to complain about.
        unsafe { pg_sys::LockRelease(&raw const tag, pg_sys::ExclusiveLock as i32, true) };
    }
}

/// All backups that run on this server.
#[must_use]
pub fn running_backups() -> Vec<Registration> {
    // SAFETY: guarded by pgrx. The result is a copy in this session's memory, with `nelements`
    // entries, which lives as long as the current memory context.
    let locks = unsafe {
        let data = pg_sys::GetLockStatusData();
        let count = usize::try_from((*data).nelements).unwrap_or(0);
        if count == 0 {
            &[]
        } else {
            core::slice::from_raw_parts((*data).locks, count)
        }
    };
    locks
        .iter()
        .filter(|lock| lock.holdMask != 0)
        .filter_map(|lock| Registration::of_lock_tag(&lock.locktag))
        .collect()
}

fn is_held(registration: Registration) -> bool {
    let tag = registration.lock_tag();
    // SAFETY: looks into this session's own table.
    unsafe {
        pg_sys::LockHeldByMe(
            &raw const tag,
            pg_sys::ExclusiveLock as i32,
            // Not a stronger one instead.
            #[cfg(pg17_or_newer)]
            false,
        )
    }
}

fn take_lock(registration: Registration) {
    let tag = registration.lock_tag();
    // SAFETY: guarded by pgrx. Nobody else takes a lock with this tag, so there is no wait.
    unsafe { pg_sys::LockAcquire(&raw const tag, pg_sys::ExclusiveLock as i32, true, true) };
}

/// Takes the lock again where DISCARD ALL has dropped it.
#[pgrx::pg_guard]
unsafe extern "C-unwind" fn before_commit(
    event: pg_sys::XactEvent::Type,
    _argument: *mut core::ffi::c_void,
) {
    if event != pg_sys::XactEvent::XACT_EVENT_PRE_COMMIT
        && event != pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE
    {
        return;
    }
    if let Some(registration) = ANNOUNCED.get()
        && !is_held(registration)
    {
        take_lock(registration);
    }
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::{Spi, pg_test};

    use super::{Registration, announce, running_backups, withdraw};

    #[pg_test]
    fn a_backup_is_announced_until_it_is_withdrawn() {
        let backup = Registration {
            handle: 7,
            nonce: 9,
        };
        let advisory = "SELECT pg_advisory_lock(7, 9), pg_advisory_lock((7::bigint << 32) | 9)";
        assert_eq!(Spi::run(advisory), Ok(()));
        // Other tests have backups of their own; none of them has this number.
        let is_known = || running_backups().contains(&backup);
        assert!(!is_known());
        announce(backup);
        assert!(is_known());
        withdraw();
        withdraw();
        assert!(!is_known());
    }

    #[pg_test]
    fn a_backup_id_is_a_handle_and_a_nonce() {
        let backup = Registration {
            handle: u32::MAX,
            nonce: 0x7FFF_FFFF,
        };
        assert_eq!(backup.backup_id(), i64::MAX);
        assert_eq!(Registration::from_backup_id(i64::MAX), Some(backup));
        for id in [0, -1, 5, 5 << 32, i64::MIN, i64::from(u32::MAX)] {
            assert_eq!(Registration::from_backup_id(id), None, "{id}");
        }
    }
}
