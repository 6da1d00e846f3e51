//! Extraction of small files from the archives, before anything is unpacked.
//!
//! Where an archive is not compressed, content of other files is not read. A compressed one has to be
//! read up to what is looked for: from pg_basebackup that is its beginning, from a parallel backup
//! the end of the first archive.

use std::collections::BTreeMap;
use std::io::SeekFrom;

use anyhow::{Context, Error, Result, ensure};
use backup_format::compression::Method;
use backup_format::member::{Kind, Member, Receiver};

use crate::manifest;
use crate::manifest::backup_path::{MANIFEST, display};
use crate::manifest::manifest_file::ManifestFile;
use crate::runtime::cancellation::Cancellation;
use crate::stream::archive_files::{ArchiveFile, PIECE};
use crate::stream::input::Input;

/// Files that are looked for, by their names.
#[derive(Debug, Default)]
pub struct Wanted {
    names: Vec<&'static [u8]>,
    found: BTreeMap<Vec<u8>, Content>,
    current: Option<(Vec<u8>, Content)>,
}

/// Content of a file.
#[derive(Debug)]
enum Content {
    Memory(Vec<u8>),
    Manifest(ManifestFile),
}

impl Wanted {
    /// Searches the archives for files until all are found.
    ///
    /// # Errors
    /// Where an archive cannot be read.
    pub fn find<'a>(
        names: Vec<&'static [u8]>,
        archives: impl Iterator<Item = &'a ArchiveFile>,
        cancellation: &Cancellation,
    ) -> Result<Self> {
        let mut wanted = Self {
            names,
            ..Self::default()
        };
        for archive in archives {
            if !wanted.is_complete() {
                wanted
                    .look_into(archive, cancellation)
                    .with_context(|| archive.place())?;
            }
        }
        Ok(wanted)
    }

    /// The manifest, where it was found.
    pub fn take_manifest(&mut self) -> Option<ManifestFile> {
        match self.found.remove(MANIFEST)? {
            Content::Manifest(manifest) => Some(manifest),
            Content::Memory(_) => None,
        }
    }

    /// The content of another file, where it was found.
    pub fn take(&mut self, name: &[u8]) -> Option<Vec<u8>> {
        match self.found.remove(name)? {
            Content::Memory(content) => Some(content),
            Content::Manifest(_) => None,
        }
    }

    fn is_complete(&self) -> bool {
        self.found.len() == self.names.len()
    }

    fn look_into(&mut self, archive: &ArchiveFile, cancellation: &Cancellation) -> Result<()> {
        let mut file = archive.open()?;
        let mut input = Input::new(archive.method)?;
        let mut piece = vec![0; PIECE];
        while !self.is_complete() {
            cancellation.check()?;
            let length = archive.read_piece(&mut *file, &mut piece)?;
            if length == 0 {
                return input.finish();
            }
            let mut left = 0;
            input.push(&piece[..length], |reader, plain| {
                reader.push(plain, self)?;
                if archive.method == Method::None && self.current.is_none() {
                    left = reader.skip_content(self)?;
                }
                Ok(())
            })?;
            file.seek(SeekFrom::Current(i64::try_from(left)?))?;
        }
        Ok(())
    }
}

impl Receiver for Wanted {
    type Error = Error;

    fn begin(&mut self, member: &Member) -> Result<()> {
        if member.kind == Kind::File && self.names.contains(&member.path.as_slice()) {
            let name = || display(&member.path);
            // The manifest is the largest of them.
            ensure!(
                member.size < manifest::LARGEST,
                "file \"{}\" is too large",
                name()
            );
            let content = match &member.path[..] {
                MANIFEST => Content::Manifest(ManifestFile::temporary()?),
                _ => Content::Memory(Vec::new()),
            };
            self.current = Some((member.path.clone(), content));
        }
        Ok(())
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.current {
            Some((_, Content::Memory(content))) => content.extend_from_slice(bytes),
            Some((_, Content::Manifest(manifest))) => manifest.write(bytes)?,
            None => {}
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.found.extend(self.current.take());
        Ok(())
    }
}
