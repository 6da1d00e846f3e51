//! What an archive is written to, compressed on its way there if that is wanted.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::OFlags;

use crate::cli::configuration::Compress;
use crate::output::compressor::Compressor;
use crate::output::pipe::Piped;
use crate::runtime::cancellation::Cancellation;

/// Where bytes go.
pub enum Destination {
    /// A file that is open, and what messages call it.
    File(File, String),
    /// The standard input of a command.
    Command(Piped),
}

/// An archive that is being written.
pub struct Writer {
    compressor: Compressor,
    outlet: Destination,
}

impl Destination {
    /// A new file, or an old one of which nothing is left.
    ///
    /// # Errors
    /// The operating system's.
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

    /// Writes.
    ///
    /// # Errors
    /// The operating system's, and where the backup is to stop.
    pub fn write(&mut self, bytes: &[u8], cancellation: &Cancellation) -> Result<()> {
        match self {
            Self::File(file, name) => file
                .write_all(bytes)
                .with_context(|| format!("could not write {name}")),
            Self::Command(command) => command.write(bytes, cancellation),
        }
    }

    /// All has been written. Waits for a command to end.
    ///
    /// # Errors
    /// Those of the command.
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
            outlet,
        })
    }

    /// Writes.
    ///
    /// # Errors
    /// As [`Destination::write`].
    pub fn write(&mut self, bytes: &[u8], cancellation: &Cancellation) -> Result<()> {
        let outlet = &mut self.outlet;
        self.compressor
            .write(bytes, |bytes| outlet.write(bytes, cancellation))
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
