//! Look-up of backups by `backup_id`.

use core::cell::Cell;

use crate::backup::files::SharedFiles;
use crate::backup::state::SharedBackup;
use crate::server::lock_registry::{self, Registration};
use crate::server::report::{Error, Result, Sqlstate};

use super::leader;

/// A backup whose files are listed, mapped for one statement.
///
/// The files are declared first: mappings end in declaration order, and the state must outlive the
/// files.
pub struct Found {
    /// Its files.
    pub files: SharedFiles,
    /// Its state.
    pub backup: SharedBackup,
    /// Its `backup_id`.
    pub backup_id: i64,
    /// Whether this session leads it.
    pub is_own: bool,
}

/// Finds a running backup; `None` stands for the one that this session leads.
///
/// # Errors
/// `undefined_object` for a number that stands for no running backup;
/// `object_not_in_prerequisite_state` where this session leads none, or where the backup has not
/// come to its files yet.
pub fn find(backup_id: Option<i64>) -> Result<Found> {
    let own = leader::with_leader(|leader| {
        let id = leader.backup_id();
        let wanted = backup_id.is_none_or(|wanted| wanted == id);
        wanted.then(|| (leader.backup.clone(), leader.files(), id))
    });
    match (own.flatten(), backup_id) {
        (Some((backup, Some(files), backup_id)), _) => Ok(Found {
            files,
            backup,
            backup_id,
            is_own: true,
        }),
        (Some((_, None, id)), _) => Err(not_started(id)),
        (None, None) => Err(leader::not_in_progress().hint(
            "Call start_backup() first, or name the backup of another session by its backup_id.",
        )),
        (None, Some(id)) => find_foreign(id),
    }
}

thread_local! {
    /// The last backup of another session that was found.
    static KNOWN: Cell<Option<Registration>> = const { Cell::new(None) };
}

/// Attaches only to what the lock table has announced: a number made up by a user cannot make this
/// session read a segment that is no backup. The lock table is read once for a backup, because that
/// takes all of its locks. The segment tells whether the backup still runs.
fn find_foreign(backup_id: i64) -> Result<Found> {
    let registration =
        Registration::from_backup_id(backup_id).ok_or_else(|| does_not_exist(backup_id))?;
    if KNOWN.get() != Some(registration)
        && !lock_registry::running_backups().contains(&registration)
    {
        return Err(does_not_exist(backup_id));
    }
    let running = attach_running(registration);
    KNOWN.set(running.as_ref().map(|_| registration));
    let running = running.ok_or_else(|| does_not_exist(backup_id))?;
    let files = running.files.ok_or_else(|| not_started(backup_id))?;
    Ok(Found {
        files,
        backup: running.backup,
        backup_id,
        is_own: false,
    })
}

fn does_not_exist(backup_id: i64) -> Error {
    Error::new(
        Sqlstate::ERRCODE_UNDEFINED_OBJECT,
        format!("backup {backup_id} does not exist"),
    )
    .detail("No session of this server leads a backup of that number.")
    .hint("A backup ends with the session that started it. SELECT * FROM backup_progress() shows the backups that run.")
}

fn not_started(backup_id: i64) -> Error {
    Error::new(
        Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("backup {backup_id} has not finished starting"),
    )
    .hint("Wait until start_backup() has returned.")
}

/// Running backup in any phase, mapped for one statement.
///
/// The files come first, as in [`Found`].
pub struct RunningBackup {
    /// Its files, once they are listed.
    pub files: Option<SharedFiles>,
    /// Its state.
    pub backup: SharedBackup,
    /// Its `backup_id`.
    pub backup_id: i64,
}

/// All backups that run on this server, oldest first. A backup that ends meanwhile is left out.
#[must_use]
pub fn running_backups() -> Vec<RunningBackup> {
    let own = leader::with_leader(|leader| RunningBackup {
        files: leader.files(),
        backup: leader.backup.clone(),
        backup_id: leader.backup_id(),
    });
    let own_id = own.as_ref().map(|own| own.backup_id);
    let foreign = lock_registry::running_backups()
        .into_iter()
        .filter(|registration| Some(registration.backup_id()) != own_id)
        .filter_map(attach_running);
    let mut running: Vec<_> = own.into_iter().chain(foreign).collect();
    running.sort_by_key(|running| (running.backup.started_at(), running.backup_id));
    running
}

fn attach_running(registration: Registration) -> Option<RunningBackup> {
    let backup = SharedBackup::attach(registration.handle, registration.nonce)?;
    let files = match backup.files_handle() {
        0 => None,
        handle => Some(SharedFiles::attach(handle, registration.nonce)?),
    };
    Some(RunningBackup {
        files,
        backup,
        backup_id: registration.backup_id(),
    })
}
