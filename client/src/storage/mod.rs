//! Folders in which backups are kept: directories and prefixes of object stores, with encryption.
//!
//! Imports: `runtime`, `console`, `cli`.

pub mod encryption;
pub mod folder;
#[cfg(feature = "object-store")]
pub mod objects;
#[cfg(not(feature = "object-store"))]
#[path = "no_objects.rs"]
pub mod objects;
pub mod regular_file;
pub mod source;
