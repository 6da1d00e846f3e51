//! The options of `expire`.

use std::ffi::OsString;

use anyhow::{Result, ensure};
use clap::ValueHint;

use super::StoreOptions;
use crate::cli::configuration::ExpireConfig;
use crate::cli::option_values::{parse_location, parse_time};

/// What to keep in a repository.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct ExpireOptions {
    /// URL of the repository, or directory with directories of backups
    #[arg(value_name = "REPOSITORY", value_hint = ValueHint::DirPath)]
    repository: OsString,

    /// keep that many of the newest full backups, and all that was made from them
    #[arg(long, value_name = "NUM")]
    keep: Option<usize>,

    /// keep backups of that time, and those that they need (with "s", "min", "h" or "d")
    #[arg(long, value_name = "TIME")]
    keep_within: Option<String>,

    /// remove unfinished backups to which nothing was added for that time
    #[arg(long, value_name = "TIME", default_value = "1d")]
    unfinished: String,

    /// tell what would be removed, and remove nothing
    #[arg(short = 'n', long)]
    dry_run: bool,

    /// print the report as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    store: StoreOptions,
}

impl ExpireOptions {
    /// Validates the options.
    ///
    /// # Errors
    /// The first invalid option or value.
    pub fn check(self) -> Result<ExpireConfig> {
        ensure!(
            self.keep.is_some() || self.keep_within.is_some(),
            "nothing says which backups to keep\n\
             HINT:  Use --keep, --keep-within or both."
        );
        ensure!(
            self.keep != Some(0),
            "number of backups to keep must be at least 1"
        );
        Ok(ExpireConfig {
            repository: parse_location(&self.repository)?,
            access: self.store.check()?,
            keep: self.keep,
            keep_within: self.keep_within.as_deref().map(parse_time).transpose()?,
            unfinished: parse_time(&self.unfinished)?,
            dry_run: self.dry_run,
            json: self.json,
        })
    }
}
