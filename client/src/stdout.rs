//! One archive with everything, on standard output.
//!
//! It ends when the backup has been held against its manifest: without its last two blocks it is
//! recognizably incomplete.

use std::io::{IsTerminal as _, StdoutLock, Write as _, stdout};

use anyhow::{Context, Error, Result, anyhow, ensure};
use backup_format::archive::END;
use backup_format::checksum::Algorithm;
use backup_format::member::{Kind, Member, Reader, Receiver};

use crate::check::Check;
use crate::connection::Session;
use crate::folder::{CONTROL_FILE, MANIFEST};
use crate::manifest;
use crate::progress::{Counters, Phase};
use crate::stop::Stop;

/// Passes a whole backup on, and returns the number of its files.
///
/// # Errors
/// The server's, those of standard output, and where the backup is not what its manifest says.
pub fn pass_on(
    session: &Session,
    statement: &str,
    algorithm: Option<Algorithm>,
    stop: &Stop,
    counters: &Counters,
) -> Result<usize> {
    let output = stdout().lock();
    ensure!(
        !output.is_terminal(),
        "standard output is a terminal, where an archive is of no use"
    );
    let check = Check::new(
        Vec::new(),
        algorithm.unwrap_or(Algorithm::None),
        counters.leader(),
    );
    let mut passing = Passing {
        output,
        held_back: Vec::new(),
    };
    let mut reader = Reader::default();
    let mut members = Members {
        check,
        manifest: Vec::new(),
        in_manifest: false,
    };
    let mut begun = false;
    session.copy(statement, |bytes| {
        stop.check()?;
        if !std::mem::replace(&mut begun, true) {
            counters.enter(Phase::Copying);
        }
        reader.push(bytes, &mut members)?;
        passing.pass(bytes)
    })?;
    reader.finish()?;
    counters.enter(Phase::Comparing);
    let files = members.check.into_files();
    ensure!(
        files.contains_key(CONTROL_FILE),
        "the server did not send global/pg_control"
    );
    let count = match algorithm {
        Some(algorithm) => manifest::compare(&members.manifest, files, algorithm)?,
        None => files.len(),
    };
    passing.end()?;
    Ok(count)
}

struct Passing<'a> {
    output: StdoutLock<'a>,
    /// The last bytes, which may be the end of the archive.
    held_back: Vec<u8>,
}

impl Passing<'_> {
    fn pass(&mut self, bytes: &[u8]) -> Result<()> {
        // A message is larger than the end, but for the last one.
        let all = self.held_back.len() + bytes.len();
        let from_held_back = all.saturating_sub(END.len()).min(self.held_back.len());
        self.write_held_back(from_held_back)?;
        let kept = END
            .len()
            .min(bytes.len())
            .min(END.len() - self.held_back.len());
        let (now, later) = bytes.split_at(bytes.len() - kept);
        self.write(now)?;
        self.held_back.extend_from_slice(later);
        Ok(())
    }

    fn write_held_back(&mut self, length: usize) -> Result<()> {
        let bytes: Vec<_> = self.held_back.drain(..length).collect();
        self.write(&bytes)
    }

    fn end(mut self) -> Result<()> {
        self.write_held_back(self.held_back.len())?;
        self.output
            .flush()
            .context("could not write to standard output")
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.output
            .write_all(bytes)
            .context("could not write to standard output")
    }
}

struct Members<'a> {
    check: Check<'a>,
    manifest: Vec<u8>,
    in_manifest: bool,
}

/// The manifest is held in memory, as the server holds it: below 1 GB.
const LARGEST_MANIFEST: u64 = 1 << 30;

impl Receiver for Members<'_> {
    type Error = Error;

    fn begin(&mut self, member: &Member) -> Result<()> {
        self.in_manifest = member.kind == Kind::File && member.path == MANIFEST;
        if self.in_manifest && member.size > LARGEST_MANIFEST {
            return Err(anyhow!("the manifest is too large"));
        }
        self.check.begin(member)
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        if self.in_manifest {
            self.manifest.extend_from_slice(bytes);
        }
        self.check.content(bytes)
    }

    fn end(&mut self) -> Result<()> {
        self.check.end()
    }
}
