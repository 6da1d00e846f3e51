//! Set-up of sessions, and queries that need only the server.

use anyhow::{Context, Error, Result};

use crate::server::connection::{Opener, Row, Session};

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

/// Opens and prepares a session.
///
/// # Errors
/// Errors of libpq and of the server.
pub fn open(opener: &Opener) -> Result<Session> {
    let session = opener.open()?;
    prepare(&session)?;
    Ok(session)
}

/// Prepares a session.
///
/// # Errors
/// Errors of the server.
pub fn prepare(session: &Session) -> Result<()> {
    for (name, value) in SETTINGS {
        session.rows(&format!("SET {name} = {value}"), &[])?;
    }
    session.rows(LATER_TIMEOUTS, &[])?;
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

/// Backend of a session, identified by its pid and start time: a pid alone may have been reused, or
/// belong to another of several servers.
#[derive(Clone, Debug)]
pub struct Backend(Option<(String, String)>);

impl Backend {
    /// Identifies the backend of a session.
    ///
    /// # Errors
    /// Errors of the server.
    pub fn of(session: &Session) -> Result<Self> {
        let rows = session.rows(
            "SELECT pid, extract(epoch FROM backend_start) FROM pg_stat_activity
             WHERE pid = pg_backend_pid()",
            &[],
        )?;
        let identity = |row: &Row| Ok::<_, Error>((text(row, 0)?, text(row, 1)?));
        Ok(Self(rows.first().map(identity).transpose()?))
    }

    /// Cancels the statement of this backend from another session of the same role.
    ///
    /// # Errors
    /// Errors of libpq and of the server.
    pub fn cancel(&self, opener: &Opener) -> Result<()> {
        if let Some((pid, start)) = &self.0 {
            open(opener)?.rows(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity
                 WHERE pid::text = $1 AND extract(epoch FROM backend_start)::text = $2",
                &[pid.as_bytes(), start.as_bytes()],
            )?;
        }
        Ok(())
    }
}

/// Value of a column that is never NULL.
///
/// # Errors
/// An error if it is NULL.
pub fn value(row: &Row, column: usize) -> Result<&[u8]> {
    row.get(column)
        .and_then(Option::as_deref)
        .context("the server returned an unexpected NULL")
}

pub fn text(row: &Row, column: usize) -> Result<String> {
    Ok(String::from_utf8_lossy(value(row, column)?).into_owned())
}

/// Number in a column that is never NULL.
///
/// # Errors
/// An error if it is NULL or no number.
pub fn number<T: std::str::FromStr>(row: &Row, column: usize) -> Result<T> {
    let text = text(row, column)?;
    text.parse()
        .ok()
        .with_context(|| format!("the server returned \"{text}\" where a number must be"))
}
