//! The command line, as that of pg_basebackup wherever that has the same option.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use backup_format::checksum::Algorithm;
use clap::{ArgAction, Parser, ValueEnum};

/// Takes a base backup of a running PostgreSQL server with several connections at once.
#[derive(Debug, Parser)]
#[command(name = "pg_parallel_backup", version, disable_help_flag = true)]
#[command(
    disable_version_flag = true,
    args_override_self = true,
    max_term_width = 100
)]
#[command(
    after_help = "The server needs the extension of the same name, in the database that is connected to."
)]
pub struct Options {
    /// receive base backup into directory
    #[arg(short = 'D', long = "pgdata", value_name = "DIRECTORY", help_heading = OUTPUT)]
    pgdata: PathBuf,

    /// output format (plain (default), tar)
    #[arg(short = 'F', long, value_name = "p|t", default_value = "plain", help_heading = OUTPUT)]
    format: Format,

    /// use that many connections for the files (default: 4, or the processors of this machine)
    #[arg(short = 'j', long, value_name = "NUM", help_heading = OUTPUT)]
    jobs: Option<usize>,

    /// maximum transfer rate of all connections together (in kB/s, or use suffix "k" or "M")
    #[arg(short = 'r', long, value_name = "RATE", help_heading = OUTPUT)]
    max_rate: Option<String>,

    /// relocate tablespace in OLDDIR to NEWDIR
    #[arg(short = 'T', long, value_name = "OLDDIR=NEWDIR", help_heading = OUTPUT)]
    tablespace_mapping: Vec<String>,

    /// location for the write-ahead log directory
    #[arg(long, value_name = "WALDIR", help_heading = OUTPUT)]
    waldir: Option<PathBuf>,

    /// include required WAL files with specified method
    #[arg(short = 'X', long, value_name = "none|fetch", default_value = "fetch", help_heading = OUTPUT)]
    wal_method: WalMethod,

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

    /// show progress information
    #[arg(short = 'P', long, help_heading = GENERAL)]
    progress: bool,

    /// output verbose messages
    #[arg(short = 'v', long, help_heading = GENERAL)]
    verbose: bool,

    /// how often a connection that was lost is replaced
    #[arg(long, value_name = "NUM", default_value_t = 3, help_heading = GENERAL)]
    retries: u32,

    /// use algorithm for manifest checksums: NONE, CRC32C, SHA224, SHA256, SHA384, SHA512
    #[arg(long, value_name = "ALGORITHM", default_value = "CRC32C", help_heading = GENERAL)]
    manifest_checksums: String,

    /// suppress generation of backup manifest
    #[arg(long, conflicts_with = "manifest_checksums", help_heading = GENERAL)]
    no_manifest: bool,

    /// do not verify checksums
    #[arg(long, help_heading = GENERAL)]
    no_verify_checksums: bool,

    /// output version information, then exit
    #[arg(short = 'V', long, action = ArgAction::Version, help_heading = GENERAL)]
    version: Option<bool>,

    /// show this help, then exit
    #[arg(short = '?', long, action = ArgAction::Help, help_heading = GENERAL)]
    help: Option<bool>,

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

const OUTPUT: &str = "Options controlling the output";
const GENERAL: &str = "General options";
const CONNECTION: &str = "Connection options";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum WalMethod {
    None,
    Fetch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Checkpoint {
    Fast,
    Spread,
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

/// What is to be done, with everything checked that can be without a server.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to connect to.
    pub address: Address,
    /// Where the backup goes.
    pub target: PathBuf,
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
    /// Whether to show the progress.
    pub progress: bool,
    /// Whether to say what happens.
    pub verbose: bool,
    /// How often a lost connection is replaced.
    pub retries: u32,
}

impl Options {
    /// Checks everything that can be checked without a server or a file.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(self) -> Result<Plan> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = self.jobs.unwrap_or(processors.min(4));
        ensure!(
            (1..=1000).contains(&jobs),
            "number of jobs must be from 1 to 1000"
        );
        let max_rate = self.max_rate.as_deref().map(parse_rate).transpose()?;
        let mut mapping = BTreeMap::new();
        for text in &self.tablespace_mapping {
            let (old, new) = parse_mapping(text)?;
            if mapping.insert(old, new).is_some() {
                bail!("tablespace directory in \"{text}\" is mapped twice");
            }
        }
        if self.format == Format::Tar {
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
        if let Some(waldir) = &self.waldir {
            ensure!(
                waldir.is_absolute(),
                "WAL directory location must be an absolute path"
            );
        }
        let algorithm = Algorithm::parse(&self.manifest_checksums).with_context(|| {
            format!(
                "unrecognized checksum algorithm: \"{}\"",
                self.manifest_checksums
            )
        })?;
        Ok(Plan {
            address: Address {
                dbname: self.dbname,
                host: self.host,
                port: self.port,
                user: self.username,
                ask_password: self.password,
                may_ask: !self.no_password,
            },
            target: self.pgdata,
            format: self.format,
            waldir: self.waldir,
            mapping,
            jobs,
            max_rate,
            wal: self.wal_method == WalMethod::Fetch,
            fast: self.checkpoint == Checkpoint::Fast,
            label: self.label,
            manifest: (!self.no_manifest).then_some(algorithm),
            verify_checksums: !self.no_verify_checksums,
            sync: (!self.no_sync).then_some(self.sync_method),
            clean: !self.no_clean,
            progress: self.progress,
            verbose: self.verbose,
            retries: self.retries,
        })
    }
}

/// A rate in kB/s, from a number with or without the suffix k or M.
fn parse_rate(text: &str) -> Result<u32> {
    let (digits, factor) = match text.as_bytes() {
        [.., b'k'] => (&text[..text.len() - 1], 1.0),
        [.., b'M'] => (&text[..text.len() - 1], 1024.0),
        _ => (text, 1.0),
    };
    let number: f64 = digits
        .trim()
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite())
        .with_context(|| format!("transfer rate \"{text}\" is not a valid value"))?;
    ensure!(number > 0.0, "transfer rate must be greater than zero");
    let rate = number * factor;
    ensure!(
        (32.0..=1_048_576.0).contains(&rate),
        "transfer rate \"{text}\" is out of range: it must be from 32 kB/s to 1 GB/s"
    );
    Ok(rate as u32)
}

/// `OLD=NEW`, where `\=` is a = in a path.
fn parse_mapping(text: &str) -> Result<(PathBuf, PathBuf)> {
    let mut parts = vec![String::new()];
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if letters.peek() == Some(&'=') => {
                letters.next();
                parts
                    .last_mut()
                    .map(|part| part.push('='))
                    .unwrap_or_default();
            }
            '=' => parts.push(String::new()),
            letter => parts
                .last_mut()
                .map(|part| part.push(letter))
                .unwrap_or_default(),
        }
    }
    let [old, new] = <[String; 2]>::try_from(parts).map_err(|parts| {
        if parts.len() > 2 {
            anyhow::anyhow!("multiple \"=\" signs in tablespace mapping \"{text}\"")
        } else {
            invalid_mapping(text)
        }
    })?;
    if old.is_empty() || new.is_empty() {
        return Err(invalid_mapping(text));
    }
    let (old, new) = (PathBuf::from(old), PathBuf::from(new));
    ensure!(
        old.is_absolute(),
        "old directory is not an absolute path in tablespace mapping: {}",
        old.display()
    );
    ensure!(
        new.is_absolute(),
        "new directory is not an absolute path in tablespace mapping: {}",
        new.display()
    );
    // As the server has it: without a slash at the end, or two in a row.
    Ok((old.components().collect(), new.components().collect()))
}

fn invalid_mapping(text: &str) -> anyhow::Error {
    anyhow::anyhow!("invalid tablespace mapping format \"{text}\", must be \"OLDDIR=NEWDIR\"")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Options::command().debug_assert();
    }

    #[test]
    fn rates_have_suffixes_and_limits() {
        for (text, rate) in [
            ("32", 32),
            ("100k", 100),
            ("1M", 1024),
            ("1.5M", 1536),
            ("1048576", 1_048_576),
            ("1024M", 1_048_576),
        ] {
            assert_eq!(parse_rate(text).unwrap(), rate, "{text}");
        }
        for text in [
            "", "k", "x", "31", "0", "-5", "1049000", "1025M", "1G", "nan", "inf", "1e9",
        ] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn mappings_are_read_as_pg_basebackup_reads_them() {
        let pair = |text| {
            let (old, new) = parse_mapping(text).unwrap();
            (old.display().to_string(), new.display().to_string())
        };
        assert_eq!(pair("/a=/b"), ("/a".into(), "/b".into()));
        assert_eq!(pair("/a\\=c//d/=/b b"), ("/a=c/d".into(), "/b b".into()));
        for text in ["", "=", "/a", "/a=", "=/b", "/a=/b=/c", "a=/b", "/a=b"] {
            assert!(parse_mapping(text).is_err(), "{text}");
        }
    }
}
