//! The way of the bytes of a connection: a socket, or TLS over one.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use openssl::ssl::{ErrorCode, SslStream};
use rustix::net::sockopt::{self, Timeout};

use crate::server::native::tls::ReadAhead;

/// What carries the bytes.
#[derive(Debug)]
pub enum Transport {
    /// TCP.
    Tcp(TcpStream),
    /// A socket of the file system.
    Unix(UnixStream),
    /// TLS over TCP.
    Tls(SslStream<ReadAhead>),
}

impl Transport {
    /// TLS, if it is that.
    pub fn tls(&self) -> Option<&SslStream<ReadAhead>> {
        match self {
            Self::Tls(stream) => Some(stream),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// Sets how long a read waits.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn set_read_timeout(&self, time: Duration) -> io::Result<()> {
        Ok(sockopt::set_socket_timeout(
            self,
            Timeout::Recv,
            Some(time),
        )?)
    }

    /// Sets how long a write waits.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn set_write_timeout(&self, time: Duration) -> io::Result<()> {
        Ok(sockopt::set_socket_timeout(
            self,
            Timeout::Send,
            Some(time),
        )?)
    }

    /// Reads what is there; `None` for nothing for as long as a read waits.
    ///
    /// # Errors
    /// Errors of the connection, `UnexpectedEof` at its end among them.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let read = match self {
            Self::Tcp(socket) => socket.read(buffer),
            Self::Unix(socket) => socket.read(buffer),
            Self::Tls(stream) => match stream.ssl_read(buffer) {
                Err(error) if error.code() == ErrorCode::WANT_READ => return Ok(None),
                Err(error) if error.code() == ErrorCode::ZERO_RETURN => Ok(0),
                read => {
                    read.map_err(|error| error.into_io_error().unwrap_or_else(io::Error::other))
                }
            },
        };
        match read {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => Ok(Some(count)),
            // The time of a read is over, or there was a signal. Where TCP gives up, the error is another.
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes all bytes.
    ///
    /// # Errors
    /// Errors of the connection.
    pub fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.write_all(bytes),
            Self::Unix(socket) => socket.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }
}

impl AsFd for Transport {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
            Self::Tls(stream) => stream.get_ref().socket().as_fd(),
        }
    }
}
