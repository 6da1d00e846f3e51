//! What the outside tests of `pg_parallel_backup` share: clusters made for one test, sessions that
//! stream, backups put together from the streams, and the judges of the result.
//!
//! The judges are programs that know nothing of the extension: GNU tar unpacks the streams,
//! `pg_verifybackup` reads the manifest, and a server starts from what was unpacked.
//!
//! Everything lives in one folder below `/tmp` that disappears with the test process, however that
//! process ends. Servers listen on a Unix-domain socket in that folder and nowhere else.

pub mod archive;
pub mod backup;
pub mod builder;
pub mod client;
pub mod crafted;
pub mod disk;
pub mod encrypted;
pub mod failure;
pub mod faults;
pub mod last_files;
pub mod leftover;
pub mod lossy;
pub mod member;
pub mod notices;
pub mod page;
pub mod planted;
pub mod program;
pub mod replication;
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
