//! The options of `list`.

use std::ffi::OsString;

use anyhow::Result;
use clap::ValueHint;

use super::StoreOptions;
use crate::cli::configuration::ListConfig;
use crate::cli::option_values::parse_location;

/// Which repository to list.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct ListOptions {
    /// URL of the repository, or directory with directories of backups
    #[arg(value_name = "REPOSITORY", value_hint = ValueHint::DirPath)]
    repository: OsString,

    /// print the list as JSON
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    store: StoreOptions,
}

impl ListOptions {
    /// Validates the options.
    ///
    /// # Errors
    /// The first invalid option or value.
    pub fn check(self) -> Result<ListConfig> {
        Ok(ListConfig {
            repository: parse_location(&self.repository)?,
            access: self.store.check()?,
            json: self.json,
        })
    }
}
