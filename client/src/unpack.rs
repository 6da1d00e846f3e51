//! Unpacks a stream while it arrives, from a server or from an archive.

use std::collections::HashSet;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Error, Result, bail};
use backup_format::checksum::Algorithm;
use backup_format::member::{Kind, Member, Reader, Receiver};
use cap_std::fs::File;

use crate::claims::Stream;
use crate::digest::Digest;
use crate::folder::{Folder, display};
use crate::received::{Files, Written};
use crate::stop::Stop;

/// Unpacks one stream.
pub struct Unpacker<'a> {
    reader: Reader,
    members: Members<'a>,
}

struct Members<'a> {
    folder: &'a Folder,
    /// What precedes the names of its members in the backup.
    prefix: Vec<u8>,
    /// Files that are received, and not written.
    left_out: &'static [&'static [u8]],
    stream: Stream,
    algorithm: Algorithm,
    stop: &'a Stop,
    /// Bytes that this and others have written, for the progress.
    counter: &'a AtomicU64,
    /// Of these, what this stream has.
    counted: u64,
    current: Option<Current>,
    files: Files,
    /// Which of them have not their own names yet.
    aside: HashSet<Vec<u8>>,
}

/// The file that is being written.
struct Current {
    path: Vec<u8>,
    size: u64,
    /// `None` for one that is left out.
    file: Option<File>,
    aside: bool,
    digest: Digest,
}

impl<'a> Unpacker<'a> {
    /// Begins.
    pub fn new(
        folder: &'a Folder,
        algorithm: Algorithm,
        stop: &'a Stop,
        counter: &'a AtomicU64,
    ) -> Self {
        Self {
            reader: Reader::default(),
            members: Members {
                stream: folder.stream(),
                folder,
                prefix: Vec::new(),
                left_out: &[],
                algorithm,
                stop,
                counter,
                counted: 0,
                current: None,
                files: Files::new(),
                aside: HashSet::new(),
            },
        }
    }

    /// Is for an archive: all archives of a backup are one stream, which has each file once. Their
    /// names lack a prefix, and some files are only compared with the manifest.
    pub fn of_archive(
        mut self,
        stream: Stream,
        prefix: Vec<u8>,
        left_out: &'static [&'static [u8]],
    ) -> Self {
        self.members.stream = stream;
        self.members.prefix = prefix;
        self.members.left_out = left_out;
        self
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
        members.counted = 0;
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

impl Current {
    /// What was written is there.
    fn check_length(&self) -> Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let path = || display(&self.path);
        let length = file
            .metadata()
            .with_context(|| format!("could not stat file \"{}\"", path()))?
            .len();
        if length != self.size {
            bail!(
                "file \"{}\" has {length} bytes after {} were written",
                path(),
                self.size
            );
        }
        Ok(())
    }
}

impl Drop for Members<'_> {
    /// What a failed stream has brought does not count.
    fn drop(&mut self) {
        self.counter.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

impl Receiver for Members<'_> {
    type Error = Error;

    fn begin(&mut self, member: &Member) -> Result<()> {
        let mode = member.attributes.mode;
        let path = [&self.prefix, member.path.as_slice()].concat();
        match member.kind {
            Kind::Directory => self.folder.make_directory(&path, mode),
            Kind::Link if self.folder.has_link(&path) => Ok(()),
            Kind::Link => bail!(
                "the backup has a symbolic link \"{}\", which is refused",
                display(&path)
            ),
            Kind::File => {
                let (file, aside) = if self.left_out.contains(&path.as_slice()) {
                    (None, false)
                } else {
                    let new = self.folder.create_file(&path, mode, self.stream)?;
                    (Some(new.file), new.aside)
                };
                self.current = Some(Current {
                    path,
                    size: member.size,
                    file,
                    aside,
                    digest: Digest::new(self.algorithm),
                });
                Ok(())
            }
        }
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(current) = &mut self.current {
            current.digest.update(bytes);
            if let Some(file) = &mut current.file {
                file.write_all(bytes).with_context(|| {
                    format!("could not write file \"{}\"", display(&current.path))
                })?;
            }
            let length = bytes.len() as u64;
            self.counted += length;
            self.counter.fetch_add(length, Ordering::Relaxed);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        if let Some(current) = self.current.take() {
            current.check_length()?;
            if current.aside {
                self.aside.insert(current.path.clone());
            }
            let written = Written {
                size: current.size,
                digest: current.digest.finish(),
            };
            self.files.insert(current.path, written);
        }
        Ok(())
    }
}
