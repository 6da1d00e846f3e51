//! Where the server is.

use super::CONNECTION;

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

/// Where to connect to.
#[derive(Clone, Debug)]
pub struct Address {
    /// A connection string, or the name of a database.
    pub dbname: Option<String>,
    /// Host or socket directory.
    pub host: Option<String>,
    /// Port.
    pub port: Option<String>,
    /// Role.
    pub user: Option<String>,
    /// Whether to ask for a password before anything else.
    pub ask_password: bool,
    /// Whether to ask for one when the server wants it.
    pub may_ask: bool,
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
