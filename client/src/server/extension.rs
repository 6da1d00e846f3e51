//! Calls of the extension's functions.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use backup_format::checksum::Algorithm;
use backup_format::compression::Method;
use backup_format::lsn::Lsn;
use backup_format::path;

use crate::cli::configuration::{BackupConfig, WalMethod};
use crate::cli::option_values::{default_jobs, own_processors};
use crate::manifest::hex::unhex;
use crate::server::connection::Session;
use crate::server::row::{number, text, value};
use crate::server::sql_text::array;
use crate::server::start_arguments::Start;
use crate::stream::part::Request;
use crate::stream::part::Tablespace;

/// The extension as installed in the database of a session.
#[derive(Clone, Debug)]
pub struct Extension {
    /// Quoted schema name with a trailing dot.
    pub(super) schema: String,
    /// Whether send_backup_files() has max_bytes, which it has since 0.3.0.
    has_max_bytes: bool,
    /// Whether it has parts, which it has since 0.3.0.
    has_parts: bool,
    /// Whether there is send_wal(), which there is since 0.3.0.
    has_send_wal: bool,
}

/// A backup that has begun.
#[derive(Clone, Debug)]
pub struct Started {
    /// Number by which workers join.
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

impl Started {
    /// Position and timeline of the start.
    ///
    /// # Errors
    /// An error for an answer that no server gives.
    pub fn start(&self) -> Result<(Lsn, u32)> {
        let timeline = (self.timeline.parse()).context("the timeline of the start is no number")?;
        Ok((self.start_lsn.parse()?, timeline))
    }
}

/// A file of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedFile {
    /// Its name in the server's listing.
    pub path: Vec<u8>,
    /// Bytes.
    pub size: u64,
}

/// An entry of a backup by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedEntry {
    /// Name in the server's listing.
    pub name: String,
    /// Its path in the backup.
    pub path: Vec<u8>,
    /// Whether it is a file, and no directory or link.
    pub is_file: bool,
    /// Bytes of a file.
    pub size: u64,
}

/// What a worker asks for, again and again until nothing is left.
#[derive(Clone, Debug)]
pub struct WorkerCopy {
    /// The request.
    pub request: Request,
    /// The COPY statement.
    pub statement: String,
    /// Bytes of files after which a stream ends and another follows.
    pub limit: Option<u64>,
    /// Whether it asks for parts of large files.
    pub has_parts: bool,
}

/// Longest wait of a call for WAL.
const WAL_WAIT: Duration = Duration::from_secs(10);

/// Message of the server after a stream with bad pages.
pub const DAMAGE: &str = "checksum verification failure during base backup";

impl Extension {
    /// Finds the extension in the database of a session.
    ///
    /// # Errors
    /// An error if it is not installed.
    pub fn find(session: &Session) -> Result<Self> {
        let rows = session.rows(
            "SELECT quote_ident(nspname), EXISTS (SELECT FROM pg_proc WHERE pronamespace = n.oid
                 AND proname = 'send_backup_files' AND 'max_bytes' = ANY (proargnames)),
                 EXISTS (SELECT FROM pg_proc WHERE pronamespace = n.oid AND proname = 'send_wal'),
                 EXISTS (SELECT FROM pg_proc WHERE pronamespace = n.oid
                 AND proname = 'send_backup_files' AND 'parts' = ANY (proargnames))
             FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace
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
            has_max_bytes: value(row, 1)? == b"t",
            has_send_wal: value(row, 2)? == b"t",
            has_parts: value(row, 3)? == b"t",
        })
    }

    /// Whether the extension can send WAL while a backup runs.
    pub fn has_send_wal(&self) -> bool {
        self.has_send_wal
    }

    /// Number of connections for files: the given one, or a default by the server's processors,
    /// which older versions of the extension do not tell.
    ///
    /// # Errors
    /// Errors of the server.
    pub fn jobs(&self, session: &Session, wanted: Option<usize>) -> Result<usize> {
        if let Some(jobs) = wanted {
            return Ok(jobs);
        }
        self.load_library(session)?;
        let rows = session.rows(
            "SELECT current_setting('pg_parallel_backup.server_processors', true)",
            &[],
        )?;
        let told = rows.first().and_then(|row| number(row, 0).ok());
        Ok(default_jobs(told.unwrap_or_else(own_processors)))
    }

    /// Loads the extension's library, which defines its settings. LIMIT 0 keeps the function from
    /// running.
    pub(super) fn load_library(&self, session: &Session) -> Result<()> {
        let statement = format!("SELECT FROM {}send_backup_files() LIMIT 0", self.schema);
        session.rows(&statement, &[])?;
        Ok(())
    }

    /// Encodes all file names in the manifest of this session's backup.
    ///
    /// # Errors
    /// Errors of the server.
    pub fn force_encode(&self, session: &Session) -> Result<()> {
        self.load_library(session)?;
        session.rows("SET pg_parallel_backup.manifest_force_encode = on", &[])?;
        Ok(())
    }

    /// Starts a backup that this session leads.
    ///
    /// # Errors
    /// Errors of the server.
    pub fn start(&self, session: &Session, start: &Start<'_>) -> Result<Started> {
        let statement = format!(
            "SELECT backup_id, start_lsn, timeline, total_bytes, file_count
             FROM {}start_backup(label => $1, {})",
            self.schema,
            start.arguments(),
        );
        let rows = session.rows(&statement, &[start.label.as_bytes()])?;
        let row = rows.first().context("start_backup() gave no row")?;
        Ok(Started {
            backup_id: number(row, 0)?,
            start_lsn: text(row, 1)?,
            timeline: text(row, 2)?,
            total_bytes: number(row, 3)?,
            file_count: number(row, 4)?,
        })
    }

    /// The tablespaces of a backup that lie outside the data directory, by default of the one that this session
    /// leads. Their locations are in the
    /// bytes that the server's file system has.
    ///
    /// # Errors
    /// Errors of the server, and an answer that no server gives.
    pub fn tablespaces(
        &self,
        session: &Session,
        backup_id: Option<i64>,
    ) -> Result<Vec<Tablespace>> {
        let backup_id = backup_id.map_or("NULL".to_owned(), |number| number.to_string());
        let statement = format!(
            "SELECT spcoid, encode(convert_to(spclocation, getdatabaseencoding()), 'hex')
             FROM {}backup_tablespaces({backup_id}) WHERE spcoid IS NOT NULL ORDER BY spcoid",
            self.schema
        );
        let rows = session.rows(&statement, &[])?;
        rows.iter()
            .map(|row| {
                let oid = number(row, 0)?;
                let location = unhex(&text(row, 1)?);
                let location =
                    location.context("the location of a tablespace is not hexadecimal")?;
                Tablespace::check("the server", oid, &location)
            })
            .collect()
    }

    /// The mode of the server's directories: 0700, or 0750 for a group that may read.
    ///
    /// # Errors
    /// Errors of the server.
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

    /// What a worker sends for its streams of at most so many bytes, where the server can end them there. Large
    /// files arrive in parts where all files are asked for, which workers then share.
    pub fn worker_copy(
        &self,
        started: &Started,
        request: Request,
        max_bytes: Option<u64>,
        config: &BackupConfig,
    ) -> WorkerCopy {
        let limit = max_bytes.filter(|_| self.has_max_bytes);
        let has_parts = self.has_parts && request == Request::All;
        let mut arguments = String::new();
        if let Some(bytes) = limit {
            arguments += &format!(", max_bytes => {bytes}");
        }
        if has_parts {
            arguments += ", parts => true";
        }
        WorkerCopy {
            request,
            statement: self.files_copy(started, request, &arguments, config),
            limit,
            has_parts,
        }
    }

    /// COPY statement for named entries.
    pub fn named_copy(
        &self,
        started: &Started,
        request: Request,
        names: &[&str],
        config: &BackupConfig,
    ) -> String {
        let names: Vec<_> = names.iter().map(|name| name.as_bytes()).collect();
        let names = String::from_utf8_lossy(&array(&names)).replace('\'', "''");
        self.files_copy(started, request, &format!(", files => '{names}'"), config)
    }

    fn files_copy(
        &self,
        started: &Started,
        request: Request,
        arguments: &str,
        config: &BackupConfig,
    ) -> String {
        let tablespace = match request {
            Request::All => String::new(),
            Request::Part(part) => format!(", tablespace => {}::oid", part.oid()),
        };
        format!(
            "COPY (SELECT {}send_backup_files({}{arguments}{tablespace}{})) TO STDOUT",
            self.schema,
            started.backup_id,
            compression_argument(config)
        )
    }

    /// COPY statement for WAL that is complete, from a position on. All before it is on this side's disk.
    /// A call that waits is silent for no longer than a leader between two heartbeats.
    pub fn wal_copy(&self, started: &Started, from: Option<Lsn>, config: &BackupConfig) -> String {
        let from = from.map_or("NULL".to_owned(), |lsn| format!("'{lsn}'"));
        let heartbeat = config.address.silence.heartbeat;
        let wait = heartbeat.map_or(WAL_WAIT, |heartbeat| heartbeat.min(WAL_WAIT));
        format!(
            "COPY (SELECT {}send_wal({}, {from}, wait => '{} s'{})) TO STDOUT",
            self.schema,
            started.backup_id,
            wait.as_secs(),
            compression_argument(config)
        )
    }

    /// The directories and links of the backup, or its files too.
    ///
    /// # Errors
    /// Errors of the server, and an answer that no server gives.
    pub fn entries(&self, session: &Session, with_files: bool) -> Result<Vec<ListedEntry>> {
        let (more, wanted) = match with_files {
            true => (", type, size", "true"),
            false => ("", "type IN ('d', 'l')"),
        };
        let statement = format!(
            "SELECT path, encode(convert_to(path, getdatabaseencoding()), 'hex'){more}
             FROM {}backup_filelist() WHERE {wanted}",
            self.schema
        );
        let rows = session.rows(&statement, &[])?;
        rows.iter()
            .map(|row| {
                let name = text(row, 0)?;
                let listed = unhex(&text(row, 1)?).context("a path is not hexadecimal")?;
                // What is no text is listed as it is escaped, and so is a backslash.
                let path = if listed.contains(&b'\\') {
                    path::unescape(&listed)
                        .with_context(|| format!("the server listed \"{name}\""))?
                } else {
                    listed
                };
                let is_file = with_files && value(row, 2)? == b"f";
                Ok(ListedEntry {
                    name,
                    path,
                    is_file,
                    size: if is_file { number(row, 3)? } else { 0 },
                })
            })
            .collect()
    }

    /// COPY statement that stops the backup.
    pub fn closing_copy(&self, config: &BackupConfig) -> String {
        format!(
            "COPY (SELECT {}send_stop_backup(wal => {}, wait => {}{})) TO STDOUT",
            self.schema,
            config.wal != WalMethod::None,
            waits_for_archive(config),
            compression_argument(config)
        )
    }

    /// COPY statement of a whole backup.
    pub fn whole_copy(&self, config: &BackupConfig) -> String {
        format!(
            "COPY (SELECT {}base_backup(label => '{}', {}, wal => {}, wait => {}{})) TO STDOUT",
            self.schema,
            config.label.replace('\'', "''"),
            Start::from(config).arguments(),
            config.wal != WalMethod::None,
            waits_for_archive(config),
            compression_argument(config),
        )
    }

    /// The files of the backup and their sizes, the largest first.
    ///
    /// # Errors
    /// Errors of the server.
    pub fn files(&self, session: &Session) -> Result<Vec<ListedFile>> {
        let statement = format!(
            "SELECT path, size FROM {}backup_filelist() WHERE type = 'f' ORDER BY size DESC",
            self.schema
        );
        let rows = session.rows(&statement, &[])?;
        rows.iter()
            .map(|row| {
                let path = value(row, 0)?.to_vec();
                let size = number(row, 1)?;
                Ok(ListedFile { path, size })
            })
            .collect()
    }

    /// Verifies files on the server without sending them. Bad pages are reported as WARNINGs.
    ///
    /// # Errors
    /// The server's: [`DAMAGE`] after all of the files, others in the middle of them.
    pub fn look_at(&self, session: &Session, backup_id: i64, files: &[&[u8]]) -> Result<()> {
        let statement = format!(
            "SELECT {}send_backup_files($1, files => $2, target => 'blackhole')",
            self.schema
        );
        let (backup_id, files) = (backup_id.to_string(), array(files));
        session.rows(&statement, &[backup_id.as_bytes(), &files])?;
        Ok(())
    }

    /// Ends the backup without a result.
    ///
    /// # Errors
    /// Errors of the server.
    pub fn abort(&self, session: &Session) -> Result<()> {
        session.rows(&format!("SELECT {}abort_backup()", self.schema), &[])?;
        Ok(())
    }
}

/// Argument `compression` of a streaming function.
fn compression_argument(config: &BackupConfig) -> String {
    let compression = config.compress.of_streams();
    match compression.method {
        Method::None => String::new(),
        _ => format!(", compression => '{compression}'"),
    }
}

/// Whether the end of the backup waits until the server has archived the WAL that it needs. A backup
/// with its WAL needs no archive, which may be broken.
pub fn waits_for_archive(config: &BackupConfig) -> bool {
    config.wal == WalMethod::None
}

/// The algorithm whose checksums are compared with the manifest.
pub fn algorithm(config: &BackupConfig) -> Algorithm {
    config.manifest.unwrap_or(Algorithm::None)
}
