//! Core's pg_backup_stop() in a session of ours.

use crate::server::backup_control;
use crate::server::function_hook::ServerFunction;
use crate::server::report::{Error, Result, Sqlstate};

/// Refuses pg_backup_stop() while this session leads a backup: core keeps what it needs in
/// variables that only its own pg_backup_start() fills, and would follow a null pointer.
///
/// # Errors
/// `object_not_in_prerequisite_state`.
pub fn check_call(function: ServerFunction) -> Result<()> {
    match function {
        ServerFunction::PgBackupStop if backup_control::is_ours() => Err(Error::new(
            Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "cannot use pg_backup_stop() for a backup started by start_backup()",
        )
        .hint("Use stop_backup(), send_stop_backup() or abort_backup().")),
        ServerFunction::PgBackupStop => Ok(()),
    }
}
