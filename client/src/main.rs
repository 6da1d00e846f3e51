//! `pg_parallel_backup`: takes a base backup of a whole cluster through the extension of that name,
//! with several connections at once; verifies and restores backups, with several threads.
//!
//! The main thread watches for signals and shows the progress. Another one leads the backup, and
//! each worker has a thread and a connection of its own. All that is known of the server is in
//! [`server`] and [`extension`], all that writes in [`folder`] and [`archives`], and what was received
//! is held against the manifest in [`manifest`].

mod cli;
mod commands;
mod console;
mod manifest;
mod output;
mod repository;
mod runtime;
mod server;
mod storage;
mod stream;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use cli::configuration::ProgressFormat;
use cli::options::{Command, CommandLine};
use commands::{backup, check, combine, expire, join, list, restore, verify};
use console::messages;
use output::command_guard;

fn main() -> ExitCode {
    if command_guard::is_wanted() {
        return command_guard::run();
    }
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
    let progress = command_line.progress();
    let is_check = matches!(command_line.command, Some(Command::Check(_)));
    let capture = messages::begin(progress, is_check).context("could not set up standard error");
    let result = capture.and_then(|capture| {
        let result = work(command_line);
        // What others have written comes before the last message.
        drop(capture);
        result
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            messages::error(format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Whether all is as it should be. Where it is not, that has been said.
fn work(command_line: CommandLine) -> Result<bool> {
    let done = |()| true;
    match command_line.command {
        None => (command_line.backup.check()).and_then(|config| backup::run(&config).map(done)),
        Some(Command::Check(options)) => {
            (options.check()).and_then(|config| check::run(&config).map(done))
        }
        Some(Command::Combine(options)) => {
            (options.check()).and_then(|config| combine::run(config, "combination").map(done))
        }
        Some(Command::Expire(options)) => {
            (options.check()).and_then(|config| expire::run(&config).map(done))
        }
        Some(Command::Join(options)) => {
            (options.check()).and_then(|config| join::run(config).map(done))
        }
        Some(Command::List(options)) => {
            (options.check()).and_then(|config| list::run(&config).map(done))
        }
        Some(Command::Restore(options)) => {
            (options.check()).and_then(|config| restore::run(config).map(done))
        }
        Some(Command::Verify(options)) => options.check().and_then(verify::run),
    }
}

/// A program that reads what this one says reads also that its command line is wrong.
fn refuse(error: &clap::Error) {
    if std::env::args_os().any(|argument| argument == "--progress=json")
        && let Ok(_capture) = messages::begin(Some(ProgressFormat::Json), false)
    {
        let text = error.to_string();
        let text = text.trim_end();
        messages::error(text.strip_prefix("error: ").unwrap_or(text));
    } else {
        let _ = error.print();
    }
}
