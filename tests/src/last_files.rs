//! The last files of a backup, as a caller of `stop_backup` receives and writes them.

use std::fs;

use postgres::Client;

use crate::backup::Backup;
use crate::program::give_to_owner;

/// File contents from the row of `stop_backup`.
pub struct LastFiles {
    /// `backup_label`.
    pub backup_label: String,
    /// `tablespace_map`. If empty, no file is written.
    pub tablespace_map: String,
    /// `global/pg_control`.
    pub pg_control: Vec<u8>,
    /// `backup_manifest`.
    pub backup_manifest: String,
}

/// Stops the session's backup, which must be complete.
#[track_caller]
pub fn stop_backup(leader: &mut Client) -> LastFiles {
    let row = leader
        .query_one(
            "SELECT backup_label, tablespace_map, pg_control, backup_manifest FROM stop_backup()",
            &[],
        )
        .expect("stop_backup()");
    LastFiles {
        backup_label: row.get(0),
        tablespace_map: row.get(1),
        pg_control: row.get(2),
        backup_manifest: row.get(3),
    }
}

impl Backup {
    /// Writes a file of the backup by hand.
    #[track_caller]
    pub fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.data_dir().join(name);
        fs::write(&path, bytes).unwrap_or_else(|error| panic!("could not write {path:?}: {error}"));
        give_to_owner(&path);
    }

    /// Writes all files of the row. `pg_control` comes last, after everything else that a server
    /// needs.
    #[track_caller]
    pub fn write_last(&self, last: &LastFiles) {
        self.write("backup_label", last.backup_label.as_bytes());
        if !last.tablespace_map.is_empty() {
            self.write("tablespace_map", last.tablespace_map.as_bytes());
        }
        self.write("global/pg_control", &last.pg_control);
        self.write("backup_manifest", last.backup_manifest.as_bytes());
    }
}
