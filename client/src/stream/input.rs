//! Stream of one archive, optionally compressed.

use anyhow::{Result, ensure};
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

    /// Creates a reader that begins in the middle of an archive, at a member with that position.
    ///
    /// # Errors
    /// As [`Input::new`].
    pub fn at(method: Method, position: u64) -> Result<Self> {
        Ok(Self {
            decompressor: match position {
                0 => Decompressor::new(method)?,
                _ => Decompressor::in_the_middle(method)?,
            },
            reader: Reader::at(position),
        })
    }

    /// Ends a part of an archive, which ends at a position of it.
    ///
    /// # Errors
    /// An error if the part does not end between two members at that position.
    pub fn finish_part(&self, end: u64) -> Result<()> {
        ensure!(
            self.reader.position() == end && self.reader.is_between_members(),
            "the index does not fit the archive: no member begins at byte {end}"
        );
        Ok(())
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
