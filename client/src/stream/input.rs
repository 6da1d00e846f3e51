//! Stream of one archive, optionally compressed.

use anyhow::Result;
use backup_format::compression::Method;
use backup_format::member::Reader;

use crate::stream::decompressor::Decompressor;

/// Reader of a stream.
pub struct Input {
    decompressor: Decompressor,
    reader: Reader,
}

impl Input {
    /// Creates it.
    ///
    /// # Errors
    /// An error if the library cannot allocate memory.
    pub fn new(method: Method) -> Result<Self> {
        Ok(Self {
            decompressor: Decompressor::new(method)?,
            reader: Reader::default(),
        })
    }

    /// Decompresses the next bytes and passes the archive's bytes to `take`, with the tar reader.
    ///
    /// # Errors
    /// An error if the bytes are not in that format, and errors of `take`.
    pub fn push(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(&mut Reader, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let Self {
            decompressor,
            reader,
        } = self;
        decompressor.push(bytes, &mut |plain| take(reader, plain))
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// An error if the archive or its compressed frame is incomplete.
    pub fn finish(&self) -> Result<()> {
        self.decompressor.finish()?;
        Ok(self.reader.finish()?)
    }
}
