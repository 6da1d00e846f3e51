//! Verification of WAL by pg_waldump.

use std::env;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use backup_format::timeline::WalRange;
use backup_format::wal::SegmentName;

use super::Verifier;
use crate::runtime::cancellation::Cancellation;

/// The name of the program.
const PROGRAM: &str = "pg_waldump";
/// How often to look whether it has ended.
const LOOK: Duration = Duration::from_millis(10);

/// The programs that there are.
#[derive(Debug)]
pub struct Programs(Vec<Program>);

/// A pg_waldump. It reads the WAL of its own version only.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    /// As `PG_VERSION` has it.
    major: String,
}

impl Programs {
    /// Looks beside this program first, then where the shell looks.
    ///
    /// # Errors
    /// Where there is none.
    pub fn find() -> Result<Self> {
        let own = env::current_exe().ok();
        let beside = own.as_deref().and_then(Path::parent).map(Path::to_owned);
        let path = env::var_os("PATH").unwrap_or_default();
        let programs: Vec<_> = beside
            .into_iter()
            .chain(env::split_paths(&path))
            .filter_map(|folder| Program::at(folder.join(PROGRAM)))
            .collect();
        ensure!(
            !programs.is_empty(),
            "program \"{PROGRAM}\" is needed but was found neither beside this program nor in PATH\n\
             HINT:  Use -n/--no-parse-wal to leave the WAL unread."
        );
        Ok(Self(programs))
    }

    /// The one that reads the WAL of a data directory with that content of `PG_VERSION`; where that
    /// is not known, the first.
    ///
    /// # Errors
    /// Where there is none of that version.
    pub fn for_version(&self, version: Option<&[u8]>) -> Result<&Program> {
        let version = version
            .map(|version| String::from_utf8_lossy(version.trim_ascii()))
            .filter(|version| version.bytes().all(|byte| byte.is_ascii_digit()));
        let fits = |program: &&Program| {
            let version = version.as_deref();
            version.is_none_or(|version| version == program.major)
        };
        let found = self.0.iter().find(fits);
        found.with_context(|| {
            let version = version.as_deref().unwrap_or_default();
            let (is, path) = self.0.first().map_or(("none", Path::new("")), |program| {
                (program.major.as_str(), program.path.as_path())
            });
            format!(
                "program \"{PROGRAM}\" of PostgreSQL {version} is needed, and \"{}\" is of {is}",
                path.display()
            )
        })
    }
}

impl Program {
    fn at(path: PathBuf) -> Option<Self> {
        if !path.is_file() {
            return None;
        }
        let output = Command::new(&path)
            .arg("--version")
            .stdin(Stdio::null())
            .output()
            .ok()?;
        // "pg_waldump (PostgreSQL) 18.1", or 18beta1
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text.strip_prefix("pg_waldump (PostgreSQL) ")?;
        let end = version.find(|letter: char| !letter.is_ascii_digit())?;
        let major = version[..end].to_owned();
        Some(Self { path, major })
    }

    fn command(&self, path: &Path, range: &WalRange) -> Command {
        let mut command = Command::new(&self.path);
        command
            .arg("--quiet")
            .arg("--path")
            .arg(path)
            .arg(format!("--timeline={}", range.timeline))
            .arg(format!("--start={}", range.start))
            .arg(format!("--end={}", range.end))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }
}

/// Has pg_waldump read the WAL ranges of the manifest. pg_waldump reports defects itself.
///
/// # Errors
/// What ends the verification.
pub fn verify(
    verifier: &Verifier<'_>,
    program: &Program,
    path: &Path,
    ranges: &[WalRange],
) -> Result<()> {
    if !check_kinds(verifier, path)? {
        return Ok(());
    }
    for range in ranges {
        let child = program
            .command(path, range)
            .spawn()
            .with_context(|| format!("could not execute \"{}\"", program.path.display()))?;
        if !wait(child, &verifier.shared.cancellation)?.success() {
            verifier.findings.add(format_args!(
                "WAL parsing failed for timeline {}",
                range.timeline
            ))?;
        }
    }
    Ok(())
}

/// Whether all that has the name of a segment is a file: pg_waldump would wait for ever for somebody
/// to write into a FIFO. A directory that cannot be read it reports itself.
fn check_kinds(verifier: &Verifier<'_>, path: &Path) -> Result<bool> {
    let Ok(entries) = fs::read_dir(path) else {
        return Ok(true);
    };
    let mut all_fit = true;
    for entry in entries.flatten() {
        let is_other = SegmentName::parse(entry.file_name().as_bytes()).is_some()
            && fs::metadata(entry.path()).is_ok_and(|found| !found.is_file());
        if is_other {
            all_fit = false;
            verifier.findings.add(format_args!(
                "\"{}\" is not a regular file",
                entry.path().display()
            ))?;
        }
    }
    Ok(all_fit)
}

/// Waits for its end, or ends it where that is not to be waited for.
fn wait(mut child: Child, cancellation: &Cancellation) -> Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait().context("could not wait for pg_waldump")? {
            return Ok(status);
        }
        if let Err(error) = cancellation.check() {
            let _ = child.kill();
            let _ = child.wait();
            bail!(error);
        }
        cancellation.wait(LOOK);
    }
}
