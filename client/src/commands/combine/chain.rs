//! The backups of a chain, the full one first: that they belong together, as pg_combinebackup checks it.

use std::path::Path;

use anyhow::{Result, anyhow, bail, ensure};
use backup_format::backup_label::{BackupLabel, Position};
use backup_format::control_file::{ControlFile, InvalidControlFile};

use super::backup::Backup;
use crate::console::messages;
use crate::console::progress::Worker;
use crate::manifest::backup_path::{BACKUP_LABEL, CONTROL_FILE};
use crate::manifest::digest::crc32c;
use crate::runtime::cancellation::Cancellation;
use crate::storage::folder::Folder;

/// Bytes of the largest segment that is believed. The usual one has 1 GB.
const LARGEST_SEGMENT: u64 = 1 << 36;

/// Backups, each of which goes on where the one before began.
#[derive(Debug)]
pub struct Chain<'a> {
    /// The backups, the oldest first. There is at least one.
    backups: Vec<Backup<'a>>,
    /// The control file of the newest.
    pub control: ControlFile,
    /// The label of the newest.
    pub label: Vec<u8>,
}

impl<'a> Chain<'a> {
    /// Opens backups, and checks that they are a chain.
    ///
    /// # Errors
    /// Where they are none, with the messages of pg_combinebackup.
    pub fn open(
        folders: &[Folder],
        spool: &Path,
        workers: &[Worker],
        cancellation: &'a Cancellation,
    ) -> Result<Self> {
        let backups = folders
            .iter()
            .enumerate()
            .map(|(number, folder)| {
                let is_newest = number + 1 == folders.len();
                Backup::open((folder, is_newest), spool, workers, cancellation)
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(Self {
            control: check_control_files(&backups)?,
            label: check_labels(&backups)?,
            backups,
        })
    }

    /// The newest backup.
    pub fn newest(&self) -> &Backup<'a> {
        &self.backups[self.backups.len() - 1]
    }

    /// The backups before it, the newest of them first.
    pub fn earlier(&self) -> impl Iterator<Item = &Backup<'a>> {
        self.backups.iter().rev().skip(1)
    }

    /// All backups.
    pub fn backups(&self) -> &[Backup<'a>] {
        &self.backups
    }
}

/// Returns the control file of the newest backup.
fn check_control_files(backups: &[Backup<'_>]) -> Result<ControlFile> {
    let mut newest: Option<ControlFile> = None;
    let mut is_mixed = false;
    for backup in backups.iter().rev() {
        let name = backup.name_of(CONTROL_FILE);
        let content = backup.content(CONTROL_FILE)?;
        let control = ControlFile::read(&content, crc32c).map_err(|error| match error {
            InvalidControlFile::Short => {
                anyhow!("could not read file \"{name}\": {error}")
            }
            error => anyhow!("{name}: {error}"),
        })?;
        let system = control.system_identifier;
        let first = *newest.get_or_insert(control);
        ensure!(
            system == first.system_identifier,
            "{name}: expected system identifier {}, but found {system}",
            first.system_identifier
        );
        ensure!(
            backups.len() == 1
                || (backup.manifest()).is_none_or(|manifest| manifest.system_identifier.is_some()),
            "{}: backup manifest version 1 does not support incremental backup",
            backup.path.display()
        );
        let named = backup
            .manifest()
            .and_then(|manifest| manifest.system_identifier);
        ensure!(
            named.is_none_or(|named| named == system),
            "{name}: manifest system identifier is {}, but control file has {system}",
            named.unwrap_or_default()
        );
        ensure!(
            control.version == first.version,
            "{name}: unexpected control file version"
        );
        let segment = u64::from(control.block_size) * u64::from(control.segment_blocks);
        let is_usable = control.block_size.is_power_of_two()
            && (1024..=32_768).contains(&control.block_size)
            && (1..=LARGEST_SEGMENT).contains(&segment)
            && (control.block_size, control.segment_blocks)
                == (first.block_size, first.segment_blocks);
        ensure!(
            is_usable,
            "{name}: unexpected block size {} or segment size {}",
            control.block_size,
            control.segment_blocks
        );
        is_mixed |= first.data_checksum_version != 0
            && control.data_checksum_version != first.data_checksum_version;
    }
    if is_mixed {
        messages::warn(
            "only some backups have checksums enabled\n\
             HINT:  Disable, and optionally reenable, checksums on the output directory to avoid failures.",
        );
    }
    match newest {
        Some(control) => Ok(control),
        None => bail!("no input directories specified"),
    }
}

/// Returns the label of the newest backup.
fn check_labels(backups: &[Backup<'_>]) -> Result<Vec<u8>> {
    let mut newest = None;
    // Where the backup before has to begin.
    let mut expected: Option<Position> = None;
    for (number, backup) in backups.iter().enumerate().rev() {
        let path = backup.path.display();
        let content = backup.content(BACKUP_LABEL)?;
        let BackupLabel {
            start,
            incremental_from,
        } = BackupLabel::parse(&content)
            .map_err(|error| anyhow!("{}: {error}", backup.name_of(BACKUP_LABEL)))?;
        match (number, incremental_from) {
            (0, Some(_)) => bail!(
                "backup at \"{path}\" is an incremental backup, but the first backup should be a full backup"
            ),
            (1.., None) => bail!(
                "backup at \"{path}\" is a full backup, but only the first backup should be a full backup"
            ),
            _ => {}
        }
        if let Some(expected) = expected {
            ensure!(
                start.timeline == expected.timeline,
                "backup at \"{path}\" starts on timeline {}, but expected {}",
                start.timeline,
                expected.timeline
            );
            ensure!(
                start.lsn == expected.lsn,
                "backup at \"{path}\" starts at LSN {}, but expected {}",
                start.lsn,
                expected.lsn
            );
        }
        expected = incremental_from;
        newest.get_or_insert(content);
    }
    Ok(newest.unwrap_or_default())
}
