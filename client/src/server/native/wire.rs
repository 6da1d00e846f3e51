//! Messages of the server. Data of a COPY is handed on where it arrived, as soon as there is a piece of it: no
//! buffer holds a message as a whole, and what is handed on is still in the processor's cache.

use std::io::{self, ErrorKind};

use bytes::BytesMut;
use postgres_protocol::message::backend::Message;

use crate::server::native::transport::Transport;

/// Bytes before the content of a message: its type, and its length with that of the length.
const HEADER: usize = 5;

/// Room for input that is there from the start. It holds a whole message of a stream over TLS, which comes in
/// records of at most 16 kB.
const ROOM: usize = 192 * 1024;

/// Longest message that a server may send, as for libpq.
const LONGEST: usize = 0x3FFF_FFFF;

/// Data of a COPY.
const COPY_DATA: u8 = b'd';

/// What the server has sent.
pub enum Input<'a> {
    /// Data of a COPY: a message, or a piece of one.
    Data(&'a [u8]),
    /// Another message.
    Message(Message),
    /// Nothing for as long as a read waits.
    Nothing,
}

/// The two directions of a connection.
#[derive(Debug)]
pub struct Wire {
    transport: Transport,
    input: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes of a message with data that have not been handed on.
    data_left: usize,
    has_arrived: bool,
}

impl Wire {
    /// Takes over a connection.
    pub fn new(transport: Transport) -> Self {
        Self {
            transport,
            input: vec![0; ROOM],
            start: 0,
            end: 0,
            data_left: 0,
            has_arrived: false,
        }
    }

    /// Whether anything has arrived since this was asked last, a part of a message too.
    pub fn has_arrived(&mut self) -> bool {
        std::mem::take(&mut self.has_arrived)
    }

    /// What carries the bytes.
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Sends messages.
    ///
    /// # Errors
    /// Errors of the connection.
    pub fn send(&mut self, messages: &BytesMut) -> io::Result<()> {
        self.transport.write_all(messages)
    }

    /// The next message.
    ///
    /// # Errors
    /// Errors of the connection, `UnexpectedEof` at its end among them, and what is no message.
    pub fn next(&mut self) -> io::Result<Input<'_>> {
        loop {
            let there = self.end - self.start;
            let needed = if self.data_left > 0 {
                let piece = self.piece();
                if there >= piece {
                    return Ok(self.take_data());
                }
                piece
            } else {
                match self.length()? {
                    Some(length) if self.input[self.start] == COPY_DATA => {
                        self.start += HEADER;
                        self.data_left = length - HEADER;
                        continue;
                    }
                    Some(length) if length <= there => return self.take_message(length),
                    Some(length) => length,
                    None => HEADER,
                }
            };
            self.make_room(needed);
            if !self.fill()? {
                return Ok(Input::Nothing);
            }
        }
    }

    /// Bytes of data from which on they are handed on. Records of TLS are gathered, because the files that
    /// they belong to are written faster in larger pieces.
    fn piece(&self) -> usize {
        match self.transport {
            Transport::Tls(_) => self.data_left.min(ROOM),
            Transport::Tcp(_) | Transport::Unix(_) => 1,
        }
    }

    fn take_data(&mut self) -> Input<'_> {
        let length = self.data_left.min(self.end - self.start);
        let data = self.start..self.start + length;
        self.start = data.end;
        self.data_left -= length;
        Input::Data(&self.input[data])
    }

    fn take_message(&mut self, length: usize) -> io::Result<Input<'_>> {
        let message = self.start..self.start + length;
        self.start = message.end;
        let parsed = Message::parse(&mut BytesMut::from(&self.input[message]))?;
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
        let count = self.transport.read(&mut self.input[self.end..])?;
        self.end += count.unwrap_or(0);
        self.has_arrived |= count.is_some();
        Ok(count.is_some())
    }
}
