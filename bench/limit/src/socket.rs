//! Sockets of the kinds that a server has.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::{env, fs, process};

use anyhow::{Context as _, Result, bail};
use openssl::asn1::Asn1Time;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::PKey;
use openssl::ssl::{Ssl, SslContext, SslMethod, SslStream, SslVerifyMode, SslVersion};
use openssl::x509::{X509, X509NameBuilder};
use rustix::net::sockopt;

/// Size of the buffer that the extension asks for on sockets of the machine.
const LOCAL_BUFFER: usize = 512 * 1024;

/// What connects the two halves of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A socket of the file system.
    Unix,
    /// TCP over the loopback interface.
    Tcp,
    /// The same with TLS 1.3.
    Tls,
}

impl Transport {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unix => "unix",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }

    /// Finds it by its name.
    ///
    /// # Errors
    /// Where there is none of that name.
    pub fn parse(name: &str) -> Result<Self> {
        let all = [Self::Unix, Self::Tcp, Self::Tls];
        let known = all.into_iter().find(|transport| transport.name() == name);
        known.with_context(|| format!("there is no transport \"{name}\""))
    }
}

/// One end of a connection.
pub enum Socket {
    /// Without TLS, by the file system.
    Unix(UnixStream),
    /// Without TLS.
    Tcp(TcpStream),
    /// With TLS.
    Tls(Box<SslStream<ReadAhead>>),
}

/// A place to wait for senders.
pub enum Listener {
    /// A socket of the file system, with its path.
    Unix(UnixListener, PathBuf),
    /// TCP.
    Tcp(TcpListener, Transport),
}

impl Listener {
    /// Opens a place.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn open(transport: Transport) -> Result<Self> {
        Ok(match transport {
            Transport::Unix => {
                let path = env::temp_dir().join(format!("bench_limit.{}", process::id()));
                Self::Unix(UnixListener::bind(&path)?, path)
            }
            _ => Self::Tcp(TcpListener::bind("127.0.0.1:0")?, transport),
        })
    }

    /// Where senders connect to.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn address(&self) -> Result<String> {
        match self {
            Self::Unix(_, path) => Ok(path.display().to_string()),
            Self::Tcp(listener, _) => Ok(listener.local_addr()?.to_string()),
        }
    }

    /// Takes the next connection.
    ///
    /// # Errors
    /// Errors of the operating system and of TLS.
    pub fn accept(&self) -> Result<Socket> {
        match self {
            Self::Unix(listener, _) => Ok(Socket::Unix(listener.accept()?.0)),
            Self::Tcp(listener, Transport::Tls) => {
                let mut context = SslContext::builder(SslMethod::tls_client())?;
                context.set_verify(SslVerifyMode::NONE);
                let tls = Ssl::new(&context.build())?;
                let socket = ReadAhead::new(listener.accept()?.0);
                let connected = tls.connect(socket);
                let connected = connected.map_err(|error| anyhow::anyhow!("{error}"))?;
                Ok(Socket::Tls(Box::new(connected)))
            }
            Self::Tcp(listener, _) => Ok(Socket::Tcp(listener.accept()?.0)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            let _ = fs::remove_file(path);
        }
    }
}

impl Socket {
    /// Connects a sender, which is the server of TLS.
    ///
    /// # Errors
    /// Errors of the operating system and of TLS.
    pub fn connect(transport: Transport, address: &str) -> Result<Self> {
        if transport == Transport::Unix {
            let socket = UnixStream::connect(address)?;
            sockopt::set_socket_send_buffer_size(&socket, LOCAL_BUFFER)?;
            return Ok(Self::Unix(socket));
        }
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        if transport == Transport::Tcp {
            return Ok(Self::Tcp(socket));
        }
        let context = server_context()?;
        let tls = Ssl::new(&context)?;
        match tls.accept(ReadAhead::new(socket)) {
            Ok(stream) => Ok(Self::Tls(Box::new(stream))),
            Err(error) => bail!("{error}"),
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.read(buffer),
            Self::Tcp(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.write(bytes),
            Self::Tcp(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A certificate for this run, which nobody verifies.
fn server_context() -> Result<SslContext> {
    let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    let key = PKey::from_ec_key(EcKey::generate(&curve)?)?;
    let mut name = X509NameBuilder::new()?;
    name.append_entry_by_text("CN", "localhost")?;
    let name = name.build();
    let mut certificate = X509::builder()?;
    certificate.set_version(2)?;
    certificate.set_subject_name(&name)?;
    certificate.set_issuer_name(&name)?;
    certificate.set_pubkey(&key)?;
    let (from, to) = (Asn1Time::days_from_now(0)?, Asn1Time::days_from_now(2)?);
    certificate.set_not_before(&from)?;
    certificate.set_not_after(&to)?;
    certificate.sign(&key, MessageDigest::sha256())?;
    let mut context = SslContext::builder(SslMethod::tls_server())?;
    context.set_min_proto_version(Some(SslVersion::TLS1_3))?;
    context.set_certificate(&certificate.build())?;
    context.set_private_key(&key)?;
    Ok(context.build())
}

/// A socket below TLS that is read far ahead, as that of the program is.
#[derive(Debug)]
pub struct ReadAhead {
    socket: TcpStream,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl ReadAhead {
    fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            buffer: vec![0; 128 * 1024].into(),
            start: 0,
            end: 0,
        }
    }
}

impl Read for ReadAhead {
    fn read(&mut self, wanted: &mut [u8]) -> io::Result<usize> {
        if self.start == self.end {
            self.end = self.socket.read(&mut self.buffer)?;
            self.start = 0;
        }
        let count = wanted.len().min(self.end - self.start);
        wanted[..count].copy_from_slice(&self.buffer[self.start..self.start + count]);
        self.start += count;
        Ok(count)
    }
}

impl Write for ReadAhead {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}
