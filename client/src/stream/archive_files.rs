//! Archive files of a backup: `base.tar` and one for each tablespace, or several of each from
//! several workers, optionally compressed; and `pg_wal.tar` of pg_basebackup.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use anyhow::{Context, Error, Result, anyhow, ensure};
use backup_format::compression::Method;
use backup_format::tablespace_map;

use crate::console::messages::{self, reason};
use crate::manifest::backup_path::{MANIFEST, parse_oid};
use crate::repository::backup_info::BackupInfo;
use crate::repository::index::{self, IndexReader};
use crate::storage::encryption;
use crate::storage::folder::Folder;
use crate::storage::source::{FileEntry, Source};
use crate::stream::part::{Part, Tablespace};

/// Size of a read in bytes.
pub const PIECE: usize = 256 * 1024;

/// An archive.
#[derive(Clone, Debug)]
pub struct ArchiveFile {
    /// Its name in the folder.
    pub name: String,
    /// The folder of the backup.
    pub folder: Folder,
    /// Whether it has an index.
    pub has_index: bool,
    /// What it holds.
    pub content: Content,
    /// How it is compressed.
    pub method: Method,
    /// Its size in bytes, as it is.
    pub size: u64,
}

/// What an archive holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The data directory, or one tablespace.
    Part(Part),
    /// The content of `pg_wal`.
    Wal,
}

impl Content {
    /// Prefix of its member names in the backup.
    pub fn prefix(self) -> Vec<u8> {
        match self {
            Self::Part(part) => part.prefix(),
            Self::Wal => b"pg_wal/".to_vec(),
        }
    }
}

impl ArchiveFile {
    /// Recognizes an archive by its name. The size is set later.
    pub fn by_name(folder: &Folder, name: &str) -> Option<Self> {
        let plain_name = name.strip_suffix(encryption::SUFFIX).unwrap_or(name);
        let (stem, method) = [
            (".tar", Method::None),
            (".tar.gz", Method::Gzip),
            (".tgz", Method::Gzip),
            (".tar.lz4", Method::Lz4),
            (".tar.zst", Method::Zstd),
        ]
        .into_iter()
        .find_map(|(suffix, method)| Some((plain_name.strip_suffix(suffix)?, method)))?;
        let mut parts = stem.split('.');
        let stem = parts.next()?;
        // The numbers of a worker and of its archive are written as an OID is.
        let numbers: Vec<_> = parts
            .map(|number| parse_oid(number.as_bytes()))
            .collect::<Option<_>>()?;
        if numbers.len() > 2 || numbers.get(1) == Some(&0) {
            return None;
        }
        let content = match stem {
            "base" => Content::Part(Part::Base),
            "pg_wal" => Content::Wal,
            oid => {
                let oid = parse_oid(oid.as_bytes()).filter(|&oid| oid > 0)?;
                Content::Part(Part::Tablespace(oid))
            }
        };
        Some(Self {
            name: name.to_owned(),
            folder: folder.clone(),
            has_index: false,
            content,
            method,
            size: 0,
        })
    }

    /// Opens it.
    ///
    /// # Errors
    /// Errors of the operating system and of the store, and where it cannot be decrypted.
    pub fn open(&self) -> Result<Box<dyn Source>> {
        let opened = self.folder.reader(&self.name);
        opened.map_err(|error| failed("open", &self.name, &error))
    }

    /// Opens its index.
    ///
    /// # Errors
    /// As [`ArchiveFile::open`], and as [`IndexReader::new`].
    pub fn open_index(&self) -> Result<IndexReader<Box<dyn Source>>> {
        let archive = self.name.strip_suffix(encryption::SUFFIX);
        let archive = archive.unwrap_or(&self.name);
        let name = index::name_of(archive);
        let found = self.folder.find(&name);
        let found = found.map_err(|error| failed("open", &name, &error))?;
        let (source, _) = found.with_context(|| format!("index \"{name}\" is missing"))?;
        IndexReader::new(source, archive).with_context(|| format!("index \"{name}\""))
    }

    /// Path of a file that is the archive as it is: in a directory, and not encrypted.
    pub fn local_path(&self) -> Option<PathBuf> {
        let folder = self.folder.path()?;
        (!self.name.ends_with(encryption::SUFFIX)).then(|| folder.join(&self.name))
    }

    /// Where it is, for messages.
    pub fn path(&self) -> String {
        format!("{}/{}", self.folder, self.name)
    }

    /// Reads the next piece; returns how long it is, zero at the end.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn read_piece(&self, file: &mut dyn Source, piece: &mut [u8]) -> Result<usize> {
        loop {
            match file.read(piece) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result.map_err(|error| failed("read", &self.name, &error)),
            }
        }
    }

    /// Hands on its bytes, as they are.
    ///
    /// # Errors
    /// The operating system's, and those of `take`.
    pub fn read(&self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut file = self.open()?;
        let mut piece = vec![0; PIECE];
        loop {
            match self.read_piece(&mut *file, &mut piece)? {
                0 => return Ok(()),
                length => take(&piece[..length]).with_context(|| self.place())?,
            }
        }
    }

    /// Context for messages about its members.
    pub fn place(&self) -> String {
        format!("archive \"{}\"", self.name)
    }
}

/// The archives in a folder, the largest first. In a repository they are those of the description.
///
/// # Errors
/// Errors of the operating system and of the store, and where an archive of the description is missing.
pub fn list(folder: &Folder) -> Result<Vec<ArchiveFile>> {
    let files = folder.files()?;
    let mut archives = match BackupInfo::read(folder)? {
        Some(info) => described(folder, &info, files)?,
        None => named(folder, files)?,
    };
    archives.sort_by_key(|archive| Reverse(archive.size));
    Ok(archives)
}

/// Archives by their names.
///
/// # Errors
/// Errors of the operating system and of the store.
fn named(folder: &Folder, files: Vec<FileEntry>) -> Result<Vec<ArchiveFile>> {
    // A folder with the name of an archive is an error when it is opened.
    let folders = folder.folders()?;
    let mut archives: Vec<_> = folders
        .iter()
        .filter_map(|name| ArchiveFile::by_name(folder, name))
        .collect();
    for FileEntry { name, size, .. } in files {
        if let Some(mut archive) = ArchiveFile::by_name(folder, &name.to_string_lossy()) {
            archive.size = size;
            archives.push(archive);
        } else if name.as_bytes() != MANIFEST {
            messages::warn(format_args!(
                "file \"{}\" is not expected in a tar format backup",
                name.display()
            ));
        }
    }
    Ok(archives)
}

/// Archives of a backup in a repository.
///
/// # Errors
/// Where one is missing.
pub fn described(
    folder: &Folder,
    info: &BackupInfo,
    files: Vec<FileEntry>,
) -> Result<Vec<ArchiveFile>> {
    let sizes = files.into_iter().map(|file| (file.name, file.size));
    let sizes: HashMap<_, _> = sizes.collect();
    info.archives
        .iter()
        .map(|archive| {
            let name = &archive.name;
            let known = ArchiveFile::by_name(folder, name);
            let mut known = known.with_context(|| format!("\"{name}\" is no archive"))?;
            known.size = *sizes
                .get(OsStr::new(name))
                .with_context(|| format!("archive \"{name}\" of the backup is missing"))?;
            known.has_index = true;
            Ok(known)
        })
        .collect()
}

/// Parses a tablespace_map, which must contain the tablespace of each archive.
///
/// # Errors
/// Where it is none, or names a place that is refused.
pub fn tablespaces(map: &[u8], archives: &[ArchiveFile]) -> Result<Vec<Tablespace>> {
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

fn failed(to: &str, name: &str, error: &io::Error) -> Error {
    anyhow!("could not {to} file \"{name}\": {}", reason(error))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn archives_are_known_by_their_names() {
        let folder = Folder::directory(Path::new("x"));
        let base = Content::Part(Part::Base);
        let space = Content::Part(Part::Tablespace(16384));
        for (name, content, method) in [
            ("base.tar", base, Method::None),
            ("base.0.tar", base, Method::None),
            ("base.12.tar.gz", base, Method::Gzip),
            ("base.1.2.tar", base, Method::None),
            ("16384.0.13.tar.zst", space, Method::Zstd),
            ("base.tgz", base, Method::Gzip),
            ("16384.tar.lz4", space, Method::Lz4),
            ("16384.3.tar.zst", space, Method::Zstd),
            ("pg_wal.tar", Content::Wal, Method::None),
            ("base.1.tar.zst.age", base, Method::Zstd),
        ] {
            let known = ArchiveFile::by_name(&folder, name);
            let known = known.map(|archive| (archive.content, archive.method));
            assert_eq!(known, Some((content, method)), "{name}");
        }
        for name in [
            "base",
            "base.gz",
            ".tar",
            "base.tar.xz",
            "base.tar.unfinished",
            "base.x.tar",
            "base.01.tar",
            "base.1.0.tar",
            "base.1.02.tar",
            "base.1.2.3.tar",
            "base.1..tar",
            "base..tar",
            "0.tar",
            "016384.tar",
            "4294967296.tar",
            "-1.tar",
            "+1.tar",
            "backup_manifest",
            "pg_wal",
            "base.-1.tar",
            "",
        ] {
            assert!(ArchiveFile::by_name(&folder, name).is_none(), "{name}");
        }
    }
}
