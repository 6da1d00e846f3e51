//! Sessions through libpq: statements, COPY, and the wait for what the server sends.

use std::cell::{OnceCell, RefCell};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use libpq::connection::Info;
use libpq::result::ErrorField;
use libpq::{Connection, PQResult, Status};

use crate::console::escape;
use crate::server::socket::Socket;

/// Error of libpq for a COPY of which nothing has arrived that was not taken yet.
const STILL_IN_PROGRESS: &str = "COPY still in progress";

/// Longest wait for the socket. A TLS library may hold bytes that the socket does not show.
const LOOK: Duration = Duration::from_millis(200);

/// A session of the server.
pub struct Session {
    connection: Connection,
    socket: RefCell<Socket>,
    watch: Option<Watch>,
    /// First message about the loss of the connection. Later ones say only that there is none.
    loss: OnceCell<String>,
}

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

impl Session {
    /// Takes over a connection.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn new(connection: Connection) -> Result<Self> {
        let socket = Socket::new(connection.socket()?);
        Ok(Self {
            connection,
            socket: RefCell::new(socket.context("could not wait for a connection")?),
            watch: None,
            loss: OnceCell::new(),
        })
    }

    /// Keywords and values by which libpq finds the server of this session again.
    ///
    /// # Errors
    /// Errors of libpq.
    pub fn place(&self) -> Result<[(&'static str, String); 3]> {
        Ok([
            ("host", self.connection.host()?),
            ("hostaddr", self.connection.hostaddr()?),
            ("port", self.connection.port()?),
        ])
    }

    /// Whether a connection parameter has a value, whatever it comes from.
    ///
    /// # Errors
    /// Errors of libpq.
    pub fn has_parameter(&self, keyword: &str) -> Result<bool> {
        let settings = self.connection.info()?;
        Ok(settings.get(keyword).is_some_and(|info| info.val.is_some()))
    }

    /// Sets the watch over the waits of this session.
    pub fn watch(&mut self, watch: Watch) {
        self.watch = Some(watch);
    }

    /// Makes sure that the server answers within a time.
    ///
    /// # Errors
    /// Errors of the server, and [`Failure`] if it does not answer.
    pub fn check_answer(&self, limit: Option<Duration>) -> Result<()> {
        let watch = limit.map(Watch::hard);
        self.rows_under("SELECT", &[], watch.as_ref())?;
        Ok(())
    }

    /// Runs a statement and returns its rows.
    ///
    /// # Errors
    /// Errors of the server.
    pub fn rows(&self, statement: &str, values: &[&[u8]]) -> Result<Vec<Row>> {
        self.rows_under(statement, values, self.watch.as_ref())
    }

    fn rows_under(
        &self,
        statement: &str,
        values: &[&[u8]],
        watch: Option<&Watch>,
    ) -> Result<Vec<Row>> {
        let values: Vec<_> = values.iter().map(|v| [*v, b"\0"].concat()).collect();
        let values: Vec<_> = values.iter().map(|value| Some(value.as_slice())).collect();
        self.connection
            .send_query_params(statement, &[], &values, &[], libpq::Format::Text)
            .map_err(|_| self.lost())?;
        let result = self.next_result(watch)?.ok_or_else(|| self.lost())?;
        let ended_well = matches!(result.status(), Status::TuplesOk | Status::CommandOk);
        self.end_statement(watch)?;
        if !ended_well {
            return Err(self.failure(&result).into());
        }
        let value = |row, column| result.value(row, column).map(<[u8]>::to_vec);
        let row = |row| {
            (0..result.nfields())
                .map(|column| value(row, column))
                .collect()
        };
        Ok((0..result.ntuples()).map(row).collect())
    }

    /// Runs a `COPY … TO STDOUT` and hands each message to `take`. Where that fails, the session is
    /// of no more use.
    ///
    /// # Errors
    /// Errors of the server, as [`Failure`], and those of `take`.
    pub fn copy(&self, statement: &str, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let watch = self.watch.as_ref();
        self.connection
            .send_query(statement)
            .map_err(|_| self.lost())?;
        let result = self.next_result(watch)?.ok_or_else(|| self.lost())?;
        if result.status() != Status::CopyOut {
            self.end_statement(watch)?;
            return Err(self.failure(&result).into());
        }
        let mut last_word = Instant::now();
        // The end of the data and an error look alike here; the result after it tells.
        loop {
            match self.connection.copy_data(true) {
                Ok(message) => {
                    take(&message)?;
                    last_word = Instant::now();
                }
                Err(libpq::errors::Error::Backend(text))
                    if text == STILL_IN_PROGRESS && !self.is_lost() =>
                {
                    self.wait(watch, &mut last_word)?;
                }
                Err(_) => break,
            }
        }
        let result = self.next_result(watch)?.ok_or_else(|| self.lost())?;
        let ended_well = result.status() == Status::CommandOk;
        self.end_statement(watch)?;
        if ended_well {
            Ok(())
        } else {
            Err(self.failure(&result).into())
        }
    }

    /// Next result of the running statement, `None` after the last.
    fn next_result(&self, watch: Option<&Watch>) -> Result<Option<PQResult>> {
        let mut last_word = Instant::now();
        while !self.is_lost() && self.connection.is_busy() {
            self.wait(watch, &mut last_word)?;
        }
        Ok(self.connection.result())
    }

    /// Takes the results after the one that counts.
    fn end_statement(&self, watch: Option<&Watch>) -> Result<()> {
        while !self.is_lost() && self.next_result(watch)?.is_some() {}
        Ok(())
    }

    /// Waits a while for input, and takes it. The connection must not be lost, because libpq has
    /// closed its socket then. Fails where `watch` finds the connection lost.
    fn wait(&self, watch: Option<&Watch>, last_word: &mut Instant) -> Result<()> {
        let mut socket = self.socket.borrow_mut();
        if socket.wait(LOOK)? {
            *last_word = Instant::now();
        } else if let Some(watch) = watch
            && last_word.elapsed() >= watch.limit
        {
            let silence = last_word.elapsed().as_secs();
            if let Some(detail) = (watch.find_loss)()
                && !socket.wait(Duration::ZERO)?
            {
                let message = format!("the server has sent nothing for {silence} s{detail}");
                return Err(Failure {
                    message,
                    connection_lost: true,
                }
                .into());
            }
            *last_word = Instant::now();
        }
        // Where this fails, the result of the statement tells.
        let _ = self.connection.consume_input();
        Ok(())
    }

    /// How this session was opened, for another that is to be like it: keywords of a connection
    /// string and their values.
    ///
    /// # Errors
    /// Errors of libpq.
    pub fn parameters(&self) -> Result<Vec<(String, String)>> {
        const NOT_FOR_OTHERS: [&str; 3] = ["replication", "dbname", "fallback_application_name"];
        let settings = self.connection.info()?;
        let mut parameters: Vec<_> = settings
            .into_values()
            .filter_map(|Info { keyword, val, .. }| Some((keyword, val?)))
            .filter(|(keyword, value)| {
                !value.is_empty() && !NOT_FOR_OTHERS.contains(&keyword.as_str())
            })
            .collect();
        parameters.sort();
        Ok(parameters)
    }

    /// The version of its server, as libpq has it: 150020 is 15.20.
    pub fn server_version(&self) -> i32 {
        self.connection.server_version()
    }

    fn failure(&self, result: &PQResult) -> Failure {
        let field = |field| {
            let text = result.error_field(field).ok()?;
            text.map(|text| escape::message(text.as_bytes()))
        };
        let mut message = match field(ErrorField::MessagePrimary) {
            Some(primary) => primary,
            // The binding gives nothing but UTF-8; its code says what it is.
            None => match field(ErrorField::Sqlstate) {
                Some(code) => format!("the server's message is not UTF-8 (SQLSTATE {code})"),
                None => return self.lost(),
            },
        };
        if let Some(detail) = field(ErrorField::MessageDetail) {
            message.push_str(&format!("\nDETAIL:  {detail}"));
        }
        if let Some(hint) = field(ErrorField::MessageHint) {
            message.push_str(&format!("\nHINT:  {hint}"));
        }
        Failure {
            message,
            // The server closes the connection after it; libpq has not noticed yet.
            connection_lost: self.is_lost()
                || matches!(
                    field(ErrorField::SeverityNonlocalized).as_deref(),
                    Some("FATAL" | "PANIC")
                ),
        }
    }

    fn lost(&self) -> Failure {
        let said = self
            .connection
            .error_message()
            .unwrap_or_default()
            .trim_end();
        let message = match said {
            "" => "the connection was lost",
            said => said,
        };
        let connection_lost = self.is_lost();
        Failure {
            message: if connection_lost {
                self.loss.get_or_init(|| message.to_owned()).clone()
            } else {
                message.to_owned()
            },
            connection_lost,
        }
    }

    fn is_lost(&self) -> bool {
        self.connection.status() == libpq::connection::Status::Bad
    }
}
