//! What a running backup is.
//!
//! Its sessions share its [`state`] and, once they are listed, its [`files`], whose slots are in a
//! [`file_table`]. The leader ([`leader`]) starts it, walks the directories ([`walk`]), shares the listing
//! ([`listing`]) and stops it ([`stop`]). Workers ([`worker`]) join it and take files from its
//! [`queue`], or parts of large files ([`file_parts`]); a [`gate`] keeps what has been sent as it is while a stop counts it. Its WAL leaves while it runs ([`wal_sender`],
//! [`wal_state`]), or at the end, as a range ([`wal_range`]). Then it has a manifest ([`manifest`]).
//!
//! Imports: `server`.

pub mod closing_files;
pub mod damage;
pub mod file_parts;
#[cfg(any(test, feature = "pg_test"))]
mod file_parts_tests;
pub mod file_table;
pub mod files;
#[cfg(any(test, feature = "pg_test"))]
mod files_tests;
pub mod gate;
pub mod leader;
pub mod listing;
pub mod lookup;
pub mod manifest;
pub mod options;
mod owner;
pub mod pg_backup_stop;
pub mod queue;
#[cfg(any(test, feature = "pg_test"))]
mod queue_tests;
pub mod retention;
pub mod retention_state;
pub mod state;
pub mod stop;
pub mod stop_row;
pub mod tablespace;
mod taken;
mod taken_prefix;
pub mod unlogged;
pub mod wal_range;
pub mod wal_sender;
pub mod wal_state;
pub mod walk;
pub mod worker;
