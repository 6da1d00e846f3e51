//! Unpacks a stream while it arrives.

use std::collections::HashSet;
use std::io::Write as _;

use anyhow::{Context, Error, Result, bail};
use backup_format::checksum::Algorithm;
use backup_format::member::{Kind, Member, Reader, Receiver};
use cap_std::fs::File;

use crate::claims::Stream;
use crate::digest::Digest;
use crate::folder::{Folder, display};
use crate::progress::{Counter, Tally};
use crate::received::{Files, Written};
use crate::stop::Stop;

/// Unpacks one stream.
pub struct Unpacker<'a> {
    reader: Reader,
    members: Members<'a>,
}

struct Members<'a> {
    folder: &'a Folder,
    stream: Stream,
    algorithm: Algorithm,
    stop: &'a Stop,
    tally: Tally<'a>,
    current: Option<Current>,
    files: Files,
    /// Which of them have not their own names yet.
    aside: HashSet<Vec<u8>>,
}

/// The file that is being written.
struct Current {
    path: Vec<u8>,
    size: u64,
    file: File,
    aside: bool,
    digest: Digest,
}

impl<'a> Unpacker<'a> {
    /// Begins.
    pub fn new(
        folder: &'a Folder,
        algorithm: Algorithm,
        stop: &'a Stop,
        counter: &'a Counter,
    ) -> Self {
        Self {
            reader: Reader::default(),
            members: Members {
                stream: folder.stream(),
                folder,
                algorithm,
                stop,
                tally: Tally::new(counter),
                current: None,
                files: Files::new(),
                aside: HashSet::new(),
            },
        }
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// What is wrong with them, and where they cannot be written.
    pub fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.members.stop.check()?;
        self.reader.push(bytes, &mut self.members)
    }

    /// The stream has ended well, as the server says; returns what it held.
    ///
    /// # Errors
    /// Where it has not.
    pub fn finish(mut self) -> Result<Files> {
        self.reader.finish()?;
        let members = &mut self.members;
        for path in &members.aside {
            members.folder.settle(path, members.stream)?;
        }
        members.tally.keep();
        Ok(std::mem::take(&mut members.files))
    }

    /// The stream has failed, and what it held comes again in another.
    pub fn discard(mut self) {
        let members = &mut self.members;
        let current = members.current.take();
        if let Some(Current { path, aside, .. }) = current {
            members.folder.discard(&path, aside, members.stream);
        }
        for path in members.files.keys() {
            let aside = members.aside.contains(path);
            members.folder.discard(path, aside, members.stream);
        }
    }

    /// The file that is being received.
    pub fn current(&self) -> Option<String> {
        self.members
            .current
            .as_ref()
            .map(|file| display(&file.path))
    }
}

impl Receiver for Members<'_> {
    type Error = Error;

    fn begin(&mut self, member: &Member) -> Result<()> {
        let mode = member.attributes.mode;
        match member.kind {
            Kind::Directory => self.folder.make_directory(&member.path, mode),
            Kind::Link if self.folder.has_link(&member.path) => Ok(()),
            Kind::Link => bail!(
                "the server sent a symbolic link \"{}\", which is refused",
                display(&member.path)
            ),
            Kind::File => {
                let new = self.folder.create_file(&member.path, mode, self.stream)?;
                self.current = Some(Current {
                    file: new.file,
                    aside: new.aside,
                    path: member.path.clone(),
                    size: member.size,
                    digest: Digest::new(self.algorithm),
                });
                Ok(())
            }
        }
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(current) = &mut self.current {
            current.digest.update(bytes);
            current
                .file
                .write_all(bytes)
                .with_context(|| format!("could not write file \"{}\"", display(&current.path)))?;
            self.tally.add_bytes(bytes.len());
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.tally.add_file();
        if let Some(current) = self.current.take() {
            let path = || display(&current.path);
            let written = current.file.metadata();
            let length = written
                .with_context(|| format!("could not stat file \"{}\"", path()))?
                .len();
            let size = current.size;
            if length != size {
                bail!(
                    "file \"{}\" has {length} bytes after {size} were written",
                    path()
                );
            }
            if current.aside {
                self.aside.insert(current.path.clone());
            }
            let digest = current.digest.finish();
            self.files.insert(current.path, Written { size, digest });
        }
        Ok(())
    }
}
