//! The options of a backup, as those of pg_basebackup wherever that has the same one.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use backup_format::compression::Method;
use chrono::Utc;
use clap::{Args, ValueEnum, ValueHint};

use super::compress::parse_compress;
use super::{
    ConnectionOptions, GENERAL, OUTPUT, STORE, StoreOptions, check_waldir, checksum_algorithm,
    jobs, mapping,
};
use crate::cli::backup_name::{self, Kind};
use crate::cli::command_template::CommandTemplate;
use crate::cli::configuration::{
    BackupConfig, Compress, Earlier, Format, Location, ProgressFormat, RepositoryConfig, Side,
    SlotConfig, SyncMethod, WalMethod,
};
use crate::cli::option_values::{is_slot_name, is_url, parse_location, parse_rate, parse_size};

/// How to take a backup.
#[derive(Debug, Args)]
pub struct BackupOptions {
    /// receive base backup into directory, or into a repository at s3://, gs://, az:// or file://; with "-" one tar archive goes to standard output
    #[arg(short = 'D', long = "pgdata", value_name = "DIRECTORY", value_hint = ValueHint::DirPath, required_unless_present = "pipe", help_heading = OUTPUT)]
    pgdata: Option<PathBuf>,

    /// in place of a directory: hand each archive to a shell command, in which %f is its file name
    #[arg(long, value_name = "COMMAND", conflicts_with = "pgdata", help_heading = OUTPUT)]
    pipe: Option<String>,

    /// output format (default: plain)
    #[arg(short = 'F', long, value_name = "p|t", help_heading = OUTPUT)]
    format: Option<Format>,

    /// take incremental backup, after the one of the manifest or of that name in a repository
    #[arg(short = 'i', long, value_name = "OLDMANIFEST", value_hint = ValueHint::FilePath, help_heading = OUTPUT)]
    incremental: Option<PathBuf>,

    /// use that many connections for the files (default: the server's processors, at most 4)
    #[arg(short = 'j', long, value_name = "NUM", help_heading = OUTPUT)]
    jobs: Option<usize>,

    /// maximum transfer rate of all connections together (in kB/s, or use suffix "k" or "M")
    #[arg(short = 'r', long, value_name = "RATE", help_heading = OUTPUT)]
    max_rate: Option<String>,

    /// write configuration for replication
    #[arg(short = 'R', long, help_heading = OUTPUT)]
    write_recovery_conf: bool,

    /// replication slot that a standby is to use
    #[arg(short = 'S', long, value_name = "SLOTNAME", help_heading = OUTPUT)]
    slot: Option<String>,

    /// create replication slot
    #[arg(short = 'C', long, help_heading = OUTPUT)]
    create_slot: bool,

    /// do not hold the WAL of the backup on the server
    #[arg(long, help_heading = OUTPUT)]
    no_slot: bool,

    /// relocate tablespace in OLDDIR to NEWDIR
    #[arg(short = 'T', long, value_name = "OLDDIR=NEWDIR", help_heading = OUTPUT)]
    tablespace_mapping: Vec<String>,

    /// location for the write-ahead log directory
    #[arg(long, value_name = "WALDIR", value_hint = ValueHint::DirPath, help_heading = OUTPUT)]
    waldir: Option<PathBuf>,

    /// include required WAL files with specified method (default: stream; fetch for standard output)
    #[arg(short = 'X', long, value_name = "none|fetch|stream", help_heading = OUTPUT)]
    wal_method: Option<WalMethod>,

    /// compress tar output
    #[arg(short = 'z', long, overrides_with = "compress", help_heading = OUTPUT)]
    gzip: bool,

    /// compress on client or server as specified
    #[arg(short = 'Z', long, value_name = "[{client|server}-]METHOD[:DETAIL]", allow_hyphen_values = true, overrides_with = "gzip", help_heading = OUTPUT)]
    compress: Option<String>,

    /// set fast or spread checkpointing
    #[arg(short = 'c', long, value_name = "fast|spread", default_value = "spread", help_heading = GENERAL)]
    checkpoint: Checkpoint,

    /// set backup label
    #[arg(short = 'l', long, default_value = "pg_parallel_backup base backup", help_heading = GENERAL)]
    label: String,

    /// do not clean up after errors
    #[arg(short = 'n', long, help_heading = GENERAL)]
    no_clean: bool,

    /// do not wait for changes to be written safely to disk
    #[arg(short = 'N', long, help_heading = GENERAL)]
    no_sync: bool,

    /// set method for syncing files to disk
    #[arg(long, value_name = "METHOD", default_value = "fsync", help_heading = GENERAL)]
    sync_method: SyncMethod,

    /// show progress information (1 MB = 1024 kB); as JSON, with all messages, it is for programs
    #[arg(short = 'P', long, value_name = "text|json", num_args = 0..=1, require_equals = true, default_missing_value = "text", help_heading = GENERAL)]
    progress: Option<ProgressFormat>,

    /// output verbose messages
    #[arg(short = 'v', long, help_heading = GENERAL)]
    verbose: bool,

    /// with -X none: fail when the server has not archived the WAL after that many seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..), help_heading = GENERAL)]
    archive_timeout: Option<u64>,

    /// do not compare the free space of the targets with the size of the backup
    #[arg(long, help_heading = GENERAL)]
    no_space_check: bool,

    /// how often a connection that was lost is replaced
    #[arg(long, value_name = "NUM", default_value_t = 3, help_heading = GENERAL)]
    retries: u32,

    /// bytes of files after which a connection ends its stream and begins another (with "kB", "MB", "GB" or "TB"); 0 for no limit
    #[arg(long, value_name = "SIZE", default_value = "4GB", help_heading = GENERAL)]
    stream_size: String,

    /// use algorithm for manifest checksums: NONE, CRC32C, SHA224, SHA256, SHA384, SHA512
    #[arg(long, value_name = "ALGORITHM", default_value = "CRC32C", help_heading = GENERAL)]
    manifest_checksums: String,

    /// hex encode all file names in manifest
    #[arg(long, help_heading = GENERAL)]
    manifest_force_encode: bool,

    /// suppress generation of backup manifest
    #[arg(long, conflicts_with_all = ["manifest_checksums", "manifest_force_encode"], help_heading = GENERAL)]
    no_manifest: bool,

    /// do not verify checksums
    #[arg(long, help_heading = GENERAL)]
    no_verify_checksums: bool,

    /// name of the backup in the repository (default: the start in UTC and the kind)
    #[arg(long, value_name = "NAME", help_heading = STORE)]
    name: Option<String>,

    /// encrypt the backup in the repository for a recipient of age, for those in a file, or by passphrase:FILE
    #[arg(long, value_name = "RECIPIENT", help_heading = STORE)]
    encrypt_to: Vec<String>,

    #[command(flatten)]
    store: StoreOptions,

    #[command(flatten)]
    connection: ConnectionOptions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Checkpoint {
    Fast,
    Spread,
}

impl BackupOptions {
    /// Format of the progress; `None` for no progress.
    pub fn progress(&self) -> Option<ProgressFormat> {
        self.progress
    }

    /// Validates the options, as far as that needs no server and no file.
    ///
    /// # Errors
    /// The first invalid option or value.
    pub fn check(self) -> Result<BackupConfig> {
        let jobs = jobs(self.jobs)?;
        let max_rate = self.max_rate.as_deref().map(parse_rate).transpose()?;
        let stream_size = parse_size(&self.stream_size)?;
        let mapping = mapping(&self.tablespace_mapping)?;
        let pipe = self
            .pipe
            .as_deref()
            .map(CommandTemplate::parse)
            .transpose()?;
        let target = match &pipe {
            Some(_) => PathBuf::new(),
            None => (self.pgdata.clone()).context("no target directory specified")?,
        };
        let to_stdout = target.as_os_str() == "-";
        let access = self.store.check()?;
        let kind = match self.incremental {
            Some(_) => Kind::Incremental,
            None => Kind::Full,
        };
        let in_repository = is_url(target.as_os_str());
        let (target, repository) = if in_repository {
            let location = parse_location(target.as_os_str())?;
            let name = self
                .name
                .clone()
                .unwrap_or_else(|| backup_name::default(Utc::now(), kind));
            backup_name::check(&name)?;
            let target = match &location {
                Location::Directory(path) => path.join(&name),
                Location::Objects(_) => PathBuf::new(),
            };
            let repository = RepositoryConfig {
                location,
                access: access.clone(),
                name,
                recipients: self.encrypt_to.clone(),
            };
            (target, Some(repository))
        } else {
            ensure!(
                self.name.is_none() && self.encrypt_to.is_empty(),
                "--name and --encrypt-to are for backups in a repository\n\
                 HINT:  A repository in a directory is named by -D file:///DIRECTORY."
            );
            (target, None)
        };
        let format = self
            .format
            .unwrap_or(if to_stdout || pipe.is_some() || in_repository {
                Format::Tar
            } else {
                Format::Plain
            });
        ensure!(
            !in_repository || format == Format::Tar,
            "only tar format can be kept in a repository"
        );
        ensure!(
            !in_repository || !self.no_manifest,
            "a backup in a repository needs its manifest, which says that it is complete"
        );
        let incremental = match &self.incremental {
            Some(earlier) if is_url(earlier.as_os_str()) => Some(Earlier::Backup(
                parse_location(earlier.as_os_str())?,
                access,
            )),
            Some(manifest) => Some(Earlier::Manifest(manifest.clone())),
            None => None,
        };
        ensure!(
            pipe.is_none() || format == Format::Tar,
            "only tar format can be handed to commands"
        );
        let compress = match self.compress.as_deref() {
            Some(text) => parse_compress(text)?,
            None if self.gzip => parse_compress("gzip")?,
            None => Compress::NONE,
        };
        ensure!(
            format == Format::Tar
                || compress.side == Side::Server
                || compress.compression.method == Method::None,
            "only tar mode backups can be compressed"
        );
        if to_stdout {
            ensure!(
                format == Format::Tar,
                "only tar format can be written to standard output"
            );
            ensure!(
                self.jobs.is_none_or(|jobs| jobs == 1),
                "only one job can write to standard output"
            );
        }
        let wal = match self.wal_method {
            Some(WalMethod::Stream) if to_stdout => {
                bail!("cannot stream write-ahead logs in tar mode to stdout")
            }
            Some(method) => method,
            None if to_stdout => WalMethod::Fetch,
            None => WalMethod::Stream,
        };
        let slot = self.slot_config(wal)?;
        ensure!(
            self.archive_timeout.is_none() || wal == WalMethod::None && !to_stdout,
            "--archive-timeout is for -X none, and not for standard output\n\
             HINT:  A backup with its WAL does not wait for the server's archive."
        );
        if format == Format::Tar {
            ensure!(
                !self.write_recovery_conf,
                "configuration for replication can only be written in plain format"
            );
            ensure!(
                self.waldir.is_none(),
                "WAL directory location can only be specified in plain format"
            );
            ensure!(
                mapping.is_empty(),
                "tablespaces can only be relocated in plain format\n\
                 HINT:  Edit the file tablespace_map when you unpack the archives."
            );
        }
        let waldir = check_waldir(self.waldir)?;
        let algorithm = checksum_algorithm(&self.manifest_checksums)?;
        let is_in_store = in_repository && target.as_os_str().is_empty();
        Ok(BackupConfig {
            address: self.connection.into(),
            target,
            repository,
            to_stdout,
            compress,
            format,
            incremental,
            waldir,
            mapping,
            jobs,
            max_rate,
            standby: self.write_recovery_conf,
            slot,
            wal,
            wal_is_chosen: self.wal_method.is_some(),
            retain_wal: wal != WalMethod::None && !self.no_slot,
            archive_timeout: self.archive_timeout.map(Duration::from_secs),
            space_check: !self.no_space_check && !is_in_store,
            fast: self.checkpoint == Checkpoint::Fast,
            label: self.label,
            manifest: (!self.no_manifest).then_some(algorithm),
            manifest_force_encode: self.manifest_force_encode,
            verify_checksums: !self.no_verify_checksums,
            // What commands and stores write is theirs.
            sync: (!self.no_sync && pipe.is_none() && !is_in_store).then_some(self.sync_method),
            pipe,
            clean: !self.no_clean,
            progress: self.progress,
            verbose: self.verbose,
            retries: self.retries,
            stream_size: (stream_size > 0).then_some(stream_size),
        })
    }

    /// Checks the options about slots, as pg_basebackup does.
    fn slot_config(&self, wal: WalMethod) -> Result<Option<SlotConfig>> {
        ensure!(
            !(self.create_slot && self.no_slot),
            "--create-slot and --no-slot are incompatible options"
        );
        let Some(name) = &self.slot else {
            ensure!(
                !self.create_slot,
                "--create-slot needs a slot to be specified using --slot"
            );
            return Ok(None);
        };
        ensure!(
            wal == WalMethod::Stream,
            "replication slots can only be used with WAL streaming"
        );
        ensure!(!self.no_slot, "--no-slot cannot be used with slot name");
        ensure!(
            is_slot_name(name),
            "replication slot name \"{name}\" is not valid"
        );
        Ok(Some(SlotConfig {
            name: name.clone(),
            create: self.create_slot,
        }))
    }
}
