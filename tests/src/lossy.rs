//! Proxy that loses a connection after the server has sent a whole stream and before any of it has
//! arrived.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::{fs, thread};

use crate::scratch::Folder;
use crate::server::Cluster;

/// ReadyForQuery outside a transaction: the server has finished a statement.
const READY: &[u8] = b"Z\0\0\0\x05I";

/// Proxy between client and server. It loses one answer and then the connection.
#[derive(Debug)]
pub struct Lossy {
    dir: Folder,
    lost: Arc<AtomicBool>,
}

impl Lossy {
    /// Starts a proxy that loses the answer to the first statement containing `text`.
    pub fn before(cluster: &Cluster, text: &str) -> Self {
        let dir = Folder::new("l");
        let name = format!(".s.PGSQL.{}", cluster.port());
        let path = dir.join(&name);
        let listener = UnixListener::bind(&path).expect("a socket");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("its mode");
        let lost = Arc::new(AtomicBool::new(false));
        let (server, shared, text) = (
            cluster.socket_dir().join(name),
            Arc::clone(&lost),
            text.to_owned(),
        );
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A client that cannot be connected finds its connection closed.
                let _ = connect(client, &server, &shared, &text);
            }
        });
        Self { dir, lost }
    }

    /// Socket directory for clients.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether an answer has been lost.
    pub fn has_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }
}

fn connect(
    client: UnixStream,
    server: &PathBuf,
    lost: &Arc<AtomicBool>,
    text: &str,
) -> io::Result<()> {
    let server = UnixStream::connect(server)?;
    let losing = Arc::new(AtomicBool::new(false));
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let (lost, wanted, text) = (Arc::clone(lost), Arc::clone(&losing), text.to_owned());
    thread::spawn(move || {
        let mut part = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from_client.read(&mut part) {
            let part = &part[..count];
            let has_text = part
                .windows(text.len())
                .any(|found| found == text.as_bytes());
            if has_text && !lost.swap(true, Ordering::SeqCst) {
                wanted.store(true, Ordering::SeqCst);
            }
            if to_server.write_all(part).is_err() {
                break;
            }
        }
        let _ = to_server.shutdown(Shutdown::Both);
    });
    thread::spawn(move || {
        let (mut from_server, mut to_client) = (server, client);
        let mut part = vec![0; 64 * 1024];
        let mut swallowed = Vec::new();
        while let Ok(count @ 1..) = from_server.read(&mut part) {
            if losing.load(Ordering::SeqCst) {
                swallowed.extend_from_slice(&part[..count]);
                if swallowed.ends_with(READY) {
                    break;
                }
            } else if to_client.write_all(&part[..count]).is_err() {
                break;
            }
        }
        let _ = from_server.shutdown(Shutdown::Both);
        let _ = to_client.shutdown(Shutdown::Both);
    });
    Ok(())
}
