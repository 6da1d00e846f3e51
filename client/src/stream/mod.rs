//! From the bytes of a COPY or of an archive to members: decompression, names and checksums.
//!
//! Imports: `repository`, `manifest`, `storage`, `runtime`, `console`, `cli`.

pub mod archive_files;
pub mod archive_parts;
pub mod decompressor;
pub mod input;
mod lz4_frame;
pub mod member_check;
pub mod part;
