//! What is to be done, with everything checked that can be without a server.

use std::collections::BTreeMap;
use std::path::PathBuf;

use backup_format::checksum::Algorithm;
use backup_format::compression::{Compression, Method};
use clap::ValueEnum;

use crate::cli::command_template::CommandTemplate;

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

/// What a backup looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A directory that starts as it is.
    #[value(alias = "p")]
    Plain,
    /// Archives.
    #[value(alias = "t")]
    Tar,
}

/// How files reach the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SyncMethod {
    /// Each file and directory by itself.
    Fsync,
    /// Each file system as a whole.
    Syncfs,
}

/// For whom the progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProgressFormat {
    /// For people.
    Text,
    /// For programs: standard error holds one JSON object a line and nothing else.
    Json,
}

/// Who compresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// This program.
    Client,
    /// The server, so that less is sent.
    Server,
}

/// How a backup is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compress {
    /// Who does it.
    pub side: Side,
    /// By which method.
    pub compression: Compression,
    /// Threads that zstd has for each archive; 0 for none of its own.
    pub workers: u32,
    /// Whether zstd looks for repetitions far back.
    pub long: bool,
}

impl Compress {
    /// Not at all.
    pub const NONE: Self = Self {
        side: Side::Client,
        compression: Compression {
            method: Method::None,
            level: None,
        },
        workers: 0,
        long: false,
    };

    /// What the server's streams are compressed by.
    pub fn of_streams(&self) -> Compression {
        match self.side {
            Side::Client => Self::NONE.compression,
            Side::Server => self.compression,
        }
    }
}

/// What is to be done, with everything checked that can be without a server.
#[derive(Clone, Debug)]
pub struct BackupConfig {
    /// Where to connect to.
    pub address: Address,
    /// Where the backup goes.
    pub target: PathBuf,
    /// It goes to standard output instead.
    pub to_stdout: bool,
    /// Its archives go to commands instead.
    pub pipe: Option<CommandTemplate>,
    /// How its archives, or the streams of the server, are compressed.
    pub compress: Compress,
    /// What it looks like there.
    pub format: Format,
    /// Where its WAL goes, if not into the target.
    pub waldir: Option<PathBuf>,
    /// New places of tablespaces, by their places on the server.
    pub mapping: BTreeMap<PathBuf, PathBuf>,
    /// Connections for the files; `None` for as many as suit the server.
    pub jobs: Option<usize>,
    /// kB/s of all together.
    pub max_rate: Option<u32>,
    /// Whether it is to become a standby.
    pub standby: bool,
    /// The replication slot of the standby.
    pub slot: Option<String>,
    /// Whether the WAL is part of the backup.
    pub wal: bool,
    /// Whether the checkpoint hurries.
    pub fast: bool,
    /// The label.
    pub label: String,
    /// The manifest's checksums; `None` for no manifest.
    pub manifest: Option<Algorithm>,
    /// Whether all paths in it are encoded.
    pub manifest_force_encode: bool,
    /// Whether pages are verified.
    pub verify_checksums: bool,
    /// How the backup reaches the disk; `None` when nobody waits for it.
    pub sync: Option<SyncMethod>,
    /// Whether to remove what was made after an error.
    pub clean: bool,
    /// How to show the progress; `None` not to.
    pub progress: Option<ProgressFormat>,
    /// Whether to say what happens.
    pub verbose: bool,
    /// How often a lost connection is replaced.
    pub retries: u32,
}

/// What is to be checked, and how.
#[derive(Clone, Debug)]
pub struct VerifyConfig {
    /// Where the backup is.
    pub directory: PathBuf,
    /// What it looks like; `None` to find out.
    pub format: Option<Format>,
    /// Where its manifest is.
    pub manifest: PathBuf,
    /// Paths of the backup that are not looked at.
    pub ignore: Vec<Vec<u8>>,
    /// Files that are read at once.
    pub jobs: usize,
    /// Whether the WAL is read.
    pub parse_wal: bool,
    /// Where the WAL is, if not in the backup.
    pub wal_directory: Option<PathBuf>,
    /// Whether checksums are computed.
    pub checksums: bool,
    /// Whether the first finding ends it.
    pub exit_on_error: bool,
    /// Whether to show the progress.
    pub progress: bool,
    /// Whether to be silent about success.
    pub quiet: bool,
}

/// What is to be restored, and how.
#[derive(Clone, Debug)]
pub struct RestoreConfig {
    /// Where the archives are.
    pub archives: PathBuf,
    /// Where the data directory goes.
    pub target: PathBuf,
    /// Where its WAL goes, if not into the target.
    pub waldir: Option<PathBuf>,
    /// New places of tablespaces, by their old ones.
    pub mapping: BTreeMap<PathBuf, PathBuf>,
    /// Archives that are unpacked at once.
    pub jobs: usize,
    /// How it reaches the disk; `None` when nobody waits for it.
    pub sync: Option<SyncMethod>,
    /// Whether to remove what was made after an error.
    pub clean: bool,
    /// Whether to show the progress.
    pub progress: bool,
    /// Whether to say what happens.
    pub verbose: bool,
}

/// How the pages of a cluster are checked.
#[derive(Clone, Debug)]
pub struct CheckConfig {
    /// Where to connect to.
    pub address: Address,
    /// Connections for the files; `None` for as many as suit the server.
    pub jobs: Option<usize>,
    /// kB/s of all together.
    pub max_rate: Option<u32>,
    /// Whether the checkpoint hurries.
    pub fast: bool,
    /// How to show the progress; `None` not to.
    pub progress: Option<ProgressFormat>,
    /// Whether to say what happens.
    pub verbose: bool,
    /// How often a lost connection is replaced.
    pub retries: u32,
}
