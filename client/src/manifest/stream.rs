//! Streams of a backup, by their numbers.

use anyhow::{Error, anyhow};

use crate::manifest::backup_path::display;

/// Number of a stream.
pub type Stream = u32;

/// Owner of a file or a part that a failed stream has given up.
pub const NOBODY: Stream = 0;

/// Error for a file that occurs twice: unpacking would keep one of the two.
pub fn twice(path: &[u8]) -> Error {
    anyhow!("backup contains file \"{}\" twice", display(path))
}
