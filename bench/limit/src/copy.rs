//! Reads the stream of a real worker as a pair reads its socket: nothing is copied, and nothing is kept.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, Result, bail, ensure};

use crate::reader::PIECE;

/// Bytes before the content of a message: its type, and its length with that of the length.
const HEADER: usize = 5;

/// Longest message whose content is looked at: those that say that something went wrong.
const LONGEST_TEXT: usize = 64 * 1024;

/// The protocol's version, 3.0.
const VERSION: u32 = 3 << 16;

/// Runs `COPY … TO STDOUT` at the server of a socket, which trusts the user, and returns the bytes of its data.
///
/// # Errors
/// Errors of the operating system and of the server.
pub fn run(socket: &str, user: &str, database: &str, statement: &str) -> Result<u64> {
    let mut socket = UnixStream::connect(socket).context("could not connect")?;
    let mut begin = VERSION.to_be_bytes().to_vec();
    for text in ["user", user, "database", database, ""] {
        begin.extend_from_slice(text.as_bytes());
        begin.push(0);
    }
    send(&mut socket, None, &begin)?;
    let query = [statement.as_bytes(), &[0]].concat();
    send(&mut socket, Some(b'Q'), &query)?;

    let mut messages = Messages::default();
    let mut buffer = vec![0; PIECE];
    while messages.ready < 2 {
        let count = socket.read(&mut buffer)?;
        ensure!(count > 0, "the server closed the connection");
        messages.take(&buffer[..count])?;
    }
    ensure!(
        messages.has_ended && messages.data > 0,
        "the stream was not whole"
    );
    // Terminate; a server that has gone needs none.
    let _ = send(&mut socket, Some(b'X'), &[]);
    Ok(messages.data)
}

fn send(socket: &mut UnixStream, kind: Option<u8>, content: &[u8]) -> Result<()> {
    let length = u32::try_from(content.len() + 4)?;
    let mut message: Vec<u8> = kind.into_iter().collect();
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(content);
    Ok(socket.write_all(&message)?)
}

/// What the server has sent so far.
#[derive(Default)]
struct Messages {
    /// Bytes of data.
    data: u64,
    /// How often it was ready for a statement: after the login, and after the statement.
    ready: u32,
    /// Whether the data came to its end.
    has_ended: bool,
    /// The next message as far as it is kept: its header, and the content of an error.
    kept: Vec<u8>,
    /// Bytes of a message with data that are still to come.
    data_left: usize,
}

impl Messages {
    fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            if self.data_left > 0 {
                let here = self.data_left.min(bytes.len());
                self.data_left -= here;
                self.data += here as u64;
                bytes = &bytes[here..];
                continue;
            }
            let wanted = match self.kept.first_chunk::<HEADER>() {
                Some(header) => 1 + length(header),
                None => HEADER,
            };
            let here = (wanted - self.kept.len()).min(bytes.len());
            self.kept.extend_from_slice(&bytes[..here]);
            bytes = &bytes[here..];
            self.look()?;
        }
        Ok(())
    }

    /// Looks at the message that is kept.
    fn look(&mut self) -> Result<()> {
        let Some(header) = self.kept.first_chunk::<HEADER>() else {
            return Ok(());
        };
        let (kind, length) = (header[0], length(header));
        let has_data = kind == b'd';
        ensure!(
            length >= 4 && (has_data || length < LONGEST_TEXT),
            "the server sent a message of {length} bytes"
        );
        if has_data {
            self.data_left = length - 4;
            self.kept.clear();
            return Ok(());
        }
        if self.kept.len() < 1 + length {
            return Ok(());
        }
        let content = &self.kept[HEADER..];
        match kind {
            b'E' => bail!("{}", String::from_utf8_lossy(content).replace('\0', " ")),
            b'R' if content != [0; 4] => bail!("the server does not trust the user"),
            b'c' => self.has_ended = true,
            b'Z' => self.ready += 1,
            _ => (),
        }
        self.kept.clear();
        Ok(())
    }
}

fn length(header: &[u8; HEADER]) -> usize {
    let [_, length @ ..] = *header;
    u32::from_be_bytes(length) as usize
}
