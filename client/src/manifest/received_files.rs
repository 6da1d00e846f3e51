//! Files received, as written, and which stream owns each.
//!
//! When a worker's session ends, the server gives its files to others at once. What the worker had
//! been sent by then still arrives here, beside the same files from another worker, in any order.
//! So only the first to come writes a file under its name. The second writes to a name of its own
//! and takes the first one's place when its stream has ended well, which only one of them does. A
//! stream that failed takes away what it has written. A file counts as received when the stream
//! that owns it has ended well.
//!
//! Large files can arrive in [parts](super::file_parts).

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail, ensure};
use backup_format::archive::FilePart;
use backup_format::checksum::Algorithm;

use crate::manifest::backup_path::{MANIFEST, display};
use crate::manifest::digest;
use crate::manifest::file_parts::{DividedFiles, IncomingPart, Place};
use crate::manifest::file_table::{FileId, FileTable};
use crate::manifest::stream::{NOBODY, Stream, twice};

/// Number of files that a message names.
const NAMED: usize = 10;

/// Files of all streams.
#[derive(Debug)]
pub struct ReceivedFiles {
    /// Of the manifest's checksums.
    pub algorithm: Algorithm,
    state: Mutex<State>,
    has_lost: AtomicBool,
    has_lost_hosts: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    streams: Stream,
    files: Files,
    divided: DividedFiles,
    /// For streams that have not ended: a file that another stream has taken over.
    taken_over: BTreeMap<Stream, Vec<u8>>,
    /// Directories and links of streams that ended well. The manifest does not name them.
    directories: HashSet<Vec<u8>>,
}

/// Files by their paths in the backup.
#[derive(Debug, Default)]
pub struct Files {
    table: FileTable<Holder>,
    /// The streams that ended well.
    ended: HashSet<Stream>,
}

#[derive(Debug)]
struct Holder {
    owner: Stream,
    /// Whether its size and checksum are those of the whole file.
    is_complete: bool,
    /// Whether it was compared with the manifest.
    is_taken: bool,
}

/// File as written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivedFile<'a> {
    /// Bytes.
    pub size: u64,
    /// Checksum of these bytes, in the manifest's algorithm.
    pub digest: &'a [u8],
}

/// Name under which a stream writes a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Its own.
    Own(FileId),
    /// One that is only for this stream, until it ends.
    Aside,
    /// None: the stream has had it before.
    Twice,
}

impl ReceivedFiles {
    /// Begins with no files.
    pub fn new(algorithm: Algorithm) -> Self {
        Self {
            algorithm,
            state: Mutex::default(),
            has_lost: AtomicBool::new(false),
            has_lost_hosts: AtomicBool::new(false),
        }
    }

    /// Allocates the number of a stream.
    pub fn stream(&self) -> Stream {
        let mut state = self.lock();
        state.streams += 1;
        state.streams
    }

    /// A stream begins a file.
    ///
    /// # Errors
    /// As [`FileTable::insert`].
    pub fn begin(&self, path: &[u8], stream: Stream) -> Result<Ownership> {
        let state = &mut *self.lock();
        if state.divided.contains(path) {
            return Ok(Ownership::Twice);
        }
        let table = &mut state.files.table;
        let Some(id) = table.find(path) else {
            let room = vec![0; digest::length(self.algorithm)];
            let id = table.insert(path, 0, &room, Holder::new(stream))?;
            return Ok(Ownership::Own(id));
        };
        let holder = &mut table.entry_mut(id).state;
        Ok(match holder.owner {
            NOBODY => {
                *holder = Holder::new(stream);
                Ownership::Own(id)
            }
            owner if owner == stream => Ownership::Twice,
            _ => Ownership::Aside,
        })
    }

    /// A stream begins a part of a file, with a length and a place. `open` opens the file to write it in.
    ///
    /// # Errors
    /// As [`DividedFiles::begin`]; an error for a file that arrives as a whole too, and for checksums that do not
    /// follow from those of parts. Errors of `open`.
    pub fn begin_part<F>(
        &self,
        path: &[u8],
        part: (u64, FilePart),
        stream: Stream,
        open: impl FnOnce(Place) -> Result<F>,
    ) -> Result<(IncomingPart, Place, F)> {
        ensure!(
            matches!(self.algorithm, Algorithm::None | Algorithm::Crc32c),
            "the server sent a part of file \"{}\", whose checksum does not follow from those of parts",
            display(path)
        );
        let mut state = self.lock();
        if state.files.table.find(path).is_some() {
            return Err(twice(path));
        }
        let (part, place) = state.divided.begin(path, part, stream)?;
        // Nobody opens a file that another is yet to create.
        Ok((part, place, open(place)?))
    }

    /// Transfers a part to a stream that ended well; `copy` puts it in its place. No other stream owns it
    /// afterwards.
    ///
    /// # Errors
    /// As [`ReceivedFiles::take_over`]. Errors of `copy`.
    pub fn take_over_part(
        &self,
        path: &[u8],
        part: &IncomingPart,
        crc: u32,
        copy: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut state = self.lock();
        let owner = part.owner();
        if state.files.ended.contains(&owner) {
            return Err(twice(path));
        }
        if owner != NOBODY && owner != part.stream() {
            state.taken_over.insert(owner, path.to_owned());
        }
        part.take_over();
        drop(state);
        part.if_owned(copy)?;
        part.complete(crc);
        Ok(())
    }

    /// A stream has the whole of a file, which another may have taken over meanwhile.
    pub fn complete(&self, id: FileId, stream: Stream, file: ReceivedFile<'_>) {
        self.lock().files.set(id, stream, file);
    }

    /// Transfers a file to a stream that ended well; `rename` gives the file its name. No other
    /// stream owns it afterwards.
    ///
    /// # Errors
    /// An error if another stream that ended well had the same file: a server sends a file again
    /// only after a failed stream. Errors of `rename`.
    pub fn take_over(
        &self,
        path: &[u8],
        stream: Stream,
        file: ReceivedFile<'_>,
        rename: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut state = self.lock();
        let State {
            files, taken_over, ..
        } = &mut *state;
        let id = match files.table.find(path) {
            Some(id) => id,
            None => {
                let room = vec![0; file.digest.len()];
                files.table.insert(path, 0, &room, Holder::new(stream))?
            }
        };
        let holder = &mut files.table.entry_mut(id).state;
        if files.ended.contains(&holder.owner) {
            return Err(twice(path));
        }
        if holder.owner != NOBODY && holder.owner != stream {
            taken_over.insert(holder.owner, path.to_owned());
        }
        *holder = Holder::new(stream);
        files.set(id, stream, file);
        rename()
    }

    /// Gives up the files of a failed stream; `remove` is called for each that it still owns.
    pub fn give_up(&self, stream: Stream, mut remove: impl FnMut(&[u8])) {
        let ids = self.lock().files.table.ids();
        for id in ids {
            // Others go on between two files.
            let table = &mut self.lock().files.table;
            let holder = &mut table.entry_mut(id).state;
            if holder.owner == stream {
                *holder = Holder::new(NOBODY);
                remove(table.path(id));
            }
        }
        let mut state = self.lock();
        state.divided.give_up(stream);
        state.taken_over.remove(&stream);
    }

    /// A stream has ended well: its files count, and so do the directories and links it had.
    ///
    /// # Errors
    /// An error if a stream that ended well has taken over one of its files.
    pub fn end_stream(&self, stream: Stream, directories: HashSet<Vec<u8>>) -> Result<()> {
        let mut state = self.lock();
        if let Some(path) = state.taken_over.get(&stream) {
            return Err(twice(path));
        }
        state.files.ended.insert(stream);
        state.directories.extend(directories);
        Ok(())
    }

    /// Records that a stream was lost with its connection.
    pub fn lose_stream(&self) {
        self.has_lost.store(true, Ordering::Relaxed);
    }

    /// Records that another host was lost, perhaps with files that the server takes for received.
    pub fn lose_host(&self) {
        self.has_lost_hosts.store(true, Ordering::Relaxed);
        self.lose_stream();
    }

    /// Whether another host was lost.
    pub fn has_lost_hosts(&self) -> bool {
        self.has_lost_hosts.load(Ordering::Relaxed)
    }

    /// Whether a stream was lost.
    pub fn has_lost_streams(&self) -> bool {
        self.has_lost.load(Ordering::Relaxed)
    }

    /// The number of files, directories and links.
    pub fn count(&self) -> u64 {
        let state = self.lock();
        let divided = state.divided.all(&state.files.ended);
        let divided = divided.filter(|(_, whole)| whole.is_some()).count();
        (state.files.count() + divided + state.directories.len()) as u64
    }

    /// Whether a file is among it.
    pub fn has_file(&self, path: &[u8]) -> bool {
        let state = self.lock();
        state.files.contains(path) || state.divided.whole(path, &state.files.ended).is_some()
    }

    /// Whether a directory or link is among it.
    pub fn has_directory(&self, path: &[u8]) -> bool {
        self.lock().directories.contains(path)
    }

    /// All files.
    ///
    /// # Errors
    /// An error if a file that arrived in parts is not whole, and as [`FileTable::insert`].
    pub fn into_files(self) -> Result<Files> {
        let state = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        let State {
            mut files, divided, ..
        } = state;
        let mut incomplete = Vec::new();
        for (path, whole) in divided.all(&files.ended) {
            let Some(whole) = whole else {
                incomplete.push(format!("\"{}\"", display(path)));
                continue;
            };
            let digest = match self.algorithm {
                Algorithm::None => Vec::new(),
                _ => digest::crc32c_bytes(whole.crc),
            };
            let holder = Holder {
                is_complete: true,
                ..Holder::new(whole.stream)
            };
            files.table.insert(path, whole.size, &digest, holder)?;
        }
        incomplete.sort_unstable();
        match incomplete.as_slice() {
            [] => Ok(files),
            [file] => bail!("not all parts of file {file} arrived"),
            many => bail!(
                "not all parts of {} files arrived\nDETAIL:  They are {}{}.",
                many.len(),
                many[..many.len().min(NAMED)].join(", "),
                if many.len() > NAMED {
                    " and others"
                } else {
                    ""
                }
            ),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files {
    /// Whether a file was received.
    pub fn contains(&self, path: &[u8]) -> bool {
        self.table.find(path).is_some_and(|id| self.has(id))
    }

    /// The number of files received.
    pub fn count(&self) -> usize {
        self.table.ids().filter(|&id| self.has(id)).count()
    }

    /// Bytes of the files received, without the manifest and WAL, of which no manifest knows.
    pub fn bytes(&self) -> u64 {
        let is_listed = |path: &[u8]| path != MANIFEST && !path.starts_with(b"pg_wal/");
        let counts = |&id: &FileId| self.has(id) && is_listed(self.table.path(id));
        let received = self.table.ids().filter(counts);
        received.map(|id| self.table.entry(id).size).sum()
    }

    /// Takes a received file out, which is not among the files any more.
    pub fn take(&mut self, path: &[u8]) -> Option<ReceivedFile<'_>> {
        let id = self.table.find(path).filter(|&id| self.is_left(id))?;
        self.table.entry_mut(id).state.is_taken = true;
        Some(ReceivedFile {
            size: self.table.entry(id).size,
            digest: self.table.digest(id),
        })
    }

    /// Paths of the received files that were not taken out.
    pub fn untaken(&self) -> impl Iterator<Item = &[u8]> {
        let left = self.table.ids().filter(|&id| self.is_left(id));
        left.map(|id| self.table.path(id))
    }

    fn has(&self, id: FileId) -> bool {
        let holder = &self.table.entry(id).state;
        holder.is_complete && self.ended.contains(&holder.owner)
    }

    fn is_left(&self, id: FileId) -> bool {
        self.has(id) && !self.table.entry(id).state.is_taken
    }

    fn set(&mut self, id: FileId, stream: Stream, file: ReceivedFile<'_>) {
        let entry = self.table.entry_mut(id);
        if entry.state.owner == stream {
            entry.size = file.size;
            entry.state.is_complete = true;
            self.table.set_digest(id, file.digest);
        }
    }
}

impl Holder {
    fn new(owner: Stream) -> Self {
        Self {
            owner,
            is_complete: false,
            is_taken: false,
        }
    }
}

#[cfg(test)]
mod tests;
