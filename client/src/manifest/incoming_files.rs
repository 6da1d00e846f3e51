//! Content of a stream while it arrives.

use std::collections::HashSet;

use anyhow::Result;

use crate::console::progress::{Counter, Tally};
use crate::manifest::backup_path::display;
use crate::manifest::digest::Digest;
use crate::manifest::file_table::{FileId, FileTable};
use crate::manifest::received_files::{Ownership, ReceivedFile, ReceivedFiles, Stream, twice};

/// Content of a stream in progress: computes checksums and counts bytes.
pub struct IncomingFiles<'a> {
    received: &'a ReceivedFiles,
    stream: Stream,
    tally: Tally<'a>,
    current: Option<Current>,
    /// Files that have not their own names yet.
    aside: FileTable<()>,
    directories: HashSet<Vec<u8>>,
}

struct Current {
    path: Vec<u8>,
    size: u64,
    digest: Digest,
    /// `None` for one that is written aside.
    id: Option<FileId>,
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
            directories: HashSet::new(),
        }
    }

    /// Begins a file. Returns the stream's number where the file is to be written aside.
    ///
    /// # Errors
    /// An error if the stream had the same file before.
    pub fn begin(&mut self, path: &[u8], size: u64) -> Result<Option<Stream>> {
        let id = match self.received.begin(path, self.stream)? {
            Ownership::Own(id) => Some(id),
            Ownership::Aside if self.aside.find(path).is_none() => None,
            Ownership::Aside | Ownership::Twice => return Err(twice(path)),
        };
        self.current = Some(Current {
            path: path.to_owned(),
            size,
            digest: Digest::new(self.received.algorithm),
            id,
        });
        Ok(id.is_none().then_some(self.stream))
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

    /// Ends the current file, directory or link. Returns the checksum of a file.
    ///
    /// # Errors
    /// As [`FileTable::insert`].
    pub fn end(&mut self) -> Result<Option<Vec<u8>>> {
        self.tally.add_file();
        let Some(current) = self.current.take() else {
            return Ok(None);
        };
        let (size, digest) = (current.size, current.digest.finish());
        match current.id {
            Some(id) => {
                let file = ReceivedFile {
                    size,
                    digest: &digest,
                };
                self.received.complete(id, self.stream, file);
            }
            None => {
                self.aside.insert(&current.path, size, &digest, ())?;
            }
        }
        Ok(Some(digest))
    }

    /// Path of the current file.
    pub fn current(&self) -> Option<String> {
        self.current.as_ref().map(|file| display(&file.path))
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
        if let Some(Current { path, id: None, .. }) = self.current.take() {
            remove(&path, aside);
        }
        for id in self.aside.ids() {
            remove(self.aside.path(id), aside);
        }
        self.received
            .give_up(self.stream, |path| remove(path, None));
    }
}
