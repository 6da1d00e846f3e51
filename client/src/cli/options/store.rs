//! Options about repositories, common to commands.

use anyhow::{Context as _, Result};

use super::STORE;
use crate::cli::configuration::StoreAccess;

/// Access to a repository.
#[derive(Debug, clap::Args)]
pub struct StoreOptions {
    /// set option of the object store, beside what the environment has
    #[arg(long, value_name = "KEY=VALUE", help_heading = STORE)]
    store_option: Vec<String>,

    /// decrypt with the identities of age in FILE, or with passphrase:FILE
    #[arg(long, value_name = "FILE", help_heading = STORE)]
    identity: Vec<String>,
}

impl StoreOptions {
    /// Validates the options.
    ///
    /// # Errors
    /// The first option that is not of the form `KEY=VALUE`.
    pub fn check(&self) -> Result<StoreAccess> {
        let pairs = self.store_option.iter().map(|text| {
            let (key, value) = text
                .split_once('=')
                .with_context(|| format!("store option \"{text}\" is not of the form KEY=VALUE"))?;
            Ok((key.to_owned(), value.to_owned()))
        });
        Ok(StoreAccess {
            options: pairs.collect::<Result<_>>()?,
            identities: self.identity.clone(),
        })
    }
}
