//! The way to a session: socket, TLS, start and authentication (PQconnectPoll() in fe-connect.c,
//! fe-auth.c).

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::BytesMut;
use openssl::ssl::SslStream;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::backend::{AuthenticationSaslBody, Message};
use postgres_protocol::message::frontend;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::server::native::parameters::{Address, ChannelBinding, Parameters, Settings};
use crate::server::native::tls::{self, ReadAhead};
use crate::server::native::transport::Transport;
use crate::server::native::wire::{Input, Wire};

use fallible_iterator::FallibleIterator as _;

/// The server agrees to TLS.
const AGREED: u8 = b'S';

/// Longest time to connect, if none is set.
const PATIENCE: Duration = Duration::from_secs(30);

/// Opens a session. Where anything fails, libpq knows better what to say.
///
/// # Errors
/// Errors of the connection and of the server, and what a server may not do.
pub fn connect(parameters: &Parameters) -> Result<Wire> {
    let settings = &parameters.settings;
    let patience = settings.connect_timeout.unwrap_or(PATIENCE);
    let transport = match &parameters.address {
        Address::Unix(path) => Transport::Unix(connect_by_path(path, patience)?),
        Address::Tcp(address) => {
            let socket = TcpStream::connect_timeout(address, patience)?;
            set_up(&socket, settings)?;
            if parameters.has_tls {
                Transport::Tls(begin_tls(socket, parameters, patience)?)
            } else {
                Transport::Tcp(socket)
            }
        }
    };
    transport.set_read_timeout(patience)?;
    let mut wire = Wire::new(transport);
    let mut start = BytesMut::new();
    let given = [
        ("user", Some(&parameters.user)),
        ("database", Some(&parameters.database)),
        ("application_name", settings.application_name.as_ref()),
        ("options", settings.options.as_ref()),
    ];
    let given = given.into_iter();
    let given = given.filter_map(|(name, value)| Some((name, value?.as_str())));
    frontend::startup_message(given, &mut start)?;
    wire.send(&start)?;
    authenticate(&mut wire, parameters)?;
    loop {
        match receive(&mut wire)? {
            Message::ReadyForQuery(_) => return Ok(wire),
            Message::ParameterStatus(_) | Message::BackendKeyData(_) => {}
            Message::NoticeResponse(_) => {}
            _ => bail!("the server sent an unexpected message"),
        }
    }
}

/// Connects to a socket of the file system. A server that stands still accepts nobody, and the wait for a place in
/// its queue has the time of a write.
fn connect_by_path(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket = net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    sockopt::set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
    net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    sockopt::set_socket_timeout(&socket, Timeout::Send, None)?;
    Ok(socket.into())
}

/// Has the server agree to TLS, and begins it.
fn begin_tls(
    mut socket: TcpStream,
    parameters: &Parameters,
    patience: Duration,
) -> Result<SslStream<ReadAhead>> {
    socket.set_read_timeout(Some(patience))?;
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request)?;
    let mut answer = [0];
    socket.read_exact(&mut answer)?;
    if answer != [AGREED] {
        bail!("the server does not agree to TLS");
    }
    tls::begin(socket, parameters)
}

fn set_up(socket: &TcpStream, settings: &Settings) -> Result<()> {
    socket.set_nodelay(true)?;
    if let Some(keepalives) = settings.keepalives {
        sockopt::set_socket_keepalive(socket, true)?;
        if let Some(idle) = keepalives.idle {
            sockopt::set_tcp_keepidle(socket, idle)?;
        }
        if let Some(interval) = keepalives.interval {
            sockopt::set_tcp_keepintvl(socket, interval)?;
        }
        if let Some(count) = keepalives.count {
            sockopt::set_tcp_keepcnt(socket, count)?;
        }
    }
    if let Some(milliseconds) = settings.user_timeout {
        sockopt::set_tcp_user_timeout(socket, milliseconds)?;
    }
    Ok(())
}

fn authenticate(wire: &mut Wire, parameters: &Parameters) -> Result<()> {
    let is_bound = parameters.settings.channel_binding == ChannelBinding::Require;
    let password = || {
        let password = parameters.password.as_ref().map(String::as_bytes);
        password.context("the server wants a password")
    };
    match receive(wire)? {
        Message::AuthenticationSasl(offer) => {
            let password = password()?;
            return scram(wire, parameters, &offer, password);
        }
        _ if is_bound => bail!("the server does not offer channel binding"),
        Message::AuthenticationOk => return Ok(()),
        Message::AuthenticationCleartextPassword => send_password(wire, password()?)?,
        Message::AuthenticationMd5Password(body) => {
            let user = parameters.user.as_bytes();
            send_password(wire, md5_hash(user, password()?, body.salt()).as_bytes())?;
        }
        _ => bail!("the server wants another authentication"),
    }
    expect_ok(wire)
}

fn send_password(wire: &mut Wire, password: &[u8]) -> Result<()> {
    let mut answer = BytesMut::new();
    frontend::password_message(password, &mut answer)?;
    wire.send(&answer)?;
    Ok(())
}

fn scram(
    wire: &mut Wire,
    parameters: &Parameters,
    offer: &AuthenticationSaslBody,
    password: &[u8],
) -> Result<()> {
    let wanted = parameters.settings.channel_binding;
    let mut offered = (false, false);
    let mut mechanisms = offer.mechanisms();
    while let Some(mechanism) = mechanisms.next()? {
        offered.0 |= mechanism == sasl::SCRAM_SHA_256;
        offered.1 |= mechanism == sasl::SCRAM_SHA_256_PLUS;
    }
    let end_point = match wanted {
        ChannelBinding::Disable => None,
        _ => (wire.transport().tls()).and_then(tls::server_end_point),
    };
    let (binding, mechanism) = match (offered, end_point) {
        ((_, true), Some(hash)) => (
            sasl::ChannelBinding::tls_server_end_point(hash),
            sasl::SCRAM_SHA_256_PLUS,
        ),
        _ if wanted == ChannelBinding::Require => {
            bail!("the server does not offer channel binding")
        }
        ((true, false), Some(_)) => (sasl::ChannelBinding::unrequested(), sasl::SCRAM_SHA_256),
        ((true, _), None) => (sasl::ChannelBinding::unsupported(), sasl::SCRAM_SHA_256),
        _ => bail!("the server offers no authentication that is known"),
    };
    let mut exchange = sasl::ScramSha256::new(password, binding);
    let mut answer = BytesMut::new();
    frontend::sasl_initial_response(mechanism, exchange.message(), &mut answer)?;
    wire.send(&answer)?;
    let Message::AuthenticationSaslContinue(challenge) = receive(wire)? else {
        bail!("the server sent an unexpected message");
    };
    exchange.update(challenge.data())?;
    answer.clear();
    frontend::sasl_response(exchange.message(), &mut answer)?;
    wire.send(&answer)?;
    let Message::AuthenticationSaslFinal(end) = receive(wire)? else {
        bail!("the server did not accept the password");
    };
    // Only who knows the password can have sent it.
    exchange.finish(end.data())?;
    expect_ok(wire)
}

fn expect_ok(wire: &mut Wire) -> Result<()> {
    match receive(wire)? {
        Message::AuthenticationOk => Ok(()),
        _ => bail!("the server did not accept the password"),
    }
}

fn receive(wire: &mut Wire) -> Result<Message> {
    match wire.next()? {
        Input::Message(message) => Ok(message),
        Input::Data(_) => bail!("the server sent an unexpected message"),
        Input::Nothing => bail!("the server does not answer"),
    }
}

#[cfg(test)]
mod tests;
