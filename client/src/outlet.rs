//! What an archive is written to, compressed on its way there if that is wanted.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::compress::Compressor;
use crate::pipe::Piped;
use crate::plan::Compress;
use crate::stop::Stop;

/// Where bytes go.
pub enum Outlet {
    /// A file that is open, and what messages call it.
    File(File, String),
    /// The standard input of a command.
    Command(Piped),
}

/// An archive that is being written.
pub struct Writer {
    compressor: Compressor,
    outlet: Outlet,
}

impl Outlet {
    /// A new file, or an old one of which nothing is left.
    ///
    /// # Errors
    /// The operating system's.
    pub fn create_file(path: &Path, mode: u32) -> Result<Self> {
        let name = format!("file \"{}\"", path.display());
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(mode);
        let file = options
            .open(path)
            .with_context(|| format!("could not create {name}"))?;
        Ok(Self::File(file, name))
    }

    /// Writes.
    ///
    /// # Errors
    /// The operating system's, and where the backup is to stop.
    pub fn write(&mut self, bytes: &[u8], stop: &Stop) -> Result<()> {
        match self {
            Self::File(file, name) => file
                .write_all(bytes)
                .with_context(|| format!("could not write {name}")),
            Self::Command(command) => command.write(bytes, stop),
        }
    }

    /// All has been written. Waits for a command to end.
    ///
    /// # Errors
    /// Those of the command.
    pub fn finish(self, stop: &Stop) -> Result<()> {
        match self {
            Self::File(..) => Ok(()),
            Self::Command(command) => command.finish(stop),
        }
    }
}

impl Writer {
    /// Begins; [`Compress::NONE`] leaves the bytes as they are.
    ///
    /// # Errors
    /// As [`Compressor::new`].
    pub fn new(outlet: Outlet, compress: &Compress) -> Result<Self> {
        Ok(Self {
            compressor: Compressor::new(compress)?,
            outlet,
        })
    }

    /// Writes.
    ///
    /// # Errors
    /// As [`Outlet::write`].
    pub fn write(&mut self, bytes: &[u8], stop: &Stop) -> Result<()> {
        let outlet = &mut self.outlet;
        self.compressor
            .write(bytes, |bytes| outlet.write(bytes, stop))
    }

    /// The archive is complete.
    ///
    /// # Errors
    /// As [`Outlet::finish`].
    pub fn finish(self, stop: &Stop) -> Result<()> {
        let mut outlet = self.outlet;
        self.compressor.finish(|bytes| outlet.write(bytes, stop))?;
        outlet.finish(stop)
    }
}
