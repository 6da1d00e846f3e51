//! What a running backup is.
//!
//! The leader ([`leader`]) starts it, walks the directories ([`walk`]), shares the listing
//! ([`listing`]) and stops it ([`stop`]). Workers ([`worker`]) join it and take files from its
//! [`queue`]. At the end it has a range of WAL ([`wal_range`]) and a manifest ([`manifest`]).

pub mod leader;
pub mod listing;
pub mod lookup;
pub mod manifest;
pub mod options;
pub mod queue;
#[cfg(any(test, feature = "pg_test"))]
mod queue_tests;
pub mod stop;
pub mod stop_row;
pub mod tablespace;
pub mod unlogged;
pub mod wal_range;
pub mod walk;
pub mod worker;
