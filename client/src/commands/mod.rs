//! The commands of the program, one module each.
//!
//! Imports: `output`, `server`, `stream`, `repository`, `manifest`, `storage`, `runtime`, `console`, `cli`.

pub mod archive_wait;
pub mod backup;
pub mod check;
pub mod combine;
pub mod completion;
pub mod expire;
pub mod file_streams;
pub mod host_locks;
pub mod hosts;
pub mod join;
pub mod list;
pub mod lost_directories;
pub mod new_directory;
pub mod new_entry;
pub mod restore;
pub mod standby;
pub mod verify;
pub mod wal_stream;
