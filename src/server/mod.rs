//! Safe types over PostgreSQL's functions: the only unsafe code of the extension.
//!
//! One file for each header that it wraps. What differs between major versions of the server is
//! decided here and nowhere else.
//!
//! Two rules hold in every file. A call that can raise an ERROR goes through a guard (pgrx's
//! bindings have one, our own `extern` blocks carry `#[pg_guard]`), so that it arrives as an
//! unwinding panic that runs destructors. And a destructor never makes a call that can raise.
//!
//! Imports: nothing of the extension.

#![allow(unsafe_code)]

pub mod allocation;
pub mod backend_progress;
pub mod background_worker;
pub mod backup_control;
pub mod checksum;
pub mod client;
#[cfg(any(test, feature = "pg_test"))]
mod client_tests;
pub mod clock;
pub mod control_file;
pub mod copy_query;
#[cfg(target_arch = "x86_64")]
pub mod crc32c;
#[cfg(not(target_arch = "x86_64"))]
#[path = "crc32c_elsewhere.rs"]
pub mod crc32c;
pub mod encoding;
pub mod file;
pub mod function_hook;
pub mod incremental;
pub mod interrupt;
pub mod lock_registry;
pub mod page_cache;
pub mod page_checksum;
pub mod parameters;
pub mod process;
pub mod recovery;
pub mod replication_slot;
pub mod report;
pub mod segment;
pub mod settings;
pub mod snapshot;
