//! Opening of sessions through libpq, with the connection options of psql.

use std::collections::HashMap;
use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use libpq::Connection;
use libpq::connection::Info;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::cli::configuration::{Address, Silence};
use crate::server::connection::{Failure, Session, Watch};
use crate::server::native::link::Link;
use crate::server::native::parameters::Parameters;

/// Default database, which every cluster has.
const DEFAULT_DATABASE: &str = "postgres";

/// Message of libpq for a missing password.
const NO_PASSWORD: &str = "no password supplied";

/// Has the server send records of 16 kB, the largest that TLS has.
const LARGEST_RECORDS: &str = "SET pg_parallel_backup.encrypted_record_size = '16kB'";

/// Time to connect a session that looks after another.
const ASIDE: Duration = Duration::from_secs(10);

/// Connection parameters, for sessions to the same server.
#[derive(Clone, Debug)]
pub struct Opener {
    parameters: HashMap<String, String>,
    /// Measures against silent connections.
    pub silence: Silence,
    /// Parameters of sessions without libpq.
    native: Option<Parameters>,
    /// Whether the extension has the setting for them.
    has_record_size: bool,
}

impl Opener {
    /// Opens the first session from options, connection string and environment. May prompt for a
    /// password.
    ///
    /// # Errors
    /// Where the connection string cannot be read, or no session can be opened.
    pub fn connect(address: &Address) -> Result<(Self, Session)> {
        let mut opener = Self {
            parameters: parameters(address)?,
            silence: address.silence,
            native: None,
            has_record_size: false,
        };
        let names_service =
            opener.parameters.contains_key("service") || std::env::var_os("PGSERVICE").is_some();
        if !names_service {
            opener.add_defaults(|_| false);
        }
        if address.ask_password {
            opener.ask_password()?;
        }
        let session = match opener.open() {
            Err(error)
                if address.may_ask
                    && !address.ask_password
                    && error.to_string().contains(NO_PASSWORD) =>
            {
                opener.ask_password().context(error)?;
                opener.open()?
            }
            opened => opened?,
        };
        opener.stay_with(&session)?;
        if names_service {
            // Only libpq reads service files: it knows now which parameters they have.
            opener.add_defaults(|keyword| session.has_parameter(keyword).unwrap_or(true));
            let session = opener.open()?;
            opener.native = session.native_parameters();
            return Ok((opener, session));
        }
        opener.native = session.native_parameters();
        Ok((opener, session))
    }

    /// Adds parameters by which a dead connection is noticed, unless the user has set his own.
    fn add_defaults(&mut self, is_set: impl Fn(&str) -> bool) {
        let (Some(limit), Some(keepalives)) = (self.silence.limit, self.silence.keepalives())
        else {
            return;
        };
        let mut defaults = vec![
            ("keepalives_idle", keepalives.idle),
            ("keepalives_interval", keepalives.interval),
            ("keepalives_count", keepalives.count),
            ("tcp_user_timeout", keepalives.user_timeout),
        ];
        if std::env::var_os("PGCONNECT_TIMEOUT").is_none() {
            defaults.push(("connect_timeout", limit.as_secs().max(1).to_string()));
        }
        for (keyword, value) in defaults {
            if !is_set(keyword) {
                self.parameters.entry(keyword.to_owned()).or_insert(value);
            }
        }
    }

    /// Opens a session that looks after another, without any set-up. It waits for nothing long.
    ///
    /// # Errors
    /// Errors of libpq.
    pub fn open_aside(&self) -> Result<Session> {
        let mut opener = self.clone();
        let limit = self.silence.limit.unwrap_or(ASIDE).min(ASIDE);
        opener.parameters.insert(
            "connect_timeout".to_owned(),
            limit.as_secs().max(2).to_string(),
        );
        let mut session = opener.open()?;
        session.watch(Watch::hard(limit));
        Ok(session)
    }

    /// Pins the host that the first session found: no other server knows the backup.
    fn stay_with(&mut self, session: &Session) -> Result<()> {
        for (keyword, value) in session.place()? {
            if !value.is_empty() {
                self.parameters.insert(keyword.to_owned(), value);
            }
        }
        Ok(())
    }

    /// Sessions for streams may ask for the largest records of TLS. The memory of libpq would grow with
    /// them, and that of other sessions does not.
    pub fn allow_largest_records(&mut self) {
        self.has_record_size = true;
    }

    /// Opens a session for streams: one without libpq, if the first session was such that it can be.
    ///
    /// # Errors
    /// As [`Opener::open`].
    pub fn open_for_streams(&self) -> Result<Session> {
        match self.native.as_ref().map(Link::open) {
            Some(Ok(link)) => {
                let session = Session::native(link)?;
                if self.has_record_size && session.has_tls() {
                    session.rows(LARGEST_RECORDS, &[])?;
                }
                Ok(session)
            }
            // libpq says what is wrong, or gets along with it.
            Some(Err(_)) | None => self.open(),
        }
    }

    /// Opens one more session.
    ///
    /// # Errors
    /// Errors of libpq.
    pub fn open(&self) -> Result<Session> {
        let parameters = self.parameters.iter();
        let parameters = parameters.map(|(key, value)| (key.as_str(), value.as_str()));
        let connection =
            Connection::with_params(&parameters.collect(), false).map_err(|error| Failure {
                message: error.to_string().trim_end().to_owned(),
                connection_lost: true,
            })?;
        Session::new(connection)
    }

    /// Parameters for another database of the same server.
    pub fn of_database(&self, name: &str) -> Self {
        let mut opener = self.clone();
        opener
            .parameters
            .insert("dbname".to_owned(), name.to_owned());
        opener.native = None;
        opener
    }

    fn ask_password(&mut self) -> Result<()> {
        // rpassword prints the prompt first, and would show what is typed until the echo is off.
        let _quiet = Quiet::terminal();
        let password =
            rpassword::prompt_password("Password: ").context("could not read the password")?;
        self.parameters.insert("password".to_owned(), password);
        Ok(())
    }
}

/// Keeps the terminal from showing what is typed until it is dropped, as simple_prompt() of PostgreSQL
/// does before it asks.
struct Quiet {
    terminal: File,
    before: Termios,
}

impl Quiet {
    /// [`None`] without a terminal.
    fn terminal() -> Option<Self> {
        let terminal = File::open("/dev/tty").ok()?;
        let before = tcgetattr(&terminal).ok()?;
        let mut modes = before.clone();
        modes.local_modes.remove(LocalModes::ECHO);
        tcsetattr(&terminal, OptionalActions::Flush, &modes).ok()?;
        Some(Self { terminal, before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// Options of the command line are stronger than the connection string, and that than the
/// environment, which libpq looks at itself.
fn parameters(address: &Address) -> Result<HashMap<String, String>> {
    let mut parameters = HashMap::new();
    match &address.dbname {
        Some(text) if is_connection_string(text) => {
            let settings =
                Info::from(text).map_err(|error| anyhow!("{}", error.to_string().trim_end()))?;
            for Info { keyword, val, .. } in settings {
                parameters.extend(val.map(|value| (keyword, value)));
            }
        }
        Some(name) => {
            parameters.insert("dbname".to_owned(), name.clone());
        }
        None => {}
    }
    let options = [
        ("host", &address.host),
        ("port", &address.port),
        ("user", &address.user),
    ];
    for (keyword, value) in options {
        if let Some(value) = value {
            parameters.insert(keyword.to_owned(), value.clone());
        }
    }
    if parameters.values().any(|value| value.contains('\0')) {
        bail!("a connection parameter contains a zero byte");
    }
    let has_database = parameters.contains_key("dbname")
        || parameters.contains_key("service")
        || ["PGDATABASE", "PGSERVICE"]
            .iter()
            .any(|name| std::env::var_os(name).is_some());
    if !has_database {
        parameters.insert("dbname".to_owned(), DEFAULT_DATABASE.to_owned());
    }
    let name = "pg_parallel_backup".to_owned();
    parameters.insert("fallback_application_name".to_owned(), name);
    Ok(parameters)
}

/// The database that the user named, and no default: in the connection string, or else in the
/// environment. As GetDbnameFromConnectionOptions() of pg_basebackup, which looks into a service file
/// only for a service of the environment.
///
/// # Errors
/// Where the connection string cannot be read.
pub fn named_database(address: &Address) -> Result<Option<String>> {
    let in_string = match &address.dbname {
        Some(text) if is_connection_string(text) => named_in(Info::from(text)?),
        name => name.clone().filter(|name| !name.is_empty()),
    };
    match in_string {
        Some(name) => Ok(Some(name)),
        None => Ok(named_in(Info::defaults()?)),
    }
}

fn named_in(settings: Vec<Info>) -> Option<String> {
    let setting = settings.into_iter().find(|info| info.keyword == "dbname")?;
    setting.val.filter(|name| !name.is_empty())
}

/// As recognized_connection_string() in fe-connect.c.
fn is_connection_string(text: &str) -> bool {
    text.starts_with("postgresql://") || text.starts_with("postgres://") || text.contains('=')
}
