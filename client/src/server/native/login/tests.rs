//! A login at servers that break the protocol, and at one that accepts nobody.

#![allow(clippy::unwrap_used)]

use std::io::ErrorKind;
use std::net::TcpListener;
use std::thread;

use super::*;
use crate::server::native::parameters::{Keepalives, Verification, Version};

/// Types of authentication in a message of the server (pqcomm.h).
const OK: u32 = 0;
const CLEARTEXT: u32 = 3;
const MD5: u32 = 5;
const GSS: u32 = 7;
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(4 + body.len()).unwrap().to_be_bytes();
    [&[kind], &length[..], body].concat()
}

fn authentication(kind: u32, body: &[u8]) -> Vec<u8> {
    message(b'R', &[&kind.to_be_bytes(), body].concat())
}

/// All that a server says to a client that it has let in.
fn welcome() -> Vec<u8> {
    [authentication(OK, b""), message(b'Z', b"I")].concat()
}

/// Body of the next message of the client, which at first has no type.
fn receive_body(socket: &mut TcpStream, is_first: bool) -> Vec<u8> {
    let mut head = vec![0; if is_first { 4 } else { 5 }];
    socket.read_exact(&mut head).unwrap();
    let length = u32::from_be_bytes(*head.last_chunk().unwrap()) as usize;
    let mut body = vec![0; length - 4];
    socket.read_exact(&mut body).unwrap();
    body
}

fn settings(channel_binding: ChannelBinding) -> Settings {
    Settings {
        application_name: None,
        options: None,
        verification: Verification::None,
        certificate: None,
        names_host: true,
        versions: (Version::Tls12, None),
        channel_binding,
        connect_timeout: None,
        keepalives: None,
        user_timeout: None,
    }
}

/// Logs in to a server that does this after the first message.
fn login(
    settings: Settings,
    password: Option<&str>,
    serve: impl FnOnce(&mut TcpStream) + Send,
) -> Result<()> {
    login_and_look(settings, password, serve, |_| ())
}

/// The same, and looks at the connection before it is closed.
fn login_and_look(
    settings: Settings,
    password: Option<&str>,
    serve: impl FnOnce(&mut TcpStream) + Send,
    look: impl FnOnce(&Wire),
) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let parameters = Parameters {
        address: Address::Tcp(listener.local_addr().unwrap()),
        has_tls: false,
        host: "localhost".to_owned(),
        user: "backup".to_owned(),
        database: "postgres".to_owned(),
        password: password.map(str::to_owned),
        settings,
    };
    thread::scope(|scope| {
        scope.spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            receive_body(&mut socket, true);
            serve(&mut socket);
            // Until the client closes the connection.
            let _ = socket.read_to_end(&mut Vec::new());
        });
        connect(&parameters).map(|wire| look(&wire))
    })
}

/// Logs in with SCRAM to a server that extends the nonce of the client, or replaces it, and ends the exchange
/// with these messages.
fn login_with_scram(extends_nonce: bool, end: &[Vec<u8>]) -> Result<()> {
    login(settings(ChannelBinding::Prefer), Some("secret"), |socket| {
        let offer = authentication(SASL, b"SCRAM-SHA-256\0\0");
        socket.write_all(&offer).unwrap();
        let first = String::from_utf8(receive_body(socket, false)).unwrap();
        let (_, nonce) = first.split_once(",r=").unwrap();
        let nonce = if extends_nonce { nonce } else { "" };
        let challenge = format!("r={nonce}more,s=QSXCR+Q6sek8bf92,i=4096");
        let challenge = authentication(SASL_CONTINUE, challenge.as_bytes());
        socket.write_all(&challenge).unwrap();
        if extends_nonce {
            receive_body(socket, false);
        }
        // The client may have closed the connection.
        let _ = socket.write_all(&end.concat());
    })
}

#[test]
fn a_server_that_does_not_know_the_password_is_refused() {
    let signature = format!("v={}=", "A".repeat(43));
    let wrong = authentication(SASL_FINAL, signature.as_bytes());
    let none = authentication(SASL_FINAL, b"v=");
    for end in [&[wrong, welcome()][..], &[none, welcome()], &[welcome()]] {
        login_with_scram(true, end).unwrap_err();
    }
    login_with_scram(false, &[welcome()]).unwrap_err();
}

#[test]
fn a_server_without_the_wanted_channel_binding_is_refused() {
    let offer = authentication(SASL, b"SCRAM-SHA-256\0\0");
    let plus = authentication(SASL, b"SCRAM-SHA-256\0SCRAM-SHA-256-PLUS\0\0");
    for answer in [welcome(), authentication(CLEARTEXT, b""), offer, plus] {
        let error = login(
            settings(ChannelBinding::Require),
            Some("secret"),
            |socket| {
                socket.write_all(&answer).unwrap();
            },
        );
        let error = error.unwrap_err().to_string();
        assert_eq!(error, "the server does not offer channel binding");
    }
}

#[test]
fn what_no_server_may_say_is_refused() {
    let long = [&b"R"[..], &u32::MAX.to_be_bytes(), b"more"].concat();
    let short = [&b"R"[..], &3_u32.to_be_bytes(), b"more"].concat();
    for (answer, expected) in [
        (long, "the server sent a message of impossible length"),
        (short, "the server sent a message of impossible length"),
        (
            message(b'd', b"data"),
            "the server sent an unexpected message",
        ),
        (
            [authentication(OK, b""), message(b'D', b"\0\0")].concat(),
            "the server sent an unexpected message",
        ),
        (
            authentication(GSS, b""),
            "the server wants another authentication",
        ),
        (
            authentication(SASL, b"SCRAM-MD5\0\0"),
            "the server offers no authentication that is known",
        ),
        (
            [authentication(CLEARTEXT, b""), message(b'Z', b"I")].concat(),
            "the server did not accept the password",
        ),
    ] {
        let error = login(settings(ChannelBinding::Prefer), Some("secret"), |socket| {
            socket.write_all(&answer).unwrap();
        });
        assert_eq!(error.unwrap_err().to_string(), expected, "{answer:?}");
    }
}

#[test]
fn a_password_is_sent_as_the_server_wants_it() {
    // MD5 of the salt after the MD5 of password and user, as psql sends it.
    let hashed = b"md50d479cb67a60925921b27b9bf73f5424\0";
    for (wants, expected) in [
        (authentication(CLEARTEXT, b""), &b"secret\0"[..]),
        (authentication(MD5, b"salt"), hashed),
    ] {
        let entered = login(settings(ChannelBinding::Prefer), Some("secret"), |socket| {
            socket.write_all(&wants).unwrap();
            assert_eq!(receive_body(socket, false), expected);
            socket.write_all(&welcome()).unwrap();
        });
        entered.unwrap();
    }
}

#[test]
fn a_password_that_is_not_there_is_wanted() {
    for wants in [
        authentication(CLEARTEXT, b""),
        authentication(SASL, b"SCRAM-SHA-256\0\0"),
    ] {
        let error = login(settings(ChannelBinding::Prefer), None, |socket| {
            socket.write_all(&wants).unwrap();
        });
        assert_eq!(
            error.unwrap_err().to_string(),
            "the server wants a password"
        );
    }
}

#[test]
fn a_server_that_does_not_answer_is_given_up() {
    let settings = Settings {
        connect_timeout: Some(Duration::from_millis(100)),
        ..settings(ChannelBinding::Prefer)
    };
    let error = login(settings, None, |_| {}).unwrap_err();
    assert_eq!(error.to_string(), "the server does not answer");
}

#[test]
fn a_server_that_lets_everybody_in_is_entered() {
    let notice = message(b'N', b"SNOTICE\0\0");
    let welcome = [authentication(OK, b""), notice, message(b'Z', b"I")].concat();
    let entered = login(settings(ChannelBinding::Prefer), None, |socket| {
        socket.write_all(&welcome).unwrap();
    });
    entered.unwrap();
}

#[test]
fn a_socket_gets_the_wanted_times() {
    let keepalives = Keepalives {
        idle: Some(Duration::from_secs(61)),
        interval: Some(Duration::from_secs(7)),
        count: Some(5),
    };
    let settings = Settings {
        keepalives: Some(keepalives),
        user_timeout: Some(9000),
        ..settings(ChannelBinding::Prefer)
    };
    let serve = |socket: &mut TcpStream| socket.write_all(&welcome()).unwrap();
    let entered = login_and_look(settings, None, serve, |wire| {
        let socket = wire.transport();
        assert!(sockopt::socket_keepalive(socket).unwrap());
        assert_eq!(sockopt::tcp_keepidle(socket).unwrap().as_secs(), 61);
        assert_eq!(sockopt::tcp_keepintvl(socket).unwrap().as_secs(), 7);
        assert_eq!(sockopt::tcp_keepcnt(socket).unwrap(), 5);
        assert_eq!(sockopt::tcp_user_timeout(socket).unwrap(), 9000);
    });
    entered.unwrap();
}

#[test]
fn who_accepts_nobody_is_not_waited_for_without_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let family = (
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
    );
    let listener = net::socket_with(family.0, family.1, family.2, None).unwrap();
    net::bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    net::listen(&listener, 0).unwrap();
    let mut waiting = Vec::new();
    let refused = loop {
        match connect_by_path(&path, Duration::from_millis(50)) {
            Ok(socket) => waiting.push(socket),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.kind(), ErrorKind::WouldBlock);
    assert!(!waiting.is_empty());
}
