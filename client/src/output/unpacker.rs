//! Unpacks a stream while it arrives, from a server or from an archive.

use std::io::Write as _;

use anyhow::{Context, Error, Result, bail, ensure};
use backup_format::archive::FilePart;
use backup_format::member::{Kind, Member, Receiver};
use cap_std::fs::{File, FileExt as _};

use crate::manifest;
use crate::manifest::backup_path::{MANIFEST, display};
use crate::manifest::file_parts::IncomingPart;
use crate::manifest::incoming_files::IncomingFiles;
use crate::output::data_directory::DataDirectory;
use crate::output::filter::Filter;
use crate::output::wal_receiver::{ClosingReceiver, WalReceiver};
use crate::output::write_behind::WriteBehind;
use crate::runtime::cancellation::Cancellation;
use crate::stream::input::Input;

/// Unpacks one stream.
pub struct Unpacker<'a> {
    input: Input,
    members: Members<'a>,
    wal: Option<WalReceiver<'a>>,
}

struct Members<'a> {
    folder: &'a DataDirectory,
    /// Prefix of its member names in the backup.
    prefix: Vec<u8>,
    /// What may precede them in the stream.
    surplus: &'static [u8],
    /// Files that are received, and not written.
    left_out: &'static [&'static [u8]],
    /// Whether a path is written at all.
    filter: &'a Filter,
    /// Whether files may arrive in parts.
    accepts_parts: bool,
    cancellation: &'a Cancellation,
    arriving: IncomingFiles<'a>,
    current: Option<Current>,
}

/// The file that is being written.
struct Current {
    path: Vec<u8>,
    size: u64,
    /// `None` for one that is left out.
    file: Option<File>,
    /// For a part of a file.
    part: Option<CurrentPart>,
    behind: WriteBehind,
}

/// The part of a file that is being written.
struct CurrentPart {
    /// Its place in the file; `None` for one that is written aside.
    own: Option<IncomingPart>,
    /// Where the next byte of it is in the file.
    position: u64,
}

impl<'a> Unpacker<'a> {
    /// Creates it.
    pub fn new(
        folder: &'a DataDirectory,
        input: Input,
        arriving: IncomingFiles<'a>,
        cancellation: &'a Cancellation,
    ) -> Self {
        Self {
            input,
            members: Members {
                folder,
                prefix: Vec::new(),
                surplus: b"",
                left_out: &[],
                filter: &Filter::ALL,
                accepts_parts: false,
                cancellation,
                arriving,
                current: None,
            },
            wal: None,
        }
    }

    /// Has WAL files received by another.
    pub fn with_wal(mut self, wal: Option<WalReceiver<'a>>) -> Self {
        self.wal = wal;
        self
    }

    /// Is for an archive, whose member names lack a prefix. Some files are only compared with the
    /// manifest.
    pub fn of_archive(mut self, prefix: Vec<u8>, left_out: &'static [&'static [u8]]) -> Self {
        self.members.prefix = prefix;
        // As pg_basebackup has it before the directories of WAL.
        self.members.surplus = b"./";
        self.members.left_out = left_out;
        self
    }

    /// Is for a stream in which files may arrive in parts, as the server was asked.
    pub fn with_parts(mut self, accepts_parts: bool) -> Self {
        self.members.accepts_parts = accepts_parts;
        self
    }

    /// Writes only what a filter lets pass.
    pub fn with_filter(mut self, filter: &'a Filter) -> Self {
        self.members.filter = filter;
        self
    }

    /// Processes the next bytes of the stream.
    ///
    /// # Errors
    /// An error for invalid bytes, and errors of the output.
    pub fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let Self {
            input,
            members: files,
            wal,
        } = self;
        input.push(bytes, |reader, plain| {
            files.cancellation.check()?;
            let wal = wal.as_mut();
            reader.push(plain, &mut ClosingReceiver { wal, files })
        })
    }

    /// The stream has ended well, as the server says: its files count.
    ///
    /// # Errors
    /// An error if the stream or its archive is incomplete, and if another stream that ended well
    /// had the same file.
    pub fn finish(self) -> Result<()> {
        self.input.finish()?;
        self.finish_files()
    }

    /// A part of the archive has been read, which ends at a position of it.
    ///
    /// # Errors
    /// An error if the part does not end between two members at that position, and as [`Unpacker::finish`].
    pub fn finish_part(self, end: u64) -> Result<()> {
        self.input.finish_part(end)?;
        self.finish_files()
    }

    fn finish_files(self) -> Result<()> {
        if let Some(wal) = self.wal {
            wal.finish()?;
        }
        let Members {
            folder,
            cancellation,
            mut arriving,
            ..
        } = self.members;
        arriving.settle_parts(
            |path, stream, range| {
                cancellation.check()?;
                folder.copy_part(path, stream, range)
            },
            |path, stream| folder.discard(path, Some(stream)),
        )?;
        arriving.finish(|path, stream| folder.settle(path, stream))
    }

    /// The stream has failed, and what it held comes again in another.
    pub fn discard(self) {
        let Members {
            folder, arriving, ..
        } = self.members;
        arriving.discard(|path, aside| folder.discard(path, aside));
    }

    /// Path of the current file.
    pub fn current(&self) -> Option<String> {
        self.members.arriving.current()
    }
}

impl Current {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Self {
            path, file, part, ..
        } = self;
        let Some(file) = file else {
            return Ok(());
        };
        let failure = || format!("could not write file \"{}\"", display(path));
        if let Some(part) = part {
            let offset = part.position;
            part.position += bytes.len() as u64;
            part.if_owned(|| file.write_all_at(bytes, offset).with_context(failure))?;
        } else {
            file.write_all(bytes).with_context(failure)?;
        }
        self.behind.wrote(&*file, bytes.len());
        Ok(())
    }

    /// What was written is there.
    fn check_length(&self) -> Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let path = || display(&self.path);
        let length = || {
            let metadata = file.metadata();
            let metadata = metadata.with_context(|| format!("could not stat file \"{}\"", path()));
            Ok::<_, Error>(metadata?.len())
        };
        if let Some(part) = &self.part {
            let position = part.position;
            // Others write before and behind it.
            return part.if_owned(|| {
                let length = length()?;
                ensure!(
                    length >= position,
                    "file \"{}\" has {length} bytes after byte {position} was written",
                    path()
                );
                Ok(())
            });
        }
        let length = length()?;
        ensure!(
            length == self.size,
            "file \"{}\" has {length} bytes after {} were written",
            path(),
            self.size
        );
        Ok(())
    }
}

impl CurrentPart {
    /// Does something with its file, unless its place there has come to be another stream's.
    fn if_owned(&self, action: impl FnOnce() -> Result<()>) -> Result<()> {
        match &self.own {
            Some(part) => part.if_owned(action),
            None => action(),
        }
    }
}

impl Receiver for Members<'_> {
    type Error = Error;

    fn begin(&mut self, member: &Member) -> Result<()> {
        let mode = member.attributes.mode;
        let name = member.path.as_slice();
        let name = name.strip_prefix(self.surplus).unwrap_or(name);
        let path = [&self.prefix, name].concat();
        match member.kind {
            Kind::Directory | Kind::Link if !self.filter.passes(&path) => Ok(()),
            Kind::Directory => {
                self.folder.make_directory(&path, mode)?;
                self.arriving.begin_directory(path);
                Ok(())
            }
            Kind::Link if self.folder.has_link(&path) => {
                self.arriving.begin_directory(path);
                Ok(())
            }
            Kind::Link => bail!(
                "the backup has a symbolic link \"{}\", which is refused",
                display(&path)
            ),
            Kind::File => {
                let is_left_out =
                    self.left_out.contains(&path.as_slice()) || !self.filter.passes(&path);
                if path == MANIFEST && !is_left_out {
                    manifest::check_size(member.size)?;
                }
                let aside = self.arriving.begin(&path, member.size)?;
                let file = if is_left_out {
                    None
                } else {
                    Some(self.folder.create_file(&path, mode, aside)?)
                };
                self.current = Some(Current {
                    path,
                    size: member.size,
                    file,
                    part: None,
                    behind: self.folder.write_behind(0),
                });
                Ok(())
            }
        }
    }

    fn begin_part(&mut self, member: &Member, place: FilePart) -> Result<()> {
        let path = &member.path;
        ensure!(
            self.accepts_parts && path != MANIFEST,
            "the backup has a part of file \"{}\", which is refused",
            display(path)
        );
        let (folder, mode) = (self.folder, member.attributes.mode);
        let open = |opening| folder.open_divided(path, mode, opening);
        let (own, file) = self.arriving.begin_part(path, (member.size, place), open)?;
        self.current = Some(Current {
            path: path.clone(),
            size: member.size,
            file: Some(file),
            part: Some(CurrentPart {
                own,
                position: place.offset,
            }),
            behind: folder.write_behind(place.offset),
        });
        Ok(())
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(current) = &mut self.current {
            current.write(bytes)?;
            self.arriving.content(bytes);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        if let Some(current) = self.current.take() {
            current.check_length()?;
        }
        self.arriving.end().map(drop)
    }
}
