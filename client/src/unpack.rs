//! Unpacks a stream while it arrives.

use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Error, Result, bail};
use backup_format::checksum::Algorithm;
use backup_format::member::{Kind, Member, Reader, Receiver};
use cap_std::fs::File;

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
    algorithm: Algorithm,
    stop: &'a Stop,
    /// Bytes that this and others have written, for the progress.
    counter: &'a AtomicU64,
    /// Of these, what this stream has.
    counted: u64,
    current: Option<Current>,
    files: Files,
}

/// The file that is being written.
struct Current {
    path: Vec<u8>,
    size: u64,
    file: File,
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
                folder,
                algorithm,
                stop,
                counter,
                counted: 0,
                current: None,
                files: Files::new(),
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
        self.members.counted = 0;
        Ok(std::mem::take(&mut self.members.files))
    }
}

impl Drop for Members<'_> {
    /// What a failed stream has brought does not count.
    fn drop(&mut self) {
        self.counter.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

impl Members<'_> {
    /// The path of the file that is being written, for messages.
    fn path(&self) -> String {
        let path = self.current.as_ref().map(|current| current.path.as_slice());
        display(path.unwrap_or_default())
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
                self.current = Some(Current {
                    file: self.folder.create_file(&member.path, mode)?,
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
            let length = bytes.len() as u64;
            self.counted += length;
            self.counter.fetch_add(length, Ordering::Relaxed);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let path = self.path();
        if let Some(current) = self.current.take() {
            let written = current.file.metadata();
            let length = written
                .with_context(|| format!("could not stat file \"{path}\""))?
                .len();
            if length != current.size {
                bail!(
                    "file \"{path}\" has {length} bytes after {} were written",
                    current.size
                );
            }
            let digest = current.digest.finish();
            let size = current.size;
            self.files.insert(current.path, Written { size, digest });
        }
        Ok(())
    }
}
