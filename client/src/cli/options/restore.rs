//! The options of `restore`, named as those of a backup.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueHint;

use super::{check_waldir, mapping, threads};
use crate::cli::configuration::{
    CombineConfig, CopyMethod, NewManifest, Restore, RestoreConfig, SyncMethod,
};

/// How to restore a backup.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct RestoreOptions {
    /// directory with the archives of the backup, and its manifest; with incremental backups those of the full one first
    #[arg(value_name = "ARCHIVES", value_hint = ValueHint::DirPath, required = true, num_args = 1..)]
    archives: Vec<PathBuf>,

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
}

impl RestoreOptions {
    /// Validates the options, as far as that needs no file.
    ///
    /// # Errors
    /// The first invalid option or value.
    pub fn check(self) -> Result<Restore> {
        let mut archives = self.archives;
        let sync = (!self.no_sync).then_some(self.sync_method);
        if archives.len() > 1 {
            return Ok(Restore::Chain(CombineConfig {
                backups: archives,
                target: self.pgdata,
                waldir: check_waldir(self.waldir)?,
                mapping: mapping(&self.tablespace_mapping)?,
                jobs: threads(self.jobs)?,
                manifest: NewManifest::AsBefore,
                copy: CopyMethod::Copy,
                dry_run: false,
                sync,
                clean: !self.no_clean,
                progress: self.progress,
                verbose: self.verbose,
            }));
        }
        Ok(Restore::One(RestoreConfig {
            archives: archives.remove(0),
            target: self.pgdata,
            waldir: check_waldir(self.waldir)?,
            mapping: mapping(&self.tablespace_mapping)?,
            jobs: threads(self.jobs)?,
            sync,
            clean: !self.no_clean,
            progress: self.progress,
            verbose: self.verbose,
        }))
    }
}
