//! Unpacks a stream while it arrives.

use std::collections::HashSet;
use std::io::Write as _;

use anyhow::{Context, Error, Result, bail};
use backup_format::member::{Kind, Member, Receiver};
use cap_std::fs::File;

use crate::claims::Stream;
use crate::folder::{Folder, display};
use crate::input::Input;
use crate::received::{Arriving, Files};
use crate::stop::Stop;

/// Unpacks one stream.
pub struct Unpacker<'a> {
    input: Input,
    members: Members<'a>,
}

struct Members<'a> {
    folder: &'a Folder,
    stream: Stream,
    stop: &'a Stop,
    arriving: Arriving<'a>,
    current: Option<Current>,
    /// Files that have not their own names yet.
    aside: HashSet<Vec<u8>>,
}

/// The file that is being written.
struct Current {
    path: Vec<u8>,
    size: u64,
    file: File,
    aside: bool,
}

impl<'a> Unpacker<'a> {
    /// Begins.
    pub fn new(folder: &'a Folder, input: Input, arriving: Arriving<'a>, stop: &'a Stop) -> Self {
        Self {
            input,
            members: Members {
                stream: folder.stream(),
                folder,
                stop,
                arriving,
                current: None,
                aside: HashSet::new(),
            },
        }
    }

    /// Takes the next bytes of the stream.
    ///
    /// # Errors
    /// What is wrong with them, and where they cannot be written.
    pub fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let Self { input, members } = self;
        input.push(bytes, |reader, plain| {
            members.stop.check()?;
            reader.push(plain, members)
        })
    }

    /// The stream has ended well, as the server says; returns what it held.
    ///
    /// # Errors
    /// Where it has not.
    pub fn finish(self) -> Result<Files> {
        self.input.finish()?;
        let members = self.members;
        for path in &members.aside {
            members.folder.settle(path, members.stream)?;
        }
        Ok(members.arriving.into_files())
    }

    /// The stream has failed, and what it held comes again in another.
    pub fn discard(mut self) {
        let members = &mut self.members;
        let current = members.current.take();
        if let Some(Current { path, aside, .. }) = current {
            members.folder.discard(&path, aside, members.stream);
        }
        for path in members.arriving.paths() {
            let aside = members.aside.contains(path);
            members.folder.discard(path, aside, members.stream);
        }
    }

    /// The file that is being received.
    pub fn current(&self) -> Option<String> {
        self.members.arriving.current()
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
                });
                self.arriving.begin(member.path.clone(), member.size);
                Ok(())
            }
        }
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(current) = &mut self.current {
            current
                .file
                .write_all(bytes)
                .with_context(|| format!("could not write file \"{}\"", display(&current.path)))?;
            self.arriving.content(bytes);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
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
                self.aside.insert(current.path);
            }
            self.arriving.end();
        }
        Ok(())
    }
}
