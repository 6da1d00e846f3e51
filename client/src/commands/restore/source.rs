//! Archives of a backup, with its manifest and tablespaces.

use std::cmp::Reverse;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use backup_format::checksum::Algorithm;
use backup_format::tablespace_map;

use super::wanted::Wanted;
use crate::console::messages;
use crate::manifest::backup_path::{MANIFEST, display};
use crate::manifest::{self, Manifest, shortened};
use crate::runtime::cancellation::Cancellation;
use crate::stream::archive_files::{ArchiveFile, Content};
use crate::stream::part::Part;
use crate::stream::part::Tablespace;
use crate::stream::regular_file;

/// File with the locations of tablespaces, from which a server creates the links.
const TABLESPACE_MAP: &[u8] = b"tablespace_map";

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

/// Manifest as text and parsed.
#[derive(Debug)]
pub struct Listing {
    text: Vec<u8>,
    /// What it says.
    pub manifest: Manifest,
    /// Of its checksums.
    pub algorithm: Algorithm,
}

impl Source {
    /// Opens the archives in a directory.
    ///
    /// # Errors
    /// Where they are no backup, or cannot be read.
    pub fn open(folder: &Path, cancellation: &Cancellation) -> Result<Self> {
        let archives = list(folder)?;
        let base = |archive: &&ArchiveFile| archive.content == Content::Part(Part::Base);
        let mut bases: Vec<_> = archives.iter().filter(base).collect();
        ensure!(
            !bases.is_empty(),
            "directory \"{}\" has no archive of a data directory",
            folder.display()
        );
        // The first worker's has the closing files.
        bases.sort_by_key(|archive| (archive.name.len(), &archive.name));
        let beside = Listing::beside(folder)?;
        let wanted = match &beside {
            // A single stream has it inside.
            None => vec![MANIFEST, TABLESPACE_MAP],
            Some(listing) if listing.has_map() => vec![TABLESPACE_MAP],
            Some(_) => Vec::new(),
        };
        let mut found = Wanted::find(wanted, bases.into_iter(), cancellation)?;
        let inside = found.take(MANIFEST).map(Listing::parse).transpose()?;
        let manifest = beside.or(inside);
        let map = found.take(TABLESPACE_MAP);
        ensure!(
            map.is_some() || !manifest.as_ref().is_some_and(Listing::has_map),
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
    fn beside(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(display(MANIFEST));
        match regular_file::read(&path, manifest::LARGEST) {
            Ok(text) => Self::parse(text).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => {
                Err(error).with_context(|| format!("could not read file \"{}\"", path.display()))
            }
        }
    }

    fn parse(text: Vec<u8>) -> Result<Self> {
        let manifest = Manifest::parse(&text)?;
        Ok(Self {
            algorithm: manifest.algorithm()?,
            manifest,
            text,
        })
    }

    fn has_map(&self) -> bool {
        self.manifest.has(TABLESPACE_MAP)
    }

    /// Manifest to write, without tablespace_map.
    ///
    /// # Errors
    /// As [`shortened::without`].
    pub fn restored(self) -> Result<Vec<u8>> {
        if self.has_map() {
            shortened::without(&self.text, TABLESPACE_MAP)
        } else {
            Ok(self.text)
        }
    }
}

/// The archives in a folder.
fn list(folder: &Path) -> Result<Vec<ArchiveFile>> {
    let failed = || format!("could not read directory \"{}\"", folder.display());
    let mut archives = Vec::new();
    for entry in fs::read_dir(folder).with_context(failed)? {
        let entry = entry.with_context(failed)?;
        let name = entry.file_name();
        if let Some(mut archive) = ArchiveFile::by_name(folder, &name.to_string_lossy()) {
            archive.size = fs::metadata(&archive.path).with_context(failed)?.len();
            archives.push(archive);
        } else if name.as_bytes() != MANIFEST {
            messages::warn(format_args!(
                "file \"{}\" is not expected in a tar format backup",
                name.display()
            ));
        }
    }
    archives.sort_by_key(|archive| Reverse(archive.size));
    Ok(archives)
}

/// Parses the map, which must contain the tablespace of each archive.
fn tablespaces(map: &[u8], archives: &[ArchiveFile]) -> Result<Vec<Tablespace>> {
    let tablespaces = tablespace_map::parse(map)?
        .into_iter()
        .map(|(oid, location)| Tablespace::check("the backup", oid, &location))
        .collect::<Result<Vec<_>>>()?;
    for archive in archives {
        if let Content::Part(Part::Tablespace(oid)) = archive.content {
            ensure!(
                tablespaces.iter().any(|tablespace| tablespace.oid == oid),
                "archive \"{}\" is of a tablespace that the backup's tablespace_map does not have",
                archive.name
            );
        }
    }
    let mut oids: Vec<_> = tablespaces
        .iter()
        .map(|tablespace| tablespace.oid)
        .collect();
    oids.sort_unstable();
    oids.dedup();
    ensure!(
        oids.len() == tablespaces.len(),
        "the backup's tablespace_map has a tablespace twice"
    );
    Ok(tablespaces)
}
