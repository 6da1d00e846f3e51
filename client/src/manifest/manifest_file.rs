//! A manifest in a file while it arrives: that of a million files is too large for memory.

use std::env;
use std::fs::File;
use std::io::{Read, Seek as _, Write as _};

use anyhow::{Context, Result};

/// A file with a manifest, which is written once and read from its start any number of times.
#[derive(Debug)]
pub struct ManifestFile {
    file: File,
    /// For messages.
    name: String,
}

impl ManifestFile {
    /// Takes a file that is open for reading, and for writing where the manifest is to be written.
    pub fn new(file: File, name: String) -> Self {
        Self { file, name }
    }

    /// Creates a file without a name, where the environment wants temporary files.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn temporary() -> Result<Self> {
        let folder = env::temp_dir();
        let name = format!("temporary file in \"{}\"", folder.display());
        let file = tempfile::tempfile_in(&folder);
        let file = file.with_context(|| format!("could not create {name}"))?;
        Ok(Self { file, name })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .with_context(|| format!("could not write {}", self.name))
    }

    /// Reads it from its start. There is one reader at a time.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn reader(&self) -> Result<impl Read> {
        let mut file = &self.file;
        file.rewind()
            .with_context(|| format!("could not read {}", self.name))?;
        Ok(file)
    }
}
