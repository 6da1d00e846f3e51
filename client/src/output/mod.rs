//! Where a backup goes: a data directory, archives, commands or standard output; what is written
//! is synchronized, and removed after an error.
//!
//! Imports: `server`, `stream`, `repository`, `manifest`, `storage`, `runtime`, `console`, `cli`.

pub mod archive_set;
pub mod archive_stream;
pub mod archive_writer;
pub mod claim;
pub mod cleanup;
pub mod command_guard;
pub mod compressor;
pub mod data_directory;
pub mod filter;
pub mod free_space;
pub mod layout;
pub mod new_backup;
pub mod pipe;
pub mod standard_output;
pub mod sync;
pub mod target;
pub mod unpacker;
pub mod wal_receiver;
pub mod wal_store;
pub mod withheld_end;
pub mod write_behind;
