//! S3 server of the tests, behind a layer that fails requests when a test says so.
//!
//! The server listens on a free port of 127.0.0.1 and prints the port. It then reads commands from standard
//! input, one JSON value a line, and answers each with a line of JSON. It ends when standard input ends, and so
//! with the test at the latest.
//!
//! usage: `s3_server FOLDER ACCESS_KEY SECRET_KEY [sync]`. The folder has a folder for each bucket. With `sync`,
//! an object is on the disk when the answer says that it exists, which is what a store promises. Without, the
//! server does not wait for the disk.
//!
//! The crate s3s speaks the protocol and checks signatures. Objects are files, which a test may read and change
//! behind the server's back. The server moves bytes as a store for large objects does: it writes a part where it
//! will be in the object, and reads in large pieces. It hashes nothing but what a signature has the hash of.
//!
//! What it lacks of S3:
//! - An object's name is a path. So no object has a name that continues another one's after a slash.
//! - The ETag of an object is no MD5, as in S3 that of an upload in parts. Checksums in headers are not verified,
//!   only the hash in the signature.
//! - It keeps neither metadata nor types of contents, and knows no versions, copies, tags, and no operations on
//!   buckets. Conditions are those on ETags, for reads, objects and completed uploads.
//! - Uploads in parts end with the server.
//!
//! It also answers Google's client, see [`google`].

mod body;
mod commands;
mod entry;
mod fault;
mod files;
mod google;
mod layer;
mod list;
mod operations;
mod state;
mod uploads;

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::StdError;
use tokio::net::TcpListener;

use crate::layer::Layer;
use crate::operations::Store;
use crate::state::State;

#[tokio::main]
async fn main() -> Result<(), StdError> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let (keys, syncs) = match arguments.as_slice() {
        [keys @ .., last] if last == "sync" => (keys, true),
        keys => (keys, false),
    };
    let [folder, access_key, secret_key] = keys else {
        return Err("usage: s3_server FOLDER ACCESS_KEY SECRET_KEY [sync]".into());
    };
    let state = Arc::new(State::default());
    let store = Store::new(Path::new(folder), syncs);
    let layer = Layer::new(store, access_key, secret_key, &state);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?.port());
    tokio::select! {
        ended = commands::obey(&state) => ended,
        ended = serve(listener, layer) => ended,
    }
}

/// Serves connections for ever.
async fn serve(listener: TcpListener, layer: Layer) -> Result<(), StdError> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(stream), layer.clone());
        // An error is a fault that a test asked for, or a client that went away.
        tokio::spawn(async move { connection.await.ok() });
    }
}
