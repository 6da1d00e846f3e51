//! From the bytes of a COPY or of an archive to members: decompression, names and checksums.
//!
//! Imports: `manifest`, `runtime`, `console`, `cli`.

pub mod archive_files;
pub mod decompressor;
pub mod input;
pub mod member_check;
pub mod part;
pub mod regular_file;
