//! TCP proxy before a server that treats connections as firewalls and gateways do.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::server::Cluster;

/// Size of a read in bytes.
const PART: usize = 64 * 1024;

/// Proxy that listens on 127.0.0.1. Connections end with the test process at the latest.
pub struct Gateway {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    connections: Mutex<Vec<Arc<Connection>>>,
    /// Whether new connections are dropped too.
    drops_all: AtomicBool,
}

/// Connection that passes through the proxy.
#[derive(Default)]
struct Connection {
    /// Whether nothing of it is forwarded any more. Both ends stay open.
    is_dropped: AtomicBool,
    /// Bytes forwarded to the client.
    to_client: AtomicU64,
    /// Bytes forwarded to the server.
    to_server: AtomicU64,
}

impl Connection {
    fn bytes(&self) -> u64 {
        self.to_client.load(Ordering::SeqCst) + self.to_server.load(Ordering::SeqCst)
    }
}

impl Gateway {
    /// Proxy that forwards everything until it is told to drop connections.
    pub fn start(cluster: &Cluster) -> Self {
        Self::begin(&[cluster], None)
    }

    /// Proxy that closes connections on which nothing was said in either direction for a time.
    pub fn closing_idle(cluster: &Cluster, limit: Duration) -> Self {
        Self::begin(&[cluster], Some(limit))
    }

    /// Proxy whose first connection leads to one cluster, and the others to another.
    pub fn changing(first: &Cluster, later: &Cluster) -> Self {
        Self::begin(&[first, later], None)
    }

    /// Connections lead to the clusters in their order, and all after that to the last.
    fn begin(clusters: &[&Cluster], idle_limit: Option<Duration>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        let ports: Vec<_> = clusters.iter().map(|cluster| cluster.port()).collect();
        thread::spawn(move || {
            for (number, client) in listener.incoming().flatten().enumerate() {
                let server_port = ports[number.min(ports.len() - 1)];
                let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server_port)) else {
                    continue;
                };
                let connection = Arc::<Connection>::default();
                connection
                    .is_dropped
                    .store(shared.drops_all.load(Ordering::SeqCst), Ordering::SeqCst);
                shared.lock().push(Arc::clone(&connection));
                serve(client, server, &connection, idle_limit);
            }
        });
        Self { port, state }
    }

    /// Port of the proxy.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Number of connections so far.
    pub fn connections(&self) -> usize {
        self.state.lock().len()
    }

    /// Bytes that the client of a connection was sent; connections count from zero.
    pub fn sent_to_client(&self, number: usize) -> u64 {
        let connections = self.state.lock();
        connections
            .get(number)
            .map_or(0, |connection| connection.to_client.load(Ordering::SeqCst))
    }

    /// From now on nothing of this connection is forwarded, and neither end is told.
    pub fn drop_silently(&self, number: usize) {
        self.state.lock()[number]
            .is_dropped
            .store(true, Ordering::SeqCst);
    }

    /// From now on nothing is forwarded, also of new connections.
    pub fn drop_everything(&self) {
        self.state.drops_all.store(true, Ordering::SeqCst);
        for connection in self.state.lock().iter() {
            connection.is_dropped.store(true, Ordering::SeqCst);
        }
    }
}

impl State {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Connection>>> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn serve(
    client: TcpStream,
    server: TcpStream,
    connection: &Arc<Connection>,
    idle_limit: Option<Duration>,
) {
    let copy = |stream: &TcpStream| stream.try_clone().expect("a copy of a socket");
    if let Some(limit) = idle_limit {
        let (client, server) = (copy(&client), copy(&server));
        let connection = Arc::clone(connection);
        thread::spawn(move || {
            let (mut bytes, mut since) = (0, Instant::now());
            while since.elapsed() < limit {
                thread::sleep(Duration::from_millis(50));
                let now = connection.bytes();
                if now != bytes {
                    (bytes, since) = (now, Instant::now());
                }
            }
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        });
    }
    let (from_client, to_server) = (copy(&client), copy(&server));
    let of_client = Arc::clone(connection);
    thread::spawn(move || forward(from_client, to_server, &of_client, |c| &c.to_server));
    let of_server = Arc::clone(connection);
    thread::spawn(move || forward(server, client, &of_server, |c| &c.to_client));
}

fn forward(
    mut from: TcpStream,
    mut to: TcpStream,
    connection: &Connection,
    counter: impl Fn(&Connection) -> &AtomicU64,
) {
    let mut part = vec![0; PART];
    loop {
        let count = from.read(&mut part);
        if connection.is_dropped.load(Ordering::SeqCst) {
            // Neither end learns of anything, not even of the end of the other.
            loop {
                thread::park();
            }
        }
        match count {
            Ok(count @ 1..) if to.write_all(&part[..count]).is_ok() => {
                counter(connection).fetch_add(count as u64, Ordering::SeqCst);
            }
            _ => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
