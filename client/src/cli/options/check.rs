//! The options of `check`.

use anyhow::Result;

use super::backup::Checkpoint;
use super::{ConnectionOptions, GENERAL, jobs};
use crate::cli::configuration::{CheckConfig, ProgressFormat};
use crate::cli::option_values::parse_rate;

/// How to check the pages of a cluster.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct CheckOptions {
    /// use that many connections (default: the server's processors, at most 4)
    #[arg(short = 'j', long, value_name = "NUM", help_heading = GENERAL)]
    jobs: Option<usize>,

    /// maximum rate of reading of all connections together (in kB/s, or use suffix "k" or "M")
    #[arg(short = 'r', long, value_name = "RATE", help_heading = GENERAL)]
    max_rate: Option<String>,

    /// set fast or spread checkpointing
    #[arg(short = 'c', long, value_name = "fast|spread", default_value = "spread", help_heading = GENERAL)]
    checkpoint: Checkpoint,

    /// show progress information (1 MB = 1024 kB); as JSON, with all messages, it is for programs
    #[arg(short = 'P', long, value_name = "text|json", num_args = 0..=1, require_equals = true, default_missing_value = "text", help_heading = GENERAL)]
    progress: Option<ProgressFormat>,

    /// output verbose messages
    #[arg(short = 'v', long, help_heading = GENERAL)]
    verbose: bool,

    /// how often a connection that was lost is replaced
    #[arg(long, value_name = "NUM", default_value_t = 3, help_heading = GENERAL)]
    retries: u32,

    #[command(flatten)]
    connection: ConnectionOptions,
}

impl CheckOptions {
    /// Format of the progress; `None` for no progress.
    pub fn progress(&self) -> Option<ProgressFormat> {
        self.progress
    }

    /// Validates the options, as far as that needs no server.
    ///
    /// # Errors
    /// The first invalid option or value.
    pub fn check(self) -> Result<CheckConfig> {
        Ok(CheckConfig {
            address: self.connection.into(),
            jobs: jobs(self.jobs)?,
            max_rate: self.max_rate.as_deref().map(parse_rate).transpose()?,
            fast: self.checkpoint == Checkpoint::Fast,
            progress: self.progress,
            verbose: self.verbose,
            retries: self.retries,
        })
    }
}
