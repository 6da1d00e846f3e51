//! Backup in tar archives: `base.tar` and one for each tablespace, as pg_basebackup names them.
//! With several workers each has its own archives (`base.0.tar`, `base.1.tar`), which unpack into
//! one directory. A worker that sends more than one stream has an archive for each (`base.0.1.tar`).
//! One worker alone continues its archive, because pg_verifybackup looks for `base.tar`. They go to
//! files of a directory, or each to a command, or to objects of a store.
//!
//! Archives are what the server sends, byte for byte, also if compressed by the server. The
//! exception is the first: the closing stream is appended to it, except for the manifest, which is
//! a file of its own. Until then its file has another name, and its command waits. The first
//! archive is decompressed and compressed again by the client, so that it is one frame and its end
//! is the end of the archive.
//!
//! In a repository nothing is continued. The closing stream has an archive of its own, and each archive
//! has an index beside it.

use std::env;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, anyhow};
use backup_format::archive::END;
use backup_format::compression::Method;
use rustix::fs::OFlags;

use crate::cli::command_template::CommandTemplate;
use crate::cli::configuration::{BackupConfig, Compress, Side};
use crate::manifest::backup_path::MANIFEST;
use crate::manifest::manifest_file::ManifestFile;
use crate::output::archive_writer::{Destination, Stored, Writer};
use crate::output::cleanup::CleanupList;
use crate::output::data_directory::UNFINISHED;
use crate::output::new_backup::{NewBackup, Summary};
use crate::output::pipe::Commands;
use crate::repository::backup_info::ArchiveInfo;
use crate::repository::index;
use crate::runtime::cancellation::Cancellation;
use crate::storage::encryption::{self, Recipients};
use crate::storage::objects::{Objects, Upload};
use crate::stream::part::Part;

/// Number of workers up to which the memory of uploads has one bound for all.
const FEW_WORKERS: usize = 4;
/// Archive of WAL.
const WAL: &str = "pg_wal.tar";

/// The archives of a backup.
pub struct ArchiveSet {
    place: Place,
    jobs: usize,
    compress: Compress,
    /// Whether the manifest belongs to the backup.
    has_manifest: bool,
    /// Archives that were begun, including failed ones.
    begun: Mutex<Vec<Id>>,
    /// Complete archives.
    complete: Mutex<Vec<Id>>,
    /// Archives without their end, which other streams continue.
    kept: Mutex<Vec<(Id, Writer, u64)>>,
    manifest: Mutex<Option<ManifestFile>>,
    /// The entry in a repository, if the backup is in one.
    repository: Option<NewBackup>,
}

/// Destination of archives.
enum Place {
    Directory {
        path: PathBuf,
        file_mode: u32,
        /// Whether the archives are synchronized in the end.
        synchronized: bool,
    },
    Commands(Commands, CommandTemplate),
    Objects(Objects),
}

/// Identity of an archive: its part of the backup and its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    /// What it holds.
    pub part: Part,
    /// The number of the worker.
    pub worker: usize,
    /// Its place among the worker's archives of this part.
    pub number: usize,
}

impl Id {
    /// The first archive, which the closing stream continues.
    pub const FIRST: Self = Self {
        part: Part::Base,
        worker: 0,
        number: 0,
    };
}

impl ArchiveSet {
    /// Creates the directory, unless archives go to commands.
    ///
    /// # Errors
    /// An error if it exists and is not empty, or cannot be created.
    pub fn create(
        config: &BackupConfig,
        (jobs, commands): (usize, &Commands),
        mode: u32,
        repository: Option<NewBackup>,
        cleanup: &mut CleanupList,
    ) -> Result<Self> {
        let objects = repository.as_ref().and_then(NewBackup::objects);
        let place = if let Some(objects) = objects {
            objects.allow_uploads(jobs.saturating_sub(FEW_WORKERS));
            Place::Objects(objects.clone())
        } else if let Some(joined) = repository.as_ref().filter(|backup| !backup.leads()) {
            Place::Directory {
                path: joined
                    .folder()
                    .path()
                    .context("the repository is no directory")?
                    .to_owned(),
                file_mode: mode & 0o640,
                synchronized: config.sync.is_some(),
            }
        } else if let Some(template) = &config.pipe {
            Place::Commands(commands.clone(), template.clone())
        } else {
            cleanup.directory(&config.target, mode)?;
            Place::Directory {
                path: config.target.clone(),
                // Who may enter the directory may read what is in it.
                file_mode: mode & 0o640,
                synchronized: config.sync.is_some(),
            }
        };
        let archives = Self {
            place,
            jobs,
            compress: config.compress,
            has_manifest: config.manifest.is_some(),
            begun: Mutex::default(),
            complete: Mutex::default(),
            kept: Mutex::default(),
            manifest: Mutex::default(),
            repository,
        };
        let leads = archives.repository.as_ref().is_none_or(NewBackup::leads);
        if let (Place::Directory { path, .. }, true) = (&archives.place, leads) {
            cleanup.add_key_file(path.join(archives.name(archives.closing())));
            cleanup.add_key_file(path.join(archives.stored_name(&manifest_name())));
        }
        if let Some(repository) = &archives.repository {
            repository.claim()?;
            // Only now it is this program's.
            if let (Some(objects), true) = (repository.objects(), repository.leads()) {
                cleanup.add_objects(objects.clone());
            }
            repository.begin()?;
        }
        Ok(archives)
    }

    /// The archive of the closing stream.
    pub fn closing(&self) -> Id {
        match self.repository {
            Some(_) => Id {
                worker: self.jobs,
                ..Id::FIRST
            },
            None => Id::FIRST,
        }
    }

    /// The entry in a repository, if the backup is in one.
    pub fn repository(&self) -> Option<&NewBackup> {
        self.repository.as_ref()
    }

    /// Whether archives have indexes.
    pub fn has_indexes(&self) -> bool {
        self.repository.is_some()
    }

    fn name(&self, id: Id) -> String {
        let part = match id.part {
            Part::Base => "base".to_owned(),
            Part::Tablespace(oid) => oid.to_string(),
        };
        let suffix = self.compress.compression.method.suffix();
        let first_worker = self.repository.as_ref().map_or(0, NewBackup::first_worker);
        let number_of_worker = first_worker + id.worker;
        match id {
            Id {
                worker: 0,
                number: 0,
                ..
            } if self.jobs == 1 && self.repository.is_none() => format!("{part}.tar{suffix}"),
            Id { number: 0, .. } => format!("{part}.{number_of_worker}.tar{suffix}"),
            Id { number, .. } => format!("{part}.{number_of_worker}.{number}.tar{suffix}"),
        }
    }

    /// The archive of a worker's next stream.
    pub fn next(&self, part: Part, worker: usize) -> Id {
        let is_of_worker = |id: &Id| id.part == part && id.worker == worker;
        let number = if self.are_continued() {
            0
        } else {
            let complete = self
                .lock_complete()
                .iter()
                .filter(|id| is_of_worker(id))
                .count();
            // The first one waits for its end.
            let kept = self
                .kept()
                .iter()
                .filter(|(id, ..)| is_of_worker(id))
                .count();
            complete + kept
        };
        Id {
            part,
            worker,
            number,
        }
    }

    /// The archive for what comes after the workers: of a tablespace, or in a repository of any part. One that
    /// is whole is not begun anew.
    pub fn late(&self, part: Part) -> Id {
        let own = Id {
            part,
            worker: 0,
            number: 0,
        };
        let is_free = || self.repository.is_none() && !self.lock_complete().contains(&own);
        if self.jobs == 1 && (self.are_continued() || is_free()) {
            return own;
        }
        match self.repository {
            // The closing stream has the number before.
            Some(_) => self.next(part, self.jobs + 1),
            None => self.next(part, self.jobs),
        }
    }

    /// Ends an archive. `plain` are its bytes without compression.
    ///
    /// # Errors
    /// Errors of the destination, and cancellation.
    pub fn complete(
        &self,
        id: Id,
        writer: Writer,
        plain: u64,
        cancellation: &Cancellation,
    ) -> Result<()> {
        let stored = writer.finish(cancellation)?;
        self.complete_index(&self.name(id), stored, plain, cancellation)?;
        self.lock_complete().push(id);
        Ok(())
    }

    /// Writes the index of an archive that is complete.
    fn complete_index(
        &self,
        name: &str,
        stored: Stored,
        plain: u64,
        cancellation: &Cancellation,
    ) -> Result<()> {
        let (Some(repository), Some(index)) = (&self.repository, stored.index) else {
            return Ok(());
        };
        let (index, totals) = index.finish(plain, stored.bytes)?;
        let index_name = index::name_of(name);
        let recipients = repository.index_recipients();
        let mut outlet = self.open_for(&index_name, false, recipients)?;
        outlet.copy_from(&index, cancellation)?;
        outlet.finish(cancellation)?;
        if !repository.leads() {
            // Before this host says that it has ended well.
            self.sync(&self.stored_name(name))?;
            self.sync(&self.stored_name(&index_name))?;
        }
        repository.add(ArchiveInfo {
            name: self.stored_name(name),
            bytes: totals.plain,
            stored_bytes: totals.stored,
            members: totals.members,
        });
        Ok(())
    }

    /// Whether all streams of a part go to one archive, from which a stream that failed can be removed.
    /// Not with gzip: pg_verifybackup 18 does not get past the first member of a file.
    pub fn are_continued(&self) -> bool {
        self.jobs == 1
            && matches!(self.place, Place::Directory { .. })
            && self.repository.is_none()
            && self.compress.compression.method != Method::Gzip
    }

    /// Whether an archive goes on after a stream.
    pub fn is_continued(&self, id: Id) -> bool {
        id == self.closing() || self.are_continued()
    }

    /// Whether the bytes of the server are written unchanged.
    pub fn is_kept_as_sent(&self, id: Id) -> bool {
        !self.is_continued(id) && self.compress.side == Side::Server
    }

    /// Begins an archive, again if it failed before.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn begin(&self, id: Id) -> Result<Writer> {
        self.begun().push(id);
        let name = self.name(id);
        let is_last = self.repository.is_none() && id == Id::FIRST;
        let outlet = self.open(&name, is_last)?;
        let compress = if self.is_kept_as_sent(id) {
            &Compress::NONE
        } else {
            &self.compress
        };
        let index = self.begin_index(&name, self.compress.compression.method)?;
        Ok(Writer::new(outlet, compress)?.with_index(index))
    }

    fn begin_index(&self, name: &str, method: Method) -> Result<Option<index::IndexWriter>> {
        match &self.repository {
            Some(repository) => repository.begin_index(name, method).map(Some),
            None => Ok(None),
        }
    }

    /// Begins the archive of WAL, which is compressed by gzip or not at all, as that of pg_basebackup.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn begin_wal(&self) -> Result<Writer> {
        let (suffix, compress) = self.wal_compression();
        let name = format!("{WAL}{suffix}");
        let is_last = self.repository.is_none();
        let index = self.begin_index(&name, compress.compression.method)?;
        Ok(Writer::new(self.open(&name, is_last)?, &compress)?.with_index(index))
    }

    /// Ends the archive of WAL. `plain` are its bytes without compression.
    ///
    /// # Errors
    /// As [`ArchiveSet::complete`].
    pub fn complete_wal(
        &self,
        writer: Writer,
        plain: u64,
        cancellation: &Cancellation,
    ) -> Result<()> {
        let (suffix, _) = self.wal_compression();
        let stored = writer.finish(cancellation)?;
        self.complete_index(&format!("{WAL}{suffix}"), stored, plain, cancellation)
    }

    /// Gives the archive of WAL its name.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn finish_wal(&self) -> Result<()> {
        let (suffix, _) = self.wal_compression();
        match self.repository {
            Some(_) => Ok(()),
            None => self.rename(&format!("{WAL}{suffix}")),
        }
    }

    fn wal_compression(&self) -> (&'static str, Compress) {
        match self.compress.compression.method {
            Method::Gzip if self.compress.side == Side::Client => (".gz", self.compress),
            _ => ("", Compress::NONE),
        }
    }

    /// Creates a file without a name, on the file system of the archives if they are files.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn spool(&self) -> Result<File> {
        let folder = match &self.place {
            Place::Directory { path, .. } => path.clone(),
            Place::Commands(..) | Place::Objects(_) => env::temp_dir(),
        };
        tempfile::tempfile_in(&folder).with_context(|| {
            format!(
                "could not create temporary file in \"{}\"",
                folder.display()
            )
        })
    }

    /// Name of a file as it is stored.
    fn stored_name(&self, name: &str) -> String {
        let recipients = self.repository.as_ref().and_then(NewBackup::recipients);
        match recipients {
            Some(_) => format!("{name}{}", encryption::SUFFIX),
            None => name.to_owned(),
        }
    }

    /// Has a file on disk.
    fn sync(&self, name: &str) -> Result<()> {
        let Place::Directory { path, .. } = &self.place else {
            return Ok(());
        };
        let path = path.join(name);
        let file = File::open(&path).and_then(|file| file.sync_all());
        file.with_context(|| format!("could not fsync file \"{}\"", path.display()))
    }

    fn open(&self, name: &str, unfinished: bool) -> Result<Destination> {
        let recipients = self.repository.as_ref().and_then(NewBackup::recipients);
        self.open_for(name, unfinished, recipients)
    }

    fn open_for(
        &self,
        name: &str,
        unfinished: bool,
        recipients: Option<&Recipients>,
    ) -> Result<Destination> {
        let stored = self.stored_name(name);
        let outlet = match &self.place {
            Place::Directory {
                path,
                file_mode,
                synchronized,
            } => {
                let mark = if unfinished { UNFINISHED } else { "" };
                let path = path.join(format!("{stored}{mark}"));
                Destination::create_file(&path, *file_mode, *synchronized)?
            }
            Place::Commands(commands, template) => {
                Destination::Command(commands.start(template, name)?)
            }
            Place::Objects(objects) => Destination::Object(Upload::new(objects, &stored)),
        };
        match recipients {
            Some(recipients) => outlet.encrypted(recipients),
            None => Ok(outlet),
        }
    }

    /// Removes an empty archive. A command that was started for it receives the bytes of the empty
    /// archive instead.
    ///
    /// # Errors
    /// Errors of the operating system and of the command.
    pub fn empty(&self, id: Id, bytes: &[u8], cancellation: &Cancellation) -> Result<()> {
        let path = match &self.place {
            Place::Directory { path, .. } => path.join(self.stored_name(&self.name(id))),
            Place::Objects(_) => return Ok(()),
            Place::Commands(..) => {
                if !self.begun().contains(&id) {
                    return Ok(());
                }
                let mut writer = self.begin(id)?;
                writer.write(bytes, cancellation)?;
                return writer.finish(cancellation).map(drop);
            }
        };
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => {
                removed.with_context(|| format!("could not remove file \"{}\"", path.display()))
            }
        }
    }

    /// Keeps the writer of an archive that goes on, after so many bytes of it.
    pub fn keep(&self, id: Id, writer: Writer, plain: u64) {
        self.kept().push((id, writer, plain));
    }

    /// Takes the writer of an archive that was kept, and the bytes that the archive has.
    pub fn take(&self, id: Id) -> Option<(Writer, u64)> {
        let mut kept = self.kept();
        let place = kept.iter().position(|(other, ..)| *other == id)?;
        let (_, writer, plain) = kept.swap_remove(place);
        Some((writer, plain))
    }

    /// Takes the writer of the archive of the closing stream.
    ///
    /// # Errors
    /// An error if it is not there, and in a repository errors of its beginning.
    pub fn take_closing(&self) -> Result<(Writer, u64)> {
        let id = self.closing();
        match self.take(id) {
            Some(kept) => Ok(kept),
            None if self.repository.is_some() => Ok((self.begin(id)?, 0)),
            None => Err(anyhow!("the first archive is missing")),
        }
    }

    /// Creates the file of the manifest: that of the backup with the name of an unfinished one, and a
    /// temporary one for a command.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn create_manifest(&self) -> Result<ManifestFile> {
        let Place::Directory {
            path, file_mode, ..
        } = &self.place
        else {
            return ManifestFile::temporary();
        };
        if !self.has_manifest || self.repository.is_some() {
            return ManifestFile::temporary();
        }
        let path = path.join(format!("{}{UNFINISHED}", manifest_name()));
        let name = format!("file \"{}\"", path.display());
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(true);
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options
            .mode(*file_mode)
            .custom_flags(flags.bits().cast_signed());
        let file = options
            .open(path)
            .with_context(|| format!("could not create {name}"))?;
        Ok(ManifestFile::new(file, name))
    }

    /// Stores the manifest.
    pub fn leave_manifest(&self, manifest: ManifestFile) {
        *self.lock_manifest() = Some(manifest);
    }

    /// Takes the manifest out, an empty one where none has come.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn take_manifest(&self) -> Result<ManifestFile> {
        let manifest = self.lock_manifest().take();
        manifest.map_or_else(ManifestFile::temporary, Ok)
    }

    fn begun(&self) -> MutexGuard<'_, Vec<Id>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_complete(&self) -> MutexGuard<'_, Vec<Id>> {
        self.complete.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kept(&self) -> MutexGuard<'_, Vec<(Id, Writer, u64)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_manifest(&self) -> MutexGuard<'_, Option<ManifestFile>> {
        self.manifest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the archives that were kept and gives a command the manifest, after the comparison succeeded.
    /// The entry in a repository tells what is in `summary`.
    ///
    /// # Errors
    /// Errors of the operating system and of commands, and cancellation.
    pub fn end(
        &self,
        manifest: Option<&ManifestFile>,
        summary: &Summary,
        cancellation: &Cancellation,
    ) -> Result<()> {
        let kept: Vec<_> = self.kept().drain(..).collect();
        for (id, mut writer, plain) in kept {
            writer.write(&END, cancellation)?;
            self.complete(id, writer, plain + END.len() as u64, cancellation)?;
        }
        // In a directory it is there already.
        if let (Place::Commands(..), Some(manifest)) = (&self.place, manifest) {
            self.write_manifest(manifest, cancellation)?;
        }
        match &self.repository {
            Some(repository) => repository.end(summary),
            None => Ok(()),
        }
    }

    fn write_manifest(&self, manifest: &ManifestFile, cancellation: &Cancellation) -> Result<()> {
        let mut outlet = self.open(&manifest_name(), true)?;
        outlet.copy_from(manifest, cancellation)?;
        outlet.finish(cancellation)?;
        self.sync(&format!(
            "{}{UNFINISHED}",
            self.stored_name(&manifest_name())
        ))
    }

    /// Gives the first archive and the manifest their names, after everything is on disk. In a repository the
    /// manifest is written now.
    ///
    /// # Errors
    /// Errors of the operating system and of the store, and cancellation.
    pub fn finish(
        &self,
        manifest: Option<&ManifestFile>,
        cancellation: &Cancellation,
    ) -> Result<()> {
        if let (Some(_), Some(manifest)) = (&self.repository, manifest) {
            self.write_manifest(manifest, cancellation)?;
        }
        if manifest.is_some() {
            self.rename(&self.stored_name(&manifest_name()))?;
        }
        match self.repository {
            Some(_) => Ok(()),
            None => self.rename(&self.name(Id::FIRST)),
        }
    }

    /// Gives a file its name. What a command or a store has is named already.
    fn rename(&self, name: &str) -> Result<()> {
        let Place::Directory { path, .. } = &self.place else {
            return Ok(());
        };
        let to = path.join(name);
        fs::rename(path.join(format!("{name}{UNFINISHED}")), &to)
            .with_context(|| format!("could not rename file to \"{}\"", to.display()))
    }
}

fn manifest_name() -> String {
    String::from_utf8_lossy(MANIFEST).into_owned()
}
