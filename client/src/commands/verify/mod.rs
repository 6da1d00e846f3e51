//! Verification of a backup against its manifest, with several threads. Checks and messages are
//! those of pg_verifybackup.

mod control;
mod findings;
mod plain;
mod tar;
mod wal;
mod wal_folder;

use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};

use crate::cli::configuration::{Format, ProgressFormat, VerifyConfig};
use crate::console::messages::reason;
use crate::console::progress::Phase;
use crate::manifest::LARGEST;
use crate::manifest::backup_path::display;
use crate::manifest::expected::Expected;
use crate::manifest::parser::Manifest;
use crate::runtime::signals::Signals;
use crate::runtime::supervisor::{self, Shared, Watch};
use crate::stream::regular_file;
use findings::Findings;
use wal::Programs;
use wal_folder::WalFolder;

/// Version file of a data directory.
const VERSION_FILE: &[u8] = b"PG_VERSION";
/// Bytes of it that are read: more than any version has.
const VERSION_LENGTH: u64 = 64;

/// State shared by the parts of a verification.
struct Verifier<'a> {
    config: &'a VerifyConfig,
    findings: Findings,
    /// Where the manifest names it.
    system_identifier: Option<u64>,
    shared: &'a Shared,
}

/// Verifies a backup; returns whether it is intact.
///
/// # Errors
/// What makes it useless to go on. Everything else is said where it is found.
pub fn run(config: VerifyConfig) -> Result<bool> {
    let signals = Signals::watch()?;
    let watch = Watch {
        name: "verification",
        progress: config.progress.then_some(ProgressFormat::Text),
        first: Phase::Copying,
        workers: config.jobs,
    };
    let quiet = config.quiet;
    let verified = supervisor::run(
        watch,
        &signals,
        || (),
        move |shared| verify(&config, shared),
    )?;
    if verified && !quiet {
        writeln!(std::io::stdout(), "backup successfully verified")
            .context("could not write to standard output")?;
    }
    Ok(verified)
}

fn verify(config: &VerifyConfig, shared: &Shared) -> Result<bool> {
    // Before the work of hours.
    let programs = config.parse_wal.then(Programs::find).transpose()?;
    let (manifest, mut expected) = read_manifest(config)?;
    let verifier = Verifier {
        config,
        findings: Findings::new(config.exit_on_error),
        system_identifier: manifest.system_identifier,
        shared,
    };
    let format = match config.format {
        Some(format) => format,
        None => verifier.guess_format()?,
    };
    let ranges = &manifest.wal_ranges;
    let mut unpacked = None;
    let version = match format {
        Format::Plain => {
            plain::verify(&verifier, &mut expected)?;
            regular_file::read_start(&verifier.full_path(VERSION_FILE), VERSION_LENGTH).ok()
        }
        Format::Tar => {
            if config.parse_wal && config.wal_directory.is_none() {
                unpacked = Some(WalFolder::create(ranges)?);
            }
            tar::verify(&verifier, &expected, unpacked.as_ref())?
        }
    };
    if let Some(programs) = programs {
        let in_backup = config.directory.join("pg_wal");
        let path = match (&config.wal_directory, &unpacked) {
            (Some(path), _) => path,
            (None, Some(folder)) => folder.path(),
            (None, None) => &in_backup,
        };
        let program = programs.for_version(version.as_deref())?;
        wal::verify(&verifier, program, path, ranges)?;
    }
    Ok(!verifier.findings.any())
}

fn read_manifest(config: &VerifyConfig) -> Result<(Manifest, Expected)> {
    let file = regular_file::open_limited(&config.manifest, LARGEST).map_err(|error| {
        anyhow!(
            "could not open file \"{}\": {}",
            config.manifest.display(),
            reason(&error)
        )
    })?;
    Expected::read(file, &config.ignore)
}

impl Verifier<'_> {
    /// By what only a data directory has.
    fn guess_format(&self) -> Result<Format> {
        let path = self.full_path(VERSION_FILE);
        match fs::metadata(&path) {
            Ok(_) => Ok(Format::Plain),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Format::Tar),
            Err(error) => Err(anyhow!(
                "could not stat file \"{}\": {}",
                path.display(),
                reason(&error)
            )),
        }
    }

    fn full_path(&self, path: &[u8]) -> PathBuf {
        self.config.directory.join(OsStr::from_bytes(path))
    }

    fn report_missing(&self, expected: &Expected) -> Result<()> {
        for path in expected.missing() {
            self.findings.add(format_args!(
                "\"{}\" is present in the manifest but not on disk",
                display(path)
            ))?;
        }
        Ok(())
    }
}
