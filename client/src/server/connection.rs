//! Sessions through libpq, with the connection options of psql.

use std::collections::HashMap;

use anyhow::{Context, Result, anyhow, bail};
use libpq::connection::Info;
use libpq::result::ErrorField;
use libpq::{Connection, PQResult, Status};

use crate::cli::configuration::Address;
use crate::console::escape;

/// Default database, which every cluster has.
const DEFAULT_DATABASE: &str = "postgres";

/// Message of libpq for a missing password.
const NO_PASSWORD: &str = "no password supplied";

/// Connection parameters, for sessions to the same server.
#[derive(Clone, Debug)]
pub struct Opener {
    parameters: HashMap<String, String>,
}

/// A session of the server.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
}

/// Values in text form, as the server sent them; `None` is NULL.
pub type Row = Vec<Option<Vec<u8>>>;

/// Error of a statement.
#[derive(Debug)]
pub struct Failure {
    /// Message of the server or libpq, with DETAIL and HINT.
    pub message: String,
    /// Whether the connection was lost, so that a new one may succeed.
    pub connection_lost: bool,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

impl Opener {
    /// Opens the first session from options, connection string and environment. May prompt for a
    /// password.
    ///
    /// # Errors
    /// Where the connection string cannot be read, or no session can be opened.
    pub fn connect(address: &Address) -> Result<(Self, Session)> {
        let mut opener = Self {
            parameters: parameters(address)?,
        };
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
        Ok((opener, session))
    }

    /// Pins the host that the first session found: no other server knows the backup.
    fn stay_with(&mut self, session: &Session) -> Result<()> {
        let connection = &session.connection;
        let place = [
            ("host", connection.host()?),
            ("hostaddr", connection.hostaddr()?),
            ("port", connection.port()?),
        ];
        for (keyword, value) in place {
            if !value.is_empty() {
                self.parameters.insert(keyword.to_owned(), value);
            }
        }
        Ok(())
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
        Ok(Session { connection })
    }

    /// Parameters for another database of the same server.
    pub fn of_database(&self, name: &str) -> Self {
        let mut opener = self.clone();
        opener
            .parameters
            .insert("dbname".to_owned(), name.to_owned());
        opener
    }

    fn ask_password(&mut self) -> Result<()> {
        let password =
            rpassword::prompt_password("Password: ").context("could not read the password")?;
        self.parameters.insert("password".to_owned(), password);
        Ok(())
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

impl Session {
    /// Runs a statement and returns its rows.
    ///
    /// # Errors
    /// Errors of the server.
    pub fn rows(&self, statement: &str, values: &[&[u8]]) -> Result<Vec<Row>> {
        let values: Vec<_> = values.iter().map(|v| [*v, b"\0"].concat()).collect();
        let values: Vec<_> = values.iter().map(|value| Some(value.as_slice())).collect();
        let result = self
            .connection
            .exec_params(statement, &[], &values, &[], libpq::Format::Text);
        match result.status() {
            Status::TuplesOk | Status::CommandOk => {}
            _ => return Err(self.failure(&result).into()),
        }
        let value = |row, column| result.value(row, column).map(<[u8]>::to_vec);
        let row = |row| {
            (0..result.nfields())
                .map(|column| value(row, column))
                .collect()
        };
        Ok((0..result.ntuples()).map(row).collect())
    }

    /// Runs a `COPY … TO STDOUT` and hands each message to `take`. Where that fails, the session is
    /// of no more use.
    ///
    /// # Errors
    /// Errors of the server, as [`Failure`], and those of `take`.
    pub fn copy(&self, statement: &str, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let result = self.connection.exec(statement);
        if result.status() != Status::CopyOut {
            return Err(self.failure(&result).into());
        }
        // The end of the data and an error look alike here; the result after it tells.
        while let Ok(message) = self.connection.copy_data(false) {
            take(&message)?;
        }
        let mut outcome = None;
        while let Some(result) = self.connection.result() {
            let ended_well = result.status() == Status::CommandOk;
            let said = if ended_well {
                Ok(())
            } else {
                Err(self.failure(&result).into())
            };
            outcome.get_or_insert(said);
            if !ended_well && self.is_lost() {
                break;
            }
        }
        outcome.unwrap_or_else(|| Err(self.lost().into()))
    }

    /// How this session was opened, for another that is to be like it: keywords of a connection
    /// string and their values.
    ///
    /// # Errors
    /// Errors of libpq.
    pub fn parameters(&self) -> Result<Vec<(String, String)>> {
        const NOT_FOR_OTHERS: [&str; 3] = ["replication", "dbname", "fallback_application_name"];
        let settings = self.connection.info()?;
        let mut parameters: Vec<_> = settings
            .into_values()
            .filter_map(|Info { keyword, val, .. }| Some((keyword, val?)))
            .filter(|(keyword, value)| {
                !value.is_empty() && !NOT_FOR_OTHERS.contains(&keyword.as_str())
            })
            .collect();
        parameters.sort();
        Ok(parameters)
    }

    /// The version of its server, as libpq has it: 150020 is 15.20.
    pub fn server_version(&self) -> i32 {
        self.connection.server_version()
    }

    fn failure(&self, result: &PQResult) -> Failure {
        let field = |field| {
            let text = result.error_field(field).ok()?;
            text.map(|text| escape::message(text.as_bytes()))
        };
        let mut message = match field(ErrorField::MessagePrimary) {
            Some(primary) => primary,
            // The binding gives nothing but UTF-8; its code says what it is.
            None => match field(ErrorField::Sqlstate) {
                Some(code) => format!("the server's message is not UTF-8 (SQLSTATE {code})"),
                None => return self.lost(),
            },
        };
        if let Some(detail) = field(ErrorField::MessageDetail) {
            message.push_str(&format!("\nDETAIL:  {detail}"));
        }
        if let Some(hint) = field(ErrorField::MessageHint) {
            message.push_str(&format!("\nHINT:  {hint}"));
        }
        Failure {
            message,
            // The server closes the connection after it; libpq has not noticed yet.
            connection_lost: self.is_lost()
                || matches!(
                    field(ErrorField::SeverityNonlocalized).as_deref(),
                    Some("FATAL" | "PANIC")
                ),
        }
    }

    fn lost(&self) -> Failure {
        let said = self
            .connection
            .error_message()
            .unwrap_or_default()
            .trim_end();
        Failure {
            message: if said.is_empty() {
                "the connection was lost".to_owned()
            } else {
                said.to_owned()
            },
            connection_lost: self.is_lost(),
        }
    }

    fn is_lost(&self) -> bool {
        self.connection.status() == libpq::connection::Status::Bad
    }
}
