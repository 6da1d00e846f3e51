//! The sink of a stream: a tar archive whose blocks leave in CopyData messages.

use backup_format::archive::{self, Attributes};

use crate::server::client;
use crate::server::interrupt;
use crate::server::report::Outcome;

use super::message::{FULL_PAYLOAD, HEADER_ROOM, Message};
use super::throttle::Throttle;

/// An archive that is being sent.
pub struct Archive<'a> {
    message: Message,
    throttle: Throttle<'a>,
    check: Box<dyn Fn() -> Outcome<()> + 'a>,
    /// Headers of one member, before they go into the message.
    headers: Vec<u8>,
}

impl<'a> Archive<'a> {
    /// Begins an archive. `check` is asked before each message whether to go on.
    #[must_use]
    pub fn new(throttle: Throttle<'a>, check: impl Fn() -> Outcome<()> + 'a) -> Self {
        let capacity = throttle.chunk(FULL_PAYLOAD - HEADER_ROOM) + HEADER_ROOM;
        Self {
            message: Message::new(capacity),
            throttle,
            check: Box::new(check),
            headers: Vec::new(),
        }
    }

    /// The header of a regular file. Exactly `size` bytes have to follow, then [`Archive::pad`].
    ///
    /// # Errors
    /// Those of the check and of the connection, as everywhere below.
    pub fn file(&mut self, path: &[u8], size: u64, attributes: &Attributes) -> Outcome<()> {
        self.header(|out| archive::file_header(out, path, size, attributes))
    }

    /// A directory.
    ///
    /// # Errors
    /// As [`Archive::file`].
    pub fn directory(&mut self, path: &[u8], attributes: &Attributes) -> Outcome<()> {
        self.header(|out| archive::directory_header(out, path, attributes))
    }

    /// A symbolic link.
    ///
    /// # Errors
    /// As [`Archive::file`].
    pub fn link(&mut self, path: &[u8], target: &[u8], attributes: &Attributes) -> Outcome<()> {
        self.header(|out| archive::link_header(out, path, target, attributes))
    }

    /// A regular file with its content.
    ///
    /// # Errors
    /// As [`Archive::file`].
    pub fn whole_file(
        &mut self,
        path: &[u8],
        pieces: &[&[u8]],
        attributes: &Attributes,
    ) -> Outcome<()> {
        let size = pieces.iter().map(|piece| piece.len() as u64).sum();
        self.file(path, size, attributes)?;
        for piece in pieces {
            self.append(piece)?;
        }
        self.pad(size)
    }

    /// The zeros that complete the last block of a file of `size` bytes.
    ///
    /// # Errors
    /// As [`Archive::file`].
    pub fn pad(&mut self, size: u64) -> Outcome<()> {
        self.append(&[0; archive::BLOCK_SIZE][..archive::padding(size)])
    }

    /// The part of the message that file content goes to next: `wanted` bytes, or fewer where
    /// the message has no room for all. Those are a multiple of `unit`, as long as a message can
    /// hold one.
    ///
    /// # Errors
    /// As [`Archive::file`].
    pub fn next_part(&mut self, wanted: u64, unit: usize) -> Outcome<&mut [u8]> {
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
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
    pub fn keep(&mut self, length: usize) -> Outcome<()> {
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
    pub fn append(&mut self, mut bytes: &[u8]) -> Outcome<()> {
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
    pub fn finish(mut self) -> Outcome<()> {
        self.append(&archive::END)?;
        self.flush()?;
        client::check_connection();
        // A cancel that came while the last message was waiting for the client.
        interrupt::check();
        (self.check)()
    }

    fn header(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Outcome<()> {
        let mut headers = core::mem::take(&mut self.headers);
        headers.clear();
        write(&mut headers);
        self.append(&headers)?;
        self.headers = headers;
        Ok(())
    }

    fn flush(&mut self) -> Outcome<()> {
        interrupt::check();
        (self.check)()?;
        if !self.message.is_empty() {
            self.throttle.wait(self.message.len(), &*self.check)?;
            self.message.send();
        }
        Ok(())
    }
}
