//! Compression of a stream in the server: one complete frame.

use std::io;

use backup_compression::Encoder;
use backup_format::compression::Compression;

use crate::server::report::{Error, Result, Sqlstate};

/// A stream that is being compressed.
pub struct Compressor(Encoder);

impl Compressor {
    /// Begins a frame; `None` for no compression.
    ///
    /// # Errors
    /// Where the library has no memory.
    pub fn new(compression: Compression) -> Result<Option<Self>> {
        let encoder = Encoder::new(compression).map_err(|error| failed(&error))?;
        Ok(encoder.map(Self))
    }

    /// Compresses bytes, and hands what has come out by now to `take`.
    ///
    /// # Errors
    /// The library's, and those of `take`.
    pub fn write(&mut self, bytes: &[u8], take: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        self.0.write(bytes).map_err(|error| failed(&error))?;
        self.0.drain(take)
    }

    /// Ends the frame, and hands over what is left of it.
    ///
    /// # Errors
    /// As [`Compressor::write`].
    pub fn finish(&mut self, take: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        self.0.finish().map_err(|error| failed(&error))?;
        self.0.drain(take)
    }
}

fn failed(error: &io::Error) -> Error {
    Error::new(
        Sqlstate::ERRCODE_INTERNAL_ERROR,
        format!("could not compress data: {error}"),
    )
}
