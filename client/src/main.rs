//! `pg_parallel_backup`: takes a base backup of a whole cluster through the extension of that name,
//! with several connections at once; verifies and restores backups, with several threads.
//!
//! The main thread watches for signals and shows the progress. Another one leads the backup, and
//! each worker has a thread and a connection of its own. All that is known of the server is in
//! [`server`], all that writes in [`folder`] and [`archives`], and what was received is held
//! against the manifest in [`manifest`].

mod archive;
mod archive_files;
mod archives;
mod backup;
mod check;
mod claims;
mod compress;
mod connection;
mod decompress;
mod digest;
mod durable;
mod folder;
mod held_back;
mod input;
mod layout;
mod made;
mod manifest;
mod messages;
mod options;
mod outlet;
mod parallel;
mod pipe;
mod plan;
mod progress;
mod received;
mod restore;
mod server;
mod signals;
mod standby;
mod stdout;
mod stop;
mod supervise;
mod target;
mod template;
mod unpack;
mod values;
mod verify;

use std::process::ExitCode;

use clap::Parser;
use options::{Command, CommandLine};

fn main() -> ExitCode {
    let command_line = match CommandLine::try_parse() {
        Ok(command_line) => command_line,
        Err(help_or_error) => {
            let is_error = help_or_error.use_stderr();
            let _ = help_or_error.print();
            return if is_error {
                ExitCode::FAILURE
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let done = |()| true;
    let result = match command_line.command {
        None => (command_line.backup.check()).and_then(|plan| backup::run(&plan).map(done)),
        Some(Command::Verify(options)) => options.check().and_then(verify::run),
        Some(Command::Restore(options)) => options
            .check()
            .and_then(|plan| restore::run(plan).map(done)),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        // What is wrong has been said.
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            messages::error(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
