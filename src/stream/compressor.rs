//! Compression of a stream: one complete frame or member of a standard format.
//!
//! What goes in comes out some time later, and all of it when the compressor is finished. It holds
//! no more than the window of its method and what one message has become.
//!
//! As in core, frames of LZ4 and zstd carry no checksums of their own: the manifest has them.

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;

use backup_format::compression::{Compression, Method};
use flate2::write::GzEncoder;

use crate::server::report::{Error, Result, Sqlstate};

/// What has come out of an encoder and has not been sent. Encoders own a writer for as long as they
/// live, and write to it even when they are dropped: so it is memory, and never the connection.
#[derive(Clone, Default)]
struct Output(Rc<RefCell<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Encoder {
    Gzip(GzEncoder<Output>),
    Lz4(lz4::Encoder<Output>),
    Zstd(zstd::Encoder<'static, Output>),
}

/// A stream that is being compressed.
pub struct Compressor {
    encoder: Option<Encoder>,
    output: Output,
}

impl Compressor {
    /// Begins a frame; `None` for no compression.
    ///
    /// # Errors
    /// Where the library has no memory.
    pub fn new(compression: Compression) -> Result<Option<Self>> {
        let output = Output::default();
        let encoder = match compression.method {
            Method::None => return Ok(None),
            Method::Gzip => {
                let level = compression
                    .level
                    .map_or(flate2::Compression::default(), |level| {
                        flate2::Compression::new(level.unsigned_abs())
                    });
                Encoder::Gzip(GzEncoder::new(output.clone(), level))
            }
            Method::Lz4 => {
                // 0 is the fast mode, which the command line calls level 1.
                let level = compression.level.map_or(0, i32::unsigned_abs);
                // As basebackup_lz4.c has it: large blocks that are not gathered first.
                let encoder = lz4::EncoderBuilder::new()
                    .level(level)
                    .block_size(lz4::BlockSize::Max256KB)
                    .auto_flush(true)
                    .checksum(lz4::ContentChecksum::NoChecksum)
                    .block_checksum(lz4::liblz4::BlockChecksum::NoBlockChecksum)
                    .build(output.clone());
                Encoder::Lz4(encoder.map_err(|error| failure(&error))?)
            }
            Method::Zstd => {
                let level = compression.level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL);
                let encoder = zstd::Encoder::new(output.clone(), level);
                Encoder::Zstd(encoder.map_err(|error| failure(&error))?)
            }
        };
        Ok(Some(Self {
            encoder: Some(encoder),
            output,
        }))
    }

    /// Compresses bytes, and hands what has come out by now to `take`.
    ///
    /// # Errors
    /// The library's, and those of `take`.
    pub fn write(&mut self, bytes: &[u8], take: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        let written = match &mut self.encoder {
            Some(Encoder::Gzip(encoder)) => encoder.write_all(bytes),
            Some(Encoder::Lz4(encoder)) => encoder.write_all(bytes),
            Some(Encoder::Zstd(encoder)) => encoder.write_all(bytes),
            None => Ok(()),
        };
        written.map_err(|error| failure(&error))?;
        self.hand_over(take)
    }

    /// Ends the frame, and hands over what is left of it.
    ///
    /// # Errors
    /// As [`Compressor::write`].
    pub fn finish(&mut self, take: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        let finished = match self.encoder.take() {
            Some(Encoder::Gzip(encoder)) => encoder.finish().map(drop),
            Some(Encoder::Lz4(encoder)) => encoder.finish().1,
            Some(Encoder::Zstd(encoder)) => encoder.finish().map(drop),
            None => Ok(()),
        };
        finished.map_err(|error| failure(&error))?;
        self.hand_over(take)
    }

    fn hand_over(&self, take: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        let mut output = self.output.0.borrow_mut();
        take(&output)?;
        output.clear();
        Ok(())
    }
}

fn failure(error: &io::Error) -> Error {
    Error::new(
        Sqlstate::ERRCODE_INTERNAL_ERROR,
        format!("could not compress data: {error}"),
    )
}
