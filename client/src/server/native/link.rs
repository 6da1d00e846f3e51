//! Statements and COPY over a connection of our own.

use std::io::{self, ErrorKind, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use anyhow::Result;
use bytes::{BufMut as _, BytesMut};
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::IsNull;
use postgres_protocol::message::backend::{ErrorFields, Message};
use postgres_protocol::message::frontend;

use crate::console::escape;
use crate::server::native::login;
use crate::server::native::parameters::Parameters;
use crate::server::native::wire::{Input, Wire};
use crate::server::silent_wait::{Failure, LOOK, Row};

/// Format of parameters and results.
const TEXT: i16 = 0;

/// A session.
#[derive(Debug)]
pub struct Link {
    wire: Wire,
    is_lost: bool,
}

impl Link {
    /// Opens a session.
    ///
    /// # Errors
    /// As [`login::connect`].
    pub fn open(parameters: &Parameters) -> Result<Self> {
        let wire = login::connect(parameters)?;
        wire.transport().set_read_timeout(LOOK)?;
        Ok(Self {
            wire,
            is_lost: false,
        })
    }

    /// Whether it has TLS.
    pub fn has_tls(&self) -> bool {
        self.wire.transport().tls().is_some()
    }

    /// The socket, which may be below TLS.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.wire.transport().as_fd()
    }

    /// Runs a statement and returns its rows. `idle` is called when nothing has come for a while, and
    /// with `false` when something has.
    ///
    /// # Errors
    /// Errors of the server, and those of `idle`.
    pub fn rows(
        &mut self,
        statement: &str,
        values: &[&[u8]],
        idle: &mut dyn FnMut(bool) -> Result<()>,
    ) -> Result<Vec<Row>> {
        let mut request = BytesMut::new();
        let write = |value: &&[u8], out: &mut BytesMut| {
            out.put_slice(value);
            Ok(IsNull::No)
        };
        frontend::parse("", statement, [], &mut request)?;
        let bound = frontend::bind("", "", [TEXT], values, write, [TEXT], &mut request);
        bound.map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
        frontend::execute("", 0, &mut request)?;
        frontend::sync(&mut request);
        self.send(&request)?;
        let mut rows = Vec::new();
        self.until_ready(idle, |input| {
            if let Input::Message(Message::DataRow(body)) = input {
                let value = |range: Option<std::ops::Range<usize>>| {
                    Ok(range.map(|range| body.buffer()[range].to_vec()))
                };
                rows.push(body.ranges().map(value).collect()?);
            }
            Ok(())
        })?;
        Ok(rows)
    }

    /// Runs a `COPY … TO STDOUT` and hands its data to `take`, in pieces of any size.
    ///
    /// # Errors
    /// Errors of the server, and those of `idle` and `take`.
    pub fn copy(
        &mut self,
        statement: &str,
        idle: &mut dyn FnMut(bool) -> Result<()>,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut request = BytesMut::new();
        frontend::query(statement, &mut request)?;
        self.send(&request)?;
        self.until_ready(idle, |input| match input {
            Input::Data(data) => take(data),
            _ => Ok(()),
        })
    }

    /// Takes what the server sends, up to the end of the statement. The first error is that of the
    /// statement.
    fn until_ready(
        &mut self,
        idle: &mut dyn FnMut(bool) -> Result<()>,
        mut take: impl FnMut(Input<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut failure = None;
        loop {
            let input = match self.wire.next() {
                Ok(input) => input,
                Err(error) => {
                    self.is_lost = true;
                    let mut failure = failure.unwrap_or_else(|| lost("receive data from", &error));
                    failure.connection_lost = true;
                    return Err(failure.into());
                }
            };
            match input {
                Input::Nothing => {
                    let is_silent = !self.wire.has_arrived();
                    idle(is_silent).inspect_err(|_| self.is_lost = true)?;
                    continue;
                }
                Input::Message(Message::ReadyForQuery(_)) => {
                    return failure.map_or(Ok(()), |failure| Err(failure.into()));
                }
                Input::Message(Message::ErrorResponse(body)) => {
                    let said = Said::read(body.fields());
                    let error = said.into_failure();
                    self.is_lost |= error.connection_lost;
                    failure.get_or_insert(error);
                }
                Input::Message(Message::NoticeResponse(body)) => {
                    // Where libpq writes them, and like libpq whether or not they can be written.
                    let notice = Said::read(body.fields()).notice();
                    let _ = io::stderr().write_all(notice.as_bytes());
                }
                input => take(input)?,
            }
            idle(false)?;
        }
    }

    fn send(&mut self, messages: &BytesMut) -> Result<()> {
        let Err(error) = self.wire.send(messages) else {
            return Ok(());
        };
        self.is_lost = true;
        let failure = self.last_error();
        Err(failure
            .unwrap_or_else(|| lost("send data to", &error))
            .into())
    }

    /// What the server said before it closed the connection.
    fn last_error(&mut self) -> Option<Failure> {
        loop {
            match self.wire.next() {
                Ok(Input::Message(Message::ErrorResponse(body))) => {
                    let mut failure = Said::read(body.fields()).into_failure();
                    failure.connection_lost = true;
                    return Some(failure);
                }
                Ok(Input::Nothing) | Err(_) => return None,
                Ok(_) => (),
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if !self.is_lost {
            let mut end = BytesMut::new();
            frontend::terminate(&mut end);
            // A server that takes it for a lost connection ends the session as well.
            let _ = (self.wire.transport()).set_write_timeout(Duration::from_secs(1));
            let _ = self.wire.send(&end);
        }
    }
}

fn lost(what: &str, error: &io::Error) -> Failure {
    let message = match error.kind() {
        ErrorKind::UnexpectedEof => "server closed the connection unexpectedly".to_owned(),
        _ => format!("could not {what} server: {error}"),
    };
    Failure {
        message,
        connection_lost: true,
    }
}

/// An error or a notice of the server.
#[derive(Default)]
struct Said {
    severity: String,
    /// The severity in English.
    plain_severity: String,
    primary: String,
    detail: Option<String>,
    hint: Option<String>,
}

impl Said {
    fn read(mut fields: ErrorFields<'_>) -> Self {
        let mut said = Self::default();
        while let Ok(Some(field)) = fields.next() {
            let text = escape::message(field.value_bytes());
            match field.type_() {
                b'S' => said.severity = text,
                b'V' => said.plain_severity = text,
                b'M' => said.primary = text,
                b'D' => said.detail = Some(text),
                b'H' => said.hint = Some(text),
                _ => {}
            }
        }
        said
    }

    /// Message with DETAIL and HINT.
    fn text(&self) -> String {
        let mut text = self.primary.clone();
        for (name, part) in [("DETAIL", &self.detail), ("HINT", &self.hint)] {
            if let Some(part) = part {
                text.push_str(&format!("\n{name}:  {part}"));
            }
        }
        text
    }

    /// What libpq shows of a notice.
    fn notice(&self) -> String {
        format!("{}:  {}\n", self.severity, self.text())
    }

    fn into_failure(self) -> Failure {
        Failure {
            message: self.text(),
            // The server closes the connection after it.
            connection_lost: matches!(self.plain_severity.as_str(), "FATAL" | "PANIC"),
        }
    }
}
