//! One backup of a chain, in a directory or in archives.

use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use backup_format::checksum::Algorithm;

use super::archives::Archives;
use super::slice::{Checked, Slice};
use crate::cli::option_values::canonical;
use crate::console::messages::{self, reason};
use crate::console::progress::Worker;
use crate::manifest;
use crate::manifest::backup_path::{CONTROL_FILE, MANIFEST, TABLESPACE_MAP, display, parse_oid};
use crate::manifest::exemption::is_exempt;
use crate::manifest::expected::{self, Expected};
use crate::manifest::parser::Manifest;
use crate::output::claim::CLAIM;
use crate::runtime::cancellation::Cancellation;
use crate::storage::folder::Folder;
use crate::storage::regular_file;
use crate::storage::source::Source;
use crate::stream::archive_files::{self, ArchiveFile, Content};
use crate::stream::part::Tablespace;

/// Version file of a data directory.
const VERSION_FILE: &str = "PG_VERSION";
/// Larger than any file that is held in memory.
const LARGEST_HELD: u64 = 1 << 20;

/// A backup.
#[derive(Debug)]
pub struct Backup<'a> {
    /// Its directory, or its URL.
    pub path: PathBuf,
    folder: Folder,
    cancellation: &'a Cancellation,
    place: Place,
    /// Its manifest, if it has one.
    manifest: Option<(Manifest, Expected)>,
}

#[derive(Debug)]
enum Place {
    Directory,
    Archives(Archives, Vec<Tablespace>),
}

/// What a backup consists of.
#[derive(Debug, Default)]
pub struct Contents {
    /// Files with their sizes in bytes.
    pub files: Vec<(Vec<u8>, u64)>,
    /// Directories.
    pub directories: Vec<Vec<u8>>,
}

impl<'a> Backup<'a> {
    /// Opens a backup. Archives that are compressed are decompressed into `spool`. Only the newest backup
    /// of a chain gives its WAL.
    ///
    /// # Errors
    /// Where it is none, is not complete, or cannot be read.
    pub fn open(
        (folder, is_newest): (&Folder, bool),
        spool: &Path,
        workers: &[Worker],
        cancellation: &'a Cancellation,
    ) -> Result<Self> {
        let path = folder.to_string();
        let path = folder.path().unwrap_or(Path::new(&path));
        ensure!(
            !path.join(CLAIM).exists(),
            "backup in \"{}\" is incomplete: it has a file \"{CLAIM}\"",
            path.display()
        );
        let mut archives = Vec::new();
        let place = if path.join(VERSION_FILE).exists() {
            Place::Directory
        } else {
            archives = archive_files::list(folder)?;
            archives.retain(|archive| is_newest || archive.content != Content::Wal);
            ensure!(
                !archives.is_empty(),
                "directory \"{}\" holds no backup: there is neither a file \"{VERSION_FILE}\" nor an archive",
                path.display()
            );
            let files = Archives::open(&archives, spool, workers, cancellation)?;
            Place::Archives(files, Vec::new())
        };
        let mut backup = Self {
            path: path.to_owned(),
            folder: folder.clone(),
            cancellation,
            place,
            manifest: None,
        };
        backup.manifest = backup.read_manifest()?;
        if backup.manifest.is_none() {
            messages::warn(format_args!(
                "backup in \"{}\" has no manifest, so its files are not verified",
                path.display()
            ));
        }
        backup.read_tablespace_map(&archives)?;
        Ok(backup)
    }

    /// Where the tablespaces were. The links of a directory tell it too.
    fn read_tablespace_map(&mut self, archives: &[ArchiveFile]) -> Result<()> {
        let is_listed = self
            .expected()
            .is_some_and(|expected| expected.file(TABLESPACE_MAP).is_some());
        let map = match self.slice(TABLESPACE_MAP)? {
            Some(_) => self.content(TABLESPACE_MAP)?,
            None => {
                ensure!(
                    !is_listed || self.has_files(),
                    "\"tablespace_map\" is in the manifest and in no archive in \"{}\"",
                    self.path.display()
                );
                Vec::new()
            }
        };
        let in_map = archive_files::tablespaces(&map, archives)?;
        match &mut self.place {
            Place::Directory => {
                let there = self.path.join("pg_tblspc");
                for Tablespace { oid, location } in in_map {
                    ensure!(
                        there.join(oid.to_string()).exists(),
                        "tablespace {oid} in \"{}\" has no link in \"{}\"\n\
                         HINT:  Unpack its archive, and make the link.",
                        location.display(),
                        there.display()
                    );
                }
            }
            Place::Archives(files, tablespaces) => {
                let is_known = |link: &[u8]| {
                    let oid = link.strip_prefix(b"pg_tblspc/").and_then(parse_oid);
                    in_map.iter().any(|tablespace| Some(tablespace.oid) == oid)
                };
                if let Some(link) = files.links().iter().find(|link| !is_known(link)) {
                    bail!(
                        "an archive in \"{}\" has a link \"{}\", which is refused",
                        self.path.display(),
                        display(link)
                    );
                }
                *tablespaces = in_map;
            }
        }
        Ok(())
    }

    fn read_manifest(&self) -> Result<Option<(Manifest, Expected)>> {
        let name = display(MANIFEST);
        let place = format!("{}/{name}", self.path.display());
        let beside = match &self.place {
            // Nothing that is no regular file, and nothing without an end.
            Place::Directory => {
                let file = regular_file::open_limited(&self.path.join(&name), manifest::LARGEST);
                file.map(|file| Box::new(file) as Box<dyn Source>).map(Some)
            }
            Place::Archives(..) => self.folder.find(&name).map(|found| Some(found?.0)),
        };
        match beside {
            Ok(Some(source)) => Expected::read(source.take(manifest::LARGEST), &[])
                .with_context(|| format!("manifest \"{place}\""))
                .map(Some),
            Err(error) if error.kind() != ErrorKind::NotFound => Err(anyhow!(
                "could not open file \"{place}\": {}",
                reason(&error)
            )),
            Ok(None) | Err(_) => {
                // A single stream has it inside.
                let inside = self.slice(MANIFEST)?;
                let read = inside.map(|slice| {
                    manifest::check_size(slice.size)?;
                    Expected::read(slice.reader(), &[])
                        .with_context(|| format!("manifest \"{}\"", slice.name))
                });
                read.transpose()
            }
        }
    }

    /// The manifest.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref().map(|(manifest, _)| manifest)
    }

    /// The files of the manifest.
    pub fn expected(&self) -> Option<&Expected> {
        self.manifest.as_ref().map(|(_, expected)| expected)
    }

    /// A file as the manifest has it. What may differ from it is not expected.
    pub fn expected_file(&self, path: &[u8]) -> Option<expected::File<'_>> {
        self.expected()?.file(path).filter(|_| !is_exempt(path))
    }

    /// A file; [`None`] where there is none.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn slice(&self, path: &[u8]) -> Result<Option<Slice>> {
        if let Place::Archives(files, _) = &self.place {
            return Ok(files.find(path));
        }
        let path = self.path.join(OsStr::from_bytes(path));
        let name = path.display().to_string();
        let failed = |error| anyhow!("could not open file \"{name}\": {}", reason(&error));
        match regular_file::open(&path) {
            Ok(file) => Ok(Some(Slice {
                size: file.metadata().map_err(failed)?.len(),
                file: Arc::new(file),
                offset: 0,
                name,
                path: Some(path),
            })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Whether the backup has a file. The manifest knows that, and not the disk, on which files of another
    /// backup may be left.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn has(&self, path: &[u8]) -> Result<bool> {
        match self.expected() {
            Some(expected) => Ok(expected.file(path).is_some()),
            None => Ok(self.slice(path)?.is_some()),
        }
    }

    /// A file of the manifest, which is checked against it.
    ///
    /// # Errors
    /// As [`Backup::file`], and where the manifest does not have it.
    pub fn checked(&self, path: &[u8]) -> Result<Checked<'_>> {
        ensure!(
            is_exempt(path) || self.expected().is_none() || self.has(path)?,
            "manifest of \"{}\" contains no entry for file \"{}\"",
            self.path.display(),
            display(path)
        );
        self.file(path)
    }

    /// A file, which is checked against the manifest if that has it.
    ///
    /// # Errors
    /// Where it is not there or its size is wrong, and errors of the operating system.
    pub fn file(&self, path: &[u8]) -> Result<Checked<'_>> {
        let slice = self.slice(path)?.with_context(|| {
            format!(
                "file \"{}\" is missing in the backup in \"{}\"",
                display(path),
                self.path.display()
            )
        })?;
        Checked::new(slice, self.expected_file(path), self.cancellation)
    }

    /// The content of a small file, checked against the manifest.
    ///
    /// # Errors
    /// As above, and where it is not small.
    pub fn content(&self, path: &[u8]) -> Result<Vec<u8>> {
        let mut file = self.checked(path)?;
        let mut content = vec![0; held_size(file.slice())?];
        file.read(&mut content)?;
        file.finish()?;
        Ok(content)
    }

    /// Name of a file for messages.
    pub fn name_of(&self, path: &[u8]) -> String {
        format!("{}/{}", self.path.display(), display(path))
    }

    /// Algorithm of the manifest's checksums.
    pub fn algorithm(&self) -> Option<Algorithm> {
        let control = self.expected()?.file(CONTROL_FILE);
        Some(control.map_or(Algorithm::None, |file| file.algorithm))
    }

    /// Mode of its directories.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn mode(&self) -> Result<u32> {
        let mode = match &self.place {
            Place::Directory => fs::metadata(&self.path)
                .with_context(|| format!("could not stat file \"{}\"", self.path.display()))?
                .permissions()
                .mode(),
            Place::Archives(files, _) => {
                let global = files
                    .directories()
                    .iter()
                    .find(|(path, _)| path == b"global");
                global.map_or(0, |(_, mode)| *mode)
            }
        };
        Ok(mode & 0o050 | 0o700)
    }

    /// The tablespaces outside the data directory. Those of a directory are where the backup has them.
    ///
    /// # Errors
    /// Where a link leads to a place that cannot be used.
    pub fn tablespaces(&self) -> Result<Vec<Tablespace>> {
        if let Place::Archives(_, tablespaces) = &self.place {
            return Ok(tablespaces.clone());
        }
        let folder = self.path.join("pg_tblspc");
        let failed = || format!("could not open directory \"{}\"", folder.display());
        let mut tablespaces = Vec::new();
        for entry in fs::read_dir(&folder).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            let path = entry.path();
            let is_link = entry.file_type().with_context(failed)?.is_symlink();
            let Some(oid) = parse_oid(entry.file_name().as_bytes()).filter(|_| is_link) else {
                continue;
            };
            let location = fs::read_link(&path)
                .with_context(|| format!("could not read symbolic link \"{}\"", path.display()))?;
            ensure!(
                location.is_absolute(),
                "target of symbolic link \"{}\" is relative",
                path.display()
            );
            tablespaces.push(Tablespace {
                oid,
                location: PathBuf::from(OsStr::from_bytes(&canonical(&location))),
            });
        }
        tablespaces.sort_by_key(|tablespace| tablespace.oid);
        Ok(tablespaces)
    }

    /// Whether its files can be cloned and linked.
    pub fn has_files(&self) -> bool {
        matches!(self.place, Place::Directory)
    }

    /// Everything in it.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn contents(&self) -> Result<Contents> {
        let mut contents = Contents::default();
        match &self.place {
            Place::Archives(files, _) => {
                contents.files = files.files().collect();
                let directories = files.directories().iter();
                contents.directories = directories.map(|(path, _)| path.clone()).collect();
            }
            Place::Directory => self.walk(Vec::new(), &mut contents)?,
        }
        Ok(contents)
    }

    fn walk(&self, directory: Vec<u8>, contents: &mut Contents) -> Result<()> {
        let folder = self.path.join(OsStr::from_bytes(&directory));
        let failed = || format!("could not read directory \"{}\"", folder.display());
        for entry in fs::read_dir(&folder).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            let name = entry.file_name();
            let path = match &directory[..] {
                [] => name.as_bytes().to_vec(),
                directory => [directory, b"/", name.as_bytes()].concat(),
            };
            let kind = entry.file_type().with_context(failed)?;
            let leads_on = directory == b"pg_tblspc" && parse_oid(name.as_bytes()).is_some()
                || path == b"pg_wal";
            if kind.is_dir() || kind.is_symlink() && leads_on {
                contents.directories.push(path.clone());
                self.walk(path, contents)?;
            } else if kind.is_file() {
                let size = entry.metadata().with_context(failed)?.len();
                contents.files.push((path, size));
            } else {
                let what = if kind.is_symlink() {
                    "symbolic link"
                } else {
                    "special file"
                };
                messages::warn(format_args!(
                    "skipping {what} \"{}\"",
                    entry.path().display()
                ));
            }
        }
        Ok(())
    }
}

fn held_size(slice: &Slice) -> Result<usize> {
    match usize::try_from(slice.size) {
        Ok(size) if slice.size < LARGEST_HELD => Ok(size),
        _ => bail!("file \"{}\" is too large", slice.name),
    }
}
