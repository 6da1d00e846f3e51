//! The options of `combine`, as those of pg_combinebackup wherever that has the same one.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use clap::ValueHint;

use super::{StoreOptions, checksum_algorithm, mapping, threads};
use crate::cli::configuration::{CombineConfig, CopyMethod, NewManifest, SyncMethod};
use crate::cli::option_values::parse_location;

/// How to combine backups.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct CombineOptions {
    /// full backup and the incremental backups after it: directories, plain or tar, or backups in a repository
    #[arg(value_name = "BACKUP", value_hint = ValueHint::DirPath, required = true, num_args = 1..)]
    backups: Vec<OsString>,

    /// output directory
    #[arg(short, long, value_name = "DIRECTORY", value_hint = ValueHint::DirPath)]
    output: PathBuf,

    /// make that many files at once (default: the processors of this machine, at most 4)
    #[arg(short = 'j', long, value_name = "NUM")]
    jobs: Option<usize>,

    /// relocate tablespace in OLDDIR to NEWDIR
    #[arg(short = 'T', long, value_name = "OLDDIR=NEWDIR")]
    tablespace_mapping: Vec<String>,

    /// copy files (default)
    #[arg(long, overrides_with_all = ["clone", "copy_file_range", "link"])]
    copy: bool,

    /// clone (reflink) files instead of copying
    #[arg(long, overrides_with_all = ["copy_file_range", "link"])]
    clone: bool,

    /// copy using copy_file_range() system call
    #[arg(long, overrides_with = "link")]
    copy_file_range: bool,

    /// link files instead of copying
    #[arg(short = 'k', long)]
    link: bool,

    /// use algorithm for manifest checksums: NONE, CRC32C, SHA224, SHA256, SHA384, SHA512
    #[arg(long, value_name = "ALGORITHM", default_value = "CRC32C")]
    manifest_checksums: String,

    /// suppress generation of backup manifest
    #[arg(long)]
    no_manifest: bool,

    /// check what can be checked without writing anything
    #[arg(short = 'n', long)]
    dry_run: bool,

    /// do not clean up after errors
    #[arg(long)]
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

    #[command(flatten)]
    store: StoreOptions,
}

impl CombineOptions {
    /// Validates the options, as far as that needs no file.
    ///
    /// # Errors
    /// The first invalid option or value.
    pub fn check(self) -> Result<CombineConfig> {
        let algorithm = checksum_algorithm(&self.manifest_checksums)?;
        let copy = match (self.clone, self.copy_file_range, self.link) {
            (_, _, true) => CopyMethod::Link,
            (_, true, _) => CopyMethod::CopyFileRange,
            (true, _, _) => CopyMethod::Clone,
            _ => CopyMethod::Copy,
        };
        Ok(CombineConfig {
            backups: self
                .backups
                .iter()
                .map(|backup| parse_location(backup))
                .collect::<Result<_>>()?,
            access: self.store.check()?,
            target: self.output,
            waldir: None,
            mapping: mapping(&self.tablespace_mapping)?,
            jobs: threads(self.jobs)?,
            manifest: match self.no_manifest {
                true => NewManifest::None,
                false => NewManifest::With(algorithm),
            },
            copy,
            dry_run: self.dry_run,
            sync: (!self.no_sync).then_some(self.sync_method),
            clean: !self.no_clean,
            progress: self.progress,
            verbose: self.verbose,
        })
    }
}
