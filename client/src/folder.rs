//! The directories that the backup is written to.
//!
//! Nothing that the server says makes this program write anywhere else: names are checked, and
//! every file is opened relative to its directory and beneath it ([`cap_std`] has the kernel see to
//! that). The links of tablespaces are made here, and never those that the stream brings.
//!
//! `global/pg_control` and the manifest have other names until everything is there: no server
//! starts without the first.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use backup_format::path::is_tablespace_link;
use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, OpenOptions, OpenOptionsExt, Permissions, PermissionsExt};

use crate::made::Made;
use crate::options::Plan;
use crate::server::Tablespace;

/// What has to be missing in a data directory for no server to start on it.
pub const CONTROL_FILE: &[u8] = b"global/pg_control";
/// The manifest.
pub const MANIFEST: &[u8] = b"backup_manifest";
/// What the two are called until the end.
const UNFINISHED: &str = ".unfinished";

/// An open directory.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    dir: Dir,
}

/// The directories of a backup.
#[derive(Debug)]
pub struct Folder {
    target: Place,
    tablespaces: BTreeMap<u32, Place>,
    waldir: Option<Place>,
}

impl Folder {
    /// Makes the directories, and the links among them. What was made is in `made` also when it
    /// fails.
    ///
    /// # Errors
    /// Where a directory exists and is not empty, or cannot be made; where a mapping is for no
    /// tablespace of the server.
    pub fn create(plan: &Plan, tablespaces: &[Tablespace], made: &mut Made) -> Result<Self> {
        let known: BTreeSet<_> = tablespaces
            .iter()
            .map(|t| PathBuf::from(&t.location))
            .collect();
        for old in plan.mapping.keys() {
            ensure!(
                known.contains(old),
                "the server has no tablespace in \"{}\", which is to be relocated",
                old.display()
            );
        }
        let target = Place::create(&plan.target, made)?;
        let waldir = match &plan.waldir {
            Some(path) => {
                let place = Place::create(path, made)?;
                link(path, &target.path.join("pg_wal"))?;
                Some(place)
            }
            None => None,
        };
        let mut places = BTreeMap::new();
        if !tablespaces.is_empty() {
            make_directory(&target.dir, Path::new("pg_tblspc"))?;
        }
        for Tablespace { oid, location } in tablespaces {
            let location = PathBuf::from(location);
            let path = plan.mapping.get(&location).unwrap_or(&location);
            let place = Place::create(path, made).with_context(|| {
                format!(
                    "tablespace {oid} of the server is in \"{}\"",
                    location.display()
                )
            })?;
            link(path, &target.path.join(format!("pg_tblspc/{oid}")))?;
            places.insert(*oid, place);
        }
        Ok(Self {
            target,
            tablespaces: places,
            waldir,
        })
    }

    /// Makes a directory of the backup; it may be there.
    ///
    /// # Errors
    /// Where the name is none of a backup, or the operating system refuses.
    pub fn make_directory(&self, path: &[u8], mode: u32) -> Result<()> {
        let Some((place, path)) = self.locate(path)? else {
            return Ok(());
        };
        make_directory(&place.dir, path)?;
        set_mode(&place.dir, path, mode)
    }

    /// Opens a new file, or one of a stream that failed before, for writing.
    ///
    /// # Errors
    /// As above.
    pub fn create_file(&self, path: &[u8], mode: u32) -> Result<File> {
        let unfinished = unfinished_name(path);
        let path = unfinished.as_deref().unwrap_or(path);
        let (place, path) = self
            .locate(path)?
            .with_context(|| format!("\"{}\" is no place for a file", display(path)))?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut opened = place.dir.open_with(path, &options);
        if let (Err(error), Some(parent)) = (&opened, path.parent())
            && error.kind() == ErrorKind::NotFound
        {
            // Another stream brings the directory, and its mode.
            make_directory(&place.dir, parent)?;
            opened = place.dir.open_with(path, &options);
        }
        let file =
            opened.with_context(|| format!("could not create file \"{}\"", place.show(path)))?;
        if mode & 0o777 != 0o600 {
            file.set_permissions(Permissions::from_mode(mode & 0o777))
                .with_context(|| {
                    format!("could not set permissions of file \"{}\"", place.show(path))
                })?;
        }
        Ok(file)
    }

    /// Whether a link of the stream is one of a tablespace, which is there already.
    pub fn has_link(&self, path: &[u8]) -> bool {
        let oid = path.strip_prefix(b"pg_tblspc/").and_then(parse_oid);
        is_tablespace_link(path) && oid.is_some_and(|oid| self.tablespaces.contains_key(&oid))
    }

    /// The content of the manifest.
    ///
    /// # Errors
    /// The operating system's.
    pub fn manifest(&self) -> Result<Vec<u8>> {
        self.target
            .dir
            .read(format!("backup_manifest{UNFINISHED}"))
            .context("could not read the backup manifest")
    }

    /// Everything is there: the last files get their names, the one that lets a server start at
    /// the very end.
    ///
    /// # Errors
    /// The operating system's.
    pub fn finish(&self, with_manifest: bool) -> Result<()> {
        let dir = &self.target.dir;
        for name in [MANIFEST, CONTROL_FILE] {
            if name == MANIFEST && !with_manifest {
                continue;
            }
            let name = Path::new(OsStr::from_bytes(name));
            let unfinished = format!("{}{UNFINISHED}", name.display());
            dir.rename(&unfinished, dir, name)
                .with_context(|| format!("could not rename file \"{unfinished}\""))?;
        }
        Ok(())
    }

    /// Where a name of the backup belongs; `None` for a directory that is made beforehand.
    fn locate<'a>(&self, path: &'a [u8]) -> Result<Option<(&Place, &'a Path)>> {
        check_name(path)?;
        if let Some((oid, rest)) = path.strip_prefix(b"pg_tblspc/").map(split_first)
            && let Some(place) = parse_oid(oid).and_then(|oid| self.tablespaces.get(&oid))
        {
            return Ok((!rest.is_empty()).then(|| (place, as_path(rest))));
        }
        if let (Some(place), (b"pg_wal", rest)) = (&self.waldir, split_first(path)) {
            return Ok((!rest.is_empty()).then(|| (place, as_path(rest))));
        }
        Ok(Some((&self.target, as_path(path))))
    }
}

impl Place {
    fn create(path: &Path, made: &mut Made) -> Result<Self> {
        made.directory(path)?;
        let dir = Dir::open_ambient_dir(path, ambient_authority())
            .with_context(|| format!("could not open directory \"{}\"", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            dir,
        })
    }

    fn show(&self, path: &Path) -> String {
        self.path.join(path).display().to_string()
    }
}

/// Names are relative, and have no parts that mean something else.
fn check_name(path: &[u8]) -> Result<()> {
    let fits = path
        .split(|&byte| byte == b'/')
        .all(|part| !matches!(part, b"" | b"." | b"..") && !part.contains(&0));
    if !fits {
        bail!(
            "the server sent a file with the name \"{}\", which is refused",
            display(path)
        );
    }
    Ok(())
}

/// A name for messages.
pub fn display(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

fn unfinished_name(path: &[u8]) -> Option<Vec<u8>> {
    (path == CONTROL_FILE || path == MANIFEST).then(|| [path, UNFINISHED.as_bytes()].concat())
}

fn as_path(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

fn split_first(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().position(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (path, b""),
    }
}

fn parse_oid(text: &[u8]) -> Option<u32> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn link(target: &Path, at: &Path) -> Result<()> {
    symlink(target, at)
        .with_context(|| format!("could not create symbolic link \"{}\"", at.display()))
}

fn make_directory(dir: &Dir, path: &Path) -> Result<()> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    let mut builder = cap_std::fs::DirBuilder::new();
    cap_std::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true);
    dir.create_dir_with(path, &builder)
        .with_context(|| format!("could not create directory \"{}\"", path.display()))
}

fn set_mode(dir: &Dir, path: &Path, mode: u32) -> Result<()> {
    if mode & 0o777 == 0o700 {
        return Ok(());
    }
    dir.set_permissions(path, Permissions::from_mode(mode & 0o777))
        .with_context(|| {
            format!(
                "could not set permissions of directory \"{}\"",
                path.display()
            )
        })
}
