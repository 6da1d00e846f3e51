//! The options of `join`, named as those of a backup.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;

use super::compress::parse_compress;
use super::{ConnectionOptions, StoreOptions, jobs};
use crate::cli::backup_name;
use crate::cli::configuration::{
    BackupConfig, Compress, Format, JoinConfig, ProgressFormat, WalMethod,
};
use crate::cli::option_values::{PASSPHRASE, parse_location, parse_size};

/// How to join a backup that another host leads.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct JoinOptions {
    /// number of the backup, as backup_progress() and --verbose of the program that leads it show it
    #[arg(long, value_name = "ID", allow_hyphen_values = true)]
    backup_id: i64,

    /// repository of the backup
    #[arg(short = 'D', long = "pgdata", value_name = "REPOSITORY")]
    repository: OsString,

    /// name of the backup (default: the one of that number)
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// use that many connections for the files (default: the server's processors, at most 4)
    #[arg(short = 'j', long, value_name = "NUM")]
    jobs: Option<usize>,

    /// compress on client or server as specified
    #[arg(
        short = 'Z',
        long,
        value_name = "[{client|server}-]METHOD[:DETAIL]",
        allow_hyphen_values = true
    )]
    compress: Option<String>,

    /// encrypt as the program does that leads the backup
    #[arg(long, value_name = "RECIPIENT")]
    encrypt_to: Vec<String>,

    /// how often a connection that was lost is replaced
    #[arg(long, value_name = "NUM", default_value_t = 3)]
    retries: u32,

    /// bytes of files after which a connection ends its stream and begins another (with "kB", "MB", "GB" or "TB"); 0 for no limit
    #[arg(long, value_name = "SIZE", default_value = "4GB")]
    stream_size: String,

    /// show progress information (1 MB = 1024 kB)
    #[arg(short = 'P', long)]
    pub(super) progress: bool,

    /// output verbose messages
    #[arg(short = 'v', long)]
    verbose: bool,

    #[command(flatten)]
    store: StoreOptions,

    #[command(flatten)]
    connection: ConnectionOptions,
}

impl JoinOptions {
    /// Validates the options, as far as that needs no server and no store.
    ///
    /// # Errors
    /// The first invalid option or value.
    pub fn check(self) -> Result<JoinConfig> {
        let stream_size = parse_size(&self.stream_size)?;
        let mut access = self.store.check()?;
        // The key of the backup is needed for the same passphrase.
        let passphrases = self.encrypt_to.iter();
        let passphrases = passphrases.filter(|text| text.starts_with(PASSPHRASE));
        access.identities.extend(passphrases.cloned());
        if let Some(name) = &self.name {
            backup_name::check(name)?;
        }
        let backup = BackupConfig {
            address: self.connection.into(),
            target: PathBuf::new(),
            repository: None,
            to_stdout: false,
            pipe: None,
            compress: match self.compress.as_deref() {
                Some(text) => parse_compress(text)?,
                None => Compress::NONE,
            },
            format: Format::Tar,
            incremental: None,
            waldir: None,
            mapping: BTreeMap::new(),
            jobs: jobs(self.jobs)?,
            max_rate: None,
            standby: false,
            slot: None,
            wal: WalMethod::None,
            wal_is_chosen: false,
            retain_wal: false,
            archive_timeout: None,
            space_check: false,
            fast: false,
            label: String::new(),
            manifest: None,
            manifest_force_encode: false,
            verify_checksums: true,
            sync: None,
            clean: false,
            progress: self.progress.then_some(ProgressFormat::Text),
            verbose: self.verbose,
            retries: self.retries,
            stream_size: (stream_size > 0).then_some(stream_size),
        };
        Ok(JoinConfig {
            backup,
            backup_id: self.backup_id,
            repository: parse_location(&self.repository)?,
            access,
            name: self.name,
            recipients: self.encrypt_to,
        })
    }
}
