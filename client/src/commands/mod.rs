//! The commands of the program, one module each.
//!
//! Imports: `output`, `server`, `stream`, `manifest`, `runtime`, `console`, `cli`.

pub mod archive_wait;
pub mod backup;
pub mod check;
pub mod combine;
pub mod completion;
pub mod file_streams;
pub mod lost_directories;
pub mod new_directory;
pub mod restore;
pub mod standby;
pub mod verify;
pub mod wal_stream;
