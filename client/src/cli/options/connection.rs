//! Where the server is.

use super::CONNECTION;
use crate::cli::configuration::Address;

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
}

impl From<ConnectionOptions> for Address {
    fn from(options: ConnectionOptions) -> Self {
        Self {
            dbname: options.dbname,
            host: options.host,
            port: options.port,
            user: options.username,
            ask_password: options.password,
            may_ask: !options.no_password,
        }
    }
}
