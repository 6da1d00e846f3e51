//! Files by which programs on several hosts take one backup: `join.json`, which the program that leads
//! writes while its backup runs, and `host.N.json`, which each other program writes.
//!
//! Neither is encrypted. They have no names of the cluster.

use anyhow::Result;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::manifest::backup_path::parse_oid;
use crate::repository::format;
use crate::storage::folder::Folder;

/// Name of the file of the program that leads.
pub const JOIN_FILE: &str = "join.json";
/// Number of the formats.
pub const FORMAT: u32 = 1;
/// Workers of a host, so that no two hosts have an archive of the same name.
pub const WORKERS: u32 = 1024;
/// Largest number of a host.
pub const LARGEST_HOST: u32 = u32::MAX / WORKERS - 1;
/// Larger than any of the files.
const LARGEST: u64 = 1 << 20;

/// What a program needs that joins.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinInfo {
    /// Number of the format.
    pub format: u32,
    /// Number by which workers join.
    pub backup_id: i64,
    /// Algorithm of the checksums in the manifest and in the indexes.
    pub checksums: String,
    /// Recipient that the indexes of other hosts are encrypted to besides, if the backup is encrypted: the
    /// program that leads has the key while it runs.
    pub index_recipient: Option<String>,
    /// SHA-256 of those who can decrypt the backup, if it is encrypted.
    pub recipients_sha256: Option<String>,
}

/// What a program says that has joined.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostInfo {
    /// Number of the format.
    pub format: u32,
    /// Number of the host.
    pub host: u32,
    /// Name of the host, for people.
    pub hostname: String,
    /// Whether it has ended well, with all its archives and indexes in the repository.
    pub done: bool,
}

impl HostInfo {
    /// Name of its file.
    pub fn file(host: u32) -> String {
        format!("host.{host}.json")
    }

    /// Number of the host of a file of that name.
    pub fn host_of(file: &str) -> Option<u32> {
        parse_oid(
            file.strip_prefix("host.")?
                .strip_suffix(".json")?
                .as_bytes(),
        )
    }

    /// Number of the host of a worker; zero for the program that leads.
    pub fn host_of_worker(worker: u32) -> u32 {
        worker / WORKERS
    }
}

/// Reads one of the files; [`None`] where there is none.
///
/// # Errors
/// Where it cannot be read, or is of another format.
pub fn read<T: DeserializeOwned>(folder: &Folder, name: &str) -> Result<Option<T>> {
    format::read(folder, name, (FORMAT, LARGEST))
}

/// Writes one of the files.
///
/// # Errors
/// Errors of the folder.
pub fn write(folder: &Folder, name: &str, content: &impl Serialize) -> Result<()> {
    folder.write(name, serde_json::to_vec(content)?)
}
