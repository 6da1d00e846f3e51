//! Shared code of the external tests of `pg_parallel_backup`: clusters made for one test, sessions
//! that stream, backups assembled from streams, and the programs that check the result.
//!
//! The checks use programs that know nothing of the extension. GNU tar unpacks the streams,
//! `pg_verifybackup` reads the manifest, and a server starts from the unpacked files.
//!
//! All files are in one directory below `/tmp`. It is removed when the test process ends, however
//! that happens. Servers listen on a Unix-domain socket in that directory, unless a test asks for
//! TCP.

pub mod archive;
pub mod backup;
pub mod builder;
pub mod chain;
pub mod client;
pub mod crafted;
pub mod crash;
pub mod disk;
pub mod encrypted;
pub mod failure;
pub mod faults;
pub mod forged;
pub mod gateway;
pub mod incremental;
pub mod last_files;
pub mod leftover;
pub mod lossy;
pub mod member;
pub mod memory;
pub mod notices;
pub mod object_store;
pub mod page;
pub mod parts;
pub mod planted;
pub mod program;
pub mod rate;
pub mod replication;
pub mod repository;
pub mod restored;
pub mod scratch;
pub mod server;
pub mod session;
pub mod standin;
pub mod stepwise;
pub mod stream;
pub mod template;
pub mod terminal;
pub mod turn;
pub mod verification;
pub mod wait;
pub mod wal;
pub mod workload;
