//! Server process of a session, as other sessions of the same role see it.

use anyhow::{Error, Result};

use crate::server::connection::{Row, Session};
use crate::server::row::text;

/// Backend of a session, identified by its pid and start time: a pid alone may have been reused, or
/// belong to another of several servers.
#[derive(Clone, Debug)]
pub struct Backend(Option<(String, String)>);

/// What a backend does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It works, or waits for something on the server.
    Busy,
    /// It waits for its client.
    WaitsForClient,
    /// There is none.
    Gone,
}

impl Backend {
    /// Identifies the backend of a session.
    ///
    /// # Errors
    /// Errors of the server.
    pub fn of(session: &Session) -> Result<Self> {
        let rows = session.rows(
            "SELECT pid, extract(epoch FROM backend_start) FROM pg_catalog.pg_stat_activity
             WHERE pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()",
            &[],
        )?;
        let identity = |row: &Row| Ok::<_, Error>((text(row, 0)?, text(row, 1)?));
        Ok(Self(rows.first().map(identity).transpose()?))
    }

    /// Cancels the statement of this backend from another session.
    ///
    /// # Errors
    /// Errors of the server.
    pub fn cancel(&self, other: &Session) -> Result<()> {
        self.select(other, "pg_catalog.pg_cancel_backend(pid)")?;
        Ok(())
    }

    /// Ends this backend from another session, and waits up to five seconds until it has gone.
    ///
    /// # Errors
    /// Errors of the server.
    pub fn terminate(&self, other: &Session) -> Result<()> {
        self.select(other, "pg_catalog.pg_terminate_backend(pid, 5000)")?;
        Ok(())
    }

    /// What this backend does, as another session sees it.
    ///
    /// # Errors
    /// Errors of the server.
    pub fn state(&self, other: &Session) -> Result<State> {
        let rows = self.select(
            other,
            "state = 'active' AND wait_event_type IS DISTINCT FROM 'Client'",
        )?;
        match rows.first() {
            None => Ok(State::Gone),
            Some(row) if text(row, 0)? == "t" => Ok(State::Busy),
            Some(_) => Ok(State::WaitsForClient),
        }
    }

    fn select(&self, other: &Session, column: &str) -> Result<Vec<Row>> {
        let Some((pid, start)) = &self.0 else {
            return Ok(Vec::new());
        };
        // Names are looked for in pg_catalog, and no timeout of the role ends the statement.
        other.rows(
            "SELECT pg_catalog.set_config('search_path', 'pg_catalog', false),
                 pg_catalog.set_config('statement_timeout', '0', false)",
            &[],
        )?;
        other.rows(
            &format!(
                "SELECT {column} FROM pg_stat_activity
                 WHERE pid::text = $1 AND extract(epoch FROM backend_start)::text = $2"
            ),
            &[pid.as_bytes(), start.as_bytes()],
        )
    }
}
