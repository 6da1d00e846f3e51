//! Validated configuration of each command.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use backup_format::checksum::Algorithm;
use backup_format::compression::{Compression, Method};
use clap::ValueEnum;

use crate::cli::command_template::CommandTemplate;

/// Server and role to connect to.
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
    /// Measures against silent connections.
    pub silence: Silence,
}

/// Measures against silent connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silence {
    /// Interval of statements of a leader that waits for workers; `None` for no statements.
    pub heartbeat: Option<Duration>,
    /// Silence after which a connection counts as lost; `None` for no limit.
    pub limit: Option<Duration>,
}

/// Times by which TCP notices within a limit that the other side has gone, as text of a connection
/// parameter of libpq or a setting of the server.
#[derive(Clone, Debug)]
pub struct Keepalives {
    /// Seconds until the first probe.
    pub idle: String,
    /// Seconds between probes.
    pub interval: String,
    /// Number of probes.
    pub count: String,
    /// Milliseconds after which data that was not acknowledged ends the connection.
    pub user_timeout: String,
}

impl Silence {
    /// Times of TCP for both sides; `None` where there is no limit.
    pub fn keepalives(&self) -> Option<Keepalives> {
        let limit = self.limit?;
        let seconds = |duration: Duration| duration.as_secs().max(1).to_string();
        Some(Keepalives {
            idle: seconds(limit / 2),
            interval: seconds(limit / 12),
            count: "6".to_owned(),
            user_timeout: limit.as_millis().to_string(),
        })
    }

    /// Time in which a leader has to answer a heartbeat: short enough for the program to notice a
    /// dropped connection before the server ends the session for want of heartbeats.
    pub fn answer_limit(&self) -> Option<Duration> {
        let heartbeat = self.heartbeat.unwrap_or_default();
        self.limit
            .map(|limit| limit.saturating_sub(heartbeat * 2).max(limit / 2))
    }
}

/// Format of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A directory that starts as it is.
    #[value(alias = "p")]
    Plain,
    /// Archives.
    #[value(alias = "t")]
    Tar,
}

/// Method of synchronizing files to disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SyncMethod {
    /// Each file and directory by itself.
    Fsync,
    /// Each file system as a whole.
    Syncfs,
}

/// Format of the progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProgressFormat {
    /// For people.
    Text,
    /// For programs: standard error holds one JSON object a line and nothing else.
    Json,
}

/// Side that compresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// This program.
    Client,
    /// The server, which reduces the bytes sent.
    Server,
}

/// How a backup is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compress {
    /// Side that compresses.
    pub side: Side,
    /// Method and level.
    pub compression: Compression,
    /// Threads of zstd for each archive; 0 for none.
    pub workers: u32,
    /// Whether zstd uses long-distance matching.
    pub long: bool,
}

impl Compress {
    /// No compression.
    pub const NONE: Self = Self {
        side: Side::Client,
        compression: Compression {
            method: Method::None,
            level: None,
        },
        workers: 0,
        long: false,
    };

    /// Compression of the server's streams.
    pub fn of_streams(&self) -> Compression {
        match self.side {
            Side::Client => Self::NONE.compression,
            Side::Server => self.compression,
        }
    }
}

/// How the WAL of a backup comes into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WalMethod {
    /// It does not: the server has to archive it.
    None,
    /// At the end.
    Fetch,
    /// While the backup runs, over a connection of its own.
    Stream,
}

/// Replication slot that a standby is to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotConfig {
    /// Its name.
    pub name: String,
    /// Whether it is created.
    pub create: bool,
}

/// Place of a backup, or of the backups of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A directory.
    Directory(PathBuf),
    /// URL of a prefix in an object store, without a slash at its end.
    Objects(String),
}

impl Location {
    /// The folder that this one is in, and its name there.
    pub fn split(&self) -> Option<(Self, String)> {
        match self {
            Self::Directory(path) => {
                let path = path.canonicalize().ok()?;
                let name = path.file_name()?.to_str()?.to_owned();
                Some((Self::Directory(path.parent()?.to_owned()), name))
            }
            Self::Objects(url) => {
                let (folder, name) = url.rsplit_once('/')?;
                let is_bucket = folder.ends_with('/');
                (!is_bucket).then(|| (Self::Objects(folder.to_owned()), name.to_owned()))
            }
        }
    }
}

/// What access to a repository needs besides its location.
#[derive(Clone, Debug, Default)]
pub struct StoreAccess {
    /// Options of the store, by their names.
    pub options: Vec<(String, String)>,
    /// Files with keys that decrypt backups.
    pub identities: Vec<String>,
}

/// Backup that an incremental backup comes after.
#[derive(Clone, Debug)]
pub enum Earlier {
    /// The file of its manifest.
    Manifest(PathBuf),
    /// The backup in a repository.
    Backup(Location, StoreAccess),
}

/// Repository that a backup goes to.
#[derive(Clone, Debug)]
pub struct RepositoryConfig {
    /// Where it is.
    pub location: Location,
    /// Access to it.
    pub access: StoreAccess,
    /// Name of the backup.
    pub name: String,
    /// Those who can decrypt the backup; none for no encryption.
    pub recipients: Vec<String>,
}

/// Validated configuration of each command.
#[derive(Clone, Debug)]
pub struct BackupConfig {
    /// Server and role to connect to.
    pub address: Address,
    /// Directory of the backup.
    pub target: PathBuf,
    /// Repository of the backup, if it goes to one. The target is its directory there.
    pub repository: Option<RepositoryConfig>,
    /// Whether the backup goes to standard output.
    pub to_stdout: bool,
    /// Command that each archive is piped to.
    pub pipe: Option<CommandTemplate>,
    /// Compression of archives or of the server's streams.
    pub compress: Compress,
    /// Format of the backup.
    pub format: Format,
    /// The earlier backup, for an incremental one.
    pub incremental: Option<Earlier>,
    /// Directory for WAL, if not in the target.
    pub waldir: Option<PathBuf>,
    /// New locations of tablespaces by their locations on the server.
    pub mapping: BTreeMap<PathBuf, PathBuf>,
    /// Number of connections for files; `None` to choose by the server's processors.
    pub jobs: Option<usize>,
    /// kB/s of all together.
    pub max_rate: Option<u32>,
    /// Whether to configure a standby.
    pub standby: bool,
    /// The replication slot of the standby.
    pub slot: Option<SlotConfig>,
    /// How the WAL comes into the backup.
    pub wal: WalMethod,
    /// Whether the method was chosen by the user.
    pub wal_is_chosen: bool,
    /// Whether the server holds the WAL of the backup.
    pub retain_wal: bool,
    /// How long the end waits for the server's archive; `None` for as long as it takes.
    pub archive_timeout: Option<Duration>,
    /// Whether the free space of the targets is compared with the size of the backup.
    pub space_check: bool,
    /// Whether the checkpoint is immediate.
    pub fast: bool,
    /// The label.
    pub label: String,
    /// The manifest's checksums; `None` for no manifest.
    pub manifest: Option<Algorithm>,
    /// Whether all paths in it are encoded.
    pub manifest_force_encode: bool,
    /// Whether pages are verified.
    pub verify_checksums: bool,
    /// Method of synchronization; `None` for none.
    pub sync: Option<SyncMethod>,
    /// Whether to remove created files after an error.
    pub clean: bool,
    /// Format of the progress; `None` for no progress.
    pub progress: Option<ProgressFormat>,
    /// Whether to report each step.
    pub verbose: bool,
    /// Number of lost connections that are replaced.
    pub retries: u32,
    /// Bytes of files after which a stream ends and the next begins; `None` for no limit.
    pub stream_size: Option<u64>,
}

impl BackupConfig {
    /// Whether the backup goes to an object store.
    pub fn is_in_store(&self) -> bool {
        let location = self
            .repository
            .as_ref()
            .map(|repository| &repository.location);
        matches!(location, Some(Location::Objects(_)))
    }
}

/// Configuration of `verify`.
#[derive(Clone, Debug)]
pub struct VerifyConfig {
    /// The backup.
    pub backup: Location,
    /// Access to it, if it is in a repository.
    pub access: StoreAccess,
    /// Whether the result is for programs.
    pub json: bool,
    /// Format of the backup; `None` to detect it.
    pub format: Option<Format>,
    /// Path of the manifest, if it is not with the backup.
    pub manifest: Option<PathBuf>,
    /// Paths that are ignored.
    pub ignore: Vec<Vec<u8>>,
    /// Number of files read concurrently.
    pub jobs: usize,
    /// Whether WAL is parsed.
    pub parse_wal: bool,
    /// Directory of the WAL, if not in the backup.
    pub wal_directory: Option<PathBuf>,
    /// Whether checksums are computed.
    pub checksums: bool,
    /// Whether the first finding ends the verification.
    pub exit_on_error: bool,
    /// Whether to show the progress.
    pub progress: bool,
    /// Whether to print nothing on success.
    pub quiet: bool,
}

/// Configuration of `combine`.
#[derive(Clone, Debug)]
pub struct CombineConfig {
    /// The backups, the full one first.
    pub backups: Vec<Location>,
    /// Access to those in repositories.
    pub access: StoreAccess,
    /// Directory for the result.
    pub target: PathBuf,
    /// Directory for WAL, if not in the target.
    pub waldir: Option<PathBuf>,
    /// New locations of tablespaces by their old ones.
    pub mapping: BTreeMap<PathBuf, PathBuf>,
    /// Number of files made concurrently.
    pub jobs: usize,
    /// The manifest of the result.
    pub manifest: NewManifest,
    /// How whole files are copied.
    pub copy: CopyMethod,
    /// Whether nothing is written.
    pub dry_run: bool,
    /// Method of synchronization; `None` for none.
    pub sync: Option<SyncMethod>,
    /// Whether to remove created files after an error.
    pub clean: bool,
    /// Whether to show the progress.
    pub progress: bool,
    /// Whether to report each step.
    pub verbose: bool,
}

/// Manifest of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewManifest {
    /// None.
    None,
    /// With these checksums.
    With(Algorithm),
    /// As that of the newest backup, which may have none.
    AsBefore,
}

/// How files are copied that no blocks are put into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyMethod {
    /// Their bytes are read and written.
    Copy,
    /// Both share their blocks on disk, where the file system can do that.
    Clone,
    /// The kernel copies them.
    CopyFileRange,
    /// They are the same file.
    Link,
}

/// Configuration of `restore`.
#[derive(Clone, Debug)]
pub struct RestoreConfig {
    /// The backup, or with incremental backups the full one first.
    pub backups: Vec<Location>,
    /// Access to those in repositories.
    pub access: StoreAccess,
    /// Whether the result is for programs.
    pub json: bool,
    /// Names or OIDs of the databases that are restored; none for all.
    pub only_databases: Vec<String>,
    /// Names or OIDs of the tablespaces that are restored; none for all.
    pub only_tablespaces: Vec<String>,
    /// Directory to restore into.
    pub target: PathBuf,
    /// Directory for WAL, if not in the target.
    pub waldir: Option<PathBuf>,
    /// New locations of tablespaces by their old ones.
    pub mapping: BTreeMap<PathBuf, PathBuf>,
    /// Number of archives unpacked concurrently.
    pub jobs: usize,
    /// Method of synchronization; `None` for none.
    pub sync: Option<SyncMethod>,
    /// Whether to remove created files after an error.
    pub clean: bool,
    /// Whether to show the progress.
    pub progress: bool,
    /// Whether to report each step.
    pub verbose: bool,
}

/// Configuration of `join`.
#[derive(Clone, Debug)]
pub struct JoinConfig {
    /// What the workers need of the configuration of a backup.
    pub backup: BackupConfig,
    /// Number of the backup.
    pub backup_id: i64,
    /// The repository.
    pub repository: Location,
    /// Access to it.
    pub access: StoreAccess,
    /// Name of the backup; `None` to look for it.
    pub name: Option<String>,
    /// Those who can decrypt the backup; none for no encryption.
    pub recipients: Vec<String>,
}

/// Configuration of `list`.
#[derive(Clone, Debug)]
pub struct ListConfig {
    /// The repository.
    pub repository: Location,
    /// Access to it.
    pub access: StoreAccess,
    /// Whether the list is for programs.
    pub json: bool,
}

/// Configuration of `expire`.
#[derive(Clone, Debug)]
pub struct ExpireConfig {
    /// The repository.
    pub repository: Location,
    /// Access to it.
    pub access: StoreAccess,
    /// Number of full backups that are kept, with what was made from them.
    pub keep: Option<usize>,
    /// Backups of this time are kept.
    pub keep_within: Option<Duration>,
    /// Time without a change after which an unfinished backup is removed.
    pub unfinished: Duration,
    /// Whether nothing is removed.
    pub dry_run: bool,
    /// Whether the report is for programs.
    pub json: bool,
}

/// Configuration of `check`.
#[derive(Clone, Debug)]
pub struct CheckConfig {
    /// Server and role to connect to.
    pub address: Address,
    /// Number of connections for files; `None` to choose by the server's processors.
    pub jobs: Option<usize>,
    /// kB/s of all together.
    pub max_rate: Option<u32>,
    /// Whether the checkpoint is immediate.
    pub fast: bool,
    /// Format of the progress; `None` for no progress.
    pub progress: Option<ProgressFormat>,
    /// Whether to report each step.
    pub verbose: bool,
    /// Number of lost connections that are replaced.
    pub retries: u32,
}
