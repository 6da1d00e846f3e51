//! Verification of a data directory.

use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::ffi::OsStrExt as _;

use anyhow::{Result, anyhow};
use backup_format::control_file::LARGEST_CONTENT;

use super::{Verifier, control};
use crate::console::messages::reason;
use crate::console::progress::{self, Activity, Tally};
use crate::manifest::backup_path::{CONTROL_FILE, display};
use crate::manifest::digest::Digest;
use crate::manifest::expected::{self, Expected};
use crate::runtime::parallel;
use crate::runtime::supervisor::Shared;
use crate::storage::regular_file;

/// Size of a read in bytes.
const PIECE: usize = 256 * 1024;

/// Compares the files of a data directory with the manifest: first names and sizes, then checksums.
///
/// # Errors
/// What ends the verification.
pub fn verify(verifier: &Verifier<'_>, expected: &mut Expected) -> Result<()> {
    let root = &verifier.directory;
    fs::read_dir(root).map_err(|error| {
        anyhow!(
            "could not open directory \"{}\": {}",
            root.display(),
            reason(&error)
        )
    })?;
    let walk = Walk { verifier };
    walk.directory(expected, &[])?;
    verifier.report_missing(expected)?;
    if verifier.config.checksums {
        verify_checksums(verifier, expected)?;
    }
    Ok(())
}

/// The files that there are, and their sizes.
struct Walk<'a> {
    verifier: &'a Verifier<'a>,
}

impl Walk<'_> {
    /// Everything in a directory; the backup's own one has an empty path. Links are followed, since
    /// tablespaces are behind them.
    fn directory(&self, expected: &mut Expected, path: &[u8]) -> Result<()> {
        self.verifier.shared.cancellation.check()?;
        let full = self.verifier.full_path(path);
        let failed = |expected: &mut Expected, error: &io::Error| {
            expected.ignore(path.to_vec());
            self.verifier.findings.add(format_args!(
                "could not open directory \"{}\": {}",
                full.display(),
                reason(error)
            ))
        };
        let entries = match fs::read_dir(&full) {
            Ok(entries) => entries,
            Err(error) => return failed(expected, &error),
        };
        for entry in entries {
            let name = match entry {
                Ok(entry) => entry.file_name(),
                Err(error) => return failed(expected, &error),
            };
            let path = if path.is_empty() {
                name.as_bytes().to_vec()
            } else {
                [path, name.as_bytes()].join(&b'/')
            };
            if !expected.ignores(&path) {
                self.entry(expected, path)?;
            }
        }
        Ok(())
    }

    fn entry(&self, expected: &mut Expected, path: Vec<u8>) -> Result<()> {
        let findings = &self.verifier.findings;
        let full = self.verifier.full_path(&path);
        let found = match fs::metadata(&full) {
            Ok(found) => found,
            Err(error) => {
                findings.add(format_args!(
                    "could not stat file or directory \"{}\": {}",
                    display(&path),
                    reason(&error)
                ))?;
                expected.ignore(path);
                return Ok(());
            }
        };
        let name = display(&path);
        if found.is_dir() {
            return self.directory(expected, &path);
        }
        if !found.is_file() {
            return findings.add(format_args!(
                "\"{name}\" is not a regular file or directory"
            ));
        }
        let Some(file) = expected.file(&path) else {
            return findings.add(format_args!(
                "\"{name}\" is present on disk but not in the manifest"
            ));
        };
        file.find();
        if file.size != found.len() {
            findings.add(format_args!(
                "\"{name}\" has size {} on disk but size {} in the manifest",
                found.len(),
                file.size
            ))?;
            file.spoil();
        }
        if let (Some(identifier), CONTROL_FILE) = (self.verifier.system_identifier, &path[..]) {
            let content =
                regular_file::read_start(&full, LARGEST_CONTENT as u64).map_err(|error| {
                    anyhow!(
                        "could not open file \"{}\" for reading: {}",
                        full.display(),
                        reason(&error)
                    )
                })?;
            control::check(&content, identifier, full.display())?;
        }
        Ok(())
    }
}

fn verify_checksums(verifier: &Verifier<'_>, expected: &Expected) -> Result<()> {
    let files = expected.unchecked();
    let Shared {
        cancellation,
        counters,
    } = verifier.shared;
    counters.expect(progress::Expected {
        bytes: files
            .iter()
            .map(|&id| expected.get(id).size)
            .fold(0, u64::saturating_add),
        files: files.len() as u64,
    });
    parallel::for_each(&files, counters.workers(), cancellation, |worker, &id| {
        let (path, file) = (expected.path(id), expected.get(id));
        worker.begins(Activity::Receiving(display(path)));
        let mut tally = Tally::new(&worker.counter);
        verify_checksum(verifier, path, file, &mut tally)?;
        tally.add_file();
        tally.keep();
        Ok(())
    })
}

fn verify_checksum(
    verifier: &Verifier<'_>,
    path: &[u8],
    file: expected::File<'_>,
    tally: &mut Tally<'_>,
) -> Result<()> {
    let findings = &verifier.findings;
    let name = format!("\"{}\"", display(path));
    let failed = |to: &str, error: &io::Error| {
        findings.add(format_args!(
            "could not {to} file {name}: {}",
            reason(error)
        ))
    };
    let mut open = match regular_file::open(&verifier.full_path(path)) {
        Ok(open) => open,
        Err(error) => return failed("open", &error),
    };
    let mut digest = Digest::new(file.algorithm);
    // One byte more shows that it has grown.
    let room = usize::try_from(file.size).map_or(PIECE, |size| size.saturating_add(1));
    let mut piece = vec![0; room.min(PIECE)];
    let mut size = 0;
    while size <= file.size {
        verifier.shared.cancellation.check()?;
        match open.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => {
                digest.update(&piece[..length]);
                size += length as u64;
                tally.add_bytes(length as u64);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return failed("read", &error),
        }
    }
    if size != file.size {
        // It has changed since its size was looked at.
        return findings.add(format_args!(
            "file {name} should contain {} bytes, but read {size}",
            file.size
        ));
    }
    match file.compare(&name, &digest.finish()) {
        Some(finding) => findings.add(finding),
        None => Ok(()),
    }
}
