//! Stages that a file passes on its way out of the server.
//!
//! ```text
//! file_sender ──> page_verifier ──> checksum ──> archive ──> sinks: compress ──> throttle ──> client
//! ```
//!
//! A file is read into the [`message`] that will carry it; pages are verified ([`page_verifier`])
//! and the manifest's checksum is taken there, while they are in the processor's cache, and the
//! same memory is handed to the connection. Nothing is copied in between.
//!
//! Each stream is one tar [`archive`], whose messages pass the [`sink`]s. [`data_files`] are the streams of
//! workers, [`closing`] is the one that ends a backup; [`whole_backup`] is all in one. WAL ([`wal_files`]) leaves in
//! streams of its own ([`wal_stream`]), or in the one at the end.
//!
//! Imports: `backup`, `server`.

pub mod archive;
pub mod closing;
pub mod compress;
pub mod data_files;
pub mod file_sender;
pub mod message;
pub mod page_verifier;
pub mod rate;
pub mod sink;
pub mod throttle;
pub mod wal_files;
pub mod wal_stream;
pub mod whole_backup;
