//! Sessions of the server: connection, set-up, the functions of the extension, cancelling, and
//! the connections of workers.
//!
//! Imports: `stream`, `manifest`, `storage`, `runtime`, `console`, `cli`.

pub mod backend;
pub mod cancel_statement;
pub mod connection;
pub mod extension;
pub mod libpq_link;
pub mod manifest_upload;
pub mod native;
pub mod opener;
pub mod replication_slot;
pub mod requirements;
pub mod row;
pub mod session;
pub mod silence;
pub mod silent_wait;
pub mod socket;
pub mod sql_text;
pub mod start_arguments;
pub mod tablespace_sizes;
pub mod workers;
