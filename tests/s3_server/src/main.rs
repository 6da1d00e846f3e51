//! S3 server of the tests: s3s-fs behind a layer that fails requests when a test says so.
//!
//! The server listens on a free port of 127.0.0.1 and prints the port. It then reads commands from standard
//! input, one JSON value a line, and answers each with a line of JSON. It ends when standard input ends, and so
//! with the test at the latest.
//!
//! usage: `s3_server FOLDER ACCESS_KEY SECRET_KEY`. The folder has a folder for each bucket.

mod body;
mod commands;
mod entry;
mod fault;
mod layer;
mod state;
mod store;

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::StdError;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tokio::net::TcpListener;

use crate::layer::Layer;
use crate::state::State;
use crate::store::Store;

#[tokio::main]
async fn main() -> Result<(), StdError> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [folder, access_key, secret_key] = arguments.as_slice() else {
        return Err("usage: s3_server FOLDER ACCESS_KEY SECRET_KEY".into());
    };
    let files =
        FileSystem::new(folder).map_err(|error| format!("{folder} cannot be served: {error:?}"))?;
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(SimpleAuth::from_single(
        access_key.as_str(),
        secret_key.as_str(),
    ));
    let folder = Path::new(folder);
    let state = Arc::new(State::new(folder));
    let layer = Layer::new(Store::new(builder.build(), folder), Arc::clone(&state));
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
