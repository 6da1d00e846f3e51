//! Parallel physical base backups of PostgreSQL through plain SQL.
//!
//! One session, the leader, starts and stops a backup; any number of workers stream its files as
//! tar archives through `COPY (SELECT send_backup_files(…)) TO STDOUT`.
//!
//! * [`api`] — the SQL functions: they check arguments, call, and convert results.
//! * [`backup`] — what a running backup is: its start and stop, the state that its sessions share,
//!   the queue of files, the walk over the directories, the closing WAL range and manifest.
//! * [`stream`] — what a file passes through on its way out: read, verify, checksum, throttle,
//!   tar, COPY.
//! * [`server`] — safe types over PostgreSQL's functions. The only unsafe code is there.
//!
//! The formats (tar members, manifest, file names, WAL names) are in the crate `backup_format`,
//! which knows no server.

mod api;
mod backup;
mod server;
mod stream;

/// Where the expansion of `#[pg_guard] extern "C-unwind"` looks for its guard.
mod ffi {
    pub(crate) use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
}

pgrx::pg_module_magic!();

pgrx::extension_sql_file!("../sql/functions.sql", name = "functions", finalize);

/// Called once in each session that loads the library.
#[pgrx::pg_guard]
extern "C-unwind" fn _PG_init() {
    server::parameters::define();
    server::function_hook::install(backup::pg_backup_stop::check_call);
    server::background_worker::define(backup::retention::hold_wal);
}

/// What `cargo pgrx test` asks of a crate: how the scratch server of `#[pg_test]` is set up.
#[cfg(test)]
pub mod pg_test {
    /// Nothing has to be prepared.
    pub fn setup(_options: Vec<&str>) {}

    /// Settings of the scratch server.
    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["max_wal_senders = 4", "wal_level = replica"]
    }
}
