//! What is asked of the server: the extension's functions, and nothing else of it.

use anyhow::{Context, Result, bail};
use backup_format::checksum::Algorithm;
use backup_format::compression::Method;

use crate::connection::{Opener, Row, Session};
use crate::layout::Tablespace;
use crate::plan::{Format, Plan};
use crate::target::Request;

/// The extension, from the sight of one session.
#[derive(Clone, Debug)]
pub struct Extension {
    /// Quoted, with a dot behind it.
    schema: String,
}

/// A backup that has begun.
#[derive(Clone, Debug)]
pub struct Started {
    /// What workers say to join.
    pub backup_id: i64,
    /// Where recovery begins, as text.
    pub start_lsn: String,
    /// Timeline of the start.
    pub timeline: String,
    /// Bytes of all files.
    pub total_bytes: u64,
    /// Number of files, directories and links.
    pub file_count: u64,
}

/// Settings of a role or database must not end a backup, and names mean what they say. A NOTICE that
/// the WAL must be copied is for those who do not have it sent. A server that works on something
/// notices soon when this program is gone.
const SETTINGS: &str = "SET search_path = pg_catalog; SET standard_conforming_strings = on; \
     SET client_min_messages = warning; SET statement_timeout = 0; \
     SET lock_timeout = 0; SET idle_session_timeout = 0; \
     SET idle_in_transaction_session_timeout = 0; SET client_connection_check_interval = '1s'";

/// Opens one more session, prepared as all are.
///
/// # Errors
/// libpq's and the server's.
pub fn open(opener: &Opener) -> Result<Session> {
    let session = opener.open()?;
    prepare(&session)?;
    Ok(session)
}

/// Prepares a session.
///
/// # Errors
/// The server's.
pub fn prepare(session: &Session) -> Result<()> {
    for setting in SETTINGS.split(';') {
        session.rows(setting, &[])?;
    }
    // Names of files come as they are.
    session.rows(
        "SELECT set_config('client_encoding', current_setting('server_encoding'), false)",
        &[],
    )?;
    Ok(())
}

/// Has the leader told that somebody else has to copy the WAL.
///
/// # Errors
/// The server's.
pub fn show_notices(session: &Session) -> Result<()> {
    session.rows("SET client_min_messages = notice", &[])?;
    Ok(())
}

impl Extension {
    /// Finds the extension in the database of a session.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn find(session: &Session) -> Result<Self> {
        let rows = session.rows(
            "SELECT quote_ident(nspname) FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace
             WHERE extname = 'pg_parallel_backup'",
            &[],
        )?;
        let [row] = rows.as_slice() else {
            let database = session.rows("SELECT current_database()", &[])?;
            let database = database.first().map(|row| text(row, 0)).transpose()?;
            bail!(
                "database \"{}\" does not have the extension pg_parallel_backup\n\
                 HINT:  Run CREATE EXTENSION pg_parallel_backup there, or name another database by -d.",
                database.unwrap_or_default()
            );
        };
        Ok(Self {
            schema: format!("{}.", text(row, 0)?),
        })
    }

    /// Starts a backup that this session leads.
    ///
    /// # Errors
    /// The server's.
    pub fn start(&self, session: &Session, plan: &Plan) -> Result<Started> {
        let statement = format!(
            "SELECT backup_id, start_lsn, timeline, total_bytes, file_count
             FROM {}start_backup(label => $1, {})",
            self.schema,
            start_arguments(plan),
        );
        let rows = session.rows(&statement, &[&plan.label])?;
        let row = rows.first().context("start_backup() gave no row")?;
        Ok(Started {
            backup_id: number(row, 0)?,
            start_lsn: text(row, 1)?,
            timeline: text(row, 2)?,
            total_bytes: number(row, 3)?,
            file_count: number(row, 4)?,
        })
    }

    /// The tablespaces of the backup that lie outside the data directory.
    ///
    /// # Errors
    /// The server's, and where it says what no server says.
    pub fn tablespaces(&self, session: &Session) -> Result<Vec<Tablespace>> {
        let statement = format!(
            "SELECT spcoid, spclocation FROM {}backup_tablespaces() WHERE spcoid IS NOT NULL
             ORDER BY spcoid",
            self.schema
        );
        let rows = session.rows(&statement, &[])?;
        rows.iter()
            .map(|row| {
                let oid = number(row, 0)?;
                Tablespace::check("the server", oid, value(row, 1)?)
            })
            .collect()
    }

    /// The mode of the server's directories: 0700, or 0750 for a group that may read.
    ///
    /// # Errors
    /// The server's.
    pub fn directory_mode(&self, session: &Session) -> Result<u32> {
        let rows = session.rows("SHOW data_directory_mode", &[])?;
        let row = rows
            .first()
            .context("the server has no setting data_directory_mode")?;
        let mode = text(row, 0)?;
        match mode.as_str() {
            "0700" => Ok(0o700),
            "0750" => Ok(0o750),
            _ => bail!("the server's directories have mode {mode}, which is refused"),
        }
    }

    /// The stream of a worker.
    pub fn worker_copy(&self, started: &Started, request: Request, plan: &Plan) -> String {
        let tablespace = match request {
            Request::All => String::new(),
            Request::Part(part) => format!(", tablespace => {}::oid", part.oid()),
        };
        format!(
            "COPY (SELECT {}send_backup_files({}{tablespace}{})) TO STDOUT",
            self.schema,
            started.backup_id,
            compression_argument(plan)
        )
    }

    /// The stream that ends the backup.
    pub fn closing_copy(&self, plan: &Plan) -> String {
        format!(
            "COPY (SELECT {}send_stop_backup(wal => {}{})) TO STDOUT",
            self.schema,
            plan.wal,
            compression_argument(plan)
        )
    }

    /// Everything in one stream.
    pub fn whole_copy(&self, plan: &Plan) -> String {
        format!(
            "COPY (SELECT {}base_backup(label => '{}', {}, wal => {}{})) TO STDOUT",
            self.schema,
            plan.label.replace('\'', "''"),
            start_arguments(plan),
            plan.wal,
            compression_argument(plan),
        )
    }

    /// Ends the backup without a result.
    ///
    /// # Errors
    /// The server's.
    pub fn abort(&self, session: &Session) -> Result<()> {
        session.rows(&format!("SELECT {}abort_backup()", self.schema), &[])?;
        Ok(())
    }
}

/// The arguments of start_backup() after the label.
fn start_arguments(plan: &Plan) -> String {
    let manifest = match plan.manifest {
        None => "OFF",
        Some(algorithm) => algorithm.name().unwrap_or("NONE"),
    };
    format!(
        "fast => {}, tablespace_map => {}, max_rate => {}, verify_checksums => {},
         manifest_checksums => '{manifest}', retain_wal => {}",
        plan.fast,
        // In a directory the links are made here.
        plan.format == Format::Tar,
        plan.max_rate
            .map_or("NULL".to_owned(), |rate| rate.to_string()),
        plan.verify_checksums,
        plan.wal,
    )
}

/// The last argument of what sends a stream.
fn compression_argument(plan: &Plan) -> String {
    let compression = plan.compress.of_streams();
    match compression.method {
        Method::None => String::new(),
        _ => format!(", compression => '{compression}'"),
    }
}

/// The algorithm whose checksums are compared with the manifest.
pub fn algorithm(plan: &Plan) -> Algorithm {
    plan.manifest.unwrap_or(Algorithm::None)
}

fn value(row: &Row, column: usize) -> Result<&[u8]> {
    row.get(column)
        .and_then(Option::as_deref)
        .context("the server returned NULL where it never does")
}

fn text(row: &Row, column: usize) -> Result<String> {
    Ok(String::from_utf8_lossy(value(row, column)?).into_owned())
}

fn number<T: std::str::FromStr>(row: &Row, column: usize) -> Result<T> {
    let text = text(row, column)?;
    text.parse()
        .ok()
        .with_context(|| format!("the server returned \"{text}\" where a number must be"))
}
