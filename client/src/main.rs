//! `pg_parallel_backup`: takes a base backup of a whole cluster through the extension of that name,
//! with several connections at once.
//!
//! The main thread watches for signals and shows the progress. Another one leads the backup, and
//! each worker has a thread and a connection of its own. All that is known of the server is in
//! [`server`], all that writes in [`folder`] and [`archives`], and what was received is held against the manifest in
//! [`manifest`].

mod archives;
mod backup;
mod connection;
mod digest;
mod durable;
mod folder;
mod made;
mod manifest;
mod options;
mod progress;
mod received;
mod server;
mod signals;
mod stop;
mod target;
mod unpack;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let options = options::Options::parse();
    match options.check().and_then(|plan| backup::run(&plan)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pg_parallel_backup: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
