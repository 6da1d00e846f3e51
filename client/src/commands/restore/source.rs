//! Archives of a backup, with its manifest and tablespaces.

use std::io::{ErrorKind, Read as _};

use anyhow::{Context, Result, ensure};
use backup_format::checksum::Algorithm;
use backup_format::incremental;
use backup_format::relation_file;

use super::wanted::Wanted;
use crate::manifest::backup_path::{MANIFEST, TABLESPACE_MAP, display};
use crate::manifest::comparison::compare;
use crate::manifest::exemption::is_exempt;
use crate::manifest::manifest_file::ManifestFile;
use crate::manifest::own_checksum::{Checksum, Summing};
use crate::manifest::parser::Manifest;
use crate::manifest::received_files::Files;
use crate::manifest::{self, shortened};
use crate::output::filter::Filter;
use crate::runtime::cancellation::Cancellation;
use crate::storage::folder::Folder;
use crate::storage::regular_file;
use crate::storage::source::check_size;
use crate::stream::archive_files::{ArchiveFile, Content, PIECE, list, tablespaces};
use crate::stream::part::Part;
use crate::stream::part::Tablespace;

/// Members that are not written to the directory.
pub const LEFT_OUT: &[&[u8]] = &[TABLESPACE_MAP, MANIFEST];

/// A backup in archives.
#[derive(Debug)]
pub struct Source {
    /// The archives, the largest first.
    pub archives: Vec<ArchiveFile>,
    /// The tablespaces outside the data directory.
    pub tablespaces: Vec<Tablespace>,
    /// The manifest, if there is one.
    pub manifest: Option<Listing>,
}

/// Manifest in its file, and what is known of it.
#[derive(Debug)]
pub struct Listing {
    file: ManifestFile,
    manifest: Manifest,
    has_map: bool,
    is_incremental: bool,
    /// The number of its files.
    pub count: u64,
    /// The bytes of its files.
    pub bytes: u64,
    /// Of its checksums.
    pub algorithm: Algorithm,
}

impl Source {
    /// Opens the archives in a directory.
    ///
    /// # Errors
    /// Where they are no backup, or cannot be read.
    pub fn open(
        folder: &Folder,
        is_in_repository: bool,
        cancellation: &Cancellation,
    ) -> Result<Self> {
        let archives = list(folder)?;
        let base = |archive: &&ArchiveFile| archive.content == Content::Part(Part::Base);
        let mut bases: Vec<_> = archives.iter().filter(base).collect();
        ensure!(
            !bases.is_empty(),
            "directory \"{folder}\" has no archive of a data directory"
        );
        // The first worker's has the closing files.
        bases.sort_by_key(|archive| (archive.name.len(), &archive.name));
        if is_in_repository {
            // The last one has them.
            bases.sort_by_key(|archive| archive.size);
        }
        let beside = Listing::beside(folder)?;
        ensure!(
            beside.is_some() || !is_in_repository,
            "backup in \"{folder}\" is not complete: it has no manifest"
        );
        let wanted = match &beside {
            // A single stream has it inside.
            None => vec![MANIFEST, TABLESPACE_MAP],
            Some(listing) if listing.has_map => vec![TABLESPACE_MAP],
            Some(_) => Vec::new(),
        };
        let mut found = Wanted::find(wanted, bases.into_iter(), cancellation)?;
        let inside = found.take_manifest().map(Listing::read).transpose()?;
        let manifest = beside.or(inside);
        ensure!(
            !manifest
                .as_ref()
                .is_some_and(|listing| listing.is_incremental),
            "backup in \"{folder}\" is an incremental backup, which cannot be restored alone\n\
             HINT:  Name all backups of the chain, the full one first."
        );
        let map = found.take(TABLESPACE_MAP);
        ensure!(
            map.is_some() || !manifest.as_ref().is_some_and(|listing| listing.has_map),
            "\"tablespace_map\" is in the manifest and in no archive"
        );
        Ok(Self {
            tablespaces: tablespaces(&map.unwrap_or_default(), &archives)?,
            archives,
            manifest,
        })
    }
}

impl Listing {
    fn beside(folder: &Folder) -> Result<Option<Self>> {
        let name = display(MANIFEST);
        let place = || format!("file \"{folder}/{name}\"");
        let cannot_read = || format!("could not read {}", place());
        if let Some(path) = folder.path() {
            // One that is not encrypted needs no copy.
            match regular_file::open_limited(&path.join(&name), manifest::LARGEST) {
                Ok(file) => return Self::read(ManifestFile::new(file, place())).map(Some),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(cannot_read),
            }
        }
        let Some((mut source, _)) = folder.find(&name).with_context(cannot_read)? else {
            return Ok(None);
        };
        check_size(&mut *source, manifest::LARGEST).with_context(cannot_read)?;
        let mut copy = ManifestFile::temporary()?;
        let mut source = source.take(manifest::LARGEST);
        let mut piece = vec![0; PIECE];
        let mut size = 0;
        loop {
            match source.read(&mut piece) {
                Ok(0) => break,
                Ok(length) => {
                    size += length as u64;
                    manifest::check_size(size)?;
                    copy.write(&piece[..length])?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).with_context(cannot_read),
            }
        }
        Self::read(copy).map(Some)
    }

    fn read(file: ManifestFile) -> Result<Self> {
        let (mut count, mut bytes, mut has_map) = (0, 0_u64, false);
        let (mut first, mut is_mixed, mut is_incremental) = (None, false, false);
        let manifest = Manifest::read(file.reader()?, |entry| {
            count += 1;
            bytes = bytes.saturating_add(entry.size);
            has_map |= entry.path == TABLESPACE_MAP;
            is_incremental |= is_incremental_file(&entry.path);
            is_mixed |= *first.get_or_insert(entry.algorithm) != entry.algorithm;
        })?;
        ensure!(
            !is_mixed,
            "the backup manifest has checksums of several algorithms"
        );
        Ok(Self {
            file,
            manifest,
            has_map,
            is_incremental,
            count,
            bytes,
            algorithm: first.unwrap_or(Algorithm::None),
        })
    }

    /// Compares it with the files of the archives, and returns how many match. What need not be as
    /// the manifest says is not compared.
    ///
    /// # Errors
    /// As [`compare`], and where somebody has changed it.
    pub fn compare(&self, files: Files, filter: &Filter) -> Result<usize> {
        let ignores = |path: &[u8]| is_exempt(path) || !filter.passes(path);
        let (manifest, count) = compare(self.file.reader()?, files, self.algorithm, ignores)?;
        self.check_unchanged(&manifest.checksum)?;
        Ok(count)
    }

    /// Writes the manifest of the restored backup, without tablespace_map.
    ///
    /// # Errors
    /// As [`shortened::without`], and where somebody has changed it.
    pub fn write_restored(&self, target: &mut ManifestFile) -> Result<()> {
        let mut source = Summing::new(self.file.reader()?);
        let mut write = |bytes: &[u8]| target.write(bytes);
        if self.has_map {
            shortened::without(&mut source, TABLESPACE_MAP, write)?;
        } else {
            let mut piece = vec![0; PIECE];
            loop {
                match source.read(&mut piece) {
                    Ok(0) => break,
                    Ok(length) => write(&piece[..length])?,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error).context("could not read the backup manifest"),
                }
            }
        }
        self.check_unchanged(&source.finish()?)?;
        let mut count = u64::from(self.has_map);
        Manifest::read(target.reader()?, |_| count += 1)
            .context("could not shorten the backup manifest")?;
        ensure!(
            count == self.count,
            "could not take file \"{}\" out of the backup manifest",
            display(TABLESPACE_MAP)
        );
        Ok(())
    }

    fn check_unchanged(&self, checksum: &Checksum) -> Result<()> {
        ensure!(
            *checksum == self.manifest.checksum,
            "the backup manifest has changed while it was read"
        );
        Ok(())
    }
}

/// Whether a path is that of an incremental file.
pub fn is_incremental_file(path: &[u8]) -> bool {
    incremental::relation_path(path).is_some_and(|path| relation_file::is_relation(&path))
}
