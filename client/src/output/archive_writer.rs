//! Writer of an archive to its destination, with optional compression.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::OFlags;

use crate::cli::configuration::Compress;
use crate::output::compressor::Compressor;
use crate::output::pipe::Piped;
use crate::runtime::cancellation::Cancellation;

/// Destination of bytes.
pub enum Destination {
    /// Open file with its name for messages.
    File(File, String),
    /// The standard input of a command.
    Command(Piped),
}

/// Writer of an archive.
pub struct Writer {
    compressor: Compressor,
    compress: Compress,
    outlet: Destination,
}

/// Position in a file to which its writer can go back, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Mark(u64);

impl Destination {
    /// Creates or truncates a file.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn create_file(path: &Path, mode: u32) -> Result<Self> {
        let name = format!("file \"{}\"", path.display());
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(mode);
        // What has that name is the archive of a stream that failed, and nothing else.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options.custom_flags(flags.bits().cast_signed());
        let file = options
            .open(path)
            .with_context(|| format!("could not create {name}"))?;
        Ok(Self::File(file, name))
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// Errors of the operating system, and cancellation.
    pub fn write(&mut self, bytes: &[u8], cancellation: &Cancellation) -> Result<()> {
        match self {
            Self::File(file, name) => file
                .write_all(bytes)
                .with_context(|| format!("could not write {name}")),
            Self::Command(command) => command.write(bytes, cancellation),
        }
    }

    /// Has what was written to a file on disk.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn sync(&self) -> Result<()> {
        match self {
            Self::File(file, name) => {
                (file.sync_data()).with_context(|| format!("could not fsync {name}"))
            }
            Self::Command(_) => Ok(()),
        }
    }

    /// Ends the output, and waits for a command to exit.
    ///
    /// # Errors
    /// Errors of the command.
    pub fn finish(self, cancellation: &Cancellation) -> Result<()> {
        match self {
            Self::File(..) => Ok(()),
            Self::Command(command) => command.finish(cancellation),
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
        })
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
        let Destination::File(file, name) = outlet else {
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
        let Destination::File(file, name) = &mut self.outlet else {
            return Ok(());
        };
        file.set_len(position)
            .with_context(|| format!("could not truncate {name}"))?;
        file.seek(SeekFrom::Start(position))
            .with_context(|| format!("could not seek in {name}"))?;
        Ok(())
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// As [`Destination::write`].
    pub fn write(&mut self, bytes: &[u8], cancellation: &Cancellation) -> Result<()> {
        let outlet = &mut self.outlet;
        self.compressor
            .write(bytes, |bytes| outlet.write(bytes, cancellation))
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
    pub fn finish(self, cancellation: &Cancellation) -> Result<()> {
        let mut outlet = self.outlet;
        self.compressor
            .finish(|bytes| outlet.write(bytes, cancellation))?;
        outlet.finish(cancellation)
    }
}
