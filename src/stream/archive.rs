//! Tar archive whose blocks leave in messages through the [`sink`](super::sink)s of a stream.

use backup_compression::Encoder;
use backup_format::archive::{self, Attributes, FilePart};

use crate::backup::options::Target;
use crate::backup::state::BackupState;
use crate::backup::worker::RunningCheck;
use crate::server::client;
use crate::server::report::Result;

use super::compress::CompressSink;
use super::message::{FULL_ENCRYPTED_PAYLOAD, FULL_PAYLOAD, HEADER_ROOM, Message};
use super::sink::{BlackholeSink, ClientSink, Sink};
use super::throttle::{Throttle, ThrottleSink};

/// Size of a read: fast from the page cache, and small enough to stay in the processor's cache
/// until it is verified.
const LARGEST_PART: usize = 128 * 1024;

/// Archive in progress.
pub struct Archive<'a> {
    /// Message that is being filled.
    message: Message,
    sink: Box<dyn Sink + 'a>,
    check: RunningCheck<'a>,
    /// Header buffer of one member.
    headers: Vec<u8>,
}

impl<'a> Archive<'a> {
    /// Begins an archive for `target`, within the limits of `throttle`, compressed by `encoder`.
    /// `check` says before each message whether to go on.
    ///
    /// # Errors
    /// `out_of_memory`.
    pub fn new(
        target: Target,
        throttle: Throttle<'a>,
        encoder: Option<Encoder>,
        check: RunningCheck<'a>,
    ) -> Result<Self> {
        let payload = match target {
            Target::Client if client::is_encrypted() => FULL_ENCRYPTED_PAYLOAD,
            _ => FULL_PAYLOAD,
        };
        let capacity = throttle.chunk(payload - HEADER_ROOM) + HEADER_ROOM;
        let last: Box<dyn Sink> = match target {
            Target::Client => Box::new(ClientSink::new()),
            Target::Blackhole => Box::new(BlackholeSink),
        };
        let mut sink: Box<dyn Sink + 'a> = Box::new(ThrottleSink::new(throttle, check, last));
        if let Some(encoder) = encoder {
            sink = Box::new(CompressSink::new(encoder, capacity, sink)?);
        }
        Ok(Self {
            message: Message::new(capacity)?,
            sink,
            check,
            headers: Vec::new(),
        })
    }

    /// Begins an archive of the leader, which keeps the backup's own limit. None holds for the rest of WAL
    /// that is streamed, as none holds for the stream.
    ///
    /// # Errors
    /// `out_of_memory`.
    pub fn of_leader(backup: &'a BackupState, encoder: Option<Encoder>) -> Result<Self> {
        let limit = backup
            .options()
            .max_rate
            .filter(|_| !backup.wal.is_streamed());
        let throttle = Throttle::new(None, limit, &backup.rate_clock);
        Self::new(Target::Client, throttle, encoder, RunningCheck::Leader)
    }

    /// The header of a regular file. Exactly `size` bytes have to follow, then [`Archive::pad`].
    ///
    /// # Errors
    /// Those of the check and of the connection, as everywhere below.
    pub fn file(&mut self, path: &[u8], size: u64, attributes: &Attributes) -> Result<()> {
        self.header(|out| archive::file_header(out, path, size, attributes))
    }

    /// The header of a part of a regular file. Exactly `size` bytes have to follow, then [`Archive::pad`].
    ///
    /// # Errors
    /// As [`Archive::file`].
    pub fn file_part(
        &mut self,
        path: &[u8],
        size: u64,
        part: FilePart,
        attributes: &Attributes,
    ) -> Result<()> {
        self.header(|out| archive::part_header(out, path, size, part, attributes))
    }

    /// A directory.
    ///
    /// # Errors
    /// As [`Archive::file`].
    pub fn directory(&mut self, path: &[u8], attributes: &Attributes) -> Result<()> {
        self.header(|out| archive::directory_header(out, path, attributes))
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// As [`Archive::file`].
    pub fn link(&mut self, path: &[u8], target: &[u8], attributes: &Attributes) -> Result<()> {
        self.header(|out| archive::link_header(out, path, target, attributes))
    }

    /// A regular file with its content.
    ///
    /// # Errors
    /// As [`Archive::file`].
    pub fn whole_file(
        &mut self,
        path: &[u8],
        content: &[u8],
        attributes: &Attributes,
    ) -> Result<()> {
        let size = content.len() as u64;
        self.file(path, size, attributes)?;
        self.append(content)?;
        self.pad(size)
    }

    /// Pads the last block of a file of `size` bytes with zeros.
    ///
    /// # Errors
    /// As [`Archive::file`].
    pub fn pad(&mut self, size: u64) -> Result<()> {
        self.append(&[0; archive::BLOCK_SIZE][..archive::padding(size)])
    }

    /// Part of the message for file content: `wanted` bytes, or fewer if the message lacks room.
    /// Fewer bytes are a multiple of `unit`, as long as a message can hold one.
    ///
    /// # Errors
    /// As [`Archive::file`].
    pub fn next_part(&mut self, wanted: u64, unit: usize) -> Result<&mut [u8]> {
        let wanted =
            usize::try_from(wanted).map_or(LARGEST_PART, |wanted| wanted.min(LARGEST_PART));
        if self.message.room() < wanted.min(unit) {
            self.flush()?;
        }
        let room = self.message.room();
        let length = if wanted <= room {
            wanted
        } else {
            (room / unit).max(1) * unit
        };
        Ok(self.message.next_part(length))
    }

    /// Commits the first `length` bytes of the part from [`Archive::next_part`].
    ///
    /// # Errors
    /// As [`Archive::file`].
    pub fn commit(&mut self, length: usize) -> Result<()> {
        self.message.commit(length);
        if self.message.room() == 0 {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Copies bytes into the archive.
    ///
    /// # Errors
    /// As [`Archive::file`].
    pub fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            bytes = self.message.push(bytes);
            if self.message.room() == 0 {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Ends the archive, sends its last bytes, and checks that the client is still there.
    ///
    /// # Errors
    /// As [`Archive::file`].
    pub fn finish(mut self) -> Result<()> {
        self.append(&archive::END)?;
        self.flush()?;
        self.sink.finish()?;
        // A cancel that came while the last message was waiting for the client.
        client::check_interrupts();
        self.check.check()
    }

    fn header(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let mut headers = core::mem::take(&mut self.headers);
        headers.clear();
        write(&mut headers);
        self.append(&headers)?;
        self.headers = headers;
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        // The stages below look too, but a compressor can make little of much.
        client::check_interrupts();
        self.check.check()?;
        self.sink.send(&mut self.message)
    }
}
