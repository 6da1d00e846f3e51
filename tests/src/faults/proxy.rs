//! Proxy that can cut or stall the connections between client and server.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use crate::program::give_to_owner;
use crate::scratch::Folder;
use crate::server::Cluster;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Open,
    Stalled,
    Cut,
}

/// Connection through a proxy.
pub struct Line {
    flow: Mutex<Flow>,
    changed: Condvar,
    /// Both ends.
    ends: [UnixStream; 2],
    /// Process of the server, as the server has told the client.
    pid: OnceLock<i32>,
}

#[derive(Default)]
struct Lines {
    all: Mutex<Vec<Arc<Line>>>,
    are_closed: AtomicBool,
}

/// Listener in a directory of its own, with the same socket name as the server.
pub struct Proxy {
    dir: Folder,
    socket: PathBuf,
    lines: Arc<Lines>,
    listener: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts a proxy that opens a server connection for each client connection.
    pub fn before(cluster: &Cluster) -> io::Result<Self> {
        let dir = Folder::new("p");
        let name = format!(".s.PGSQL.{}", cluster.port());
        let socket = dir.join(&name);
        let server = cluster.socket_dir().join(&name);
        let listener = UnixListener::bind(&socket)?;
        // The program runs as that account.
        give_to_owner(&socket);
        let lines = Arc::new(Lines::default());
        let thread = std::thread::spawn({
            let lines = Arc::clone(&lines);
            move || {
                for client in listener.incoming() {
                    match client {
                        Ok(client) if !lines.are_closed.load(Ordering::SeqCst) => {
                            // Without a server, the client finds its connection closed.
                            let _ = connect(&lines, client, &server);
                        }
                        _ => return,
                    }
                }
            }
        });
        Ok(Proxy {
            dir,
            socket,
            lines,
            listener: Some(thread),
        })
    }

    /// Socket directory for clients.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Connection to a process of the server.
    pub fn line(&self, pid: i32) -> Option<Arc<Line>> {
        let lines = lock(&self.lines.all);
        lines
            .iter()
            .find(|line| line.pid.get() == Some(&pid))
            .cloned()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.lines.are_closed.store(true, Ordering::SeqCst);
        for line in lock(&self.lines.all).iter() {
            line.cut();
        }
        // Wakes the listener, which waits for a connection.
        let _ = UnixStream::connect(&self.socket);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl Line {
    /// Cuts the connection for good.
    pub fn cut(&self) {
        self.set(Flow::Cut);
        for end in &self.ends {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Stalls all traffic until [`Line::open`] is called.
    pub fn stall(&self) {
        self.set(Flow::Stalled);
    }

    /// Resumes traffic, unless the connection was cut.
    pub fn open(&self) {
        if *lock(&self.flow) == Flow::Stalled {
            self.set(Flow::Open);
        }
    }

    fn set(&self, flow: Flow) {
        *lock(&self.flow) = flow;
        self.changed.notify_all();
    }

    /// Waits while the connection is stalled. Returns false if it was cut.
    fn pass(&self) -> bool {
        let mut flow = lock(&self.flow);
        while *flow == Flow::Stalled {
            flow = self
                .changed
                .wait(flow)
                .unwrap_or_else(PoisonError::into_inner);
        }
        *flow == Flow::Open
    }
}

fn connect(lines: &Lines, client: UnixStream, server: &Path) -> io::Result<()> {
    let server = UnixStream::connect(server)?;
    let line = Arc::new(Line {
        flow: Mutex::new(Flow::Open),
        changed: Condvar::new(),
        ends: [client.try_clone()?, server.try_clone()?],
        pid: OnceLock::new(),
    });
    lock(&lines.all).push(Arc::clone(&line));
    let (to_client, to_server) = (client.try_clone()?, server.try_clone()?);
    std::thread::spawn({
        let line = Arc::clone(&line);
        move || copy(&line, client, to_server, |_| false)
    });
    let mut greeting = Vec::new();
    std::thread::spawn(move || {
        copy(&line, server, to_client, |part| {
            greeting.extend_from_slice(part);
            let pid = told_pid(&greeting);
            if let Some(pid) = pid {
                let _ = line.pid.set(pid);
            }
            pid.is_none() && greeting.len() < LARGEST_GREETING
        });
    });
    Ok(())
}

/// Limit in bytes for what a server says before it tells its process.
const LARGEST_GREETING: usize = 64 * 1024;

/// Process in the message BackendKeyData, if it is complete.
fn told_pid(mut messages: &[u8]) -> Option<i32> {
    loop {
        let length = u32::from_be_bytes(messages.get(1..5)?.try_into().ok()?);
        let body = messages.get(5..)?;
        if messages[0] == b'K' {
            return Some(i32::from_be_bytes(body.get(..4)?.try_into().ok()?));
        }
        messages = body.get(usize::try_from(length).ok()?.checked_sub(4)?..)?;
    }
}

/// Copies until one end closes. What arrives is shown to `look` first, until that returns false.
fn copy(
    line: &Line,
    mut from: UnixStream,
    mut to: UnixStream,
    mut look: impl FnMut(&[u8]) -> bool,
) {
    let mut part = vec![0; 64 * 1024];
    let mut looks = true;
    loop {
        let count = match from.read(&mut part) {
            Ok(count) if count > 0 => count,
            _ => break,
        };
        looks = looks && look(&part[..count]);
        if !line.pass() || to.write_all(&part[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
