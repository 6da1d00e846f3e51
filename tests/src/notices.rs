//! NOTICEs and WARNINGs received by a session.

use std::sync::{Arc, Mutex, PoisonError};

use postgres::error::DbError;

/// List of messages, shared with the connection that fills it.
#[derive(Clone, Default)]
pub struct Notices(Arc<Mutex<Vec<DbError>>>);

impl Notices {
    /// Adds a message. Called by the connection.
    pub fn push(&self, notice: DbError) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(notice);
    }

    /// All messages received so far, oldest first.
    pub fn all(&self) -> Vec<DbError> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Primary messages of the WARNINGs received so far, oldest first.
    pub fn warnings(&self) -> Vec<String> {
        self.all()
            .into_iter()
            .filter(|notice| notice.severity() == "WARNING")
            .map(|notice| notice.message().to_owned())
            .collect()
    }
}
