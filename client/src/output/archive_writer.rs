//! Writer of an archive to its destination, with optional compression.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use backup_format::compression::Method;
use rustix::fs::OFlags;

use crate::cli::configuration::Compress;
use crate::manifest::manifest_file::ManifestFile;
use crate::output::compressor::Compressor;
use crate::output::pipe::Piped;
use crate::output::write_behind::WriteBehind;
use crate::repository::index::{Frame, IndexWriter, Member};
use crate::runtime::cancellation::Cancellation;
use crate::storage::encryption::{Encrypter, Recipients};
use crate::storage::objects::Upload;

/// Destination of bytes.
pub enum Destination {
    /// Open file with its name for messages.
    File(File, String, WriteBehind),
    /// The standard input of a command.
    Command(Piped),
    /// Object of a store.
    Object(Upload),
    /// Another destination, for which bytes are encrypted.
    Encrypted(Box<Destination>, Box<Encrypter>),
}

/// Bytes of an archive between two places from which it can be read.
const FRAME: u64 = 16 << 20;
/// Bytes before a large member that are worth a place of their own.
const SMALL: u64 = 64 * 1024;
/// Size of a read in bytes.
const PIECE: usize = 64 * 1024;

/// Writer of an archive.
pub struct Writer {
    compressor: Compressor,
    compress: Compress,
    outlet: Destination,
    /// Bytes after compression.
    stored: u64,
    /// Its index, if it has one.
    index: Option<IndexWriter>,
    /// The last place in the archive from which it can be read.
    frame: u64,
}

/// An archive that is complete.
pub struct Stored {
    /// Bytes after compression.
    pub bytes: u64,
    /// Its index, if it has one.
    pub index: Option<IndexWriter>,
}

/// Position in a file to which its writer can go back, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Mark(u64);

impl Destination {
    /// Creates or truncates a file, which is `synchronized` in the end or not.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn create_file(path: &Path, mode: u32, synchronized: bool) -> Result<Self> {
        let name = format!("file \"{}\"", path.display());
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(mode);
        // What has that name is the archive of a stream that failed, and nothing else.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options.custom_flags(flags.bits().cast_signed());
        let file = options
            .open(path)
            .with_context(|| format!("could not create {name}"))?;
        Ok(Self::File(file, name, WriteBehind::from(0, synchronized)))
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// Errors of the operating system, and cancellation.
    pub fn write(&mut self, bytes: &[u8], cancellation: &Cancellation) -> Result<()> {
        match self {
            Self::File(file, name, behind) => {
                let written = file.write_all(bytes);
                written.with_context(|| format!("could not write {name}"))?;
                behind.wrote(file, bytes.len());
                Ok(())
            }
            Self::Command(command) => command.write(bytes, cancellation),
            Self::Object(upload) => upload.write(bytes, cancellation),
            Self::Encrypted(outlet, encrypter) => {
                encrypter.write(bytes)?;
                encrypter.drain(|bytes| outlet.write(bytes, cancellation))
            }
        }
    }

    /// Encrypts what is written from here on.
    ///
    /// # Errors
    /// As [`Encrypter::new`].
    pub fn encrypted(self, recipients: &Recipients) -> Result<Self> {
        let encrypter = Box::new(Encrypter::new(recipients)?);
        Ok(Self::Encrypted(Box::new(self), encrypter))
    }

    /// Writes all of a file.
    ///
    /// # Errors
    /// Errors of both sides, and cancellation.
    pub fn copy_from(&mut self, file: &ManifestFile, cancellation: &Cancellation) -> Result<()> {
        let mut reader = file.reader()?;
        let mut piece = vec![0; PIECE];
        loop {
            match reader.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(length) => self.write(&piece[..length], cancellation)?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("could not read a temporary file"),
            }
        }
    }

    /// Has what was written to a file on disk.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn sync(&self) -> Result<()> {
        match self {
            Self::File(file, name, _) => {
                (file.sync_data()).with_context(|| format!("could not fsync {name}"))
            }
            Self::Command(_) | Self::Object(_) => Ok(()),
            Self::Encrypted(outlet, _) => outlet.sync(),
        }
    }

    /// Ends the output: waits for a command to exit, and for a store to have an object.
    ///
    /// # Errors
    /// Errors of the command and of the store.
    pub fn finish(self, cancellation: &Cancellation) -> Result<()> {
        match self {
            Self::File(..) => Ok(()),
            Self::Command(command) => command.finish(cancellation),
            Self::Object(upload) => upload.finish(cancellation),
            Self::Encrypted(mut outlet, encrypter) => {
                encrypter.finish(|bytes| outlet.write(bytes, cancellation))?;
                outlet.finish(cancellation)
            }
        }
    }
}

impl Writer {
    /// Begins; [`Compress::NONE`] leaves the bytes as they are.
    ///
    /// # Errors
    /// As [`Compressor::new`].
    pub fn new(outlet: Destination, compress: &Compress) -> Result<Self> {
        Ok(Self {
            compressor: Compressor::new(compress)?,
            compress: *compress,
            outlet,
            stored: 0,
            index: None,
            frame: 0,
        })
    }

    /// Has an index made.
    pub fn with_index(mut self, index: Option<IndexWriter>) -> Self {
        self.index = index;
        self
    }

    /// Makes a member that begins at a position of the archive one from which reading can begin, where the
    /// last such place is far enough. All bytes before have been written.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn begin_member(
        &mut self,
        (position, size): (u64, u64),
        cancellation: &Cancellation,
    ) -> Result<()> {
        if !self.is_due((position, size)) {
            return Ok(());
        }
        let (outlet, stored) = (&mut self.outlet, &mut self.stored);
        self.compressor.restart(|bytes| {
            *stored += bytes.len() as u64;
            outlet.write(bytes, cancellation)
        })?;
        self.frame = position;
        match &mut self.index {
            Some(index) => index.frame(Frame {
                stored: self.stored,
                plain: position,
            }),
            None => Ok(()),
        }
    }

    /// Whether a place to begin is due at the position of a member of some size. A large one gets a place of its
    /// own. An archive that is not compressed needs none.
    pub fn is_due(&self, (position, size): (u64, u64)) -> bool {
        let bytes = position.saturating_sub(self.frame);
        self.index.is_some()
            && self.compress.compression.method != Method::None
            && (bytes >= FRAME || size >= FRAME && bytes >= SMALL)
    }

    /// Adds a member to the index.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn add_member(&mut self, member: &Member) -> Result<()> {
        match &mut self.index {
            Some(index) => index.member(member),
            None => Ok(()),
        }
    }

    /// Ends the frame, so that the writer can go back to this place. The next bytes begin another.
    /// [`None`] for a command, which cannot give bytes back.
    ///
    /// # Errors
    /// Errors of the operating system and of the compression.
    pub fn mark(&mut self, cancellation: &Cancellation) -> Result<Option<Mark>> {
        let next = Compressor::new(&self.compress)?;
        let outlet = &mut self.outlet;
        std::mem::replace(&mut self.compressor, next)
            .finish(|bytes| outlet.write(bytes, cancellation))?;
        let Destination::File(file, name, _) = outlet else {
            return Ok(None);
        };
        let position = file.stream_position();
        let position = position.with_context(|| format!("could not seek in {name}"))?;
        Ok(Some(Mark(position)))
    }

    /// Removes all that was written since a mark.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn go_back(&mut self, Mark(position): Mark) -> Result<()> {
        self.compressor = Compressor::new(&self.compress)?;
        let Destination::File(file, name, behind) = &mut self.outlet else {
            return Ok(());
        };
        file.set_len(position)
            .with_context(|| format!("could not truncate {name}"))?;
        file.seek(SeekFrom::Start(position))
            .with_context(|| format!("could not seek in {name}"))?;
        behind.went_back(position);
        Ok(())
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// As [`Destination::write`].
    pub fn write(&mut self, bytes: &[u8], cancellation: &Cancellation) -> Result<()> {
        let (outlet, stored) = (&mut self.outlet, &mut self.stored);
        self.compressor.write(bytes, |bytes| {
            *stored += bytes.len() as u64;
            outlet.write(bytes, cancellation)
        })
    }

    /// Has what was written to a file on disk, except for what the compression still holds.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn sync(&self) -> Result<()> {
        self.outlet.sync()
    }

    /// The archive is complete.
    ///
    /// # Errors
    /// As [`Destination::finish`].
    pub fn finish(self, cancellation: &Cancellation) -> Result<Stored> {
        let (mut outlet, mut stored) = (self.outlet, self.stored);
        self.compressor.finish(|bytes| {
            stored += bytes.len() as u64;
            outlet.write(bytes, cancellation)
        })?;
        outlet.finish(cancellation)?;
        Ok(Stored {
            bytes: stored,
            index: self.index,
        })
    }
}
