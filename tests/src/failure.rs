//! Error as received by a client, in a form that tests can compare.

use std::fmt;

use postgres::error::SqlState;

/// Error message from the server, or the end of the connection without one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// SQLSTATE; `08006` if the connection ended without an error from the server.
    pub sqlstate: String,
    /// ERROR or FATAL; empty if the connection ended.
    pub severity: String,
    /// Primary message.
    pub message: String,
    /// DETAIL, or empty.
    pub detail: String,
    /// HINT, or empty.
    pub hint: String,
}

impl Failure {
    /// Compares SQLSTATE and primary message, and prints the whole error if either differs.
    #[track_caller]
    pub fn assert(&self, sqlstate: &str, message: &str) {
        assert!(
            self.sqlstate == sqlstate && self.message == message,
            "expected {sqlstate}: {message}\nbut got {self}"
        );
    }

    /// Checks that the server terminated the session on command. The last message may be lost if
    /// the client sees the closed connection first, or if its receive buffer is full.
    #[track_caller]
    pub fn assert_terminated(&self) {
        assert!(
            ["57P01", "08006"].contains(&self.sqlstate.as_str()),
            "expected the end of the session\nbut got {self}"
        );
    }
}

impl From<postgres::Error> for Failure {
    fn from(error: postgres::Error) -> Self {
        match error.as_db_error() {
            Some(said) => Failure {
                sqlstate: said.code().code().to_owned(),
                severity: said.severity().to_owned(),
                message: said.message().to_owned(),
                detail: said.detail().unwrap_or_default().to_owned(),
                hint: said.hint().unwrap_or_default().to_owned(),
            },
            None => Failure {
                sqlstate: SqlState::CONNECTION_FAILURE.code().to_owned(),
                message: error.to_string(),
                ..Failure::default()
            },
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        let text = error.to_string();
        match error
            .into_inner()
            .map(|inner| inner.downcast::<postgres::Error>())
        {
            Some(Ok(inner)) => Failure::from(*inner),
            _ => Failure {
                sqlstate: SqlState::CONNECTION_FAILURE.code().to_owned(),
                message: text,
                ..Failure::default()
            },
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}: {}", self.severity, self.sqlstate, self.message)?;
        if !self.detail.is_empty() {
            writeln!(f, "DETAIL: {}", self.detail)?;
        }
        if !self.hint.is_empty() {
            writeln!(f, "HINT: {}", self.hint)?;
        }
        Ok(())
    }
}

/// Returns the error of a statement that must fail. `what` names the statement.
#[track_caller]
pub fn expect_failure<T, E: Into<Failure>>(what: &str, result: Result<T, E>) -> Failure {
    match result {
        Ok(_) => panic!("{what} succeeded"),
        Err(error) => error.into(),
    }
}
