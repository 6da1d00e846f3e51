//! Advisory locks by which hosts that take one backup know of each other.
//!
//! The session of a host that says a word to the server now and then holds the lock of the host, and each session
//! of its workers a share of a second lock. The server ends the former when no word comes, however open the
//! connection is: see [`silence`](crate::server::silence). Whoever leads takes the second lock of a lost host as a
//! whole, once no session has a share of it. From then on no worker of that host begins a stream.

use std::collections::HashSet;

use anyhow::{Context, Result, ensure};

use crate::server::connection::Session;
use crate::server::row::{number, text, value};

/// Class of the locks of hosts. The object is the number of the host.
const HOSTS: i32 = 0x7067_5042;
/// Class of the locks that workers of a host share. The object is the number of the host.
const WORKERS: i32 = 0x7067_5057;

/// Takes the lock of a host until the session ends. Returns whether it was free.
///
/// # Errors
/// Errors of the server.
pub fn register_host(session: &Session, host: u32) -> Result<bool> {
    holds(session, &format!("pg_try_advisory_lock({HOSTS}, {host})"))
}

/// Takes a share of the lock of the workers until the session ends.
///
/// # Errors
/// Where the host counts as lost, and errors of the server.
pub fn register_worker(session: &Session, host: u32) -> Result<()> {
    // A lock belongs to a database, and whoever leads may have another one.
    let call = format!(
        "pg_try_advisory_lock_shared({WORKERS}, {host}) AND NOT EXISTS
             (SELECT FROM pg_locks WHERE {} AND mode = 'ExclusiveLock' AND objid = {host})",
        held(WORKERS)
    );
    ensure!(
        holds(session, &call)?,
        "the program that leads the backup counts this host as lost"
    );
    Ok(())
}

/// Takes the lock of the workers as a whole, unless one of them has a session. Returns whether it is taken. A lock
/// belongs to a database, and a host may have another one: its sessions count as well.
///
/// # Errors
/// Errors of the server.
pub fn exclude(session: &Session, host: u32) -> Result<bool> {
    let call = format!(
        "CASE WHEN EXISTS (SELECT FROM pg_locks WHERE {}) THEN false
              ELSE pg_try_advisory_lock({WORKERS}, {host}) END",
        shared_by(host)
    );
    holds(session, &call)
}

/// Numbers of the hosts that hold their locks.
///
/// # Errors
/// Errors of the server.
pub fn working_hosts(session: &Session) -> Result<HashSet<u32>> {
    let query = format!("SELECT objid FROM pg_locks WHERE {}", held(HOSTS));
    let rows = session.rows(&query, &[])?;
    rows.iter().map(|row| number(row, 0)).collect()
}

/// Ends the sessions of the workers of a host.
///
/// # Errors
/// Where the role may not, and errors of the server.
pub fn end_sessions(session: &Session, host: u32) -> Result<()> {
    // Names are looked for in pg_catalog, and no timeout of the role ends the statement.
    session.rows(
        "SELECT pg_catalog.set_config('search_path', 'pg_catalog', false),
             pg_catalog.set_config('statement_timeout', '0', false)",
        &[],
    )?;
    let query = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE {}",
        shared_by(host)
    );
    session.rows(&query, &[])?;
    Ok(())
}

/// Process, application and address of the workers of a host, as far as this role may see them.
///
/// # Errors
/// Errors of the server.
pub fn describe_sessions(session: &Session, host: u32) -> Result<String> {
    let query = format!(
        "SELECT concat('process ', pid,
             ', application \"' || nullif(application_name, '') || '\"',
             ', address ' || CASE client_port WHEN -1 THEN '[local]' ELSE host(client_addr) END)
         FROM pg_locks LEFT JOIN pg_stat_activity USING (pid)
         WHERE {} ORDER BY pid",
        shared_by(host)
    );
    let rows = session.rows(&query, &[])?;
    let sessions: Vec<_> = rows.iter().map(|row| text(row, 0)).collect::<Result<_>>()?;
    Ok(sessions.join("; "))
}

/// Condition for the shares that the workers of a host have in pg_locks. Whoever leads may have the lock as a whole.
fn shared_by(host: u32) -> String {
    format!(
        "{} AND mode = 'ShareLock' AND objid = {host}",
        held(WORKERS)
    )
}

/// Condition for the locks of a class in pg_locks.
fn held(class: i32) -> String {
    format!("locktype = 'advisory' AND granted AND classid = {class}")
}

fn holds(session: &Session, call: &str) -> Result<bool> {
    let rows = session.rows(&format!("SELECT {call}"), &[])?;
    let row = rows.first().context("the server returned no row")?;
    Ok(value(row, 0)? == b"t")
}
