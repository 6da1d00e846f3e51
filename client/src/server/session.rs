//! Sessions of the server: how they are prepared, and what is asked of the server itself.

use anyhow::{Context, Error, Result};

use crate::server::connection::{Opener, Row, Session};

/// Settings that every session gets, whatever a role or a database has: names mean what they say, no
/// time limit and no error ends a session, and nothing holds up a statement (a deferrable transaction
/// waits for others, JIT compiles each of thousands of small statements). A NOTICE that the WAL must be
/// copied is for those who do not have it sent. A server that works on something notices soon when
/// this program is gone.
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

/// Time limits that only some versions have: transaction_timeout came with 17.
const LATER_TIMEOUTS: &str = "SELECT set_config(name, '0', false) FROM pg_settings
     WHERE name = 'transaction_timeout'";

/// Opens one more session, prepared as all are.
///
/// # Errors
/// libpq's and the server's.
pub fn open(opener: &Opener) -> Result<Session> {
    let session = opener.open()?;
    prepare(&session)?;
    Ok(session)
}

/// Prepares a session.
///
/// # Errors
/// The server's.
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

/// Has text come in the bytes that the server has for it, where it cannot be converted.
///
/// # Errors
/// The server's.
pub fn take_text_as_it_is(session: &Session) -> Result<()> {
    session.rows(
        "SELECT set_config('client_encoding', current_setting('server_encoding'), false)",
        &[],
    )?;
    Ok(())
}

/// Has the leader told that somebody else has to copy the WAL.
///
/// # Errors
/// The server's.
pub fn show_notices(session: &Session) -> Result<()> {
    session.rows("SET client_min_messages = notice", &[])?;
    Ok(())
}

/// Whether the server's pages have checksums.
///
/// # Errors
/// The server's.
pub fn has_data_checksums(session: &Session) -> Result<bool> {
    let rows = session.rows("SHOW data_checksums", &[])?;
    Ok(rows.first().map(|row| value(row, 0)).transpose()? == Some(b"on"))
}

/// Whether the end of a backup waits for the WAL to be archived, as do_pg_backup_stop() decides it.
///
/// # Errors
/// The server's.
pub fn archives(session: &Session) -> Result<bool> {
    let rows = session.rows(
        "SELECT current_setting('archive_mode') = 'always'
             OR current_setting('archive_mode') = 'on' AND NOT pg_is_in_recovery()",
        &[],
    )?;
    Ok(rows.first().map(|row| value(row, 0)).transpose()? == Some(b"t"))
}

/// The process of the server that a session has. A number alone could be another's by now, or that
/// of another server, where there are several.
#[derive(Clone, Debug)]
pub struct Backend(Option<(String, String)>);

impl Backend {
    /// Of a session.
    ///
    /// # Errors
    /// The server's.
    pub fn of(session: &Session) -> Result<Self> {
        let rows = session.rows(
            "SELECT pid, extract(epoch FROM backend_start) FROM pg_stat_activity
             WHERE pid = pg_backend_pid()",
            &[],
        )?;
        let identity = |row: &Row| Ok::<_, Error>((text(row, 0)?, text(row, 1)?));
        Ok(Self(rows.first().map(identity).transpose()?))
    }

    /// Has another session of the same role cancel what it does.
    ///
    /// # Errors
    /// libpq's and the server's.
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

/// A value that is never NULL.
///
/// # Errors
/// Where it is.
pub fn value(row: &Row, column: usize) -> Result<&[u8]> {
    row.get(column)
        .and_then(Option::as_deref)
        .context("the server returned NULL where it never does")
}

pub fn text(row: &Row, column: usize) -> Result<String> {
    Ok(String::from_utf8_lossy(value(row, column)?).into_owned())
}

/// A number that is never NULL.
///
/// # Errors
/// Where it is, or no number.
pub fn number<T: std::str::FromStr>(row: &Row, column: usize) -> Result<T> {
    let text = text(row, column)?;
    text.parse()
        .ok()
        .with_context(|| format!("the server returned \"{text}\" where a number must be"))
}
