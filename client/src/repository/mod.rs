//! Formats and names of a repository: a folder whose folders are backups in tar format, each with a
//! description of the backup and an index beside each archive. docs/repository.md has the formats.
//!
//! A backup counts once its manifest is there, which is written last and removed first.
//!
//! Imports: `storage`, `manifest`, `runtime`, `console`, `cli`.

pub mod backup_info;
pub mod catalog;
mod format;
pub mod index;
pub mod join_info;
