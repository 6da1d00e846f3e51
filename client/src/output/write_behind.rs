//! Writing to the disk while more bytes arrive, so that the synchronization at the end has little left to do.

use std::num::NonZeroU64;
use std::os::fd::AsFd;

use rustix::fs::{Advice, fadvise};

/// Bytes after which the system is told to begin.
const STRIDE: u64 = 8 << 20;

/// Written bytes of a file, of which the disk gets some while others arrive.
#[derive(Debug)]
pub struct WriteBehind {
    is_on: bool,
    /// Place up to which bytes were written.
    written: u64,
    /// Place up to which the disk has them, or gets them at the moment.
    begun: u64,
}

impl WriteBehind {
    /// Begins at a place of a file. Nothing is done unless the file is `synchronized` in the end: then the system
    /// chooses the time.
    pub fn from(place: u64, synchronized: bool) -> Self {
        Self {
            is_on: synchronized,
            written: place,
            begun: place,
        }
    }

    /// Bytes were written to the file, behind all others.
    pub fn wrote(&mut self, file: impl AsFd, bytes: usize) {
        self.written += bytes as u64;
        let waiting = self.written - self.begun;
        if !self.is_on || waiting < STRIDE {
            return;
        }
        // This writes changed pages, without a wait for the disk, and drops only pages that are on it. It is advice:
        // where it fails, the synchronization takes longer.
        let _ = fadvise(file, self.begun, NonZeroU64::new(waiting), Advice::DontNeed);
        self.begun = self.written;
    }

    /// The file was cut off at this place, where the next bytes go.
    pub fn went_back(&mut self, position: u64) {
        self.written = position;
        self.begun = self.begun.min(position);
    }
}
