//! WAL files of a backup on their way to the target: the directory `pg_wal`, or an archive of their own,
//! `pg_wal.tar`, as `pg_basebackup -X stream` has it.
//!
//! A segment that was not acknowledged before the stop arrives twice, in the WAL stream and in the closing
//! stream, and perhaps in both at once. Each writes it aside. The first that is whole gets the name, so
//! that a name is there only for a whole file, and an archive has each file once.
//!
//! Follows `walmethods.c` of pg_basebackup.

use std::collections::HashSet;
use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, Write as _};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};
use backup_format::archive::{self, Attributes, END};
use backup_format::lsn::Lsn;
use backup_format::member::Kind;
use backup_format::timeline::WalRange;
use backup_format::wal::{SegmentName, SegmentSize, select_segments, timeline_of_history};

use crate::manifest::backup_path::display;
use crate::output::archive_set::ArchiveSet;
use crate::output::archive_writer::Writer;
use crate::output::data_directory::DataDirectory;
use crate::repository::index;
use crate::runtime::cancellation::Cancellation;

/// Directory of WAL in a backup, as a prefix of its files.
pub const PG_WAL: &[u8] = b"pg_wal/";
/// Directory of what is archived, below it.
const ARCHIVE_STATUS: &[u8] = b"archive_status/";
/// Size of a read in bytes.
const PIECE: usize = 256 * 1024;

/// WAL files of a backup.
pub struct WalStore<'a> {
    place: Place<'a>,
    segment_size: SegmentSize,
    /// Whether files are on disk before they count.
    sync: bool,
    cancellation: &'a Cancellation,
    state: Mutex<State>,
}

/// Where the files go.
pub enum Place<'a> {
    /// The directory `pg_wal`.
    Directory(&'a DataDirectory),
    /// The archive beside those of this set.
    Archive(&'a ArchiveSet),
}

#[derive(Default)]
struct State {
    /// Names of files that are whole, relative to `pg_wal`.
    whole: HashSet<Vec<u8>>,
    /// The archive and the bytes that it has without compression, once it has a member.
    archive: Option<(Writer, u64)>,
}

/// WAL file that is being written aside.
pub enum WalFile<'a> {
    /// In the directory, with another name.
    Partial(PartialFile<'a>),
    /// A file without a name, and the member that it becomes.
    Spooled(File, Attributes),
}

/// File in the directory that is removed on drop, unless it was given its name.
pub struct PartialFile<'a> {
    directory: &'a DataDirectory,
    file: cap_std::fs::File,
    path: Vec<u8>,
    is_kept: bool,
}

/// Whether a path of the backup is that of a WAL file: a segment, the history of a timeline, or what
/// marks one of them as archived.
pub fn is_wal_file(path: &[u8]) -> bool {
    let Some(name) = path.strip_prefix(PG_WAL) else {
        return false;
    };
    let marked = match name.strip_prefix(ARCHIVE_STATUS) {
        Some(name) => name.strip_suffix(b".done"),
        None => Some(name),
    };
    marked.is_some_and(|name| {
        SegmentName::parse(name).is_some() || timeline_of_history(name).is_some()
    })
}

impl<'a> WalStore<'a> {
    /// Creates a store without files. `sync` has files on disk before they count.
    pub fn new(
        place: Place<'a>,
        segment_size: SegmentSize,
        sync: bool,
        cancellation: &'a Cancellation,
    ) -> Self {
        Self {
            place,
            segment_size,
            sync,
            cancellation,
            state: Mutex::default(),
        }
    }

    /// Size of a segment.
    pub fn segment_size(&self) -> SegmentSize {
        self.segment_size
    }

    /// Whether a file is whole already.
    pub fn has(&self, name: &[u8]) -> bool {
        self.lock().whole.contains(name)
    }

    /// Creates a file aside: in a directory with a suffix, which tells apart those who write the same
    /// file.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn create(&self, name: &[u8], suffix: &str, attributes: Attributes) -> Result<WalFile<'a>> {
        match self.place {
            Place::Directory(directory) => {
                let path = [PG_WAL, name, suffix.as_bytes()].concat();
                let file = directory.create_file(&path, attributes.mode, None)?;
                Ok(WalFile::Partial(PartialFile {
                    directory,
                    file,
                    path,
                    is_kept: false,
                }))
            }
            Place::Archive(archives) => Ok(WalFile::Spooled(archives.spool()?, attributes)),
        }
    }

    /// Gives a file its name, unless another got it meanwhile. Returns whether it did.
    ///
    /// # Errors
    /// Errors of the operating system and of a command, and cancellation.
    pub fn keep(&self, name: &[u8], size: u64, file: WalFile<'_>) -> Result<bool> {
        if self.sync
            && let WalFile::Partial(partial) = &file
        {
            partial.sync()?;
        }
        let mut state = self.lock();
        if state.whole.contains(name) {
            return Ok(false);
        }
        match (file, &self.place) {
            (WalFile::Partial(mut partial), _) => {
                let path = [PG_WAL, name].concat();
                partial.directory.rename(&partial.path, &path)?;
                partial.is_kept = true;
            }
            (WalFile::Spooled(file, attributes), Place::Archive(archives)) => {
                let (writer, plain) = match &mut state.archive {
                    Some(archive) => archive,
                    archive => archive.insert((archives.begin_wal()?, 0)),
                };
                let mut header = Vec::new();
                archive::file_header(&mut header, name, size, &attributes);
                writer.begin_member((*plain, size), self.cancellation)?;
                writer.write(&header, self.cancellation)?;
                let written = self.copy(file, writer);
                let written =
                    written.with_context(|| format!("could not store \"{}\"", display(name)))?;
                ensure!(
                    written == size,
                    "temporary file for \"{}\" has {written} bytes after {size} were written",
                    display(name)
                );
                let padding = archive::padding(size);
                writer.write(&[0; archive::BLOCK_SIZE][..padding], self.cancellation)?;
                writer.add_member(&index::Member {
                    path: [PG_WAL, name].concat(),
                    kind: Kind::File,
                    size,
                    checksum: Vec::new(),
                    plain: *plain,
                })?;
                *plain += (header.len() + padding) as u64 + size;
            }
            (WalFile::Spooled(..), Place::Directory(_)) => {}
        }
        state.whole.insert(name.to_owned());
        Ok(true)
    }

    fn copy(&self, mut file: File, writer: &mut Writer) -> Result<u64> {
        file.rewind()?;
        let mut piece = vec![0; PIECE];
        let mut written = 0;
        loop {
            match file.read(&mut piece) {
                Ok(0) => return Ok(written),
                Ok(length) => {
                    writer.write(&piece[..length], self.cancellation)?;
                    written += length as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Has the files that are whole on disk, names included.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn settle(&self) -> Result<()> {
        if !self.sync {
            return Ok(());
        }
        match &self.place {
            Place::Directory(directory) => {
                for folder in [b"".as_slice(), ARCHIVE_STATUS] {
                    directory.sync_directory_of(&[PG_WAL, folder, b"x"].concat())?;
                }
                Ok(())
            }
            Place::Archive(_) => match &self.lock().archive {
                Some((writer, _)) => writer.sync(),
                None => Ok(()),
            },
        }
    }

    /// Checks that all WAL of the backup is there: that of the ranges in its manifest, or without one
    /// all from the start to the newest segment, which only the stop brings.
    ///
    /// # Errors
    /// An error that names the first missing segment.
    pub fn check_complete(&self, ranges: &[WalRange], start: (Lsn, u32)) -> Result<()> {
        let names: Vec<_> = self.lock().whole.iter().cloned().collect();
        let size = self.segment_size;
        let check = |first, last, timeline| {
            select_segments(&names, first, last, timeline, size)
                .map(drop)
                .context("the WAL of the backup is incomplete")
        };
        for range in ranges {
            let first = size.segment_of(range.start);
            let last = size.segment_before(range.end).max(first);
            check(first, last, range.timeline)?;
        }
        if ranges.is_empty() {
            let (start, timeline) = start;
            let segments = names.iter().filter_map(|name| SegmentName::parse(name));
            let newest = segments
                .map(|name| size.number_of(name.log, name.seg))
                .max();
            let first = size.segment_of(start);
            check(first, newest.unwrap_or(0).max(first), timeline)?;
        }
        Ok(())
    }

    /// Ends the archive, if the files are in one.
    ///
    /// # Errors
    /// Errors of the operating system and of a command, and cancellation.
    pub fn end(&self) -> Result<()> {
        let archive = self.lock().archive.take();
        let (Some((mut writer, plain)), Place::Archive(archives)) = (archive, &self.place) else {
            return Ok(());
        };
        writer.write(&END, self.cancellation)?;
        archives.complete_wal(writer, plain + END.len() as u64, self.cancellation)
    }

    /// Gives the archive its name, after everything is on disk.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn finish(&self) -> Result<()> {
        match &self.place {
            Place::Directory(_) => Ok(()),
            Place::Archive(archives) => archives.finish_wal(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WalFile<'_> {
    /// Appends bytes.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Partial(partial) => (partial.file.write_all(bytes))
                .with_context(|| format!("could not write file \"{}\"", display(&partial.path))),
            Self::Spooled(file, _) => {
                (file.write_all(bytes)).context("could not write a temporary file for WAL")
            }
        }
    }
}

impl PartialFile<'_> {
    fn sync(&self) -> Result<()> {
        (self.file.sync_all())
            .with_context(|| format!("could not fsync file \"{}\"", display(&self.path)))
    }
}

impl Drop for PartialFile<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            self.directory.discard(&self.path, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wal_files_are_known_by_their_names() {
        for path in [
            "pg_wal/000000010000000000000001",
            "pg_wal/00000002.history",
            "pg_wal/archive_status/000000010000000000000001.done",
            "pg_wal/archive_status/00000002.history.done",
        ] {
            assert!(is_wal_file(path.as_bytes()), "{path}");
        }
        for path in [
            "000000010000000000000001",
            "pg_wal",
            "pg_wal/archive_status",
            "pg_wal/000000010000000000000001.partial",
            "pg_wal/000000010000000000000001.done",
            "pg_wal/archive_status/000000010000000000000001",
            "pg_wal/../000000010000000000000001",
            "base/1/1",
        ] {
            assert!(!is_wal_file(path.as_bytes()), "{path}");
        }
    }
}
