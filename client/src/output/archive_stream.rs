//! One archive of [`archives`](crate::output::archive_set) while its stream arrives: that of a worker, and the
//! closing stream on its way to the end of the first.

use anyhow::{Error, Result};
use backup_format::archive;
use backup_format::member::{Kind, Member, Receiver};

use crate::output::archive_set::{ArchiveSet, Id};
use crate::output::archive_writer::{Mark, Writer};
use crate::output::wal_receiver::{ClosingReceiver, WalReceiver};
use crate::output::withheld_end::WithheldEnd;
use crate::runtime::cancellation::Cancellation;
use crate::stream::input::Input;
use crate::stream::member_check::Check;

/// Bytes to buffer while waiting for the first member. An archive without a member by then is begun
/// anyway.
const BEFORE_MEMBERS: usize = 64 * 1024;

/// Archive of a worker.
pub struct Archive<'a> {
    archives: &'a ArchiveSet,
    id: Id,
    input: Input,
    check: Check<'a>,
    cancellation: &'a Cancellation,
    output: Output,
    /// Bytes of the archive, without compression.
    plain: u64,
}

enum Output {
    /// It goes on after the end of the stream, which is held back. The mark is the end of the streams
    /// before.
    Continued(Writer, WithheldEnd, Option<Mark>),
    /// Created with its first member, because an empty archive is not written. Bytes wait here
    /// until then.
    Other(Option<Writer>, Vec<u8>),
}

impl<'a> Archive<'a> {
    /// Begins, anew where it has failed before.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn new(
        archives: &'a ArchiveSet,
        id: Id,
        input: Input,
        check: Check<'a>,
        cancellation: &'a Cancellation,
    ) -> Result<Self> {
        let output = if archives.is_continued(id) {
            let (writer, mark) = match archives.take(id) {
                Some((mut writer, _)) => {
                    let mark = writer.mark(cancellation)?;
                    (writer, mark)
                }
                None => (archives.begin(id)?, None),
            };
            Output::Continued(writer, WithheldEnd::default(), mark)
        } else {
            Output::Other(None, Vec::new())
        };
        Ok(Self {
            archives,
            id,
            input,
            check: check.describing(archives.has_indexes()),
            cancellation,
            output,
            plain: 0,
        })
    }

    /// Path of the current file.
    pub fn current(&self) -> Option<String> {
        self.check.current()
    }

    /// Processes the next bytes of the stream.
    ///
    /// # Errors
    /// An error for invalid bytes, and errors of the output.
    pub fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let Self {
            archives,
            id,
            input,
            check,
            cancellation,
            output,
            plain: position,
        } = self;
        let begin = || archives.begin(*id);
        let as_sent = archives.is_kept_as_sent(*id);
        cancellation.check()?;
        input.push(bytes, |reader, plain| {
            reader.push(plain, check)?;
            if !as_sent {
                output.write(plain, *position, check, begin, cancellation)?;
            }
            *position += plain.len() as u64;
            Ok(())
        })?;
        if as_sent {
            output.write_as_sent(bytes, check, begin, cancellation)?;
        }
        Ok(())
    }

    /// Ends a stream that ended well: its files count. An empty archive is removed.
    ///
    /// # Errors
    /// An error if the stream is incomplete, errors of the command, and as [`Check::finish`].
    pub fn finish(mut self) -> Result<()> {
        self.input.finish()?;
        match self.output {
            // The first archive has at least what comes at the end.
            Output::Continued(_, _, None) if self.check.is_empty() && self.id != Id::FIRST => {
                self.archives.empty(self.id, &[], self.cancellation)?;
            }
            Output::Continued(writer, ..) => self.archives.keep(self.id, writer, self.plain),
            Output::Other(Some(mut writer), _) if !self.check.is_empty() => {
                for member in self.check.take_all() {
                    writer.add_member(&member)?;
                }
                (self.archives).complete(self.id, writer, self.plain, self.cancellation)?;
            }
            Output::Other(_, nothing) => {
                self.archives.empty(self.id, &nothing, self.cancellation)?
            }
        }
        self.check.finish().map(drop)
    }

    /// The stream has failed. The archive is as it was before, or is begun anew; a command is killed.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn discard(self) -> Result<()> {
        if let Output::Continued(mut writer, _, Some(mark)) = self.output {
            writer.go_back(mark)?;
            self.archives.keep(self.id, writer, self.plain);
        }
        self.check.discard();
        Ok(())
    }
}

impl Output {
    /// Writes bytes of the archive, which begin at a position of it.
    fn write(
        &mut self,
        bytes: &[u8],
        position: u64,
        check: &mut Check<'_>,
        begin: impl FnOnce() -> Result<Writer>,
        cancellation: &Cancellation,
    ) -> Result<()> {
        if let Self::Other(Some(writer), _) = self
            && let Some(member) = check.last_begun()
            && let Some(before) = member.0.checked_sub(position)
            && writer.is_due(member)
        {
            let (before, after) = bytes.split_at(usize::try_from(before)?.min(bytes.len()));
            writer.write(before, cancellation)?;
            for ended in check.take_ended() {
                writer.add_member(&ended)?;
            }
            writer.begin_member(member, cancellation)?;
            return writer.write(after, cancellation);
        }
        self.write_as_sent(bytes, check, begin, cancellation)
    }

    fn write_as_sent(
        &mut self,
        bytes: &[u8],
        check: &mut Check<'_>,
        begin: impl FnOnce() -> Result<Writer>,
        cancellation: &Cancellation,
    ) -> Result<()> {
        let writer = match self {
            Self::Continued(writer, held_back, _) => {
                return held_back.push(bytes, |bytes| writer.write(bytes, cancellation));
            }
            Self::Other(None, waiting) if check.is_empty() && waiting.len() < BEFORE_MEMBERS => {
                waiting.extend_from_slice(bytes);
                return Ok(());
            }
            Self::Other(Some(writer), _) => writer,
            Self::Other(writer, waiting) => {
                let writer = writer.insert(begin()?);
                writer.write(&std::mem::take(waiting), cancellation)?;
                writer
            }
        };
        writer.write(bytes, cancellation)?;
        for ended in check.take_ended() {
            writer.add_member(&ended)?;
        }
        Ok(())
    }
}

/// The closing stream on its way to the end of the first archive, or another whose members go there.
pub struct Closing<'a> {
    archives: &'a ArchiveSet,
    input: Input,
    members: Members<'a>,
    wal: Option<WalReceiver<'a>>,
}

struct Members<'a> {
    writer: Writer,
    /// Bytes of the archive, without compression.
    plain: u64,
    left_to_pad: usize,
    check: Check<'a>,
    cancellation: &'a Cancellation,
}

impl<'a> Closing<'a> {
    /// Creates it.
    ///
    /// # Errors
    /// Where there is no first archive.
    pub fn new(
        archives: &'a ArchiveSet,
        input: Input,
        check: Check<'a>,
        cancellation: &'a Cancellation,
    ) -> Result<Self> {
        let (writer, plain) = archives.take_closing()?;
        Ok(Self {
            archives,
            input,
            members: Members {
                writer,
                plain,
                left_to_pad: 0,
                check: check.describing(archives.has_indexes()),
                cancellation,
            },
            wal: None,
        })
    }

    /// Has WAL files go elsewhere.
    pub fn with_wal(mut self, wal: Option<WalReceiver<'a>>) -> Self {
        self.wal = wal;
        self
    }

    /// Path of the current file.
    pub fn current(&self) -> Option<String> {
        self.members.check.current()
    }

    /// Processes the next bytes of the stream.
    ///
    /// # Errors
    /// As [`Archive::take`].
    pub fn take(&mut self, bytes: &[u8]) -> Result<()> {
        let Self {
            input,
            members: files,
            wal,
            ..
        } = self;
        files.cancellation.check()?;
        input.push(bytes, |reader, plain| {
            let wal = wal.as_mut();
            reader.push(plain, &mut ClosingReceiver { wal, files })
        })
    }

    /// The stream has ended well: its files count. The end of the archive is not there yet.
    ///
    /// # Errors
    /// An error if the stream or its archive is incomplete, and as [`Check::finish`].
    pub fn finish(self) -> Result<()> {
        self.input.finish()?;
        if let Some(wal) = self.wal {
            wal.finish()?;
        }
        let Members {
            mut check,
            mut writer,
            plain,
            ..
        } = self.members;
        for member in check.take_all() {
            writer.add_member(&member)?;
        }
        let manifest = check.finish()?;
        self.archives.keep(self.archives.closing(), writer, plain);
        if let Some(manifest) = manifest {
            self.archives.leave_manifest(manifest);
        }
        Ok(())
    }

    /// The stream has failed.
    pub fn discard(self) {
        self.members.check.discard();
    }
}

impl Members<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.plain += bytes.len() as u64;
        self.writer.write(bytes, self.cancellation)
    }
}

impl Receiver for Members<'_> {
    type Error = Error;

    fn begin(&mut self, member: &Member) -> Result<()> {
        // Where it will be in this archive.
        let moved = Member {
            position: self.plain,
            ..member.clone()
        };
        self.check.begin(&moved)?;
        self.left_to_pad = archive::padding(member.size);
        if self.check.is_in_manifest() {
            return Ok(());
        }
        for ended in self.check.take_ended() {
            self.writer.add_member(&ended)?;
        }
        (self.writer).begin_member((self.plain, member.size), self.cancellation)?;
        let (path, attributes) = (&member.path, &member.attributes);
        let mut header = Vec::new();
        match member.kind {
            Kind::File => archive::file_header(&mut header, path, member.size, attributes),
            Kind::Directory => archive::directory_header(&mut header, path, attributes),
            Kind::Link => archive::link_header(&mut header, path, &member.target, attributes),
        }
        self.write(&header)
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        self.check.content(bytes)?;
        if self.check.is_in_manifest() {
            return Ok(());
        }
        self.write(bytes)
    }

    fn end(&mut self) -> Result<()> {
        let in_manifest = self.check.is_in_manifest();
        self.check.end()?;
        if in_manifest {
            return Ok(());
        }
        let zeros = [0; archive::BLOCK_SIZE];
        self.write(&zeros[..self.left_to_pad])
    }
}
