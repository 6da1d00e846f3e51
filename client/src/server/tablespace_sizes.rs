//! Sizes of the parts of a backup.

use std::collections::BTreeMap;

use anyhow::Result;

use crate::server::connection::Session;
use crate::server::extension::Extension;
use crate::server::row::number;

/// Bytes of the parts of a backup, as listed at its start.
#[derive(Clone, Debug, Default)]
pub struct TablespaceSizes {
    /// The data directory without tablespaces.
    pub data_directory: u64,
    /// Tablespaces by their OIDs.
    pub tablespaces: BTreeMap<u32, u64>,
    /// One segment, of which a backup with WAL has one at least.
    pub wal_segment: u64,
}

impl Extension {
    /// Sizes of the backup that this session leads.
    ///
    /// # Errors
    /// Errors of the server.
    pub fn tablespace_sizes(&self, session: &Session) -> Result<TablespaceSizes> {
        let mut sizes = TablespaceSizes::default();
        let statement = format!(
            "SELECT coalesce(spcoid, 0), size FROM {}backup_tablespaces()",
            self.schema
        );
        for row in session.rows(&statement, &[])? {
            match number(&row, 0)? {
                0 => sizes.data_directory = number(&row, 1)?,
                oid => drop(sizes.tablespaces.insert(oid, number(&row, 1)?)),
            }
        }
        let segment = "SELECT pg_size_bytes(current_setting('wal_segment_size'))";
        for row in session.rows(segment, &[])? {
            sizes.wal_segment = number(&row, 0)?;
        }
        Ok(sizes)
    }
}
