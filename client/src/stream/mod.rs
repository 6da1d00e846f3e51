//! From the bytes of a COPY or of an archive to members: decompression, names, checksums, and
//! which stream owns a file.
//!
//! Imports: `manifest`, `runtime`, `console`, `cli`.

pub mod archive_files;
pub mod decompressor;
pub mod file_ownership;
pub mod input;
pub mod member_check;
pub mod part;
pub mod regular_file;
