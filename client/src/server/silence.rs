//! Silent connections. Firewalls and gateways drop connections without a word to either side.
//!
//! A session that has heard nothing for the limit asks another session what its server process does.
//! Silence while that works or waits on the server, for a checkpoint for example, is no loss. If it
//! waits for this program, or has gone, the connection carries nothing any more.

use std::time::Duration;

use anyhow::Result;

use crate::server::backend::{Backend, State};
use crate::server::connection::{Session, Watch};
use crate::server::opener::Opener;

/// Settings of the server by which it notices a client that has gone. Those that somebody has set
/// stay.
const SERVER_LIMITS: &str = "SELECT set_config(name, setting, false)
     FROM (VALUES ('tcp_keepalives_idle', $1), ('tcp_keepalives_interval', $2),
         ('tcp_keepalives_count', $3), ('tcp_user_timeout', $4)) AS limits (name, setting)
     WHERE EXISTS (SELECT FROM pg_settings
         WHERE pg_settings.name = limits.name AND source = 'default')";

/// Has the waits of a session watched.
///
/// # Errors
/// Errors of the server.
pub fn watch(session: &mut Session, opener: &Opener) -> Result<()> {
    if let Some(limit) = opener.silence.limit {
        let (backend, opener) = (Backend::of(session)?, opener.clone());
        session.watch(Watch {
            limit,
            find_loss: Box::new(move || find_loss(&backend, &opener)),
        });
    }
    Ok(())
}

/// Has the server notice within the limit that this session's client has gone.
///
/// # Errors
/// Errors of the server.
pub fn set_server_limits(session: &Session, opener: &Opener) -> Result<()> {
    if let Some(keepalives) = opener.silence.keepalives() {
        session.rows(
            SERVER_LIMITS,
            &[
                keepalives.idle.as_bytes(),
                keepalives.interval.as_bytes(),
                keepalives.count.as_bytes(),
                keepalives.user_timeout.as_bytes(),
            ],
        )?;
    }
    Ok(())
}

/// Has the server end this session when nothing comes for the limit: behind a gateway that keeps the
/// connection open the server cannot notice otherwise that the client has gone.
///
/// # Errors
/// Errors of the server.
pub fn end_when_idle(session: &Session, opener: &Opener) -> Result<()> {
    match opener.silence.limit {
        Some(limit) => set_idle_limit(session, limit),
        None => Ok(()),
    }
}

/// The same for a leader, which sends heartbeats. Its backup ends with it.
///
/// # Errors
/// Errors of the server.
pub fn end_without_heartbeat(leader: &Session, opener: &Opener) -> Result<()> {
    if let (Some(heartbeat), Some(limit)) = (opener.silence.heartbeat, opener.silence.limit) {
        set_idle_limit(leader, limit.max(heartbeat * 3))?;
    }
    Ok(())
}

fn set_idle_limit(session: &Session, limit: Duration) -> Result<()> {
    let limit = limit.as_millis();
    session.rows(&format!("SET idle_session_timeout = {limit}"), &[])?;
    Ok(())
}

/// Why a silent session counts as lost.
fn find_loss(backend: &Backend, opener: &Opener) -> Option<String> {
    let state = opener.open_aside().and_then(|other| backend.state(&other));
    match state {
        Ok(State::Busy) => None,
        Ok(State::Gone) => Some(", and its process for this connection has ended".to_owned()),
        Ok(State::WaitsForClient) => Some(
            ", but waits for this connection\n\
             HINT:  A firewall or gateway on the way may have dropped it."
                .to_owned(),
        ),
        // The server is there, and refuses another connection: nothing is known.
        Err(error) if format!("{error:#}").contains("FATAL:") => None,
        Err(error) => Some(format!(", and another connection to it failed: {error:#}")),
    }
}
