//! Messages of the server, handed on where they were decrypted.

use std::io::{self, ErrorKind, Write as _};

use bytes::BytesMut;
use openssl::ssl::{ErrorCode, SslStream};
use postgres_protocol::message::backend::Message;

use crate::server::native::tls::ReadAhead;

/// Bytes before the content of a message: its type, and its length with that of the length.
const HEADER: usize = 5;

/// Room for input that is there from the start: a whole message of a stream, and what comes behind it.
const ROOM: usize = 192 * 1024;

/// Longest message that a server may send, as for libpq.
const LONGEST: usize = 0x3FFF_FFFF;

/// Data of a COPY.
const COPY_DATA: u8 = b'd';

/// What the server has sent.
pub enum Input<'a> {
    /// Data of a COPY.
    Data(&'a [u8]),
    /// Another message.
    Message(Message),
    /// Nothing for as long as a read waits.
    Nothing,
}

/// The two directions of a connection.
#[derive(Debug)]
pub struct Wire {
    stream: SslStream<ReadAhead>,
    input: Vec<u8>,
    start: usize,
    end: usize,
    has_arrived: bool,
}

impl Wire {
    /// Takes over a stream.
    pub fn new(stream: SslStream<ReadAhead>) -> Self {
        Self {
            stream,
            input: vec![0; ROOM],
            start: 0,
            end: 0,
            has_arrived: false,
        }
    }

    /// Whether anything has arrived since this was asked last, a part of a message too.
    pub fn has_arrived(&mut self) -> bool {
        std::mem::take(&mut self.has_arrived)
    }

    /// The stream.
    pub fn stream(&self) -> &SslStream<ReadAhead> {
        &self.stream
    }

    /// Sends messages.
    ///
    /// # Errors
    /// Errors of the connection.
    pub fn send(&mut self, messages: &BytesMut) -> io::Result<()> {
        self.stream.write_all(messages)?;
        self.stream.flush()
    }

    /// The next message.
    ///
    /// # Errors
    /// Errors of the connection, `UnexpectedEof` at its end among them, and what is no message.
    pub fn next(&mut self) -> io::Result<Input<'_>> {
        let length = loop {
            let needed = match self.length()? {
                Some(length) if length <= self.end - self.start => break length,
                Some(length) => length,
                None => HEADER,
            };
            self.make_room(needed);
            if !self.fill()? {
                return Ok(Input::Nothing);
            }
        };
        let message = self.start..self.start + length;
        self.start = message.end;
        let message = &self.input[message];
        if message[0] == COPY_DATA {
            return Ok(Input::Data(&message[HEADER..]));
        }
        let parsed = Message::parse(&mut BytesMut::from(message))?;
        parsed
            .map(Input::Message)
            .ok_or_else(|| io::Error::from(ErrorKind::InvalidData))
    }

    /// Bytes of the message that comes next, if its header is there.
    fn length(&self) -> io::Result<Option<usize>> {
        let Some(&[_, a, b, c, d]) = self.input[self.start..self.end].first_chunk::<HEADER>()
        else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if !(HEADER - 1..=LONGEST).contains(&length) {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "the server sent a message of impossible length",
            ));
        }
        Ok(Some(1 + length))
    }

    /// Makes room for a message of so many bytes from the start on.
    fn make_room(&mut self, bytes: usize) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.start + bytes > self.input.len() || self.end == self.input.len() {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if bytes > self.input.len() {
            self.input.resize(bytes, 0);
        }
    }

    /// Reads more; returns whether anything came.
    fn fill(&mut self) -> io::Result<bool> {
        match self.stream.ssl_read(&mut self.input[self.end..]) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.end += count;
                self.has_arrived = true;
                Ok(true)
            }
            Err(error) if error.code() == ErrorCode::WANT_READ => Ok(false),
            Err(error) if error.code() == ErrorCode::ZERO_RETURN => {
                Err(ErrorKind::UnexpectedEof.into())
            }
            Err(error) => {
                let error = error.into_io_error().unwrap_or_else(io::Error::other);
                match error.kind() {
                    ErrorKind::Interrupted => Ok(false),
                    _ => Err(error),
                }
            }
        }
    }
}
