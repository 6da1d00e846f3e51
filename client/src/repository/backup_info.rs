//! Description of a backup in a repository: the file `backup.json`.

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::cli::backup_name::Kind;
use crate::repository::format;
use crate::storage::folder::Folder;

/// Name of the file.
pub const FILE: &str = "backup.json";
/// Number of the format.
const FORMAT: u32 = 1;
/// Larger than any description.
const LARGEST: u64 = 64 << 20;

/// Description of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupInfo {
    /// Number of the format.
    pub format: u32,
    /// Name of the backup.
    pub name: String,
    /// Full or incremental.
    pub kind: Kind,
    /// Name of the earlier backup, if it is in the same repository.
    pub parent: Option<String>,
    /// Where the earlier backup started.
    pub parent_start_lsn: Option<String>,
    /// Identifier of the cluster. It is text, because numbers of JSON are not exact.
    pub system_identifier: String,
    /// Version of the server, as `server_version_num`.
    pub server_version: i32,
    /// Timeline of the start.
    pub timeline: u32,
    /// Where recovery begins.
    pub start_lsn: String,
    /// Where the backup is consistent; none while it runs and without a manifest.
    pub stop_lsn: Option<String>,
    /// Start of the program.
    pub start_time: DateTime<Utc>,
    /// End of the last archive; none while the backup runs.
    pub stop_time: Option<DateTime<Utc>>,
    /// Bytes of all files in the archives.
    pub bytes: u64,
    /// Bytes of the archives as they are stored.
    pub stored_bytes: u64,
    /// Number of files.
    pub files: u64,
    /// Compression of the archives.
    pub compression: String,
    /// Label of the backup.
    pub label: String,
    /// Program that took the backup, with its version.
    pub program: String,
    /// Number by which workers join while the backup runs.
    pub backup_id: i64,
    /// Algorithm of the checksums in the manifest and in the indexes.
    pub checksums: String,
    /// Databases of the cluster at the start.
    pub databases: Vec<Named>,
    /// Tablespaces of the cluster at the start, without those in the data directory.
    pub tablespaces: Vec<Named>,
    /// The archives of the backup. Others beside them do not belong to it.
    pub archives: Vec<ArchiveInfo>,
}

/// Database or tablespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Its OID.
    pub oid: u32,
    /// Its name.
    pub name: String,
}

/// Archive of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveInfo {
    /// Name of its file.
    pub name: String,
    /// Bytes of the archive when it is not compressed.
    pub bytes: u64,
    /// Bytes of the file before encryption.
    pub stored_bytes: u64,
    /// Number of files, directories and links.
    pub members: u64,
}

impl BackupInfo {
    /// Number of the format that this program writes.
    pub const FORMAT: u32 = FORMAT;

    /// Reads the description in the folder of a backup; [`None`] where there is none.
    ///
    /// # Errors
    /// Where it cannot be read, or is of another format.
    pub fn read(folder: &Folder) -> Result<Option<Self>> {
        format::read(folder, FILE, (FORMAT, LARGEST))
    }

    /// Text of the description.
    ///
    /// # Errors
    /// Errors of the library.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(self).context("could not describe the backup")?;
        text.push(b'\n');
        Ok(text)
    }
}
