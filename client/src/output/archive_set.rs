//! A backup in tar archives: `base.tar` and one for each tablespace, as pg_basebackup names them.
//! With several workers each has archives of its own, `base.0.tar`, `base.1.tar` and so on, and all
//! of them unpacked into one directory are the backup. They go to files of a directory, or each to
//! a command.
//!
//! The archives are what the server sends, byte for byte, checked on the way; where the server has
//! compressed them they are kept as they are. Only the first is continued: the closing stream goes
//! to its end, but for the manifest, which is a file beside them. Until then a file has another
//! name, and a command goes on waiting. So that it is one frame nevertheless, and the end of the
//! archive is nowhere but at its end, the first is never kept as the server has compressed it: it
//! is decompressed, and compressed here in the same way.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use backup_format::archive::END;

use crate::cli::command_template::CommandTemplate;
use crate::cli::configuration::{BackupConfig, Compress, Side};
use crate::manifest::backup_path::MANIFEST;
use crate::output::archive_writer::{Destination, Writer};
use crate::output::cleanup::CleanupList;
use crate::output::data_directory::UNFINISHED;
use crate::output::pipe::Commands;
use crate::runtime::cancellation::Cancellation;
use crate::stream::part::Part;

/// The archives of a backup.
pub struct ArchiveSet {
    place: Place,
    jobs: usize,
    compress: Compress,
    /// The archives that were begun, also those that failed.
    begun: Mutex<Vec<Id>>,
    /// The archives that are whole, but for the first.
    complete: Mutex<Vec<Id>>,
    first: Mutex<First>,
}

/// Where archives go.
enum Place {
    Directory { path: PathBuf, file_mode: u32 },
    Commands(Commands, CommandTemplate),
}

/// What one stream leaves to a later one.
#[derive(Default)]
struct First {
    /// The first archive without its end.
    writer: Option<Writer>,
    manifest: Vec<u8>,
}

/// An archive: what it holds, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    /// What it holds.
    pub part: Part,
    /// The number of the worker.
    pub worker: usize,
}

impl Id {
    /// The one that is continued.
    pub const FIRST: Self = Self {
        part: Part::Base,
        worker: 0,
    };
}

impl ArchiveSet {
    /// Makes the directory, unless there are commands.
    ///
    /// # Errors
    /// Where it exists and is not empty, or cannot be made.
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
            begun: Mutex::default(),
            complete: Mutex::default(),
            first: Mutex::default(),
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
        if self.jobs == 1 && id.worker == 0 {
            format!("{part}.tar{suffix}")
        } else {
            format!("{part}.{}.tar{suffix}", id.worker)
        }
    }

    /// The archive of a tablespace for what comes after the workers. One that is whole is not begun
    /// anew.
    pub fn late(&self, part: Part) -> Id {
        let own = Id { part, worker: 0 };
        if self.jobs == 1 && !self.lock_complete().contains(&own) {
            return own;
        }
        let worker = self.jobs;
        Id { part, worker }
    }

    /// An archive other than the first is whole.
    pub fn complete(&self, id: Id) {
        self.lock_complete().push(id);
    }

    /// Whether what the server sends is what is to be written.
    pub fn is_kept_as_sent(&self, id: Id) -> bool {
        id != Id::FIRST && self.compress.side == Side::Server
    }

    /// Begins an archive, anew where it has failed before.
    ///
    /// # Errors
    /// The operating system's.
    pub fn begin(&self, id: Id) -> Result<Writer> {
        self.begun().push(id);
        let outlet = self.open(&self.name(id), id == Id::FIRST)?;
        if self.is_kept_as_sent(id) {
            Writer::new(outlet, &Compress::NONE)
        } else {
            Writer::new(outlet, &self.compress)
        }
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

    /// There is nothing in an archive: of one that was begun before nothing stays. What a command may
    /// have written is not known, and so it gets the bytes of the empty archive in place of that.
    ///
    /// # Errors
    /// The operating system's, and those of the command.
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

    /// The first archive is there but for its end.
    pub fn leave_first(&self, writer: Writer) {
        self.first().writer = Some(writer);
    }

    /// For the one who continues it.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn take_first(&self) -> Result<Writer> {
        let writer = self.first().writer.take();
        writer.context("the first archive is missing")
    }

    /// The manifest is there.
    pub fn leave_manifest(&self, manifest: Vec<u8>) {
        self.first().manifest = manifest;
    }

    /// The content of the manifest.
    pub fn manifest(&self) -> Vec<u8> {
        self.first().manifest.clone()
    }

    fn begun(&self) -> MutexGuard<'_, Vec<Id>> {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_complete(&self) -> MutexGuard<'_, Vec<Id>> {
        self.complete.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn first(&self) -> MutexGuard<'_, First> {
        self.first.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All is as the manifest says: ends the first archive, and then writes the manifest.
    ///
    /// # Errors
    /// The operating system's, those of commands, and where the backup is to stop.
    pub fn end(&self, with_manifest: bool, cancellation: &Cancellation) -> Result<()> {
        let mut writer = self.take_first()?;
        writer.write(&END, cancellation)?;
        writer.finish(cancellation)?;
        if with_manifest {
            let mut outlet = self.open(&manifest_name(), true)?;
            outlet.write(&self.first().manifest, cancellation)?;
            outlet.finish(cancellation)?;
        }
        Ok(())
    }

    /// Everything is there, and on disk: gives the first archive and the manifest their names.
    ///
    /// # Errors
    /// The operating system's.
    pub fn finish(&self, with_manifest: bool) -> Result<()> {
        let Place::Directory { path, .. } = &self.place else {
            return Ok(());
        };
        let rename = |name: &str| {
            let to = path.join(name);
            fs::rename(path.join(format!("{name}{UNFINISHED}")), &to)
                .with_context(|| format!("could not rename file to \"{}\"", to.display()))
        };
        if with_manifest {
            rename(&manifest_name())?;
        }
        rename(&self.name(Id::FIRST))
    }
}

fn manifest_name() -> String {
    String::from_utf8_lossy(MANIFEST).into_owned()
}
