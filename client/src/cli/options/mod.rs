//! The command line: that of a backup, as pg_basebackup has it, and the other commands.

mod backup;
mod check;
mod combine;
mod compress;
mod connection;
mod expire;
mod join;
mod list;
mod restore;
mod store;
mod verify;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use backup_format::checksum::Algorithm;
use clap::{ArgAction, Parser, Subcommand};

pub use backup::BackupOptions;
pub use check::CheckOptions;
pub use combine::CombineOptions;
pub use connection::ConnectionOptions;
pub use expire::ExpireOptions;
pub use join::JoinOptions;
pub use list::ListOptions;
pub use restore::RestoreOptions;
pub use store::StoreOptions;
pub use verify::VerifyOptions;

use crate::cli::configuration::ProgressFormat;
use crate::cli::option_values::{default_jobs, own_processors, parse_mapping};

const OUTPUT: &str = "Options controlling the output";
const GENERAL: &str = "General options";
const CONNECTION: &str = "Connection options";
const STORE: &str = "Repository options";

/// Takes a base backup of a running PostgreSQL server with several connections at once.
#[derive(Debug, Parser)]
#[command(name = "pg_parallel_backup", version, max_term_width = 100)]
#[command(
    disable_help_flag = true,
    disable_version_flag = true,
    args_override_self = true
)]
#[command(disable_help_subcommand = true, subcommand_value_name = "COMMAND")]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(
    after_help = "The server needs the extension of the same name, in the database that is connected to."
)]
pub struct CommandLine {
    /// What to do, where it is not a backup.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// How to take a backup, where there is no other command.
    #[command(flatten)]
    pub backup: BackupOptions,

    /// output version information, then exit
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = GENERAL)]
    version: Option<bool>,

    /// show this help, then exit
    #[arg(short = '?', long, action = ArgAction::Help, global = true, help_heading = GENERAL)]
    help: Option<bool>,
}

impl CommandLine {
    /// Format of the progress; `None` for no progress.
    pub fn progress(&self) -> Option<ProgressFormat> {
        let wanted = match &self.command {
            None => return self.backup.progress(),
            Some(Command::Check(options)) => return options.progress(),
            Some(Command::Combine(options)) => options.progress,
            Some(Command::Restore(options)) => options.progress,
            Some(Command::Verify(options)) => options.progress,
            Some(Command::Join(options)) => options.progress,
            Some(Command::List(_) | Command::Expire(_)) => false,
        };
        wanted.then_some(ProgressFormat::Text)
    }
}

/// What there is to do beside a backup.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Reads and verifies all pages of a running cluster, and names what is damaged.
    #[command(disable_help_flag = true)]
    Check(CheckOptions),
    /// Checks a backup against its manifest.
    Verify(VerifyOptions),
    /// Unpacks a backup in tar format into a directory that starts.
    Restore(RestoreOptions),
    /// Puts a full backup and incremental ones together.
    Combine(CombineOptions),
    /// Joins a backup to a repository that another host leads.
    #[command(disable_help_flag = true)]
    Join(JoinOptions),
    /// Lists the backups of a repository.
    List(ListOptions),
    /// Removes backups from a repository that nobody needs any more.
    Expire(ExpireOptions),
}

/// Validates a number of jobs; `None` if it was not given.
fn jobs(wanted: Option<usize>) -> Result<Option<usize>> {
    ensure!(
        wanted.is_none_or(|jobs| (1..=1000).contains(&jobs)),
        "number of jobs must be from 1 to 1000"
    );
    Ok(wanted)
}

/// Algorithm of a manifest's checksums.
fn checksum_algorithm(name: &str) -> Result<Algorithm> {
    Algorithm::parse(name).with_context(|| format!("unrecognized checksum algorithm: \"{name}\""))
}

/// Number of threads: the given one, or the default of this machine.
fn threads(wanted: Option<usize>) -> Result<usize> {
    Ok(jobs(wanted)?.unwrap_or_else(|| default_jobs(own_processors())))
}

/// New locations of tablespaces by their old ones.
fn mapping(texts: &[String]) -> Result<BTreeMap<PathBuf, PathBuf>> {
    let mut mapping = BTreeMap::new();
    for text in texts {
        let (old, new) = parse_mapping(text)?;
        if mapping.insert(old, new).is_some() {
            bail!("tablespace directory in \"{text}\" is mapped twice");
        }
    }
    Ok(mapping)
}

/// Validates `--waldir`, which must be an absolute path.
fn check_waldir(waldir: Option<PathBuf>) -> Result<Option<PathBuf>> {
    if let Some(waldir) = &waldir {
        ensure!(
            waldir.is_absolute(),
            "WAL directory location must be an absolute path"
        );
    }
    Ok(waldir)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        CommandLine::command().debug_assert();
    }

    #[test]
    fn a_backup_needs_no_command() {
        let parsed = CommandLine::try_parse_from(["x", "-D", "dir", "-P"]).unwrap();
        assert!(parsed.command.is_none());
        let parsed = CommandLine::try_parse_from(["x", "verify", "dir"]).unwrap();
        assert!(matches!(parsed.command, Some(Command::Verify(_))));
        let parsed = CommandLine::try_parse_from(["x", "check", "-h", "db", "-j", "2"]).unwrap();
        assert!(matches!(parsed.command, Some(Command::Check(_))));
        assert!(CommandLine::try_parse_from(["x"]).is_err());
        assert!(CommandLine::try_parse_from(["x", "-D", "dir", "verify", "dir"]).is_err());
    }
}
