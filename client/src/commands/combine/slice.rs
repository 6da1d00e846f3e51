//! Bytes of a file of a backup, which are checked against its manifest while they are read.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, anyhow, bail, ensure};
use backup_format::checksum::Algorithm;

use crate::console::messages::reason;
use crate::manifest::digest::Digest;
use crate::manifest::expected;
use crate::runtime::cancellation::Cancellation;

/// Bytes of a read that nothing is made of.
const PIECE: usize = 256 * 1024;

/// A file of a backup: a file of its own, or a part of an archive.
#[derive(Clone, Debug)]
pub struct Slice {
    /// What it is in.
    pub file: Arc<File>,
    /// Where it begins there, in bytes.
    pub offset: u64,
    /// Its size in bytes.
    pub size: u64,
    /// What it is called in messages.
    pub name: String,
    /// Where it is, if it is a file of its own.
    pub path: Option<PathBuf>,
}

impl Slice {
    /// Reads bytes from a position.
    ///
    /// # Errors
    /// Errors of the operating system, and where it is shorter.
    pub fn read_at(&self, buffer: &mut [u8], position: u64) -> Result<()> {
        let end = position.saturating_add(buffer.len() as u64);
        ensure!(
            end <= self.size,
            "could not read file \"{}\": read {} of {end}",
            self.name,
            self.size
        );
        let read = self.file.read_exact_at(buffer, self.offset + position);
        read.map_err(|error| anyhow!("could not read file \"{}\": {}", self.name, reason(&error)))
    }

    /// Reader of it from its start.
    pub fn reader(&self) -> impl Read {
        Reader {
            slice: self,
            position: 0,
        }
    }
}

struct Reader<'a> {
    slice: &'a Slice,
    position: u64,
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Slice {
            file, offset, size, ..
        } = self.slice;
        let left = usize::try_from(size - self.position).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let length = file.read_at(&mut buffer[..length], offset + self.position)?;
        self.position += length as u64;
        Ok(length)
    }
}

/// A slice that is read from its start to its end, once.
pub struct Checked<'a> {
    slice: Slice,
    cancellation: &'a Cancellation,
    expected: Option<expected::File<'a>>,
    digest: Digest,
    position: u64,
    piece: Vec<u8>,
}

impl<'a> Checked<'a> {
    /// Begins; nothing is checked where nothing is expected.
    ///
    /// # Errors
    /// Where the size is not that of the manifest.
    pub fn new(
        slice: Slice,
        expected: Option<expected::File<'a>>,
        cancellation: &'a Cancellation,
    ) -> Result<Self> {
        if let Some(expected) = expected {
            ensure!(
                slice.size == expected.size,
                "\"{}\" has size {} on disk but size {} in the manifest",
                slice.name,
                slice.size,
                expected.size
            );
        }
        let algorithm = expected.map_or(Algorithm::None, |expected| expected.algorithm);
        Ok(Self {
            slice,
            cancellation,
            expected,
            digest: Digest::new(algorithm),
            position: 0,
            piece: Vec::new(),
        })
    }

    /// What is read.
    pub fn slice(&self) -> &Slice {
        &self.slice
    }

    /// The checksum of the manifest, if it is of that algorithm.
    pub fn checksum(&self, algorithm: Algorithm) -> Option<&'a [u8]> {
        let expected = self.expected?;
        (expected.algorithm == algorithm).then_some(expected.checksum)
    }

    /// Reads the next bytes.
    ///
    /// # Errors
    /// As [`Slice::read_at`], and cancellation.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.cancellation.check()?;
        self.slice.read_at(buffer, self.position)?;
        self.digest.update(buffer);
        self.position += buffer.len() as u64;
        Ok(())
    }

    /// Goes to a position that was not passed yet.
    ///
    /// # Errors
    /// As above.
    pub fn go_to(&mut self, position: u64) -> Result<()> {
        if matches!(self.digest, Digest::None) {
            self.position = position;
        }
        while self.position < position {
            let mut piece = std::mem::take(&mut self.piece);
            let left = usize::try_from(position - self.position).unwrap_or(usize::MAX);
            piece.resize(piece.len().max(left.min(PIECE)), 0);
            let length = left.min(piece.len());
            self.read(&mut piece[..length])?;
            self.piece = piece;
        }
        Ok(())
    }

    /// Reads the rest, and compares the checksum.
    ///
    /// # Errors
    /// As above, and where it is not that of the manifest.
    pub fn finish(mut self) -> Result<()> {
        self.go_to(self.slice.size)?;
        let Some(expected) = self.expected else {
            return Ok(());
        };
        let name = format!("\"{}\"", self.slice.name);
        match expected.compare(&name, &self.digest.finish()) {
            None => Ok(()),
            Some(difference) => bail!("{difference}"),
        }
    }
}
