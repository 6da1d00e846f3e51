//! A manifest in a file while it arrives: that of a million files is too large for memory.

use std::env;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek as _, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{MemfdFlags, memfd_create};

/// A file with a manifest, which is written once and read from its start any number of times.
#[derive(Debug)]
pub struct ManifestFile {
    file: File,
    /// For messages.
    name: String,
    /// Whether it is a temporary file, whose place does not matter.
    is_temporary: bool,
}

impl ManifestFile {
    /// Takes a file that is open for reading, and for writing where the manifest is to be written.
    pub fn new(file: File, name: String) -> Self {
        Self {
            file,
            name,
            is_temporary: false,
        }
    }

    /// Creates a file without a name, where the environment wants temporary files. Where it cannot be
    /// there, or finds no room there later, the manifest is kept in memory.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn temporary() -> Result<Self> {
        Self::temporary_in(&env::temp_dir())
    }

    fn temporary_in(folder: &Path) -> Result<Self> {
        match tempfile::tempfile_in(folder) {
            Ok(file) => Ok(Self {
                file,
                name: format!("temporary file in \"{}\"", folder.display()),
                is_temporary: true,
            }),
            Err(_) => Ok(Self {
                file: in_memory()?,
                name: "manifest in memory".to_owned(),
                is_temporary: false,
            }),
        }
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let place = self.file.stream_position();
        let written = match self.file.write_all(bytes) {
            Err(error) if self.is_temporary && error.kind() == ErrorKind::StorageFull => {
                place.and_then(|place| self.move_to_memory(place, bytes))
            }
            written => written,
        };
        written.with_context(|| format!("could not write {}", self.name))
    }

    /// Moves the first `length` bytes into memory, and appends bytes there.
    fn move_to_memory(&mut self, length: u64, bytes: &[u8]) -> io::Result<()> {
        let mut memory = in_memory()?;
        self.file.rewind()?;
        io::copy(&mut (&self.file).take(length), &mut memory)?;
        memory.write_all(bytes)?;
        *self = Self::new(memory, "manifest in memory".to_owned());
        Ok(())
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

fn in_memory() -> io::Result<File> {
    Ok(memfd_create("backup_manifest", MemfdFlags::CLOEXEC)?.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used)]

    use super::*;

    fn content(manifest: &ManifestFile) -> Vec<u8> {
        let mut content = Vec::new();
        let mut reader = manifest.reader().expect("a reader");
        reader.read_to_end(&mut content).expect("the content");
        content
    }

    #[test]
    fn a_manifest_needs_no_temporary_directory() {
        let mut manifest = ManifestFile::temporary_in(Path::new("/nowhere")).expect("a manifest");
        manifest.write(b"one ").expect("written");
        manifest.write(b"two").expect("written");
        assert_eq!(content(&manifest), b"one two");
        assert_eq!(content(&manifest), b"one two");
    }

    #[test]
    fn a_manifest_goes_on_in_memory_where_the_disk_is_full() {
        let mut manifest = ManifestFile::temporary().expect("a manifest");
        manifest.write(b"one ").expect("written");
        manifest.move_to_memory(4, b"two ").expect("moved");
        manifest.write(b"three").expect("written");
        assert_eq!(content(&manifest), b"one two three");
        assert!(!manifest.is_temporary);
    }
}
