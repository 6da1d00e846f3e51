//! Set-up of sessions, and queries that need only the server.

use anyhow::{Context as _, Result};
use backup_format::wal::SegmentSize;

use crate::server::connection::Session;
use crate::server::opener::Opener;
use crate::server::row::{number, value};
use crate::server::silence;

/// Settings of every session, which override those of role and database. Names are resolved in
/// pg_catalog. No timeout and no error ends a session. Nothing delays a statement: a deferrable
/// transaction waits for others, and JIT compiles each of thousands of small statements. The NOTICE
/// about WAL that must be copied is shown only for -X none. The server checks the connection while
/// it works.
const SETTINGS: [(&str, &str); 12] = [
    ("search_path", "pg_catalog"),
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("exit_on_error", "off"),
    ("default_transaction_isolation", "'read committed'"),
    ("default_transaction_deferrable", "off"),
    ("jit", "off"),
    ("standard_conforming_strings", "on"),
    ("client_min_messages", "warning"),
    ("client_connection_check_interval", "'1s'"),
];

/// Resets timeouts that only some versions have: transaction_timeout since 17.
const LATER_TIMEOUTS: &str = "SELECT set_config(name, '0', false) FROM pg_settings
     WHERE name = 'transaction_timeout'";

/// Opens and prepares a session for streams.
///
/// # Errors
/// Errors of libpq and of the server.
pub fn open(opener: &Opener) -> Result<Session> {
    let mut session = opener.open_for_streams()?;
    prepare(&mut session, opener)?;
    Ok(session)
}

/// Prepares a session.
///
/// # Errors
/// Errors of the server.
pub fn prepare(session: &mut Session, opener: &Opener) -> Result<()> {
    for (name, value) in SETTINGS {
        session.rows(&format!("SET {name} = {value}"), &[])?;
    }
    session.rows(LATER_TIMEOUTS, &[])?;
    silence::watch(session, opener)?;
    silence::set_server_limits(session, opener)?;
    // Text can be shown. The extension has all names of files such that they can be converted.
    session.rows(
        "SELECT set_config('client_encoding', CASE current_setting('server_encoding')
             WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END, false)",
        &[],
    )?;
    Ok(())
}

/// Sets client_encoding to the server's encoding, for text that cannot be converted.
///
/// # Errors
/// Errors of the server.
pub fn take_text_as_it_is(session: &Session) -> Result<()> {
    session.rows(
        "SELECT set_config('client_encoding', current_setting('server_encoding'), false)",
        &[],
    )?;
    Ok(())
}

/// Enables NOTICEs, for the one about WAL that must be copied.
///
/// # Errors
/// Errors of the server.
pub fn show_notices(session: &Session) -> Result<()> {
    session.rows("SET client_min_messages = notice", &[])?;
    Ok(())
}

/// Size of the cluster's WAL segments.
///
/// # Errors
/// Errors of the server, and a size that no server has.
pub fn wal_segment_size(session: &Session) -> Result<SegmentSize> {
    let statement = "SELECT pg_size_bytes(current_setting('wal_segment_size'))";
    let rows = session.rows(statement, &[])?;
    let bytes = rows.first().map(|row| number(row, 0)).transpose()?;
    (bytes.and_then(SegmentSize::new)).context("the server's setting wal_segment_size is not valid")
}

/// Whether the cluster has data checksums.
///
/// # Errors
/// Errors of the server.
pub fn has_data_checksums(session: &Session) -> Result<bool> {
    let rows = session.rows("SHOW data_checksums", &[])?;
    Ok(rows.first().map(|row| value(row, 0)).transpose()? == Some(b"on"))
}

/// Whether the end of a backup waits for the WAL to be archived, as do_pg_backup_stop() decides it.
///
/// # Errors
/// Errors of the server.
pub fn archives(session: &Session) -> Result<bool> {
    let rows = session.rows(
        "SELECT current_setting('archive_mode') = 'always'
             OR current_setting('archive_mode') = 'on' AND NOT pg_is_in_recovery()",
        &[],
    )?;
    Ok(rows.first().map(|row| value(row, 0)).transpose()? == Some(b"t"))
}
