//! Waiting for a server: how long it may be silent, what comes of a statement, and what its failure is.

use std::time::{Duration, Instant};

use anyhow::Result;

/// Longest wait for the socket. A TLS library may hold bytes that the socket does not show.
pub const LOOK: Duration = Duration::from_millis(200);

/// Watch over a session that waits for its server.
pub struct Watch {
    /// Silence after which it is looked after.
    pub limit: Duration,
    /// Says why the connection counts as lost, or nothing where the silence has a reason.
    pub find_loss: Box<dyn Fn() -> Option<String> + Send>,
}

/// Values in text form, as the server sent them; `None` is NULL.
pub type Row = Vec<Option<Vec<u8>>>;

/// Error of a statement.
#[derive(Debug)]
pub struct Failure {
    /// Message of the server or libpq, with DETAIL and HINT.
    pub message: String,
    /// Whether the connection was lost, so that a new one may succeed.
    pub connection_lost: bool,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl Watch {
    /// Watch for which any silence of that length is a loss.
    pub fn hard(limit: Duration) -> Self {
        Self {
            limit,
            find_loss: Box::new(|| Some(String::new())),
        }
    }
}

/// Silence of a session that waits.
pub struct Silence<'a> {
    watch: Option<&'a Watch>,
    last_word: Instant,
}

impl<'a> Silence<'a> {
    /// Begins now.
    pub fn new(watch: Option<&'a Watch>) -> Self {
        Self {
            watch,
            last_word: Instant::now(),
        }
    }

    /// Something has come.
    pub fn end(&mut self) {
        self.last_word = Instant::now();
    }

    /// Nothing has come for a while. Fails where the watch finds the connection lost, and `has_input` says
    /// that nothing has come meanwhile.
    ///
    /// # Errors
    /// [`Failure`], and those of `has_input`.
    pub fn check(&mut self, has_input: impl FnOnce() -> Result<bool>) -> Result<()> {
        let Some(watch) = self.watch else {
            return Ok(());
        };
        let silence = self.last_word.elapsed();
        if silence < watch.limit {
            return Ok(());
        }
        if let Some(detail) = (watch.find_loss)()
            && !has_input()?
        {
            let seconds = silence.as_secs();
            return Err(Failure {
                message: format!("the server has sent nothing for {seconds} s{detail}"),
                connection_lost: true,
            }
            .into());
        }
        self.end();
        Ok(())
    }
}
