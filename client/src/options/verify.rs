//! The options of `verify`.

use std::path::PathBuf;

/// How to check a backup.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct VerifyOptions {
    /// directory of the backup
    #[arg(value_name = "DIRECTORY")]
    pub directory: PathBuf,
}
