//! SQL functions. They only check arguments, call the other modules and convert results.
//!
//! Their SQL definitions are in sql/functions.sql. `text` in SQL is bytes here, in the encoding of
//! the database, which need not be UTF-8. `pg_lsn` and `timestamptz` are 64-bit integers here.
//!
//! Imports: `stream`, `backup`, `server`.

// pgrx reads the columns of a result from the signature, so they must be spelt out there.
#![allow(clippy::type_complexity)]

mod arguments;
mod leading;
mod listing;
mod progress;
mod streams;

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::{Spi, pg_test};

    fn count(query: &str) -> i64 {
        match Spi::get_one::<i64>(query) {
            Ok(Some(count)) => count,
            other => panic!("{query}: {other:?}"),
        }
    }

    #[pg_test]
    fn a_backup_is_seen_while_it_runs() {
        // Other tests run backups of their own.
        let progress = "SELECT count(*) FROM backup_progress() WHERE leader_pid = pg_backend_pid()";
        assert_eq!(count(progress), 0);
        let started = "SELECT file_count FROM start_backup('seen', fast => true)";
        let files = count(started);
        assert_eq!(count(progress), 1);
        assert_eq!(
            count("SELECT files_total FROM backup_progress() WHERE label = 'seen'"),
            files
        );
        assert_eq!(count("SELECT count(*) FROM backup_filelist()"), files);
        assert_eq!(count("SELECT count(*) FROM backup_tablespaces()"), 1);
        assert_eq!(Spi::run("SELECT abort_backup()"), Ok(()));
        assert_eq!(count(progress), 0);
    }

    #[pg_test(error = "send_backup_files() can only be used in COPY (SELECT ...) TO STDOUT")]
    fn a_stream_needs_its_copy() {
        let _ = Spi::run("SELECT send_backup_files()");
    }

    #[pg_test(error = "argument \"label\" cannot be null")]
    fn a_null_label_is_refused() {
        let _ = Spi::run("SELECT start_backup(label => NULL)");
    }

    #[pg_test(error = "31 is outside the valid range for parameter \"max_rate\" (32 .. 1048576)")]
    fn a_rate_out_of_range_is_refused() {
        let _ = Spi::run("SELECT start_backup(max_rate => 31)");
    }

    #[pg_test(error = "backup 42 does not exist")]
    fn an_unknown_backup_is_refused() {
        let _ = Spi::run("SELECT backup_filelist(42)");
    }

    #[pg_test(error = "a backup is already in progress in this session")]
    fn a_second_backup_in_a_session_is_refused() {
        let started = Spi::run("SELECT start_backup(fast => true)");
        assert_eq!(started, Ok(()));
        let _ = Spi::run("SELECT start_backup(fast => true)");
    }

    #[pg_test(error = "cannot use pg_backup_stop() for a backup started by start_backup()")]
    fn pg_backup_stop_is_refused() {
        assert_eq!(Spi::run("SELECT start_backup(fast => true)"), Ok(()));
        let _ = Spi::run("SELECT pg_backup_stop()");
    }
}
