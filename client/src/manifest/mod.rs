//! The backup manifest: parser, and comparison with received files, which spares reading them
//! again.
//!
//! A backup may have millions of files. Nothing here holds a whole manifest, or more than a
//! [`file_table`] of its files.
//!
//! Imports: `runtime`, `console`, `cli`.

pub mod backup_path;
pub mod comparison;
pub mod digest;
pub mod exemption;
pub mod expected;
pub mod file_parts;
pub mod file_table;
pub mod hex;
pub mod incoming_files;
pub mod manifest_file;
pub mod new_manifest;
pub mod own_checksum;
pub mod parser;
pub mod received_files;
pub mod shortened;
pub mod stream;

use anyhow::{Result, ensure};

/// Size limit of a manifest: 1 GB, as in the server.
pub const LARGEST: u64 = 1 << 30;

/// Checks the size of a manifest.
///
/// # Errors
/// An error if it is too large.
pub fn check_size(size: u64) -> Result<()> {
    ensure!(size < LARGEST, "the manifest is too large");
    Ok(())
}
