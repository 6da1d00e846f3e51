//! Compression of an archive on its way to its destination.

use anyhow::{Context, Result};
use backup_compression::Encoder;

use crate::cli::configuration::Compress;

/// An archive that is being compressed, or passes as it is.
pub struct Compressor {
    encoder: Option<Encoder>,
    how: Compress,
}

impl Compressor {
    /// Begins a frame.
    ///
    /// # Errors
    /// Where the library has no memory, or cannot do what is asked for.
    pub fn new(how: &Compress) -> Result<Self> {
        let begin = || {
            let mut encoder = Encoder::new(how.compression)?;
            if let Some(encoder) = &mut encoder {
                encoder.tune(how.workers, how.long)?;
            }
            Ok::<_, std::io::Error>(encoder)
        };
        Ok(Self {
            encoder: begin().context(FAILED)?,
            how: *how,
        })
    }

    /// Makes the next byte one from which a reader can begin: of another frame, or with gzip of the same
    /// member, because some readers expect one.
    ///
    /// # Errors
    /// Errors of the library and of `take`.
    pub fn restart(&mut self, take: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        let Some(encoder) = &mut self.encoder else {
            return Ok(());
        };
        if encoder.restart().context(FAILED)? {
            return encoder.drain(take);
        }
        let next = Self::new(&self.how)?;
        std::mem::replace(self, next).finish(take)
    }

    /// Compresses bytes, and hands what has come out by now to `take`.
    ///
    /// # Errors
    /// Errors of the library and of `take`.
    pub fn write(&mut self, bytes: &[u8], take: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        match &mut self.encoder {
            None => take(bytes),
            Some(encoder) => {
                encoder.write(bytes).context(FAILED)?;
                encoder.drain(take)
            }
        }
    }

    /// Ends the frame, and hands over what is left of it.
    ///
    /// # Errors
    /// As [`Compressor::write`].
    pub fn finish(self, take: impl FnOnce(&[u8]) -> Result<()>) -> Result<()> {
        match self.encoder {
            None => Ok(()),
            Some(mut encoder) => {
                encoder.finish().context(FAILED)?;
                encoder.drain(take)
            }
        }
    }
}

const FAILED: &str = "could not compress data";
