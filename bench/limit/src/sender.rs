//! The half of a pair that reads files and sends them.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;

use anyhow::Result;

use crate::socket::{Socket, Transport};
use crate::work::Work;

/// Size of a read, as in the extension.
const PART: usize = 128 * 1024;

/// Size of a message, as in the extension: with TLS, and without.
const ENCRYPTED_MESSAGE: usize = PART;
const MESSAGE: usize = 1024 * 1024;

/// Largest record of TLS, for which the program asks.
const RECORD: usize = 16 * 1024;

/// Bytes before a file: its index and its size.
pub const HEADER: usize = 16;

/// Where a message begins in a page of memory. Zen 3 copies at half the speed to an address that is up to 32 bytes
/// beyond that which it copies from, modulo 4096.
const OFFSET: usize = 64;
const ALIGNMENT: usize = 4096;

/// Sends what the queue on standard input has for it.
///
/// # Errors
/// Errors of the operating system, and where a file changes.
pub fn run(transport: Transport, address: &str, work: &Work) -> Result<()> {
    let buffer = vec![0; ALIGNMENT + OFFSET + MESSAGE];
    let start = OFFSET + buffer.as_ptr().align_offset(ALIGNMENT);
    let mut sender = Sender {
        socket: Socket::connect(transport, address)?,
        buffer,
        start,
        filled: 0,
        message: match transport {
            Transport::Tls => ENCRYPTED_MESSAGE,
            _ => MESSAGE,
        },
        write: match transport {
            Transport::Tls => RECORD,
            _ => MESSAGE,
        },
    };
    // Without a buffer: others read from it too. A read of so few bytes is not divided between them.
    let mut queue = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut batch = [0; 8];
    while read_batch(&mut queue, &mut batch)? {
        let [first, end] = [&batch[..4], &batch[4..]].map(number);
        for index in first..end {
            let file = &work.files[index];
            sender.header(index, file.size)?;
            sender.content(&File::open(&file.path)?, file.size)?;
        }
    }
    sender.flush()?;
    Ok(())
}

struct Sender {
    socket: Socket,
    buffer: Vec<u8>,
    /// Where a message begins in the buffer.
    start: usize,
    filled: usize,
    message: usize,
    /// Largest write.
    write: usize,
}

impl Sender {
    fn header(&mut self, index: usize, size: u64) -> io::Result<()> {
        if self.filled + HEADER > self.message {
            self.flush()?;
        }
        let place = &mut self.buffer[self.start + self.filled..][..HEADER];
        place[..8].copy_from_slice(&(index as u64).to_ne_bytes());
        place[8..].copy_from_slice(&size.to_ne_bytes());
        self.filled += HEADER;
        Ok(())
    }

    fn content(&mut self, file: &File, size: u64) -> io::Result<()> {
        let mut offset = 0;
        while offset < size {
            if self.filled == self.message {
                self.flush()?;
            }
            let left = usize::try_from(size - offset).unwrap_or(PART);
            let room = self.message - self.filled;
            let part = &mut self.buffer[self.start + self.filled..][..PART.min(left).min(room)];
            match file.read_at(part, offset)? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                count => {
                    self.filled += count;
                    offset += count as u64;
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        for piece in self.buffer[self.start..][..self.filled].chunks(self.write) {
            self.socket.write_all(piece)?;
        }
        self.filled = 0;
        Ok(())
    }
}

fn read_batch(queue: &mut File, batch: &mut [u8; 8]) -> io::Result<bool> {
    match queue.read_exact(batch) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        result => result.map(|()| true),
    }
}

fn number(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rev()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}
