//! The sink of a stream: a tar archive whose blocks leave in CopyData messages.

use backup_format::archive::{self, Attributes};

use crate::server::client;
use crate::server::report::Result;
use crate::server::shared_backup::BackupState;

use super::compressor::Compressor;
use super::message::{FULL_PAYLOAD, HEADER_ROOM, Message};
use super::throttle::Throttle;

/// What is read at once: as much as the page cache gives fastest, and as stays in the processor's cache
/// until it has been verified.
const LARGEST_PART: usize = 128 * 1024;

/// Where the bytes of an archive go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// Into the stream of the running COPY.
    #[default]
    Client,
    /// Nowhere.
    Blackhole,
}

/// How the bytes of an archive leave.
pub struct Exit<'a> {
    /// Where they go.
    pub target: Target,
    /// How fast they may go.
    pub throttle: Throttle<'a>,
    /// Asked before each message whether to go on.
    pub check: Box<dyn Fn() -> Result<()> + 'a>,
}

impl<'a> Exit<'a> {
    /// For streams of the leader, who has nobody to ask and only the backup's own limit to keep.
    #[must_use]
    pub fn of_leader(backup: &'a BackupState) -> Self {
        Self {
            target: Target::Client,
            throttle: Throttle::new(None, backup.options().max_rate, &backup.rate_clock),
            check: Box::new(|| Ok(())),
        }
    }

    /// Has a message leave, which is empty afterwards.
    fn pass(&self, message: &mut Message) -> Result<()> {
        client::check_interrupts();
        (self.check)()?;
        if message.is_empty() {
            return Ok(());
        }
        self.throttle.wait(message.payload().len(), &*self.check)?;
        match self.target {
            Target::Client => message.send(),
            Target::Blackhole => message.clear(),
        }
        Ok(())
    }

    /// Nothing follows: makes sure that there still is somebody to receive what has left.
    fn close(&self) -> Result<()> {
        if self.target == Target::Client {
            client::check_connection();
        }
        // A cancel that came while the last message was waiting for the client.
        client::check_interrupts();
        (self.check)()
    }
}

/// An archive that is being sent.
pub struct Archive<'a> {
    /// What leaves next, or is compressed next.
    message: Message,
    compressor: Option<Compressed>,
    exit: Exit<'a>,
    /// Headers of one member, before they go into the message.
    headers: Vec<u8>,
}

/// The detour of a compressed archive.
struct Compressed {
    compressor: Compressor,
    message: Message,
}

impl Compressed {
    /// Has compressed bytes leave in full messages.
    fn leave(message: &mut Message, mut bytes: &[u8], exit: &Exit<'_>) -> Result<()> {
        while !bytes.is_empty() {
            bytes = message.push(bytes);
            if message.room() == 0 {
                exit.pass(message)?;
            }
        }
        Ok(())
    }
}

impl<'a> Archive<'a> {
    /// Begins an archive.
    #[must_use]
    pub fn new(exit: Exit<'a>, compressor: Option<Compressor>) -> Self {
        if exit.target == Target::Client {
            client::enlarge_local_buffer();
        }
        let capacity = exit.throttle.chunk(FULL_PAYLOAD - HEADER_ROOM) + HEADER_ROOM;
        let compressor = compressor.map(|compressor| Compressed {
            compressor,
            message: Message::new(capacity),
        });
        Self {
            message: Message::new(capacity),
            compressor,
            exit,
            headers: Vec::new(),
        }
    }

    /// The header of a regular file. Exactly `size` bytes have to follow, then [`Archive::pad`].
    ///
    /// # Errors
    /// Those of the check and of the connection, as everywhere below.
    pub fn file(&mut self, path: &[u8], size: u64, attributes: &Attributes) -> Result<()> {
        self.header(|out| archive::file_header(out, path, size, attributes))
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

    /// The zeros that complete the last block of a file of `size` bytes.
    ///
    /// # Errors
    /// As [`Archive::file`].
    pub fn pad(&mut self, size: u64) -> Result<()> {
        self.append(&[0; archive::BLOCK_SIZE][..archive::padding(size)])
    }

    /// The part of the message that file content goes to next: `wanted` bytes, or fewer where
    /// the message has no room for all. Those are a multiple of `unit`, as long as a message can
    /// hold one.
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

    /// Keeps the first `length` bytes of the part that [`Archive::next_part`] gave.
    ///
    /// # Errors
    /// As [`Archive::file`].
    pub fn keep(&mut self, length: usize) -> Result<()> {
        self.message.keep(length);
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

    /// Ends the archive, has its last bytes leave, and makes sure that there still is somebody to
    /// receive them.
    ///
    /// # Errors
    /// As [`Archive::file`].
    pub fn finish(mut self) -> Result<()> {
        self.append(&archive::END)?;
        self.flush()?;
        if let Some(Compressed {
            compressor,
            message,
        }) = &mut self.compressor
        {
            compressor.finish(|bytes| Compressed::leave(message, bytes, &self.exit))?;
            self.exit.pass(message)?;
        }
        self.exit.close()
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
        let Some(Compressed {
            compressor,
            message,
        }) = &mut self.compressor
        else {
            return self.exit.pass(&mut self.message);
        };
        client::check_interrupts();
        (self.exit.check)()?;
        compressor.write(self.message.payload(), |bytes| {
            Compressed::leave(message, bytes, &self.exit)
        })?;
        self.message.clear();
        Ok(())
    }
}
