//! The files of the result.

use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, anyhow};
use backup_format::checksum::Algorithm;
use backup_format::manifest;
use rustix::fs::{copy_file_range, ioctl_ficlone};

use super::WAL;
use super::recipe::{Recipe, Run};
use super::slice::{Checked, Slice};
use crate::cli::configuration::CopyMethod;
use crate::console::progress::{Counter, Tally};
use crate::manifest::backup_path::display;
use crate::manifest::digest::Digest;
use crate::manifest::exemption::is_within;
use crate::manifest::new_manifest::NewManifest;
use crate::output::data_directory::DataDirectory;
use crate::runtime::cancellation::Cancellation;

/// Bytes that are written at once: little enough to stay in the processor's cache.
const PIECE: usize = 256 * 1024;

/// Where the result goes.
pub struct Output<'a> {
    /// Its directories.
    pub folder: &'a DataDirectory,
    /// Its manifest, if it gets one.
    pub manifest: Option<&'a NewManifest>,
    /// The checksums of that.
    pub algorithm: Algorithm,
    /// Mode of its files.
    pub file_mode: u32,
    /// How whole files are copied.
    pub copy: CopyMethod,
    /// Cancellation flag.
    pub cancellation: &'a Cancellation,
}

/// A file that is being written.
struct Target<'a> {
    output: &'a Output<'a>,
    path: &'a [u8],
    file: File,
    digest: Digest,
    /// Bytes that are written next.
    piece: Vec<u8>,
    filled: usize,
    size: u64,
    tally: Tally<'a>,
}

impl Output<'_> {
    /// Writes a file that is held in memory.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn write(&self, path: &[u8], content: &[u8]) -> Result<()> {
        let counter = Counter::default();
        let mut target = Target::create(self, path, self.digest_of(path), &counter)?;
        for piece in content.chunks(PIECE) {
            target.room(piece.len())?.copy_from_slice(piece);
        }
        target.finish(None)
    }

    /// Copies a file of a backup.
    ///
    /// # Errors
    /// Errors of the operating system, and where the file is not as its manifest says.
    pub fn copy(&self, path: &[u8], mut source: Checked<'_>, counter: &Counter) -> Result<()> {
        // What is compared with the manifest needs no second checksum.
        let known = source.checksum(self.algorithm).map(<[u8]>::to_vec);
        if let CopyMethod::Link | CopyMethod::Clone = self.copy {
            let slice = source.slice().clone();
            source.finish()?;
            return self.share(path, &slice, known, counter);
        }
        let digest = match known {
            Some(_) => Digest::None,
            None => self.digest_of(path),
        };
        let mut target = Target::create(self, path, digest, counter)?;
        let size = source.slice().size;
        target.take(&mut source, 0, size)?;
        source.finish()?;
        target.finish(known)
    }

    /// Makes a file that shares its bytes with one of a backup.
    fn share(
        &self,
        path: &[u8],
        slice: &Slice,
        known: Option<Vec<u8>>,
        counter: &Counter,
    ) -> Result<()> {
        self.cancellation.check()?;
        let cloned = match &slice.path {
            Some(source) if self.copy == CopyMethod::Link => {
                self.folder.link_file(source, path)?;
                None
            }
            _ => {
                let file = self.folder.create_file(path, self.file_mode, None)?;
                ioctl_ficlone(&file, &*slice.file).map_err(|error| {
                    anyhow!(
                        "error while cloning file \"{}\" to \"{}\": {error}",
                        slice.name,
                        display(path)
                    )
                })?;
                Some(file.into_std())
            }
        };
        let digest = match known {
            Some(checksum) => checksum,
            None => checksum_of(slice, self.digest_of(path), self.cancellation)?,
        };
        let mut tally = Tally::new(counter);
        tally.add_bytes(slice.size);
        tally.add_file();
        tally.keep();
        self.list(
            path,
            cloned.as_ref().unwrap_or(&slice.file),
            slice.size,
            &digest,
        )
    }

    /// Puts a file together.
    ///
    /// # Errors
    /// As [`Output::copy`].
    pub fn assemble(&self, path: &[u8], mut recipe: Recipe<'_>, counter: &Counter) -> Result<()> {
        if recipe.is_copy()
            && let Some(full) = recipe.sources.pop()
        {
            for source in recipe.sources {
                source.file.finish()?;
            }
            return self.copy(path, full.file, counter);
        }
        let mut target = Target::create(self, path, self.digest_of(path), counter)?;
        let mut position = 0;
        while let Some(Run {
            source,
            position: place,
            length,
        }) = recipe.next_run(position)
        {
            match source {
                Some(number) => target.take(&mut recipe.sources[number].file, place, length)?,
                None => target.zeros(length)?,
            }
            position += length;
        }
        recipe.finish()?;
        target.finish(None)
    }

    fn digest_of(&self, path: &[u8]) -> Digest {
        match self.manifest {
            Some(_) if !is_within(path, WAL) => Digest::new(self.algorithm),
            _ => Digest::None,
        }
    }

    /// Adds a file to the manifest.
    fn list(&self, path: &[u8], file: &File, size: u64, digest: &[u8]) -> Result<()> {
        let Some(manifest) = self.manifest.filter(|_| !is_within(path, WAL)) else {
            return Ok(());
        };
        let modified = file.metadata().and_then(|found| found.modified());
        let modified =
            modified.with_context(|| format!("could not stat file \"{}\"", display(path)))?;
        let seconds = match modified.duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
            Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX),
        };
        manifest.add(&manifest::File {
            path,
            size,
            mtime: seconds,
            digest,
        })
    }
}

impl<'a> Target<'a> {
    fn create(
        output: &'a Output<'a>,
        path: &'a [u8],
        digest: Digest,
        counter: &'a Counter,
    ) -> Result<Self> {
        output.cancellation.check()?;
        let file = output.folder.create_file(path, output.file_mode, None)?;
        Ok(Self {
            output,
            path,
            file: file.into_std(),
            digest,
            piece: Vec::new(),
            filled: 0,
            size: 0,
            tally: Tally::new(counter),
        })
    }

    /// Room for the next bytes, which may be as many as a piece has.
    fn room(&mut self, length: usize) -> Result<&mut [u8]> {
        if self.filled + length > PIECE {
            self.flush()?;
        }
        let from = self.filled;
        self.filled += length;
        // Most files are small.
        if self.piece.len() < self.filled {
            let is_small = self.filled <= PIECE / 4;
            self.piece
                .resize(if is_small { self.filled } else { PIECE }, 0);
        }
        Ok(&mut self.piece[from..from + length])
    }

    fn flush(&mut self) -> Result<()> {
        self.output.cancellation.check()?;
        let bytes = &self.piece[..self.filled];
        self.digest.update(bytes);
        (self.file.write_all(bytes))
            .with_context(|| format!("could not write file \"{}\"", display(self.path)))?;
        self.size += bytes.len() as u64;
        self.tally.add_bytes(bytes.len() as u64);
        self.filled = 0;
        Ok(())
    }

    /// Appends bytes of a source.
    fn take(&mut self, source: &mut Checked<'_>, position: u64, length: u64) -> Result<()> {
        source.go_to(position)?;
        let mut left = length;
        while left > 0 {
            let free = match PIECE - self.filled {
                0 => PIECE,
                free => free,
            };
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(free);
            let place = position + (length - left);
            source.read(self.room(now)?)?;
            if self.output.copy == CopyMethod::CopyFileRange {
                self.copy_in_kernel(source.slice(), place, now)?;
            }
            left -= now as u64;
        }
        Ok(())
    }

    /// Has the kernel copy what was read last, which was needed for the checksum alone.
    fn copy_in_kernel(&mut self, source: &Slice, position: u64, length: usize) -> Result<()> {
        let bytes = &self.piece[..self.filled];
        self.digest.update(bytes);
        // Zeros, or what comes before in the piece, are written as they are.
        let before = &bytes[..self.filled - length];
        let failed = || format!("could not write file \"{}\"", display(self.path));
        self.file
            .write_all_at(before, self.size)
            .with_context(failed)?;
        let mut to = self.size + before.len() as u64;
        let mut from = source.offset + position;
        let mut left = length;
        while left > 0 {
            let copied = copy_file_range(
                &*source.file,
                Some(&mut from),
                &self.file,
                Some(&mut to),
                left,
            )
            .map_err(|error| {
                anyhow!(
                    "error while copying file range from \"{}\" to \"{}\": {error}",
                    source.name,
                    display(self.path)
                )
            })?;
            if copied == 0 {
                return Err(anyhow!("file \"{}\" has become shorter", source.name));
            }
            left -= copied;
        }
        self.size += self.filled as u64;
        self.tally.add_bytes(self.filled as u64);
        self.filled = 0;
        // The next bytes may be written in the usual way.
        (self.file.seek(SeekFrom::Start(self.size)))
            .with_context(|| format!("could not seek in file \"{}\"", display(self.path)))?;
        Ok(())
    }

    fn zeros(&mut self, length: u64) -> Result<()> {
        let mut left = length;
        while left > 0 {
            let now = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE);
            self.room(now)?.fill(0);
            left -= now as u64;
        }
        Ok(())
    }

    /// The file is whole. Its checksum may be known already.
    fn finish(mut self, known: Option<Vec<u8>>) -> Result<()> {
        self.flush()?;
        let digest = match known {
            Some(digest) => digest,
            None => self.digest.finish(),
        };
        self.tally.add_file();
        self.tally.keep();
        self.output.list(self.path, &self.file, self.size, &digest)
    }
}

/// Reads a file once more, where its manifest has no checksum of the kind that is wanted.
fn checksum_of(slice: &Slice, mut digest: Digest, cancellation: &Cancellation) -> Result<Vec<u8>> {
    let mut piece = vec![0; PIECE];
    let mut position = 0;
    while position < slice.size && !matches!(digest, Digest::None) {
        cancellation.check()?;
        let left = usize::try_from(slice.size - position).unwrap_or(usize::MAX);
        let piece = &mut piece[..left.min(PIECE)];
        slice.read_at(piece, position)?;
        digest.update(piece);
        position += piece.len() as u64;
    }
    Ok(digest.finish())
}
