//! Statements and COPY through libpq.

use std::cell::{OnceCell, RefCell};
use std::time::Duration;

use anyhow::{Context as _, Result};
use libpq::result::ErrorField;
use libpq::{Connection, PQResult, Status};

use crate::console::escape;
use crate::server::silent_wait::{Failure, LOOK, Row, Silence, Watch};
use crate::server::socket::Socket;

/// Error of libpq for a COPY of which nothing has arrived that was not taken yet.
const STILL_IN_PROGRESS: &str = "COPY still in progress";

/// A connection of libpq.
pub struct LibpqLink {
    connection: Connection,
    socket: RefCell<Socket>,
    /// First message about the loss of the connection. Later ones say only that there is none.
    loss: OnceCell<String>,
}

impl LibpqLink {
    /// Takes over a connection.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn new(connection: Connection) -> Result<Self> {
        let socket = Socket::new(connection.socket()?);
        Ok(Self {
            connection,
            socket: RefCell::new(socket.context("could not wait for a connection")?),
            loss: OnceCell::new(),
        })
    }

    /// The connection.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// As `Session::rows()`.
    ///
    /// # Errors
    /// Errors of the server.
    pub fn rows(
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

    /// As `Session::copy()`.
    ///
    /// # Errors
    /// Errors of the server, as [`Failure`], and those of `take`.
    pub fn copy(
        &self,
        statement: &str,
        watch: Option<&Watch>,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.connection
            .send_query(statement)
            .map_err(|_| self.lost())?;
        let result = self.next_result(watch)?.ok_or_else(|| self.lost())?;
        if result.status() != Status::CopyOut {
            self.end_statement(watch)?;
            return Err(self.failure(&result).into());
        }
        let mut silence = Silence::new(watch);
        // The end of the data and an error look alike here; the result after it tells.
        loop {
            match self.connection.copy_data(true) {
                Ok(message) => {
                    take(&message)?;
                    silence.end();
                }
                Err(libpq::errors::Error::Backend(text))
                    if text == STILL_IN_PROGRESS && !self.is_lost() =>
                {
                    self.wait(&mut silence)?;
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
        let mut silence = Silence::new(watch);
        while !self.is_lost() && self.connection.is_busy() {
            self.wait(&mut silence)?;
        }
        Ok(self.connection.result())
    }

    /// Takes the results after the one that counts.
    fn end_statement(&self, watch: Option<&Watch>) -> Result<()> {
        while !self.is_lost() && self.next_result(watch)?.is_some() {}
        Ok(())
    }

    /// Waits a while for input, and takes it. The connection must not be lost, because libpq has
    /// closed its socket then. Fails where its watch finds the
    /// connection lost.
    fn wait(&self, silence: &mut Silence<'_>) -> Result<()> {
        let mut socket = self.socket.borrow_mut();
        if socket.wait(LOOK)? {
            silence.end();
        } else {
            silence.check(|| Ok(socket.wait(Duration::ZERO)?))?;
        }
        // Where this fails, the result of the statement tells.
        let _ = self.connection.consume_input();
        Ok(())
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
        // The server closes the connection after it; libpq has not noticed yet.
        let connection_lost = self.is_lost()
            || matches!(
                field(ErrorField::SeverityNonlocalized).as_deref(),
                Some("FATAL" | "PANIC")
            );
        if connection_lost {
            self.loss.get_or_init(|| message.clone());
        }
        Failure {
            message,
            connection_lost,
        }
    }

    fn lost(&self) -> Failure {
        let said = self
            .connection
            .error_message()
            .unwrap_or_default()
            .trim_end();
        // libpq adds this where it is asked for the socket after it has closed it.
        let said = said.strip_suffix("invalid socket").unwrap_or(said);
        let message = match said.trim_end() {
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
