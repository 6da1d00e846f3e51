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
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};

use crate::cli::configuration::{Format, ProgressFormat, VerifyConfig};
use crate::console::messages::reason;
use crate::console::progress::Phase;
use crate::manifest::LARGEST;
use crate::manifest::backup_path::{MANIFEST, display};
use crate::manifest::expected::Expected;
use crate::manifest::parser::Manifest;
use crate::runtime::signals::Signals;
use crate::runtime::supervisor::{self, Shared, Watch};
use crate::storage::folder::Folder;
use crate::storage::regular_file;
use crate::storage::source::check_size;
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
    /// The backup.
    folder: &'a Folder,
    /// Its path, or its URL.
    directory: PathBuf,
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
    let (quiet, json) = (config.quiet, config.json);
    let findings = supervisor::run(
        watch,
        &signals,
        || (),
        move |shared| verify(&config, shared),
    )?;
    let verified = findings.is_empty();
    let result = match (json, verified) {
        (true, _) => {
            let result = serde_json::json!({ "verified": verified, "findings": findings });
            Some(result.to_string())
        }
        (false, true) if !quiet => Some("backup successfully verified".to_owned()),
        (false, _) => None,
    };
    if let Some(result) = result {
        writeln!(std::io::stdout(), "{result}").context("could not write to standard output")?;
    }
    Ok(verified)
}

/// Returns the first findings.
fn verify(config: &VerifyConfig, shared: &Shared) -> Result<Vec<String>> {
    // Before the work of hours.
    let programs = config.parse_wal.then(Programs::find).transpose()?;
    let folder = Folder::open_backup(&config.backup, &config.access)?;
    let (manifest, mut expected) = read_manifest(config, &folder)?;
    let verifier = Verifier {
        config,
        folder: &folder,
        directory: match folder.path() {
            Some(path) => path.to_owned(),
            None => PathBuf::from(folder.to_string()),
        },
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
        let in_backup = verifier.directory.join("pg_wal");
        let path = match (&config.wal_directory, &unpacked) {
            (Some(path), _) => path,
            (None, Some(folder)) => folder.path(),
            (None, None) => &in_backup,
        };
        let program = programs.for_version(version.as_deref())?;
        wal::verify(&verifier, program, path, ranges)?;
    }
    Ok(verifier.findings.into_texts())
}

fn read_manifest(config: &VerifyConfig, folder: &Folder) -> Result<(Manifest, Expected)> {
    let beside = folder.path().map(|path| path.join(display(MANIFEST)));
    if let Some(path) = config.manifest.as_ref().or(beside.as_ref()) {
        match regular_file::open_limited(path, LARGEST) {
            Ok(file) => return Expected::read(file, &config.ignore),
            // It may be encrypted.
            Err(error) if error.kind() == ErrorKind::NotFound && config.manifest.is_none() => {}
            Err(error) => bail!(
                "could not open file \"{}\": {}",
                path.display(),
                reason(&error)
            ),
        }
    }
    let failed = |error: &io::Error| {
        anyhow!(
            "could not open file \"{folder}/{}\": {}",
            display(MANIFEST),
            reason(error)
        )
    };
    match folder
        .find(&display(MANIFEST))
        .map_err(|error| failed(&error))?
    {
        Some((mut source, name)) => {
            check_size(&mut *source, LARGEST).map_err(|error| failed(&error))?;
            Expected::read(source.take(LARGEST), &config.ignore)
                .with_context(|| format!("file \"{folder}/{name}\""))
        }
        None => Err(failed(&io::Error::from_raw_os_error(2))),
    }
}

impl Verifier<'_> {
    /// By what only a data directory has.
    fn guess_format(&self) -> Result<Format> {
        if self.folder.path().is_none() {
            return Ok(Format::Tar);
        }
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
        self.directory.join(OsStr::from_bytes(path))
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
