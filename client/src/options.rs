//! The command line, as that of pg_basebackup wherever that has the same option.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use backup_format::checksum::Algorithm;
use clap::{ArgAction, Parser, ValueEnum};

use crate::values::{is_slot_name, parse_mapping, parse_rate};

/// Takes a base backup of a running PostgreSQL server with several connections at once.
#[derive(Debug, Parser)]
#[command(name = "pg_parallel_backup", version, disable_help_flag = true)]
#[command(
    disable_version_flag = true,
    args_override_self = true,
    max_term_width = 100
)]
#[command(
    after_help = "The server needs the extension of the same name, in the database that is connected to."
)]
pub struct Options {
    /// receive base backup into directory; with "-" one tar archive goes to standard output
    #[arg(short = 'D', long = "pgdata", value_name = "DIRECTORY", help_heading = OUTPUT)]
    pgdata: PathBuf,

    /// output format (default: plain)
    #[arg(short = 'F', long, value_name = "p|t", help_heading = OUTPUT)]
    format: Option<Format>,

    /// use that many connections for the files (default: the processors of this machine, at most 4)
    #[arg(short = 'j', long, value_name = "NUM", help_heading = OUTPUT)]
    jobs: Option<usize>,

    /// maximum transfer rate of all connections together (in kB/s, or use suffix "k" or "M")
    #[arg(short = 'r', long, value_name = "RATE", help_heading = OUTPUT)]
    max_rate: Option<String>,

    /// write configuration for replication
    #[arg(short = 'R', long, help_heading = OUTPUT)]
    write_recovery_conf: bool,

    /// replication slot that the standby is to use, which is not made here
    #[arg(short = 'S', long, value_name = "SLOTNAME", requires = "write_recovery_conf", help_heading = OUTPUT)]
    slot: Option<String>,

    /// relocate tablespace in OLDDIR to NEWDIR
    #[arg(short = 'T', long, value_name = "OLDDIR=NEWDIR", help_heading = OUTPUT)]
    tablespace_mapping: Vec<String>,

    /// location for the write-ahead log directory
    #[arg(long, value_name = "WALDIR", help_heading = OUTPUT)]
    waldir: Option<PathBuf>,

    /// include required WAL files with specified method
    #[arg(short = 'X', long, value_name = "none|fetch", default_value = "fetch", help_heading = OUTPUT)]
    wal_method: WalMethod,

    /// set fast or spread checkpointing
    #[arg(short = 'c', long, value_name = "fast|spread", default_value = "spread", help_heading = GENERAL)]
    checkpoint: Checkpoint,

    /// set backup label
    #[arg(short = 'l', long, default_value = "pg_parallel_backup base backup", help_heading = GENERAL)]
    label: String,

    /// do not clean up after errors
    #[arg(short = 'n', long, help_heading = GENERAL)]
    no_clean: bool,

    /// do not wait for changes to be written safely to disk
    #[arg(short = 'N', long, help_heading = GENERAL)]
    no_sync: bool,

    /// set method for syncing files to disk
    #[arg(long, value_name = "METHOD", default_value = "fsync", help_heading = GENERAL)]
    sync_method: SyncMethod,

    /// show progress information
    #[arg(short = 'P', long, help_heading = GENERAL)]
    progress: bool,

    /// output verbose messages
    #[arg(short = 'v', long, help_heading = GENERAL)]
    verbose: bool,

    /// how often a connection that was lost is replaced
    #[arg(long, value_name = "NUM", default_value_t = 3, help_heading = GENERAL)]
    retries: u32,

    /// use algorithm for manifest checksums: NONE, CRC32C, SHA224, SHA256, SHA384, SHA512
    #[arg(long, value_name = "ALGORITHM", default_value = "CRC32C", help_heading = GENERAL)]
    manifest_checksums: String,

    /// suppress generation of backup manifest
    #[arg(long, conflicts_with = "manifest_checksums", help_heading = GENERAL)]
    no_manifest: bool,

    /// do not verify checksums
    #[arg(long, help_heading = GENERAL)]
    no_verify_checksums: bool,

    /// output version information, then exit
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = GENERAL)]
    version: Option<bool>,

    /// show this help, then exit
    #[arg(short = '?', long, action = ArgAction::Help, help_heading = GENERAL)]
    help: Option<bool>,

    /// connection string, or the database that has the extension (default: postgres)
    #[arg(short = 'd', long, value_name = "CONNSTR", help_heading = CONNECTION)]
    dbname: Option<String>,

    /// database server host or socket directory
    #[arg(short = 'h', long, value_name = "HOSTNAME", help_heading = CONNECTION)]
    host: Option<String>,

    /// database server port number
    #[arg(short = 'p', long, help_heading = CONNECTION)]
    port: Option<String>,

    /// connect as specified database user
    #[arg(short = 'U', long, value_name = "NAME", help_heading = CONNECTION)]
    username: Option<String>,

    /// never prompt for password
    #[arg(short = 'w', long, conflicts_with = "password", help_heading = CONNECTION)]
    no_password: bool,

    /// force password prompt (should happen automatically)
    #[arg(short = 'W', long, help_heading = CONNECTION)]
    password: bool,
}

const OUTPUT: &str = "Options controlling the output";
const GENERAL: &str = "General options";
const CONNECTION: &str = "Connection options";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WalMethod {
    None,
    Fetch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Checkpoint {
    Fast,
    Spread,
}

/// What a backup looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A directory that starts as it is.
    #[value(alias = "p")]
    Plain,
    /// Archives.
    #[value(alias = "t")]
    Tar,
}

/// How files reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SyncMethod {
    /// Each file and directory by itself.
    Fsync,
    /// Each file system as a whole.
    Syncfs,
}

/// Where to connect to.
#[derive(Clone, Debug)]
pub struct Address {
    /// A connection string, or the name of a database.
    pub dbname: Option<String>,
    /// Host or socket directory.
    pub host: Option<String>,
    /// Port.
    pub port: Option<String>,
    /// Role.
    pub user: Option<String>,
    /// Whether to ask for a password before anything else.
    pub ask_password: bool,
    /// Whether to ask for one when the server wants it.
    pub may_ask: bool,
}

/// What is to be done, with everything checked that can be without a server.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to connect to.
    pub address: Address,
    /// Where the backup goes.
    pub target: PathBuf,
    /// It goes to standard output instead.
    pub to_stdout: bool,
    /// What it looks like there.
    pub format: Format,
    /// Where its WAL goes, if not into the target.
    pub waldir: Option<PathBuf>,
    /// New places of tablespaces, by their places on the server.
    pub mapping: BTreeMap<PathBuf, PathBuf>,
    /// Connections for the files.
    pub jobs: usize,
    /// kB/s of all together.
    pub max_rate: Option<u32>,
    /// Whether it is to become a standby.
    pub standby: bool,
    /// The replication slot of the standby.
    pub slot: Option<String>,
    /// Whether the WAL is part of the backup.
    pub wal: bool,
    /// Whether the checkpoint hurries.
    pub fast: bool,
    /// The label.
    pub label: String,
    /// The manifest's checksums; `None` for no manifest.
    pub manifest: Option<Algorithm>,
    /// Whether pages are verified.
    pub verify_checksums: bool,
    /// How the backup reaches the disk; `None` when nobody waits for it.
    pub sync: Option<SyncMethod>,
    /// Whether to remove what was made after an error.
    pub clean: bool,
    /// Whether to show the progress.
    pub progress: bool,
    /// Whether to say what happens.
    pub verbose: bool,
    /// How often a lost connection is replaced.
    pub retries: u32,
}

impl Options {
    /// Checks everything that can be checked without a server or a file.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(self) -> Result<Plan> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = self.jobs.unwrap_or(processors.min(4));
        ensure!(
            (1..=1000).contains(&jobs),
            "number of jobs must be from 1 to 1000"
        );
        let max_rate = self.max_rate.as_deref().map(parse_rate).transpose()?;
        let mut mapping = BTreeMap::new();
        for text in &self.tablespace_mapping {
            let (old, new) = parse_mapping(text)?;
            if mapping.insert(old, new).is_some() {
                bail!("tablespace directory in \"{text}\" is mapped twice");
            }
        }
        let to_stdout = self.pgdata.as_os_str() == "-";
        let format = self.format.unwrap_or(if to_stdout {
            Format::Tar
        } else {
            Format::Plain
        });
        if to_stdout {
            ensure!(
                format == Format::Tar,
                "only tar format can be written to standard output"
            );
            ensure!(
                self.jobs.is_none_or(|jobs| jobs == 1),
                "only one job can write to standard output"
            );
        }
        if let Some(slot) = &self.slot {
            ensure!(
                is_slot_name(slot),
                "replication slot name \"{slot}\" is not valid"
            );
        }
        if format == Format::Tar {
            ensure!(
                !self.write_recovery_conf,
                "configuration for replication can only be written in plain format"
            );
            ensure!(
                self.waldir.is_none(),
                "WAL directory location can only be specified in plain format"
            );
            ensure!(
                mapping.is_empty(),
                "tablespaces can only be relocated in plain format\n\
                 HINT:  Edit the file tablespace_map when you unpack the archives."
            );
        }
        if let Some(waldir) = &self.waldir {
            ensure!(
                waldir.is_absolute(),
                "WAL directory location must be an absolute path"
            );
        }
        let algorithm = Algorithm::parse(&self.manifest_checksums).with_context(|| {
            format!(
                "unrecognized checksum algorithm: \"{}\"",
                self.manifest_checksums
            )
        })?;
        Ok(Plan {
            address: Address {
                dbname: self.dbname,
                host: self.host,
                port: self.port,
                user: self.username,
                ask_password: self.password,
                may_ask: !self.no_password,
            },
            target: self.pgdata,
            to_stdout,
            format,
            waldir: self.waldir,
            mapping,
            jobs,
            max_rate,
            standby: self.write_recovery_conf,
            slot: self.slot,
            wal: self.wal_method == WalMethod::Fetch,
            fast: self.checkpoint == Checkpoint::Fast,
            label: self.label,
            manifest: (!self.no_manifest).then_some(algorithm),
            verify_checksums: !self.no_verify_checksums,
            sync: (!self.no_sync).then_some(self.sync_method),
            clean: !self.no_clean,
            progress: self.progress,
            verbose: self.verbose,
            retries: self.retries,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Options::command().debug_assert();
    }
}
