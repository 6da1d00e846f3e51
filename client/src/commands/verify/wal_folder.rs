//! Temporary directory for WAL from archives, because pg_waldump reads files. It holds the segments
//! that the backup needs, and is removed with the program.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::{env, process};

use anyhow::{Context, Result};
use backup_format::timeline::WalRange;
use backup_format::wal::{SegmentName, SegmentSize};

/// A folder for WAL.
#[derive(Debug)]
pub struct WalFolder {
    path: PathBuf,
    ranges: Vec<WalRange>,
}

/// What becomes of a member of an archive.
#[derive(Debug)]
pub enum Segment {
    /// It is none that is needed.
    NotNeeded,
    /// The first of its name, and where it goes.
    New(File),
    /// There was one before.
    Twice,
}

impl WalFolder {
    /// Makes it where the environment wants temporary files, for nobody else.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn create(ranges: &[WalRange]) -> Result<Self> {
        let parent = env::temp_dir();
        let mut number = 0;
        loop {
            let path = parent.join(format!("pg_parallel_backup.{}.{number}", process::id()));
            match fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    return Ok(Self {
                        path,
                        ranges: ranges.to_vec(),
                    });
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists && number < 1000 => {
                    number += 1;
                }
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("could not create directory \"{}\"", path.display())
                    });
                }
            }
        }
    }

    /// An error if it is NULL.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a file for a member of an archive, where that is a segment that is needed.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn file(&self, path: &[u8], size: u64) -> Result<Segment> {
        let Some(name) = path.strip_prefix(b"pg_wal/").and_then(SegmentName::parse) else {
            return Ok(Segment::NotNeeded);
        };
        let segment_size = u32::try_from(size).ok().and_then(SegmentSize::new);
        if segment_size.is_some_and(|size| !self.needs(name, size)) {
            return Ok(Segment::NotNeeded);
        }
        let path = self.path.join(name.to_string());
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o600);
        match options.open(&path) {
            Ok(file) => Ok(Segment::New(file)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Segment::Twice),
            Err(error) => {
                Err(error).with_context(|| format!("could not create file \"{}\"", path.display()))
            }
        }
    }

    fn needs(&self, name: SegmentName, size: SegmentSize) -> bool {
        let number = size.number_of(name.log, name.seg);
        self.ranges.iter().any(|range| {
            (size.segment_of(range.start)..=size.segment_before(range.end)).contains(&number)
        })
    }
}

impl Drop for WalFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
