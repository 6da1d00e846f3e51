//! Backup in tar archives: `base.tar` and one for each tablespace, as pg_basebackup names them.
//! With several workers each has its own archives (`base.0.tar`, `base.1.tar`), which unpack into
//! one directory. A worker that sends more than one stream has an archive for each (`base.0.1.tar`).
//! One worker alone continues its archive, because pg_verifybackup looks for `base.tar`. They go to
//! files of a directory, or each to a command.
//!
//! Archives are what the server sends, byte for byte, also if compressed by the server. The
//! exception is the first: the closing stream is appended to it, except for the manifest, which is
//! a file of its own. Until then its file has another name, and its command waits. The first
//! archive is decompressed and compressed again by the client, so that it is one frame and its end
//! is the end of the archive.

use std::env;
use std::fs::{self, File};
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use backup_format::archive::END;
use backup_format::compression::Method;
use rustix::fs::OFlags;

use crate::cli::command_template::CommandTemplate;
use crate::cli::configuration::{BackupConfig, Compress, Side};
use crate::manifest::backup_path::MANIFEST;
use crate::manifest::manifest_file::ManifestFile;
use crate::output::archive_writer::{Destination, Writer};
use crate::output::cleanup::CleanupList;
use crate::output::data_directory::UNFINISHED;
use crate::output::pipe::Commands;
use crate::runtime::cancellation::Cancellation;
use crate::stream::part::Part;

/// Archive of WAL.
const WAL: &str = "pg_wal.tar";
/// Size of a read in bytes.
const PIECE: usize = 64 * 1024;

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
    kept: Mutex<Vec<(Id, Writer)>>,
    manifest: Mutex<Option<ManifestFile>>,
}

/// Destination of archives.
enum Place {
    Directory { path: PathBuf, file_mode: u32 },
    Commands(Commands, CommandTemplate),
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
        cleanup: &mut CleanupList,
    ) -> Result<Self> {
        let place = if let Some(template) = &config.pipe {
            Place::Commands(commands.clone(), template.clone())
        } else {
            cleanup.directory(&config.target, mode)?;
            Place::Directory {
                path: config.target.clone(),
                // Who may enter the directory may read what is in it.
                file_mode: mode & 0o640,
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
        };
        if let Place::Directory { path, .. } = &archives.place {
            cleanup.add_key_file(path.join(archives.name(Id::FIRST)));
            cleanup.add_key_file(path.join(manifest_name()));
        }
        Ok(archives)
    }

    fn name(&self, id: Id) -> String {
        let part = match id.part {
            Part::Base => "base".to_owned(),
            Part::Tablespace(oid) => oid.to_string(),
        };
        let suffix = self.compress.compression.method.suffix();
        match id {
            Id {
                worker: 0,
                number: 0,
                ..
            } if self.jobs == 1 => format!("{part}.tar{suffix}"),
            Id { number: 0, .. } => format!("{part}.{}.tar{suffix}", id.worker),
            Id { number, .. } => format!("{part}.{}.{number}.tar{suffix}", id.worker),
        }
    }

    /// The archive of a tablespace for what comes after the workers. One that is whole is not begun
    /// anew.
    pub fn late(&self, part: Part) -> Id {
        let own = Id {
            part,
            worker: 0,
            number: 0,
        };
        if self.jobs == 1 && (self.are_continued() || !self.lock_complete().contains(&own)) {
            return own;
        }
        let worker = self.jobs;
        Id {
            part,
            worker,
            number: 0,
        }
    }

    /// An archive other than the first is whole.
    pub fn complete(&self, id: Id) {
        self.lock_complete().push(id);
    }

    /// Whether all streams of a part go to one archive, from which a stream that failed can be removed.
    /// Not with gzip: pg_verifybackup 18 does not get past the first member of a file.
    pub fn are_continued(&self) -> bool {
        self.jobs == 1
            && matches!(self.place, Place::Directory { .. })
            && self.compress.compression.method != Method::Gzip
    }

    /// Whether an archive goes on after a stream.
    pub fn is_continued(&self, id: Id) -> bool {
        id == Id::FIRST || self.are_continued()
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
        let outlet = self.open(&self.name(id), id == Id::FIRST)?;
        if self.is_kept_as_sent(id) {
            Writer::new(outlet, &Compress::NONE)
        } else {
            Writer::new(outlet, &self.compress)
        }
    }

    /// Begins the archive of WAL, which is compressed by gzip or not at all, as that of pg_basebackup.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn begin_wal(&self) -> Result<Writer> {
        let (suffix, compress) = self.wal_compression();
        Writer::new(self.open(&format!("{WAL}{suffix}"), true)?, &compress)
    }

    /// Gives the archive of WAL its name.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn finish_wal(&self) -> Result<()> {
        let (suffix, _) = self.wal_compression();
        self.rename(&format!("{WAL}{suffix}"))
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
            Place::Commands(..) => env::temp_dir(),
        };
        tempfile::tempfile_in(&folder).with_context(|| {
            format!(
                "could not create temporary file in \"{}\"",
                folder.display()
            )
        })
    }

    fn open(&self, name: &str, unfinished: bool) -> Result<Destination> {
        match &self.place {
            Place::Directory { path, file_mode } => {
                let mark = if unfinished { UNFINISHED } else { "" };
                Destination::create_file(&path.join(format!("{name}{mark}")), *file_mode)
            }
            Place::Commands(commands, template) => {
                Ok(Destination::Command(commands.start(template, name)?))
            }
        }
    }

    /// Removes an empty archive. A command that was started for it receives the bytes of the empty
    /// archive instead.
    ///
    /// # Errors
    /// Errors of the operating system and of the command.
    pub fn empty(&self, id: Id, bytes: &[u8], cancellation: &Cancellation) -> Result<()> {
        let Place::Directory { path, .. } = &self.place else {
            if !self.begun().contains(&id) {
                return Ok(());
            }
            let mut writer = self.begin(id)?;
            writer.write(bytes, cancellation)?;
            return writer.finish(cancellation);
        };
        let path = path.join(self.name(id));
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => {
                removed.with_context(|| format!("could not remove file \"{}\"", path.display()))
            }
        }
    }

    /// Keeps the writer of an archive that goes on.
    pub fn keep(&self, id: Id, writer: Writer) {
        self.kept().push((id, writer));
    }

    /// Takes the writer of an archive that was kept.
    pub fn take(&self, id: Id) -> Option<Writer> {
        let mut kept = self.kept();
        let place = kept.iter().position(|(other, _)| *other == id)?;
        Some(kept.swap_remove(place).1)
    }

    /// Takes the writer of the first archive.
    ///
    /// # Errors
    /// An error if it is not there.
    pub fn take_first(&self) -> Result<Writer> {
        self.take(Id::FIRST).context("the first archive is missing")
    }

    /// Creates the file of the manifest: that of the backup with the name of an unfinished one, and a
    /// temporary one for a command.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn create_manifest(&self) -> Result<ManifestFile> {
        let Place::Directory { path, file_mode } = &self.place else {
            return ManifestFile::temporary();
        };
        if !self.has_manifest {
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

    fn kept(&self) -> MutexGuard<'_, Vec<(Id, Writer)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_manifest(&self) -> MutexGuard<'_, Option<ManifestFile>> {
        self.manifest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the archives that were kept and gives a command the manifest, after the comparison succeeded.
    ///
    /// # Errors
    /// Errors of the operating system and of commands, and cancellation.
    pub fn end(&self, manifest: Option<&ManifestFile>, cancellation: &Cancellation) -> Result<()> {
        for (_, mut writer) in self.kept().drain(..) {
            writer.write(&END, cancellation)?;
            writer.finish(cancellation)?;
        }
        // In a directory it is there already.
        if let (Place::Commands(..), Some(manifest)) = (&self.place, manifest) {
            let mut outlet = self.open(&manifest_name(), true)?;
            let mut reader = manifest.reader()?;
            let mut piece = vec![0; PIECE];
            loop {
                match reader.read(&mut piece) {
                    Ok(0) => break,
                    Ok(length) => outlet.write(&piece[..length], cancellation)?,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error).context("could not read the backup manifest"),
                }
            }
            outlet.finish(cancellation)?;
        }
        Ok(())
    }

    /// Gives the first archive and the manifest their names, after everything is on disk.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn finish(&self, with_manifest: bool) -> Result<()> {
        if with_manifest {
            self.rename(&manifest_name())?;
        }
        self.rename(&self.name(Id::FIRST))
    }

    /// Gives a file its name. What a command has is named already.
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
