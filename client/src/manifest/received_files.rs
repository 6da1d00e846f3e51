//! Files received, as written, and which stream owns each.
//!
//! When a worker's session ends, the server gives its files to others at once. What the worker had
//! been sent by then still arrives here, beside the same files from another worker, in any order.
//! So only the first to come writes a file under its name. The second writes to a name of its own
//! and takes the first one's place when its stream has ended well, which only one of them does. A
//! stream that failed takes away what it has written. A file counts as received when the stream
//! that owns it has ended well.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Error, Result, anyhow};
use backup_format::checksum::Algorithm;

use crate::manifest::backup_path::{MANIFEST, display};
use crate::manifest::digest;
use crate::manifest::file_table::{FileId, FileTable};

/// Number of a stream.
pub type Stream = u32;

/// Owner of a file that a failed stream has given up.
const NOBODY: Stream = 0;

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
        let table = &mut self.lock().files.table;
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
        self.lock().taken_over.remove(&stream);
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
        state.files.count() as u64 + state.directories.len() as u64
    }

    /// Whether a file is among it.
    pub fn has_file(&self, path: &[u8]) -> bool {
        self.lock().files.contains(path)
    }

    /// Whether a directory or link is among it.
    pub fn has_directory(&self, path: &[u8]) -> bool {
        self.lock().directories.contains(path)
    }

    /// All files.
    pub fn into_files(self) -> Files {
        let state = self
            .state
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        state.files
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

/// Error for a file that occurs twice: unpacking would keep one of the two.
pub fn twice(path: &[u8]) -> Error {
    anyhow!("backup contains file \"{}\" twice", display(path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const FILE: ReceivedFile<'_> = ReceivedFile {
        size: 3,
        digest: &[1, 2, 3, 4],
    };

    fn is_own(received: &ReceivedFiles, path: &[u8], stream: Stream) -> bool {
        matches!(received.begin(path, stream), Ok(Ownership::Own(_)))
    }

    #[test]
    fn the_stream_that_ends_well_has_the_file() {
        let received = ReceivedFiles::new(Algorithm::Crc32c);
        let (lost, other) = (received.stream(), received.stream());
        assert!(is_own(&received, b"a", lost));
        assert_eq!(received.begin(b"a", lost).unwrap(), Ownership::Twice);
        assert_eq!(received.begin(b"a", other).unwrap(), Ownership::Aside);
        received.take_over(b"a", other, FILE, || Ok(())).unwrap();
        received.give_up(lost, |_| panic!("the file is another stream's"));
        assert_eq!(received.begin(b"a", other).unwrap(), Ownership::Twice);
        received.end_stream(other, HashSet::new()).unwrap();
        assert_eq!(received.into_files().take(b"a"), Some(FILE));
    }

    #[test]
    fn a_failed_stream_removes_what_nobody_took() {
        let received = ReceivedFiles::new(Algorithm::Crc32c);
        let (lost, other) = (received.stream(), received.stream());
        assert!(is_own(&received, b"a", lost));
        let mut removed = false;
        received.give_up(lost, |_| removed = true);
        assert!(removed);
        assert!(is_own(&received, b"a", other));
    }

    /// What a stream that failed late had of a file does not replace what has come since.
    #[test]
    fn a_file_that_was_taken_over_keeps_its_checksum() {
        let received = ReceivedFiles::new(Algorithm::Crc32c);
        let (late, other) = (received.stream(), received.stream());
        let Ok(Ownership::Own(id)) = received.begin(b"a", late) else {
            panic!("the file is new");
        };
        received.take_over(b"a", other, FILE, || Ok(())).unwrap();
        received.end_stream(other, HashSet::new()).unwrap();
        let torn = ReceivedFile {
            size: 1,
            digest: &[0; 4],
        };
        received.complete(id, late, torn);
        received.give_up(late, |_| panic!("the file is another stream's"));
        assert_eq!(received.into_files().take(b"a"), Some(FILE));
    }

    #[test]
    fn one_of_two_streams_that_end_well_has_a_file() {
        for first in [0, 1] {
            let received = ReceivedFiles::new(Algorithm::Crc32c);
            let (own, aside) = (received.stream(), received.stream());
            let Ok(Ownership::Own(id)) = received.begin(b"a", own) else {
                panic!("the file is new");
            };
            let end_own = || {
                received.complete(id, own, FILE);
                received.end_stream(own, HashSet::new())
            };
            let end_aside = || {
                received.take_over(b"a", aside, FILE, || Ok(()))?;
                received.end_stream(aside, HashSet::new())
            };
            let (before, after) = match first {
                0 => (end_own(), end_aside()),
                _ => (end_aside(), end_own()),
            };
            before.unwrap();
            let said = after.unwrap_err().to_string();
            assert_eq!(said, "backup contains file \"a\" twice");
        }
    }

    #[test]
    fn a_file_counts_once_its_stream_has_ended() {
        let received = ReceivedFiles::new(Algorithm::Crc32c);
        let stream = received.stream();
        let Ok(Ownership::Own(id)) = received.begin(b"a", stream) else {
            panic!("the file is new");
        };
        assert_eq!(received.count(), 0);
        received.complete(id, stream, FILE);
        assert_eq!(received.count(), 0);
        received
            .end_stream(stream, HashSet::from([b"d".to_vec()]))
            .unwrap();
        assert_eq!(received.count(), 2);
        let mut files = received.into_files();
        assert!(files.contains(b"a") && !files.contains(b"d"));
        assert_eq!(files.untaken().collect::<Vec<_>>(), [b"a"]);
        assert_eq!(files.take(b"a"), Some(FILE));
        assert_eq!(files.take(b"a"), None);
        assert_eq!(files.untaken().count(), 0);
    }
}
