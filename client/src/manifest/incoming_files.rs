//! Content of a stream while it arrives.

use std::collections::HashSet;
use std::ops::Range;

use anyhow::Result;
use backup_format::archive::FilePart;

use crate::console::progress::{Counter, Tally};
use crate::manifest::backup_path::display;
use crate::manifest::digest::{self, Digest};
use crate::manifest::file_parts::{IncomingPart, Place};
use crate::manifest::file_table::{FileId, FileTable};
use crate::manifest::received_files::{Ownership, ReceivedFile, ReceivedFiles};
use crate::manifest::stream::{Stream, twice};

/// Content of a stream in progress: computes checksums and counts bytes.
pub struct IncomingFiles<'a> {
    received: &'a ReceivedFiles,
    stream: Stream,
    tally: Tally<'a>,
    current: Option<Current>,
    /// Files that have not their own names yet.
    aside: FileTable<()>,
    /// Parts that are not in their files yet.
    aside_parts: Vec<AsidePart>,
    directories: HashSet<Vec<u8>>,
}

struct Current {
    path: Vec<u8>,
    size: u64,
    digest: Digest,
    kind: Kind,
}

enum Kind {
    /// A file under its own name.
    Own(FileId),
    /// A file that is written aside.
    Aside,
    /// A part of a file, which begins at an offset.
    Part(IncomingPart, u64),
    /// The last of the parts that are written aside.
    PartAside,
}

/// Part that is written aside, and in the end takes its place in the file.
struct AsidePart {
    path: Vec<u8>,
    part: IncomingPart,
    range: Range<u64>,
    crc: u32,
}

/// How the file is opened that a part is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// Whether it is created.
    pub is_new: bool,
    /// The stream's number where the part is written aside.
    pub aside: Option<Stream>,
}

impl<'a> IncomingFiles<'a> {
    /// Creates the content of a new stream, which is empty.
    pub fn new(received: &'a ReceivedFiles, counter: &'a Counter) -> Self {
        Self::of_stream(received, received.stream(), counter)
    }

    /// Creates a part of a stream, which has each file once in all its parts.
    pub fn of_stream(received: &'a ReceivedFiles, stream: Stream, counter: &'a Counter) -> Self {
        Self {
            received,
            stream,
            tally: Tally::new(counter),
            current: None,
            aside: FileTable::default(),
            aside_parts: Vec::new(),
            directories: HashSet::new(),
        }
    }

    /// Begins a file. Returns the stream's number where the file is to be written aside.
    ///
    /// # Errors
    /// An error if the stream had the same file before.
    pub fn begin(&mut self, path: &[u8], size: u64) -> Result<Option<Stream>> {
        let kind = match self.received.begin(path, self.stream)? {
            Ownership::Own(id) => Kind::Own(id),
            Ownership::Aside if self.aside.find(path).is_none() => Kind::Aside,
            Ownership::Aside | Ownership::Twice => return Err(twice(path)),
        };
        let aside = matches!(kind, Kind::Aside).then_some(self.stream);
        self.set_current(path, size, kind);
        Ok(aside)
    }

    /// Begins a part of a file. `open` opens the file to write it in. Returns the part if its place in the file
    /// is the stream's own.
    ///
    /// # Errors
    /// As [`ReceivedFiles::begin_part`].
    pub fn begin_part<F>(
        &mut self,
        path: &[u8],
        (size, place): (u64, FilePart),
        open: impl FnOnce(Opening) -> Result<F>,
    ) -> Result<(Option<IncomingPart>, F)> {
        let offset = place.offset;
        let has_aside = self.aside_parts.iter().any(|part| part.path == path);
        let open = |place| {
            open(match place {
                Place::New | Place::Own => Opening {
                    is_new: place == Place::New,
                    aside: None,
                },
                Place::Aside => Opening {
                    is_new: !has_aside,
                    aside: Some(self.stream),
                },
            })
        };
        let (part, place, file) =
            (self.received).begin_part(path, (size, place), self.stream, open)?;
        let own = (place != Place::Aside).then(|| part.clone());
        let kind = match place {
            Place::New | Place::Own => Kind::Part(part, offset),
            Place::Aside => {
                self.aside_parts.push(AsidePart {
                    path: path.to_owned(),
                    part,
                    range: offset..offset + size,
                    crc: 0,
                });
                Kind::PartAside
            }
        };
        self.set_current(path, size, kind);
        Ok((own, file))
    }

    fn set_current(&mut self, path: &[u8], size: u64, kind: Kind) {
        self.current = Some(Current {
            path: path.to_owned(),
            size,
            digest: Digest::new(self.received.algorithm),
            kind,
        });
    }

    /// Begins a directory or a link.
    pub fn begin_directory(&mut self, path: Vec<u8>) {
        self.directories.insert(path);
    }

    /// Adds content of the current file.
    pub fn content(&mut self, bytes: &[u8]) {
        if let Some(current) = &mut self.current {
            current.digest.update(bytes);
        }
        self.tally.add_bytes(bytes.len() as u64);
    }

    /// Ends the current file, part, directory or link. Returns the checksum of a file or a part.
    ///
    /// # Errors
    /// As [`FileTable::insert`].
    pub fn end(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(current) = self.current.take() else {
            self.tally.add_file();
            return Ok(None);
        };
        let is_counted = match current.kind {
            Kind::Own(_) | Kind::Aside => true,
            // Of all parts of a file the first one counts.
            Kind::Part(_, offset) => offset == 0,
            Kind::PartAside => (self.aside_parts.last()).is_some_and(|part| part.range.start == 0),
        };
        if is_counted {
            self.tally.add_file();
        }
        let (size, digest) = (current.size, current.digest.finish());
        match current.kind {
            Kind::Part(part, _) => part.complete(digest::crc32c_number(&digest)),
            Kind::PartAside => {
                if let Some(part) = self.aside_parts.last_mut() {
                    part.crc = digest::crc32c_number(&digest);
                }
            }
            Kind::Own(id) => {
                let file = ReceivedFile {
                    size,
                    digest: &digest,
                };
                self.received.complete(id, self.stream, file);
            }
            Kind::Aside => {
                self.aside.insert(&current.path, size, &digest, ())?;
            }
        }
        Ok(Some(digest))
    }

    /// Path of the current file.
    pub fn current(&self) -> Option<String> {
        self.current.as_ref().map(|file| display(&file.path))
    }

    /// The stream has ended well: its parts that were written aside take their places. `copy` copies a range of
    /// the file aside into the file, and `remove` removes the file aside.
    ///
    /// # Errors
    /// An error if another stream that ended well had the same part, and errors of `copy`.
    pub fn settle_parts(
        &mut self,
        copy: impl Fn(&[u8], Stream, Range<u64>) -> Result<()>,
        remove: impl Fn(&[u8], Stream),
    ) -> Result<()> {
        for AsidePart {
            path,
            part,
            range,
            crc,
        } in &self.aside_parts
        {
            let copy = || copy(path, self.stream, range.clone());
            self.received.take_over_part(path, part, *crc, copy)?;
        }
        for part in self.aside_parts.drain(..) {
            remove(&part.path, self.stream);
        }
        Ok(())
    }

    /// The stream has ended well. `rename` gives the files their names that were written aside.
    ///
    /// # Errors
    /// An error if another stream that ended well had the same file, and errors of `rename`.
    pub fn finish(mut self, rename: impl Fn(&[u8], Stream) -> Result<()>) -> Result<()> {
        let Self {
            received,
            stream,
            aside,
            ..
        } = &self;
        for id in aside.ids() {
            let path = aside.path(id);
            let file = ReceivedFile {
                size: aside.entry(id).size,
                digest: aside.digest(id),
            };
            received.take_over(path, *stream, file, || rename(path, *stream))?;
        }
        received.end_stream(*stream, self.directories)?;
        self.tally.keep();
        Ok(())
    }

    /// The stream has failed. `remove` is called for all files that it has written and still owns,
    /// with its number for those that it has written aside.
    pub fn discard(mut self, remove: impl Fn(&[u8], Option<Stream>)) {
        let aside = Some(self.stream);
        if let Some(Current {
            path,
            kind: Kind::Aside,
            ..
        }) = self.current.take()
        {
            remove(&path, aside);
        }
        for id in self.aside.ids() {
            remove(self.aside.path(id), aside);
        }
        for part in &self.aside_parts {
            remove(&part.path, aside);
        }
        self.received
            .give_up(self.stream, |path| remove(path, None));
    }
}
