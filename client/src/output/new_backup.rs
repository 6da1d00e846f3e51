//! Entry of a backup in a repository while the backup is taken: its folder and its description.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use backup_format::compression::Method;
use chrono::Utc;

use crate::console::messages;
use crate::repository::backup_info::{ArchiveInfo, BackupInfo, FILE};
use crate::repository::index::{self, IndexWriter};
use crate::repository::join_info::{self, HostInfo, JOIN_FILE, JoinInfo};
use crate::storage::encryption::{self, KEY_FILE, Recipients};
use crate::storage::folder::{Folder, Place};
use crate::storage::objects::Objects;
use crate::stream::archive_files::ArchiveFile;

/// Entry of a backup that is being taken.
pub struct NewBackup {
    folder: Folder,
    recipients: Option<Recipients>,
    /// Those who can decrypt the indexes.
    index_recipients: Option<Recipients>,
    /// Who has to be among those for the indexes of other hosts.
    index_recipient: Option<String>,
    /// Algorithm of the checksums in the indexes.
    checksums: String,
    /// Number of the first worker, which differs between the hosts that take a backup.
    first_worker: usize,
    /// The description, which the program writes that leads.
    info: Option<Mutex<BackupInfo>>,
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
    pub fn new(mut folder: Folder, recipients: Option<Recipients>, info: BackupInfo) -> Self {
        let index_recipient = recipients.as_ref().map(|_| folder.add_fleeting_key());
        Self {
            folder,
            index_recipients: recipients.clone(),
            index_recipient,
            recipients,
            checksums: info.checksums.clone(),
            first_worker: 0,
            info: Some(Mutex::new(info)),
        }
    }

    /// Joins a backup that another program leads.
    ///
    /// # Errors
    /// An error for a malformed recipient of the indexes.
    pub fn joined(
        folder: Folder,
        recipients: Option<Recipients>,
        join: &JoinInfo,
        first_worker: usize,
    ) -> Result<Self> {
        let index_recipients = match (&recipients, &join.index_recipient) {
            (Some(recipients), Some(other)) => Some(recipients.with(other)?),
            _ => recipients.clone(),
        };
        Ok(Self {
            folder,
            index_recipients,
            index_recipient: None,
            recipients,
            checksums: join.checksums.clone(),
            first_worker,
            info: None,
        })
    }

    /// Those who can decrypt the indexes, if the backup is encrypted.
    pub fn index_recipients(&self) -> Option<&Recipients> {
        self.index_recipients.as_ref()
    }

    /// Number of the first worker.
    pub fn first_worker(&self) -> usize {
        self.first_worker
    }

    /// The folder of the backup.
    pub fn folder(&self) -> &Folder {
        &self.folder
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

    /// Whether this program leads the backup.
    pub fn leads(&self) -> bool {
        self.info.is_some()
    }

    /// Writes the description of a backup that runs.
    ///
    /// # Errors
    /// Where another program writes a backup of that name, and errors of the folder.
    pub fn claim(&self) -> Result<()> {
        let Some(info) = &self.info else {
            return Ok(());
        };
        let (name, content) = self.description(&lock(info))?;
        if let Place::Objects(objects) = self.folder.place() {
            ensure!(
                objects.create(&name, content)?,
                "another program takes a backup to \"{}\"\n\
                 HINT:  Choose another name with --name.",
                self.folder
            );
            return Ok(());
        }
        self.folder.write(&name, content)
    }

    /// Writes the key of the backup, if it has one, and what others need to join it.
    ///
    /// # Errors
    /// Errors of the folder.
    pub fn begin(&self) -> Result<()> {
        let Some(info) = &self.info else {
            return Ok(());
        };
        if let Some(key) = self.recipients.as_ref().and_then(Recipients::key_file) {
            self.folder.write(KEY_FILE, key.to_owned())?;
        }
        let join = JoinInfo {
            format: join_info::FORMAT,
            backup_id: lock(info).backup_id,
            checksums: self.checksums.clone(),
            index_recipient: self.index_recipient.clone(),
            recipients_sha256: self.recipients.as_ref().map(Recipients::fingerprint),
        };
        join_info::write(&self.folder, JOIN_FILE, &join)
    }

    /// Begins the index of an archive.
    ///
    /// # Errors
    /// As [`IndexWriter::new`].
    pub fn begin_index(&self, archive: &str, method: Method) -> Result<IndexWriter> {
        IndexWriter::new(archive, method, &self.checksums)
    }

    /// Adds an archive that is complete.
    pub fn add(&self, archive: ArchiveInfo) {
        if let Some(info) = &self.info {
            lock(info).archives.push(archive);
        }
    }

    /// Writes the description of a backup that is complete but for its manifest.
    ///
    /// # Errors
    /// Errors of the folder.
    pub fn end(&self, summary: &Summary) -> Result<()> {
        let Some(info) = &self.info else {
            return Ok(());
        };
        let (name, content, archives) = {
            let mut info = lock(info);
            info.archives
                .sort_by(|one, other| one.name.cmp(&other.name));
            let stored = info.archives.iter().map(|archive| archive.stored_bytes);
            info.stored_bytes = stored.sum();
            info.files = summary.files;
            info.bytes = summary.bytes;
            info.stop_lsn.clone_from(&summary.stop_lsn);
            info.stop_time = Some(Utc::now());
            let (name, content) = self.description(&info)?;
            let archives = info.archives.iter().map(|archive| archive.name.clone());
            (name, content, archives.collect::<HashSet<_>>())
        };
        self.folder
            .write(&name, content)
            .context("could not describe the backup")?;
        if let Err(error) = self.remove_others(&archives) {
            messages::warn(format_args!(
                "could not remove what only other hosts needed: {error:#}\n\
                 DETAIL:  The backup does not need it."
            ));
        }
        Ok(())
    }

    /// Removes what lost hosts have left, and what only hosts needed that joined.
    fn remove_others(&self, archives: &HashSet<String>) -> Result<()> {
        if let Place::Objects(objects) = self.folder.place() {
            objects.abort_uploads()?;
        }
        for file in self.folder.files()? {
            let name = file.name.to_string_lossy();
            let plain_name = name.strip_suffix(encryption::SUFFIX).unwrap_or(&name);
            let archive = plain_name.strip_suffix(index::SUFFIX).unwrap_or(plain_name);
            let encrypted = format!("{archive}{}", encryption::SUFFIX);
            let is_archive = ArchiveFile::by_name(&self.folder, archive).is_some();
            let is_left =
                is_archive && !archives.contains(archive) && !archives.contains(&encrypted);
            if is_left || name == JOIN_FILE || HostInfo::host_of(&name).is_some() {
                self.folder.remove(&name)?;
            }
        }
        Ok(())
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
}

fn lock(info: &Mutex<BackupInfo>) -> MutexGuard<'_, BackupInfo> {
    info.lock().unwrap_or_else(PoisonError::into_inner)
}
