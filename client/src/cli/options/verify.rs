//! The options of `verify`, as those of pg_verifybackup.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::ValueHint;

use super::{StoreOptions, threads};
use crate::cli::configuration::{Format, VerifyConfig};
use crate::cli::option_values::{canonical, parse_location};

/// How to check a backup.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct VerifyOptions {
    /// directory of the backup, or its URL in a repository
    #[arg(value_name = "BACKUP", value_hint = ValueHint::DirPath)]
    backup: OsString,

    /// exit immediately on error
    #[arg(short = 'e', long)]
    exit_on_error: bool,

    /// backup format (default: plain where there is a file PG_VERSION, else tar)
    #[arg(short = 'F', long, value_name = "p|t")]
    format: Option<Format>,

    /// ignore indicated path
    #[arg(short = 'i', long, value_name = "RELATIVE_PATH")]
    ignore: Vec<PathBuf>,

    /// read that many files at once (default: the processors of this machine, at most 4)
    #[arg(short = 'j', long, value_name = "NUM")]
    jobs: Option<usize>,

    /// use specified path for manifest
    #[arg(short = 'm', long, value_name = "PATH", value_hint = ValueHint::FilePath)]
    manifest_path: Option<PathBuf>,

    /// do not try to parse WAL files
    #[arg(short = 'n', long)]
    no_parse_wal: bool,

    /// show progress information (1 MB = 1024 kB)
    #[arg(short = 'P', long, conflicts_with = "quiet")]
    pub(super) progress: bool,

    /// do not print any output, except for errors
    #[arg(short = 'q', long)]
    quiet: bool,

    /// skip checksum verification
    #[arg(short = 's', long)]
    skip_checksums: bool,

    /// use specified path for WAL files
    #[arg(short = 'w', long, value_name = "PATH", value_hint = ValueHint::DirPath, alias = "wal-path")]
    wal_directory: Option<PathBuf>,

    /// print the result as a JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    store: StoreOptions,
}

impl VerifyOptions {
    /// Validates the options, as far as that needs no file.
    ///
    /// # Errors
    /// The first invalid option or value.
    pub fn check(self) -> Result<VerifyConfig> {
        Ok(VerifyConfig {
            format: self.format,
            manifest: self.manifest_path,
            backup: parse_location(&self.backup)?,
            access: self.store.check()?,
            json: self.json,
            ignore: self.ignore.iter().map(|path| canonical(path)).collect(),
            jobs: threads(self.jobs)?,
            parse_wal: !self.no_parse_wal,
            wal_directory: self.wal_directory,
            checksums: !self.skip_checksums,
            exit_on_error: self.exit_on_error,
            progress: self.progress,
            quiet: self.quiet,
        })
    }
}
