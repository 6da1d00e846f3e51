//! A stream as the server sends it: one archive, which may be compressed.

use anyhow::Result;
use backup_format::compression::Method;
use backup_format::member::Reader;

use crate::stream::decompressor::Decompressor;

/// A stream that is being read.
pub struct Input {
    decompressor: Decompressor,
    reader: Reader,
}

impl Input {
    /// Begins.
    ///
    /// # Errors
    /// Where the library has no memory.
    pub fn new(method: Method) -> Result<Self> {
        Ok(Self {
            decompressor: Decompressor::new(method)?,
            reader: Reader::default(),
        })
    }

    /// Takes the next bytes, and hands what they become, the archive's, to `take`, with the reader
    /// that knows the place in it.
    ///
    /// # Errors
    /// Where they are not of that format, and those of `take`.
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

    /// The stream has ended.
    ///
    /// # Errors
    /// Where the archive has not, or what it is compressed into.
    pub fn finish(&self) -> Result<()> {
        self.decompressor.finish()?;
        Ok(self.reader.finish()?)
    }
}
