//! Waiting for input of a libpq connection.

use std::io::{self, ErrorKind};
use std::os::fd::RawFd;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

/// Selector of one socket.
#[derive(Debug)]
pub struct Socket {
    fd: RawFd,
    poll: Poll,
    events: Events,
}

impl Socket {
    /// Selector of a socket, which has to stay open.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn new(fd: RawFd) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut source = SourceFd(&fd);
        poll.registry()
            .register(&mut source, Token(0), Interest::READABLE)?;
        Ok(Self {
            fd,
            poll,
            events: Events::with_capacity(1),
        })
    }

    /// Waits until there is input, an error or the end of the connection; returns whether there is.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn wait(&mut self, time: Duration) -> io::Result<bool> {
        // The selector tells of changes. Registering again has it tell what is there already.
        let mut source = SourceFd(&self.fd);
        self.poll
            .registry()
            .reregister(&mut source, Token(0), Interest::READABLE)?;
        match self.poll.poll(&mut self.events, Some(time)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
            Ok(()) => Ok(!self.events.is_empty()),
        }
    }
}
