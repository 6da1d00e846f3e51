//! Entry of a backup in a repository while the backup is taken: its folder and its description.

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use backup_format::compression::Method;
use chrono::Utc;

use crate::repository::backup_info::{ArchiveInfo, BackupInfo, FILE};
use crate::repository::index::IndexWriter;
use crate::storage::encryption::{self, KEY_FILE, Recipients};
use crate::storage::folder::{Folder, Place};
use crate::storage::objects::Objects;

/// Entry of a backup that is being taken.
pub struct NewBackup {
    folder: Folder,
    recipients: Option<Recipients>,
    info: Mutex<BackupInfo>,
}

/// What is known of a backup at its end.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Number of files.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Where the backup is consistent.
    pub stop_lsn: Option<String>,
}

impl NewBackup {
    /// Creates the entry of a backup, of which nothing is written yet.
    pub fn new(folder: Folder, recipients: Option<Recipients>, info: BackupInfo) -> Self {
        Self {
            folder,
            recipients,
            info: Mutex::new(info),
        }
    }

    /// Refuses a folder that has something in it.
    ///
    /// # Errors
    /// An error where it has, and errors of the store.
    pub fn check_free(folder: &Folder) -> Result<()> {
        if let Place::Objects(objects) = folder.place() {
            ensure!(
                objects.files()?.is_empty() && objects.folders()?.is_empty(),
                "\"{folder}\" exists already\n\
                 HINT:  Choose another name with --name."
            );
        }
        Ok(())
    }

    /// The objects, if the repository is in a store.
    pub fn objects(&self) -> Option<&Objects> {
        match self.folder.place() {
            Place::Objects(objects) => Some(objects),
            Place::Directory(_) => None,
        }
    }

    /// Those who can decrypt the backup, if it is encrypted.
    pub fn recipients(&self) -> Option<&Recipients> {
        self.recipients.as_ref()
    }

    /// Writes the description of a backup that runs.
    ///
    /// # Errors
    /// Where another program writes a backup of that name, and errors of the folder.
    pub fn begin(&self) -> Result<()> {
        let (name, content) = self.description(&self.lock())?;
        if let Place::Objects(objects) = self.folder.place() {
            ensure!(
                objects.create(&name, content)?,
                "another program takes a backup to \"{}\"\n\
                 HINT:  Choose another name with --name.",
                self.folder
            );
        } else {
            self.folder.write(&name, content)?;
        }
        match self.recipients.as_ref().and_then(Recipients::key_file) {
            Some(key) => self.folder.write(KEY_FILE, key.to_owned()),
            None => Ok(()),
        }
    }

    /// Begins the index of an archive.
    ///
    /// # Errors
    /// As [`IndexWriter::new`].
    pub fn begin_index(&self, archive: &str, method: Method) -> Result<IndexWriter> {
        IndexWriter::new(archive, method, &self.lock().checksums)
    }

    /// Adds an archive that is complete.
    pub fn add(&self, archive: ArchiveInfo) {
        self.lock().archives.push(archive);
    }

    /// Writes the description of a backup that is complete but for its manifest.
    ///
    /// # Errors
    /// Errors of the folder.
    pub fn end(&self, summary: &Summary) -> Result<()> {
        let (name, content) = {
            let mut info = self.lock();
            info.archives
                .sort_by(|one, other| one.name.cmp(&other.name));
            let stored = info.archives.iter().map(|archive| archive.stored_bytes);
            info.stored_bytes = stored.sum();
            info.files = summary.files;
            info.bytes = summary.bytes;
            info.stop_lsn.clone_from(&summary.stop_lsn);
            info.stop_time = Some(Utc::now());
            self.description(&info)?
        };
        self.folder
            .write(&name, content)
            .context("could not describe the backup")
    }

    /// File name and content of the description.
    fn description(&self, info: &BackupInfo) -> Result<(String, Vec<u8>)> {
        let text = info.to_json()?;
        match &self.recipients {
            Some(recipients) => Ok((
                format!("{FILE}{}", encryption::SUFFIX),
                recipients.encrypt(&text)?,
            )),
            None => Ok((FILE.to_owned(), text)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BackupInfo> {
        self.info.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
