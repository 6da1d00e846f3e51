//! Compression of an archive: one complete frame (with gzip: member).
//!
//! What goes in comes out some time later, and all of it when the compressor is finished. As in
//! core, frames of LZ4 and zstd carry no checksums of their own: the manifest has them.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use backup_format::compression::Method;
use flate2::write::GzEncoder;

use crate::cli::configuration::Compress;

/// What has come out of an encoder. Encoders own a writer for as long as they live, and write to it
/// even when they are dropped: so it is memory, and never a file or a command.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Encoder {
    /// Bytes stay as they are.
    None(Output),
    Gzip(GzEncoder<Output>),
    Lz4(lz4::Encoder<Output>),
    Zstd(zstd::Encoder<'static, Output>),
}

/// An archive that is being compressed.
pub struct Compressor {
    encoder: Encoder,
    output: Output,
}

impl Compressor {
    /// Begins a frame.
    ///
    /// # Errors
    /// Where the library has no memory, or cannot do what is asked for.
    pub fn new(how: &Compress) -> Result<Self> {
        let output = Output::default();
        let encoder = Encoder::new(how, output.clone()).context("could not compress data")?;
        Ok(Self { encoder, output })
    }

    /// Compresses bytes, and hands what has come out by now to `take`.
    ///
    /// # Errors
    /// The library's, and those of `take`.
    pub fn write(&mut self, bytes: &[u8], take: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        if let Encoder::None(_) = self.encoder {
            return take(bytes);
        }
        self.encoder
            .write_all(bytes)
            .context("could not compress data")?;
        let mut output = self.output.lock();
        take(&output)?;
        output.clear();
        Ok(())
    }

    /// Ends the frame, and hands over what is left of it.
    ///
    /// # Errors
    /// As [`Compressor::write`].
    pub fn finish(self, take: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        self.encoder.finish().context("could not compress data")?;
        take(&self.output.lock())
    }
}

impl Encoder {
    fn new(how: &Compress, output: Output) -> io::Result<Self> {
        let level = how.compression.level;
        Ok(match how.compression.method {
            Method::None => Self::None(output),
            Method::Gzip => {
                let level = level.map_or_else(flate2::Compression::default, |level| {
                    flate2::Compression::new(level.unsigned_abs())
                });
                Self::Gzip(GzEncoder::new(output, level))
            }
            Method::Lz4 => {
                let encoder = lz4::EncoderBuilder::new()
                    // 0 is the fast mode, which the command line calls level 1.
                    .level(level.map_or(0, i32::unsigned_abs))
                    .block_size(lz4::BlockSize::Max256KB)
                    .auto_flush(true)
                    .checksum(lz4::ContentChecksum::NoChecksum)
                    .block_checksum(lz4::liblz4::BlockChecksum::NoBlockChecksum)
                    .build(output)?;
                Self::Lz4(encoder)
            }
            Method::Zstd => {
                let level = level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL);
                let mut encoder = zstd::Encoder::new(output, level)?;
                if how.workers > 0 {
                    encoder.multithread(how.workers)?;
                }
                if how.long {
                    encoder.long_distance_matching(true)?;
                }
                Self::Zstd(encoder)
            }
        })
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::None(output) => output.write_all(bytes),
            Self::Gzip(encoder) => encoder.write_all(bytes),
            Self::Lz4(encoder) => encoder.write_all(bytes),
            Self::Zstd(encoder) => encoder.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::None(_) => Ok(()),
            Self::Gzip(encoder) => encoder.finish().map(drop),
            Self::Lz4(encoder) => encoder.finish().1,
            Self::Zstd(encoder) => encoder.finish().map(drop),
        }
    }
}
