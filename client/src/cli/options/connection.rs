//! Where the server is.

use super::CONNECTION;
use std::time::Duration;

use crate::cli::configuration::{Address, Silence};

/// Options that say where the server is.
#[derive(Debug, clap::Args)]
pub struct ConnectionOptions {
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

    /// seconds after which the leading connection sends something while it waits for others; 0 for never
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(..=MOST_SECONDS), help_heading = CONNECTION)]
    heartbeat: u32,

    /// seconds without a word from the server after which a connection counts as lost; 0 for no limit
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u32).range(..=MOST_SECONDS), help_heading = CONNECTION)]
    timeout: u32,
}

/// A day, so that all settings made from it are in range.
const MOST_SECONDS: i64 = 86_400;

impl From<ConnectionOptions> for Address {
    fn from(options: ConnectionOptions) -> Self {
        Self {
            dbname: options.dbname,
            host: options.host,
            port: options.port,
            user: options.username,
            ask_password: options.password,
            may_ask: !options.no_password,
            silence: Silence {
                heartbeat: seconds(options.heartbeat),
                limit: seconds(options.timeout),
            },
        }
    }
}

/// Zero stands for none.
fn seconds(number: u32) -> Option<Duration> {
    (number > 0).then(|| Duration::from_secs(number.into()))
}
