//! Folder with the files of a backup, or with the backups of a repository: a directory, or a prefix of an
//! object store.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use chrono::DateTime;

use crate::cli::configuration::{Location, StoreAccess};
use crate::storage::encryption::{BackupKey, Identities, KEY_FILE, Recipients, SUFFIX};
use crate::storage::objects::Objects;
use crate::storage::regular_file;
use crate::storage::source::{self, FileEntry, Source};

/// Larger than a key file.
const LARGEST_KEY_FILE: u64 = 64 * 1024;

/// A folder.
#[derive(Clone, Debug)]
pub struct Folder {
    place: Place,
    identities: Identities,
}

/// Where a folder is.
#[derive(Clone, Debug)]
pub enum Place {
    /// A directory.
    Directory(PathBuf),
    /// Objects with a common prefix.
    Objects(Objects),
}

impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Directory(path) => write!(f, "{}", path.display()),
            Place::Objects(objects) => write!(f, "{objects}"),
        }
    }
}

impl Folder {
    /// Opens a folder, which need not exist.
    ///
    /// # Errors
    /// An error for a malformed URL, for a store that cannot be used, and for identities that cannot be read.
    pub fn open(location: &Location, access: &StoreAccess) -> Result<Self> {
        let place = match location {
            Location::Directory(path) => Place::Directory(path.clone()),
            Location::Objects(url) => Place::Objects(Objects::open(url, access)?),
        };
        Ok(Self {
            place,
            identities: Identities::read(&access.identities)?,
        })
    }

    /// Opens the folder of a backup, with the backup's own key where that is needed.
    ///
    /// # Errors
    /// As [`Folder::open`] and [`Folder::unlock`].
    pub fn open_backup(location: &Location, access: &StoreAccess) -> Result<Self> {
        let mut folder = Self::open(location, access)?;
        folder.unlock()?;
        Ok(folder)
    }

    /// A directory.
    pub fn directory(path: &Path) -> Self {
        Self {
            place: Place::Directory(path.to_owned()),
            identities: Identities::default(),
        }
    }

    /// Where it is.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Its path, if it is a directory.
    pub fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::Directory(path) => Some(path),
            Place::Objects(_) => None,
        }
    }

    /// A folder in this one.
    pub fn child(&self, name: &str) -> Self {
        let place = match &self.place {
            Place::Directory(path) => Place::Directory(path.join(name)),
            Place::Objects(objects) => Place::Objects(objects.child(name)),
        };
        Self {
            place,
            identities: self.identities.clone(),
        }
    }

    /// Adds the key of a backup that is encrypted to a passphrase.
    ///
    /// # Errors
    /// Where its file cannot be read.
    pub fn unlock(&mut self) -> Result<()> {
        if self.identities.have_passphrase()
            && let Some(key) = self.read_stored(KEY_FILE, LARGEST_KEY_FILE)?
        {
            self.identities.add_key(&key)?;
        }
        Ok(())
    }

    /// Adds the key of a backup that is encrypted to a passphrase, which this program has made.
    pub fn add_key_of(&mut self, recipients: &Recipients) {
        self.identities.add_key_of(recipients);
    }

    /// Adds a key that is forgotten with this program, and returns its recipient.
    pub fn add_fleeting_key(&mut self) -> String {
        self.identities.add_fleeting_key()
    }

    /// The key of a backup that is encrypted to a passphrase, if it was decrypted.
    pub fn backup_key(&self) -> Option<BackupKey> {
        self.identities.backup_key()
    }

    /// Its files, and what else is no folder.
    ///
    /// # Errors
    /// Errors of the operating system or of the store.
    pub fn files(&self) -> Result<Vec<FileEntry>> {
        match &self.place {
            Place::Objects(objects) => objects.files(),
            Place::Directory(path) => {
                let failed = || format!("could not read directory \"{}\"", path.display());
                let mut files = Vec::new();
                for entry in fs::read_dir(path).with_context(failed)? {
                    let entry = entry.with_context(failed)?;
                    // A link leads to what it stands for.
                    let data = fs::metadata(entry.path());
                    if !data.as_ref().is_ok_and(fs::Metadata::is_dir) {
                        let modified = data.as_ref().ok().and_then(|data| data.modified().ok());
                        files.push(FileEntry {
                            name: entry.file_name(),
                            size: data.map_or(0, |data| data.len()),
                            modified: modified.map(DateTime::from),
                        });
                    }
                }
                Ok(files)
            }
        }
    }

    /// Names of the folders in it. One that has no text as its name is left out.
    ///
    /// # Errors
    /// Errors of the operating system or of the store.
    pub fn folders(&self) -> Result<Vec<String>> {
        match &self.place {
            Place::Objects(objects) => objects.folders(),
            Place::Directory(path) => {
                let failed = || format!("could not read directory \"{}\"", path.display());
                let mut folders = Vec::new();
                for entry in fs::read_dir(path).with_context(failed)? {
                    let entry = entry.with_context(failed)?;
                    if entry.path().is_dir() {
                        folders.extend(entry.file_name().into_string().ok());
                    }
                }
                Ok(folders)
            }
        }
    }

    /// Reader of a file, decrypted if its name says that it is encrypted.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where there is none, errors of the operating system or of the store, and where
    /// it cannot be decrypted.
    pub fn reader(&self, name: &str) -> io::Result<Box<dyn Source>> {
        let stored = self.stored_reader(name)?;
        match name.ends_with(SUFFIX) {
            true => Ok(Box::new(self.identities.reader(stored)?)),
            false => Ok(stored),
        }
    }

    fn stored_reader(&self, name: &str) -> io::Result<Box<dyn Source>> {
        match &self.place {
            Place::Directory(path) => Ok(Box::new(regular_file::open(&path.join(name))?)),
            Place::Objects(objects) => Ok(Box::new(objects.reader(name)?)),
        }
    }

    /// Reader of a file that may be encrypted, by its name without the suffix; [`None`] where there is none.
    ///
    /// # Errors
    /// As [`Folder::reader`].
    pub fn find(&self, name: &str) -> io::Result<Option<(Box<dyn Source>, String)>> {
        for name in [name.to_owned(), format!("{name}{SUFFIX}")] {
            match self.reader(&name) {
                Ok(source) => return Ok(Some((source, name))),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Content of a small file, decrypted; [`None`] where there is none.
    ///
    /// # Errors
    /// As [`Folder::reader`], and where it has `limit` bytes or more.
    pub fn read(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let found = self.find(name);
        let found = found.with_context(|| self.cannot_read(name))?;
        match found {
            Some((source, _)) => read_limited(source, limit)
                .with_context(|| self.cannot_read(name))
                .map(Some),
            None => Ok(None),
        }
    }

    fn read_stored(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        match self.stored_reader(name) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            source => source
                .and_then(|source| read_limited(source, limit))
                .map(Some)
                .with_context(|| self.cannot_read(name)),
        }
    }

    /// Writes a small file in one step.
    ///
    /// # Errors
    /// Errors of the operating system or of the store.
    pub fn write(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        match &self.place {
            Place::Objects(objects) => objects.write(name, bytes),
            Place::Directory(path) => {
                let write = || {
                    let mut file = tempfile::NamedTempFile::new_in(path)?;
                    file.write_all(&bytes)?;
                    file.as_file().sync_all()?;
                    file.persist(path.join(name))?;
                    File::open(path)?.sync_all()
                };
                write().with_context(|| format!("could not write file \"{self}/{name}\""))
            }
        }
    }

    /// Removes a file, which may have gone already.
    ///
    /// # Errors
    /// Errors of the operating system or of the store.
    pub fn remove(&self, name: &str) -> Result<()> {
        match &self.place {
            Place::Objects(objects) => objects.remove(name),
            Place::Directory(path) => match fs::remove_file(path.join(name)) {
                Ok(()) => File::open(path)
                    .and_then(|directory| directory.sync_all())
                    .with_context(|| format!("could not fsync directory \"{self}\"")),
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                Err(error) => {
                    Err(error).with_context(|| format!("could not remove file \"{self}/{name}\""))
                }
            },
        }
    }

    /// Removes everything in it, and itself.
    ///
    /// # Errors
    /// Errors of the operating system or of the store.
    pub fn remove_all(&self) -> Result<()> {
        match &self.place {
            Place::Objects(objects) => objects.remove_all(),
            Place::Directory(path) => fs::remove_dir_all(path)
                .with_context(|| format!("could not remove directory \"{self}\"")),
        }
    }

    fn cannot_read(&self, name: &str) -> String {
        format!("could not read \"{self}/{name}\"")
    }
}

fn read_limited(mut source: Box<dyn Source>, limit: u64) -> io::Result<Vec<u8>> {
    source::check_size(&mut *source, limit)?;
    let mut bytes = Vec::new();
    // It may grow meanwhile.
    source.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}
