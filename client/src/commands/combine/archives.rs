//! The files in the archives of a backup, which are found without reading them.

use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Error, Result};
use backup_format::archive::BLOCK_SIZE;
use backup_format::compression::Method;
use backup_format::member::{Kind, Member, Reader, Receiver};

use super::slice::Slice;
use crate::console::progress::{Activity, Worker};
use crate::manifest::backup_path::{check_name, display};
use crate::manifest::file_table::FileTable;
use crate::manifest::stream::twice;
use crate::runtime::cancellation::Cancellation;
use crate::runtime::parallel;
use crate::storage::regular_file;
use crate::stream::archive_files::ArchiveFile;
use crate::stream::decompressor::Decompressor;

/// Bytes of a read of headers.
const PIECE: usize = 64 * 1024;

/// Where the files of archives are.
#[derive(Debug, Default)]
pub struct Archives {
    archives: Vec<(Arc<File>, String)>,
    files: FileTable<Position>,
    directories: Vec<(Vec<u8>, u32)>,
    links: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Position {
    archive: usize,
    /// Bytes.
    offset: u64,
}

impl Archives {
    /// Looks through archives, with several threads. Compressed ones, encrypted ones and those of a store are
    /// copied to files without names in `spool`, as they are without all that.
    ///
    /// # Errors
    /// Where an archive cannot be read or is damaged.
    pub fn open(
        archives: &[ArchiveFile],
        spool: &Path,
        workers: &[Worker],
        cancellation: &Cancellation,
    ) -> Result<Self> {
        let all = Mutex::new(Self::default());
        let look = |archive: &ArchiveFile| {
            let file = match (archive.method, archive.local_path()) {
                (Method::None, Some(path)) => regular_file::open(&path)
                    .with_context(|| format!("could not open \"{}\"", path.display()))?,
                _ => fetched(archive, spool, cancellation)?,
            };
            let members = scan(&file, cancellation).with_context(|| archive.place())?;
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.add(archive, file, members)
        };
        parallel::for_each(archives, workers, cancellation, |worker, archive| {
            worker.begins(Activity::Receiving(archive.name.clone()));
            // Archives of all backups of a chain have the same names.
            look(archive).with_context(|| format!("backup in \"{}\"", archive.folder))
        })?;
        Ok(all.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(
        &mut self,
        archive: &ArchiveFile,
        file: File,
        members: Vec<(Member, u64)>,
    ) -> Result<()> {
        let number = self.archives.len();
        let name = archive.path();
        self.archives.push((Arc::new(file), name));
        let prefix = archive.content.prefix();
        for (member, offset) in members {
            let path = [&prefix[..], &member.path].concat();
            check_name(&path)?;
            match member.kind {
                Kind::Link => self.links.push(path),
                Kind::Directory => self.directories.push((path, member.attributes.mode)),
                Kind::File => {
                    if self.files.find(&path).is_some() {
                        return Err(twice(&path));
                    }
                    let position = Position {
                        archive: number,
                        offset,
                    };
                    self.files.insert(&path, member.size, &[], position)?;
                }
            }
        }
        Ok(())
    }

    /// A file.
    pub fn find(&self, path: &[u8]) -> Option<Slice> {
        let entry = self.files.entry(self.files.find(path)?);
        let (file, name) = &self.archives[entry.state.archive];
        Some(Slice {
            file: Arc::clone(file),
            offset: entry.state.offset,
            size: entry.size,
            name: format!("{}\" in \"{name}", display(path)),
            path: None,
        })
    }

    /// All files with their sizes.
    pub fn files(&self) -> impl Iterator<Item = (Vec<u8>, u64)> {
        let ids = self.files.ids();
        ids.map(|id| (self.files.path(id).to_vec(), self.files.entry(id).size))
    }

    /// All links, of which those of tablespaces are made anew.
    pub fn links(&self) -> &[Vec<u8>] {
        &self.links
    }

    /// All directories with their modes.
    pub fn directories(&self) -> &[(Vec<u8>, u32)] {
        &self.directories
    }
}

fn fetched(archive: &ArchiveFile, spool: &Path, cancellation: &Cancellation) -> Result<File> {
    let failed = || {
        let place = spool.display();
        format!("could not write a temporary file in \"{place}\"")
    };
    let mut file = tempfile::tempfile_in(spool).with_context(failed)?;
    let mut decompressor = Decompressor::new(archive.method)?;
    archive.read(|bytes| {
        cancellation.check()?;
        decompressor.push(bytes, &mut |plain| {
            file.write_all(plain).with_context(failed)
        })
    })?;
    decompressor.finish().with_context(|| archive.place())?;
    Ok(file)
}

/// The members of an archive, with the place of their content in bytes.
fn scan(file: &File, cancellation: &Cancellation) -> Result<Vec<(Member, u64)>> {
    let length = file.metadata()?.len();
    let mut source = BufReader::with_capacity(PIECE, file);
    source.rewind()?;
    let mut reader = Reader::default();
    let mut headers = Headers::default();
    let (mut members, mut position) = (Vec::new(), 0_u64);
    let mut block = [0; BLOCK_SIZE];
    while position < length {
        cancellation.check()?;
        let left = usize::try_from(length - position).unwrap_or(usize::MAX);
        let block = &mut block[..left.min(BLOCK_SIZE)];
        source.read_exact(block)?;
        position += block.len() as u64;
        reader.push(block, &mut headers)?;
        if let Some(member) = headers.0.take() {
            let content = reader.skip_content(&mut headers)?;
            members.push((member, position));
            position = position.saturating_add(content);
            source.seek_relative(i64::try_from(content).context("the archive is too large")?)?;
        }
    }
    reader.finish()?;
    Ok(members)
}

/// The last member that has begun.
#[derive(Default)]
struct Headers(Option<Member>);

impl Receiver for Headers {
    type Error = Error;

    fn begin(&mut self, member: &Member) -> Result<()> {
        self.0 = Some(member.clone());
        Ok(())
    }

    fn content(&mut self, _bytes: &[u8]) -> Result<()> {
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        Ok(())
    }
}
