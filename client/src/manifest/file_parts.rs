//! Parts of large files, which arrive in several streams and are written into one file.
//!
//! Parts are like [files](super::received_files): a part has an owner, the first stream to begin it, which writes
//! to its place in the file. Another stream with the same part writes aside, and takes the first one's place when it
//! has ended well. From then on the first one writes nothing more there.
//!
//! A file is whole when the parts that have arrived fill it, without gaps, in streams that ended well.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail, ensure};
use backup_format::archive::FilePart;

use crate::manifest::backup_path::display;
use crate::manifest::digest;
use crate::manifest::stream::{NOBODY, Stream, twice};

/// Files that arrive in parts, by their paths.
#[derive(Debug, Default)]
pub struct DividedFiles(HashMap<Vec<u8>, DividedFile>);

#[derive(Debug)]
struct DividedFile {
    size: u64,
    /// Parts that have begun to arrive, by their offsets.
    parts: BTreeMap<u64, Arc<Part>>,
}

#[derive(Debug)]
struct Part {
    length: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    owner: Stream,
    /// CRC-32C of a part that has arrived.
    crc: Option<u32>,
}

/// A part that a stream has begun.
#[derive(Clone, Debug)]
pub struct IncomingPart {
    part: Arc<Part>,
    stream: Stream,
}

/// Where a stream writes a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the file, which it creates.
    New,
    /// In the file.
    Own,
    /// In a file that is only for this stream, until it ends.
    Aside,
}

/// A file all parts of which have arrived.
pub struct WholeFile {
    /// Bytes.
    pub size: u64,
    /// CRC-32C of its content.
    pub crc: u32,
    /// A stream that had a part of it.
    pub stream: Stream,
}

impl DividedFiles {
    /// A stream begins a part of `length` bytes.
    ///
    /// # Errors
    /// An error if the stream had the part before, and for a part that does not fit those that have begun.
    pub fn begin(
        &mut self,
        path: &[u8],
        (length, place): (u64, FilePart),
        stream: Stream,
    ) -> Result<(IncomingPart, Place)> {
        let FilePart { offset, file_size } = place;
        let mut place = match self.0.contains_key(path) {
            true => Place::Own,
            false => Place::New,
        };
        let file = self.0.entry(path.to_owned()).or_insert(DividedFile {
            size: file_size,
            parts: BTreeMap::new(),
        });
        ensure!(
            file.size == file_size,
            "file \"{}\" has parts of a file of {} bytes and of one of {file_size}",
            display(path),
            file.size
        );
        let part = match file.parts.get(&offset).filter(|part| part.length == length) {
            Some(part) => {
                let mut state = part.lock();
                match state.owner {
                    NOBODY => *state = State::new(stream),
                    owner if owner == stream => return Err(twice(path)),
                    _ => place = Place::Aside,
                }
                Arc::clone(part)
            }
            None => {
                let end = offset.saturating_add(length);
                let before = file.parts.range(..end).next_back();
                if before.is_some_and(|(start, part)| start + part.length > offset) {
                    bail!(
                        "file \"{}\" has parts that overlap at byte {offset}",
                        display(path)
                    );
                }
                let part = Arc::new(Part {
                    length,
                    state: Mutex::new(State::new(stream)),
                });
                file.parts.insert(offset, Arc::clone(&part));
                part
            }
        };
        Ok((IncomingPart { part, stream }, place))
    }

    /// Gives up the parts of a failed stream.
    pub fn give_up(&self, stream: Stream) {
        for part in self.0.values().flat_map(|file| file.parts.values()) {
            let mut state = part.lock();
            if state.owner == stream {
                *state = State::new(NOBODY);
            }
        }
    }

    /// Whether a file has begun to arrive in parts.
    pub fn contains(&self, path: &[u8]) -> bool {
        self.0.contains_key(path)
    }

    /// A file, if it is whole and the streams with its parts are among those that ended well.
    pub fn whole(&self, path: &[u8], ended: &HashSet<Stream>) -> Option<WholeFile> {
        self.0.get(path).and_then(|file| file.whole(ended))
    }

    /// All files by their paths; `None` for one that is not whole.
    pub fn all<'a>(
        &'a self,
        ended: &'a HashSet<Stream>,
    ) -> impl Iterator<Item = (&'a [u8], Option<WholeFile>)> {
        let files = self.0.iter();
        files.map(|(path, file)| (path.as_slice(), file.whole(ended)))
    }
}

impl DividedFile {
    fn whole(&self, ended: &HashSet<Stream>) -> Option<WholeFile> {
        let mut whole: Option<WholeFile> = None;
        for (&offset, part) in &self.parts {
            let state = part.lock();
            let crc = state.crc.filter(|_| ended.contains(&state.owner))?;
            let before = whole.as_ref().map_or(0, |whole| whole.size);
            if offset != before {
                return None;
            }
            whole = Some(WholeFile {
                size: before + part.length,
                crc: whole.map_or(crc, |whole| {
                    digest::combine_crc32c(whole.crc, crc, part.length)
                }),
                stream: state.owner,
            });
        }
        whole.filter(|whole| whole.size == self.size)
    }
}

impl IncomingPart {
    /// The stream that it is of.
    pub fn stream(&self) -> Stream {
        self.stream
    }

    /// The stream that owns its place in the file.
    pub fn owner(&self) -> Stream {
        self.part.lock().owner
    }

    /// Makes the place in the file this stream's own. What is there is another's yet.
    pub fn take_over(&self) {
        *self.part.lock() = State::new(self.stream);
    }

    /// Does something with the part's place in the file, unless it is another stream's.
    ///
    /// # Errors
    /// Those of `action`.
    pub fn if_owned(&self, action: impl FnOnce() -> Result<()>) -> Result<()> {
        // Held meanwhile, so that the next owner writes after it.
        let state = self.part.lock();
        if state.owner == self.stream {
            action()?;
        }
        Ok(())
    }

    /// The stream has the whole of the part.
    pub fn complete(&self, crc: u32) {
        let mut state = self.part.lock();
        if state.owner == self.stream {
            state.crc = Some(crc);
        }
    }
}

impl State {
    fn new(owner: Stream) -> Self {
        Self { owner, crc: None }
    }
}

impl Part {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const SIZE: u64 = 30;

    fn place(offset: u64) -> FilePart {
        FilePart {
            offset,
            file_size: SIZE,
        }
    }

    /// A stream begins a part of ten bytes.
    fn begin(
        files: &mut DividedFiles,
        offset: u64,
        stream: Stream,
    ) -> Result<(IncomingPart, Place)> {
        files.begin(b"a", (10, place(offset)), stream)
    }

    fn crc_of(content: &[u8]) -> u32 {
        digest::crc32c(content)
    }

    #[test]
    fn a_file_is_whole_when_its_parts_fill_it_in_streams_that_ended_well() {
        let content: Vec<u8> = (0..SIZE as u8).collect();
        let mut files = DividedFiles::default();
        // In any order.
        for (offset, stream) in [(20, 1), (0, 2), (10, 1)] {
            let (part, place) = begin(&mut files, offset, stream).unwrap();
            let is_first = offset == 20;
            assert_eq!(place, if is_first { Place::New } else { Place::Own });
            assert!(files.whole(b"a", &HashSet::from([1, 2])).is_none());
            let start = offset as usize;
            part.complete(crc_of(&content[start..start + 10]));
        }
        for ended in [vec![], vec![1], vec![2]] {
            let ended = ended.into_iter().collect();
            assert!(files.whole(b"a", &ended).is_none());
        }
        let ended = HashSet::from([1, 2]);
        let whole = files.whole(b"a", &ended).unwrap();
        assert_eq!((whole.size, whole.crc), (SIZE, crc_of(&content)));
        assert!(files.whole(b"b", &ended).is_none());
    }

    #[test]
    fn a_file_with_a_gap_is_not_whole() {
        for missing in [0, 10, 20] {
            let mut files = DividedFiles::default();
            for offset in [0, 10, 20].into_iter().filter(|&offset| offset != missing) {
                let (part, _) = begin(&mut files, offset, 1).unwrap();
                part.complete(0);
            }
            assert!(files.whole(b"a", &HashSet::from([1])).is_none());
            assert!(
                files
                    .all(&HashSet::from([1]))
                    .all(|(_, whole)| whole.is_none())
            );
        }
    }

    #[test]
    fn the_owner_of_a_part_writes_it() {
        let mut files = DividedFiles::default();
        let (late, _) = begin(&mut files, 0, 1).unwrap();
        let (other, place) = begin(&mut files, 0, 2).unwrap();
        assert_eq!((place, other.owner()), (Place::Aside, 1));
        let mut count = 0;
        let mut write = || {
            count += 1;
            Ok(())
        };
        late.if_owned(&mut write).unwrap();
        other.take_over();
        late.if_owned(|| panic!("it is another's")).unwrap();
        late.complete(1);
        files.give_up(1);
        other.if_owned(&mut write).unwrap();
        assert_eq!(count, 2);
        files.give_up(2);
        other.if_owned(|| panic!("it was given up")).unwrap();
        let (_, place) = begin(&mut files, 0, 3).unwrap();
        assert_eq!(place, Place::Own);
    }

    #[test]
    fn a_stream_has_a_part_once() {
        let mut files = DividedFiles::default();
        begin(&mut files, 0, 1).unwrap();
        let error = begin(&mut files, 0, 1).map(drop).unwrap_err();
        assert_eq!(error.to_string(), "backup contains file \"a\" twice");
    }

    #[test]
    fn parts_that_do_not_fit_together_are_refused() {
        let mut files = DividedFiles::default();
        begin(&mut files, 10, 1).unwrap();
        for (offset, length) in [(0, 11), (0, SIZE), (10, 9), (11, 1), (19, 11), (9, 2)] {
            let error = files
                .begin(b"a", (length, place(offset)), 2)
                .map(drop)
                .unwrap_err();
            let said = format!("file \"a\" has parts that overlap at byte {offset}");
            assert_eq!(error.to_string(), said);
        }
        let other = FilePart {
            offset: 20,
            file_size: SIZE + 1,
        };
        let error = files.begin(b"a", (10, other), 2);
        assert_eq!(
            error.map(drop).unwrap_err().to_string(),
            "file \"a\" has parts of a file of 30 bytes and of one of 31"
        );
        begin(&mut files, 0, 2).unwrap();
        begin(&mut files, 20, 2).unwrap();
    }
}
