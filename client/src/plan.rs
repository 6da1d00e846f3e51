//! What is to be done, with everything checked that can be without a server.

use std::collections::BTreeMap;
use std::path::PathBuf;

use backup_format::checksum::Algorithm;
use clap::ValueEnum;

use crate::options::Address;

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

/// What is to be done, with everything checked that can be without a server.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to connect to.
    pub address: Address,
    /// Where the backup goes.
    pub target: PathBuf,
    /// It goes to standard output instead.
    pub to_stdout: bool,
    /// What it looks like there.
    pub format: Format,
    /// Where its WAL goes, if not into the target.
    pub waldir: Option<PathBuf>,
    /// New places of tablespaces, by their places on the server.
    pub mapping: BTreeMap<PathBuf, PathBuf>,
    /// Connections for the files.
    pub jobs: usize,
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

/// How the pages of a cluster are checked.
#[derive(Clone, Debug)]
pub struct CheckPlan {
    /// Where to connect to.
    pub address: Address,
    /// Connections for the files.
    pub jobs: usize,
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
