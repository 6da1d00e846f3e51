//! Data directory of a backup, with its tablespaces and WAL directory.
//!
//! The server cannot make this program write elsewhere: names are checked, and every file is opened
//! relative to its directory and beneath it ([`cap_std`]). Tablespace links are created here; a
//! link in a stream is never followed or created.
//!
//! `global/pg_control` and the manifest have other names until everything is there: no server
//! starts without the first.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{ErrorKind, Write as _};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cap_std::ambient_authority;
use cap_std::fs::{
    Dir, File, FileExt as _, OpenOptions, OpenOptionsExt, Permissions, PermissionsExt,
};
use rustix::fs::{AtFlags, CWD, linkat};

use crate::manifest::backup_path::{CONTROL_FILE, MANIFEST, check_name, display, parse_oid};
use crate::manifest::incoming_files::Opening;
use crate::manifest::manifest_file::ManifestFile;
use crate::manifest::stream::Stream;
use crate::output::claim;
use crate::output::cleanup::CleanupList;
use crate::output::layout::Layout;
use crate::output::write_behind::WriteBehind;
use crate::stream::part::Tablespace;

/// Suffix of these two names, and of the first archive, until the backup is complete.
pub const UNFINISHED: &str = ".unfinished";

/// Bytes that are copied at once.
const PIECE: usize = 1024 * 1024;

/// An open directory.
#[derive(Debug)]
struct Place {
    path: PathBuf,
    dir: Dir,
}

/// The directories of a backup.
#[derive(Debug)]
pub struct DataDirectory {
    target: Place,
    tablespaces: BTreeMap<u32, Place>,
    waldir: Option<Place>,
    /// Mode of its directories.
    mode: u32,
    /// Whether its files are synchronized in the end.
    synchronized: bool,
}

impl DataDirectory {
    /// Looks whether the directories can be created, before long work. They can change until then.
    ///
    /// # Errors
    /// Where a directory exists and is not empty.
    pub fn check(layout: Layout<'_>) -> Result<()> {
        let places = [Some(layout.target), layout.waldir].into_iter().flatten();
        let mapped = layout.mapping.values().map(PathBuf::as_path);
        places.chain(mapped).try_for_each(claim::check_empty)
    }

    /// Looks whether all that is to be relocated is there.
    ///
    /// # Errors
    /// Where a mapping is for no tablespace of the server.
    pub fn check_mapping(layout: Layout<'_>, tablespaces: &[Tablespace]) -> Result<()> {
        let known: BTreeSet<_> = tablespaces
            .iter()
            .map(|tablespace| &tablespace.location)
            .collect();
        for old in layout.mapping.keys() {
            ensure!(
                known.contains(old),
                "there is no tablespace in \"{}\", which is to be relocated",
                old.display()
            );
        }
        Ok(())
    }

    /// Creates the directories and the tablespace links. Created directories are recorded in
    /// `cleanup` also on failure.
    ///
    /// # Errors
    /// Where a directory exists and is not empty, or cannot be made; where a mapping is for no
    /// tablespace of the server.
    pub fn create(
        layout: Layout<'_>,
        tablespaces: &[Tablespace],
        mode: u32,
        cleanup: &mut CleanupList,
    ) -> Result<Self> {
        Self::check_mapping(layout, tablespaces)?;
        let target = Place::create(layout.target, mode, cleanup)?;
        for mark in [CONTROL_FILE, MANIFEST] {
            cleanup.add_key_file(target.path.join(as_path(mark)));
        }
        let waldir = match layout.waldir {
            Some(path) => {
                let place = Place::create(path, mode, cleanup)?;
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
            let path = layout.mapping.get(location).unwrap_or(location);
            let place = Place::create(path, mode, cleanup).with_context(|| {
                format!(
                    "no place for tablespace {oid}, which was in \"{}\" (-T puts it elsewhere)",
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
            mode,
            synchronized: false,
        })
    }

    /// Has bytes go to the disk while more arrive, if the files are `synchronized` in the end.
    pub fn synchronized(mut self, synchronized: bool) -> Self {
        self.synchronized = synchronized;
        self
    }

    /// For what is written to a file from a place on.
    pub fn write_behind(&self, place: u64) -> WriteBehind {
        WriteBehind::from(place, self.synchronized)
    }

    /// Creates a directory of the backup, which may exist.
    ///
    /// # Errors
    /// An error for an invalid name, and errors of the operating system.
    pub fn make_directory(&self, path: &[u8], mode: u32) -> Result<()> {
        let Some((place, path)) = self.locate(path)? else {
            return Ok(());
        };
        make_directory(&place.dir, path)?;
        set_mode(&place.dir, path, mode)
    }

    /// Creates a file, with a name that is only for one stream where it is written aside: see
    /// [`DataDirectory::settle`].
    ///
    /// # Errors
    /// As above.
    pub fn create_file(&self, path: &[u8], mode: u32, aside: Option<Stream>) -> Result<File> {
        self.create_named(&name_of(path, aside), mode)
    }

    /// Opens a file that arrives in parts, to write at the places of these.
    ///
    /// # Errors
    /// As above.
    pub fn open_divided(&self, path: &[u8], mode: u32, opening: Opening) -> Result<File> {
        let name = name_of(path, opening.aside);
        match opening.is_new {
            true => self.create_named(&name, mode),
            false => self.open(&name, OpenOptions::new().write(true)),
        }
    }

    /// Copies a part that was written aside to its place in the file.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn copy_part(&self, path: &[u8], stream: Stream, range: Range<u64>) -> Result<()> {
        let source = self.open(&name_of(path, Some(stream)), OpenOptions::new().read(true))?;
        let target = self.open(&name_of(path, None), OpenOptions::new().write(true))?;
        let mut piece = vec![0; PIECE];
        let mut offset = range.start;
        while offset < range.end {
            let wanted = usize::try_from(range.end - offset).map_or(PIECE, |left| left.min(PIECE));
            let piece = &mut piece[..wanted];
            source
                .read_exact_at(piece, offset)
                .and_then(|()| target.write_all_at(piece, offset))
                .with_context(|| format!("could not copy a part of file \"{}\"", display(path)))?;
            offset += wanted as u64;
        }
        Ok(())
    }

    fn open(&self, name: &[u8], options: &OpenOptions) -> Result<File> {
        let (place, path) = self.locate_file(name)?;
        let opened = place.dir.open_with(path, options);
        opened.with_context(|| format!("could not open file \"{}\"", place.show(path)))
    }

    fn create_named(&self, name: &[u8], mode: u32) -> Result<File> {
        let (place, path) = self.locate_file(name)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
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

    /// Makes a file a link to one outside.
    ///
    /// # Errors
    /// An error for an invalid name, and errors of the operating system.
    pub fn link_file(&self, source: &Path, path: &[u8]) -> Result<()> {
        let name = unfinished_name(path);
        let (place, path) = self.locate_file(&name)?;
        linkat(CWD, source, &place.dir, path, AtFlags::SYMLINK_FOLLOW).with_context(|| {
            format!(
                "could not create link from \"{}\" to \"{}\"",
                source.display(),
                place.show(path)
            )
        })
    }

    /// Renames a file of a stream that ended well from its temporary name, over what a failed
    /// stream may have left.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn settle(&self, path: &[u8], stream: Stream) -> Result<()> {
        let (name, aside) = (name_of(path, None), name_of(path, Some(stream)));
        self.rename(&aside, &name)
    }

    /// Renames a file within its directory, over one of that name.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn rename(&self, from: &[u8], to: &[u8]) -> Result<()> {
        let (place, to) = self.locate_file(to)?;
        let (_, from) = self.locate_file(from)?;
        place
            .dir
            .rename(from, &place.dir, to)
            .with_context(|| format!("could not rename file to \"{}\"", place.show(to)))
    }

    /// Has the names in the directory of a file on disk, if there is that directory.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn sync_directory_of(&self, path: &[u8]) -> Result<()> {
        let (place, path) = self.locate_file(path)?;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        match place.dir.open(directory).and_then(|file| file.sync_all()) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            synced => synced
                .with_context(|| format!("could not fsync file \"{}\"", place.show(directory))),
        }
    }

    /// Removes a file of a failed stream. A file that cannot be removed does not count in the
    /// comparison with the manifest.
    pub fn discard(&self, path: &[u8], aside: Option<Stream>) {
        if let Ok((place, path)) = self.locate_file(&name_of(path, aside)) {
            let _ = place.dir.remove_file(path);
        }
    }

    /// Whether a link in the stream is that of a known tablespace.
    pub fn has_link(&self, path: &[u8]) -> bool {
        let oid = path.strip_prefix(b"pg_tblspc/").and_then(parse_oid);
        oid.is_some_and(|oid| self.tablespaces.contains_key(&oid))
    }

    /// The manifest that was received.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn manifest(&self) -> Result<ManifestFile> {
        let path = format!("backup_manifest{UNFINISHED}");
        let name = format!("file \"{path}\"");
        let file = (self.target.dir.open(&path)).context("could not read the backup manifest")?;
        Ok(ManifestFile::new(file.into_std(), name))
    }

    /// Creates the file of the manifest, for writing and reading.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn create_manifest(&self) -> Result<ManifestFile> {
        let path = format!("backup_manifest{UNFINISHED}");
        let name = format!("file \"{path}\"");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        options.mode(self.mode & 0o640);
        let file = (self.target.dir.open_with(path, &options))
            .with_context(|| format!("could not write {name}"))?;
        Ok(ManifestFile::new(file.into_std(), name))
    }

    /// Configures a standby: appends `settings` to postgresql.auto.conf and creates standby.signal.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn make_standby(&self, settings: &str) -> Result<()> {
        let mode = self.mode & 0o640;
        for (name, content) in [("postgresql.auto.conf", settings), ("standby.signal", "")] {
            let mut options = OpenOptions::new();
            options.append(true).create(true).mode(mode);
            self.target
                .dir
                .open_with(name, &options)
                .and_then(|mut file| file.write_all(content.as_bytes()))
                .with_context(|| format!("could not write file \"{name}\""))?;
        }
        Ok(())
    }

    /// Completes the backup: gives the last files their names, the control file last.
    ///
    /// # Errors
    /// Errors of the operating system.
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

    fn locate_file<'a>(&self, path: &'a [u8]) -> Result<(&Place, &'a Path)> {
        self.locate(path)?
            .with_context(|| format!("\"{}\" is not a valid place for a file", display(path)))
    }

    /// Directory and relative path of a name; `None` for a directory that exists already.
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
    fn create(path: &Path, mode: u32, cleanup: &mut CleanupList) -> Result<Self> {
        cleanup.directory(path, mode)?;
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

/// Name of a file until the backup is complete.
fn unfinished_name(path: &[u8]) -> Vec<u8> {
    if path == CONTROL_FILE || path == MANIFEST {
        [path, UNFINISHED.as_bytes()].concat()
    } else {
        path.to_owned()
    }
}

/// Name under which a stream writes a file.
fn name_of(path: &[u8], aside: Option<Stream>) -> Vec<u8> {
    let mut name = unfinished_name(path);
    if let Some(stream) = aside {
        name.extend_from_slice(format!(".{stream}{UNFINISHED}").as_bytes());
    }
    name
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

/// The owner has to be able to fill it, and to remove it.
fn set_mode(dir: &Dir, path: &Path, mode: u32) -> Result<()> {
    let mode = mode & 0o777 | 0o700;
    if mode == 0o700 {
        return Ok(());
    }
    dir.set_permissions(path, Permissions::from_mode(mode))
        .with_context(|| {
            format!(
                "could not set permissions of directory \"{}\"",
                path.display()
            )
        })
}
