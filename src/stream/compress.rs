//! Compression of a stream in the server: one complete frame.
//!
//! Follows backup/basebackup_gzip.c and its siblings. Messages are encoded one by one; what comes
//! of them is gathered in a message of this stage.

use std::io;

use backup_compression::Encoder;
use backup_format::compression::Compression;

use crate::server::report::{Error, Result, Sqlstate};

use super::message::Message;
use super::sink::Sink;

/// Begins a frame; `None` for no compression.
///
/// # Errors
/// Where the library has no memory.
pub fn encoder(compression: Compression) -> Result<Option<Encoder>> {
    Encoder::new(compression).map_err(|error| failed(&error))
}

/// The stage that compresses.
pub struct CompressSink<'a> {
    encoder: Encoder,
    compressed: Message,
    next: Box<dyn Sink + 'a>,
}

impl<'a> CompressSink<'a> {
    /// Sends compressed bytes on in messages of `capacity` bytes.
    ///
    /// # Errors
    /// `out_of_memory`.
    pub fn new(encoder: Encoder, capacity: usize, next: Box<dyn Sink + 'a>) -> Result<Self> {
        Ok(Self {
            encoder,
            compressed: Message::new(capacity)?,
            next,
        })
    }

    /// Sends what the encoder has given out so far, in full messages.
    fn send_compressed(&mut self) -> Result<()> {
        let Self {
            encoder,
            compressed,
            next,
        } = self;
        encoder.drain(|mut bytes| {
            while !bytes.is_empty() {
                bytes = compressed.push(bytes);
                if compressed.room() == 0 {
                    next.send(compressed)?;
                }
            }
            Ok(())
        })
    }
}

impl Sink for CompressSink<'_> {
    fn send(&mut self, message: &mut Message) -> Result<()> {
        self.encoder
            .write(message.payload())
            .map_err(|error| failed(&error))?;
        message.clear();
        self.send_compressed()
    }

    fn finish(&mut self) -> Result<()> {
        self.encoder.finish().map_err(|error| failed(&error))?;
        self.send_compressed()?;
        self.next.send(&mut self.compressed)?;
        self.next.finish()
    }
}

fn failed(error: &io::Error) -> Error {
    Error::new(
        Sqlstate::ERRCODE_INTERNAL_ERROR,
        format!("could not compress data: {error}"),
    )
}
