//! TLS as libpq sets it up (initialize_SSL() in fe-secure-openssl.c), over a socket that is read far ahead.

use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};

use anyhow::{Context as _, Result};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::ssl::{
    Ssl, SslContext, SslContextBuilder, SslFiletype, SslMethod, SslStream, SslVerifyMode,
    SslVersion,
};
use openssl::x509::verify::X509CheckFlags;

use crate::server::native::parameters::{Parameters, Verification, Version};

/// Bytes that are read from the socket at once.
const READ_AHEAD: usize = 128 * 1024;

/// A socket that is read far ahead.
#[derive(Debug)]
pub struct ReadAhead {
    socket: TcpStream,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl ReadAhead {
    /// Takes over a socket.
    pub fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            buffer: vec![0; READ_AHEAD].into(),
            start: 0,
            end: 0,
        }
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
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

/// Begins TLS on a socket whose server has agreed to it.
///
/// # Errors
/// Where certificates cannot be read, and where the server's is not what it has to be.
pub fn begin(socket: TcpStream, parameters: &Parameters) -> Result<SslStream<ReadAhead>> {
    let context = context(parameters)?;
    let mut tls = Ssl::new(&context)?;
    let settings = &parameters.settings;
    let address: Option<IpAddr> = parameters.host.parse().ok();
    if settings.names_host && address.is_none() && !parameters.host.is_empty() {
        tls.set_hostname(&parameters.host)?;
    }
    if let Verification::Host(_) = settings.verification {
        let expected = tls.param_mut();
        expected.set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS);
        match address {
            Some(address) => expected.set_ip(address)?,
            None => expected.set_host(&parameters.host)?,
        }
    }
    tls.connect(ReadAhead::new(socket))
        .context("could not begin TLS")
}

fn context(parameters: &Parameters) -> Result<SslContext> {
    let settings = &parameters.settings;
    let mut context = SslContextBuilder::new(SslMethod::tls_client())?;
    let version = |version| match version {
        Version::Tls12 => SslVersion::TLS1_2,
        Version::Tls13 => SslVersion::TLS1_3,
    };
    let (oldest, newest) = settings.versions;
    context.set_min_proto_version(Some(version(oldest)))?;
    context.set_max_proto_version(newest.map(version))?;
    match &settings.verification {
        Verification::None => context.set_verify(SslVerifyMode::NONE),
        Verification::Authority(root) | Verification::Host(root) => {
            context.set_ca_file(root)?;
            context.set_verify(SslVerifyMode::PEER);
        }
    }
    if let Some((certificate, key)) = &settings.certificate {
        context.set_certificate_chain_file(certificate)?;
        context.set_private_key_file(key, SslFiletype::PEM)?;
        context.check_private_key()?;
    }
    Ok(context.build())
}

/// What SCRAM binds to: the hash of the server's certificate (tls-server-end-point in RFC 5929). `None`
/// where its signature has no hash of its own.
pub fn server_end_point(stream: &SslStream<ReadAhead>) -> Option<Vec<u8>> {
    let certificate = stream.ssl().peer_certificate()?;
    let algorithms = certificate.signature_algorithm().object().nid();
    let digest = match algorithms.signature_algorithms()?.digest {
        Nid::MD5 | Nid::SHA1 => MessageDigest::sha256(),
        digest => MessageDigest::from_nid(digest)?,
    };
    let hash = certificate.digest(digest).ok()?;
    Some(hash.to_vec())
}
