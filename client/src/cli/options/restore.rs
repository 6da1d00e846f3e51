//! The options of `restore`, named as those of a backup.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::ValueHint;

use super::{StoreOptions, check_waldir, mapping, threads};
use crate::cli::configuration::{RestoreConfig, SyncMethod};
use crate::cli::option_values::parse_location;

/// How to restore a backup.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct RestoreOptions {
    /// backup in a repository, or directory with the archives of the backup and its manifest; with incremental backups the full one first
    #[arg(value_name = "BACKUP", value_hint = ValueHint::DirPath, required = true, num_args = 1..)]
    backups: Vec<OsString>,

    /// restore into directory
    #[arg(short = 'D', long = "pgdata", value_name = "DIRECTORY", value_hint = ValueHint::DirPath)]
    pgdata: PathBuf,

    /// unpack that many archives at once (default: the processors of this machine, at most 4)
    #[arg(short = 'j', long, value_name = "NUM")]
    jobs: Option<usize>,

    /// relocate tablespace in OLDDIR to NEWDIR
    #[arg(short = 'T', long, value_name = "OLDDIR=NEWDIR")]
    tablespace_mapping: Vec<String>,

    /// location for the write-ahead log directory
    #[arg(long, value_name = "WALDIR", value_hint = ValueHint::DirPath)]
    waldir: Option<PathBuf>,

    /// restore of the databases this one, and those that the server needs; by its OID, or in a repository by its name
    #[arg(long, value_name = "DATABASE")]
    only_database: Vec<String>,

    /// restore of the tablespaces this one; by its OID, or in a repository by its name
    #[arg(long, value_name = "TABLESPACE")]
    only_tablespace: Vec<String>,

    /// do not clean up after errors
    #[arg(short = 'n', long)]
    no_clean: bool,

    /// do not wait for changes to be written safely to disk
    #[arg(short = 'N', long)]
    no_sync: bool,

    /// set method for syncing files to disk
    #[arg(long, value_name = "METHOD", default_value = "fsync")]
    sync_method: SyncMethod,

    /// show progress information (1 MB = 1024 kB)
    #[arg(short = 'P', long)]
    pub(super) progress: bool,

    /// output verbose messages
    #[arg(short = 'v', long)]
    verbose: bool,

    /// print the result as a JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    store: StoreOptions,
}

impl RestoreOptions {
    /// Validates the options, as far as that needs no file.
    ///
    /// # Errors
    /// The first invalid option or value.
    pub fn check(self) -> Result<RestoreConfig> {
        let is_partial = !(self.only_database.is_empty() && self.only_tablespace.is_empty());
        ensure!(
            !is_partial || self.backups.len() == 1,
            "--only-database and --only-tablespace are for one full backup"
        );
        Ok(RestoreConfig {
            backups: self
                .backups
                .iter()
                .map(|backup| parse_location(backup))
                .collect::<Result<_>>()?,
            access: self.store.check()?,
            json: self.json,
            only_databases: self.only_database,
            only_tablespaces: self.only_tablespace,
            target: self.pgdata,
            waldir: check_waldir(self.waldir)?,
            mapping: mapping(&self.tablespace_mapping)?,
            jobs: threads(self.jobs)?,
            sync: (!self.no_sync).then_some(self.sync_method),
            clean: !self.no_clean,
            progress: self.progress,
            verbose: self.verbose,
        })
    }
}
