//! Proxy that can cut or stall the connection between client and server.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::scratch::Folder;
use crate::server::Cluster;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Open,
    Stalled,
    Cut,
}

struct Valve {
    flow: Mutex<Flow>,
    changed: Condvar,
    /// Both ends of each connection.
    ends: Mutex<Vec<UnixStream>>,
}

/// Listener in a directory of its own, with the same socket name as the server.
pub struct Proxy {
    dir: Folder,
    socket: PathBuf,
    valve: Arc<Valve>,
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
        let valve = Arc::new(Valve {
            flow: Mutex::new(Flow::Open),
            changed: Condvar::new(),
            ends: Mutex::new(Vec::new()),
        });
        let thread = std::thread::spawn({
            let valve = Arc::clone(&valve);
            move || {
                for client in listener.incoming() {
                    match client {
                        Ok(client) if valve.flow() != Flow::Cut => {
                            // Without a server, the client finds its connection closed.
                            let _ = connect(&valve, client, &server);
                        }
                        _ => return,
                    }
                }
            }
        });
        Ok(Proxy {
            dir,
            socket,
            valve,
            listener: Some(thread),
        })
    }

    /// Socket directory for clients.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Cuts all connections for good.
    pub fn cut(&self) {
        self.valve.set(Flow::Cut);
        for end in lock(&self.valve.ends).iter() {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Stalls all traffic until [`Proxy::open`] is called.
    pub fn stall(&self) {
        self.valve.set(Flow::Stalled);
    }

    /// Resumes traffic, unless the connection was cut.
    pub fn open(&self) {
        if self.valve.flow() == Flow::Stalled {
            self.valve.set(Flow::Open);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        // Wakes the listener, which waits for a connection.
        let _ = UnixStream::connect(&self.socket);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl Valve {
    fn flow(&self) -> Flow {
        *lock(&self.flow)
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

fn connect(valve: &Arc<Valve>, client: UnixStream, server: &Path) -> io::Result<()> {
    let server = UnixStream::connect(server)?;
    lock(&valve.ends).extend([client.try_clone()?, server.try_clone()?]);
    for (from, to) in [(client.try_clone()?, server.try_clone()?), (server, client)] {
        let valve = Arc::clone(valve);
        std::thread::spawn(move || copy(&valve, from, to));
    }
    Ok(())
}

fn copy(valve: &Valve, mut from: UnixStream, mut to: UnixStream) {
    let mut part = vec![0; 64 * 1024];
    loop {
        let count = match from.read(&mut part) {
            Ok(count) if count > 0 => count,
            _ => break,
        };
        if !valve.pass() || to.write_all(&part[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
