//! An error as a client sees it, in a form that tests compare.

use std::fmt;

use postgres::error::SqlState;

/// What the server said, or that the connection ended without a word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// Five characters; `08006` when the connection ended without an error from the server.
    pub sqlstate: String,
    /// ERROR or FATAL; empty when the connection ended.
    pub severity: String,
    /// The primary message.
    pub message: String,
    /// DETAIL, or nothing.
    pub detail: String,
    /// HINT, or nothing.
    pub hint: String,
}

impl Failure {
    /// Checks SQLSTATE and primary message at once, and shows the whole error if one differs.
    #[track_caller]
    pub fn assert(&self, sqlstate: &str, message: &str) {
        assert!(
            self.sqlstate == sqlstate && self.message == message,
            "expected {sqlstate}: {message}\nbut got {self}"
        );
    }

    /// Checks that the server ended the session on somebody's command. What it said last is lost
    /// where the client finds the connection closed at the same time, or was too slow to leave
    /// room for it.
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

/// The failure of a statement that must fail; `what` says which.
#[track_caller]
pub fn expect_failure<T, E: Into<Failure>>(what: &str, result: Result<T, E>) -> Failure {
    match result {
        Ok(_) => panic!("{what} succeeded"),
        Err(error) => error.into(),
    }
}
