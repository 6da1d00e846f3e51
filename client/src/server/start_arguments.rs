//! Arguments of start_backup() and base_backup().

use backup_format::checksum::Algorithm;

use crate::cli::configuration::{BackupConfig, Format};

/// Arguments of start_backup().
#[derive(Clone, Copy, Debug)]
pub struct Start<'a> {
    /// The label.
    pub label: &'a str,
    /// Whether the checkpoint is immediate.
    pub fast: bool,
    /// Whether tablespace links are sent as the file tablespace_map.
    pub tablespace_map: bool,
    /// kB/s of all streams together.
    pub max_rate: Option<u32>,
    /// Whether pages are verified.
    pub verify_checksums: bool,
    /// The manifest's checksums; `None` for no manifest.
    pub manifest: Option<Algorithm>,
    /// Whether the WAL is held until the end.
    pub retain_wal: bool,
    /// Whether only the changes since the uploaded manifest are sent.
    pub incremental: bool,
}

impl<'a> From<&'a BackupConfig> for Start<'a> {
    fn from(config: &'a BackupConfig) -> Self {
        Self {
            label: &config.label,
            fast: config.fast,
            // In a directory the links are made here.
            tablespace_map: config.format == Format::Tar,
            max_rate: config.max_rate,
            verify_checksums: config.verify_checksums,
            manifest: config.manifest,
            retain_wal: config.retain_wal,
            incremental: config.incremental.is_some(),
        }
    }
}

impl Start<'_> {
    /// The arguments after the label.
    pub fn arguments(&self) -> String {
        let manifest = match self.manifest {
            None => "OFF",
            Some(algorithm) => algorithm.name().unwrap_or("NONE"),
        };
        // Older versions of the extension have no such argument.
        let incremental = if self.incremental {
            ", incremental => true"
        } else {
            ""
        };
        format!(
            "fast => {}, tablespace_map => {}, max_rate => {}, verify_checksums => {},
             manifest_checksums => '{manifest}', retain_wal => {}{incremental}",
            self.fast,
            self.tablespace_map,
            self.max_rate
                .map_or("NULL".to_owned(), |rate| rate.to_string()),
            self.verify_checksums,
            self.retain_wal,
        )
    }
}
