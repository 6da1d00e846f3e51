//! `pg_parallel_backup`: takes a base backup of a whole cluster through the extension of that name,
//! with several connections at once.
//!
//! The main thread watches for signals and shows the progress. Another one leads the backup, and
//! each worker has a thread and a connection of its own. All that is known of the server is in
//! [`server`], all that writes in [`folder`] and [`archives`], and what was received is held
//! against the manifest in [`manifest`].

mod archives;
mod attend;
mod backup;
mod check;
mod check_pages;
mod claims;
mod connection;
mod digest;
mod durable;
mod folder;
mod interrupt;
mod made;
mod manifest;
mod messages;
mod options;
mod plan;
mod progress;
mod received;
mod screen;
mod server;
mod shown;
mod signals;
mod standby;
mod stderr;
mod stdout;
mod stop;
mod target;
mod unpack;
mod values;
mod workers;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use options::{Command, CommandLine};
use plan::ProgressFormat;

fn main() -> ExitCode {
    match CommandLine::try_parse() {
        Ok(command_line) => run(command_line),
        Err(help_or_error) if help_or_error.use_stderr() => {
            refuse(&help_or_error);
            ExitCode::FAILURE
        }
        Err(help) => {
            let _ = help.print();
            ExitCode::SUCCESS
        }
    }
}

fn run(command_line: CommandLine) -> ExitCode {
    let progress = match &command_line.command {
        None => command_line.backup.progress(),
        Some(Command::Check(options)) => options.progress(),
        Some(Command::Verify(_)) => None,
    };
    let capture = messages::begin(progress).context("could not set up standard error");
    let result = capture.and_then(|capture| {
        let result = match command_line.command {
            None => command_line
                .backup
                .check()
                .and_then(|plan| backup::run(&plan)),
            Some(Command::Check(options)) => {
                options.check().and_then(|plan| check_pages::run(&plan))
            }
            Some(Command::Verify(_)) => Ok(()),
        };
        // What others have written comes before the last message.
        drop(capture);
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            messages::error(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// A program that reads what this one says reads also that its command line is wrong.
fn refuse(error: &clap::Error) {
    if std::env::args_os().any(|argument| argument == "--progress=json")
        && let Ok(_capture) = messages::begin(Some(ProgressFormat::Json))
    {
        let text = error.to_string();
        let text = text.trim_end();
        messages::error(text.strip_prefix("error: ").unwrap_or(text));
    } else {
        let _ = error.print();
    }
}
