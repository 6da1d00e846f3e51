//! Verification of archives, any number for each part of the backup.

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use backup_format::checksum::Algorithm;
use backup_format::control_file;
use backup_format::member::{Kind, Member, Receiver};

use super::wal_folder::{Segment, WalFolder};
use super::{VERSION_FILE, Verifier, control};
use crate::cli::option_values::canonical;
use crate::console::messages::reason;
use crate::console::progress::{self, Activity, Tally};
use crate::manifest::backup_path::{CONTROL_FILE, display};
use crate::manifest::digest::Digest;
use crate::manifest::expected::{self, Expected};
use crate::repository::backup_info::{ArchiveInfo, BackupInfo};
use crate::repository::index::MemberSum;
use crate::runtime::parallel;
use crate::runtime::supervisor::Shared;
use crate::stream::archive_files::{self, ArchiveFile, Content};
use crate::stream::archive_parts::ArchivePart;

/// Larger than what is kept of any file in memory.
const LARGEST_KEPT: u64 = 64 * 1024;

/// What all archives share.
struct ArchiveSet<'a> {
    verifier: &'a Verifier<'a>,
    expected: &'a Expected,
    wal: Option<&'a WalFolder>,
    /// Whether one could not be read to its end.
    broken: AtomicBool,
    /// The content of `PG_VERSION`.
    version: Mutex<Option<Vec<u8>>>,
}

/// Compares the members of all archives with the manifest. Segments of WAL go into the folder where
/// there is one. Returns the content of `PG_VERSION`.
///
/// # Errors
/// What ends the verification.
pub fn verify(
    verifier: &Verifier<'_>,
    expected: &Expected,
    wal: Option<&WalFolder>,
) -> Result<Option<Vec<u8>>> {
    let mut files = match BackupInfo::read(verifier.folder)? {
        Some(info) => list_described(verifier, &info)?,
        None => list(verifier, expected)?,
    };
    // Of this one the manifest knows nothing.
    files.retain(|file| wal.is_some() || file.content != Content::Wal);
    let mut parts = Vec::new();
    for file in &files {
        parts.extend(plan(verifier, file)?);
    }
    parts.sort_by_key(|part| Reverse(part.size()));
    let Shared {
        cancellation,
        counters,
    } = verifier.shared;
    counters.expect(progress::Expected {
        bytes: parts
            .iter()
            .map(ArchivePart::size)
            .fold(0, u64::saturating_add),
        files: parts.len() as u64,
    });
    let archives = ArchiveSet {
        verifier,
        expected,
        wal,
        broken: AtomicBool::new(false),
        version: Mutex::new(None),
    };
    parallel::for_each(&parts, counters.workers(), cancellation, |worker, part| {
        worker.begins(Activity::Receiving(part.archive.name.clone()));
        let mut tally = Tally::new(&worker.counter);
        archives.verify(part, &mut tally)?;
        tally.add_file();
        tally.keep();
        Ok(())
    })?;
    // What is missing may be in what could not be read.
    if !archives.broken.into_inner() {
        verifier.report_missing(expected)?;
    }
    let version = archives.version.into_inner();
    Ok(version.unwrap_or_else(PoisonError::into_inner))
}

/// The archives that a repository describes. One that is missing is a finding.
fn list_described(verifier: &Verifier<'_>, info: &BackupInfo) -> Result<Vec<ArchiveFile>> {
    let files = verifier.folder.files()?;
    let (mut there, findings) = (info.clone(), &verifier.findings);
    let is_there =
        |archive: &ArchiveInfo| files.iter().any(|file| file.name == archive.name.as_str());
    for archive in info.archives.iter().filter(|archive| !is_there(archive)) {
        findings.add(format_args!("archive \"{}\" is missing", archive.name))?;
    }
    there.archives.retain(is_there);
    archive_files::described(verifier.folder, &there, files)
}

/// Parts of an archive, one for each place at which its index says that reading can begin. An archive that
/// is not compressed is one part.
fn plan(verifier: &Verifier<'_>, archive: &ArchiveFile) -> Result<Vec<ArchivePart>> {
    if archive.has_index {
        match ArchivePart::plan_all(archive) {
            Ok(parts) => return Ok(parts),
            Err(error) => verifier.findings.add(format_args!("{error:#}"))?,
        }
    }
    Ok(vec![ArchivePart::whole(archive)])
}

/// The archives in the folder of the backup. What is none is a finding.
fn list(verifier: &Verifier<'_>, expected: &Expected) -> Result<Vec<ArchiveFile>> {
    let folder = &verifier.directory;
    let failed = |error| {
        let folder = folder.display();
        anyhow!("could not open directory \"{folder}\": {}", reason(&error))
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if !expected.ignores(name.as_bytes()) {
            files.extend(look_at(verifier, folder, &name.to_string_lossy())?);
        }
    }
    Ok(files)
}

fn look_at(verifier: &Verifier<'_>, folder: &Path, name: &str) -> Result<Option<ArchiveFile>> {
    let findings = &verifier.findings;
    let found = match fs::metadata(folder.join(name)) {
        Ok(found) => found,
        Err(error) => {
            findings.add(format_args!(
                "could not stat file or directory \"{name}\": {}",
                reason(&error)
            ))?;
            return Ok(None);
        }
    };
    if !found.is_file() {
        findings.add(format_args!("file \"{name}\" is not a regular file"))?;
        return Ok(None);
    }
    let Some(mut archive) = ArchiveFile::by_name(verifier.folder, name) else {
        findings.add(format_args!(
            "file \"{name}\" is not expected in a tar format backup"
        ))?;
        return Ok(None);
    };
    archive.size = found.len();
    Ok(Some(archive))
}

impl ArchiveSet<'_> {
    fn verify(&self, part: &ArchivePart, tally: &mut Tally<'_>) -> Result<()> {
        let shared = self.verifier.shared;
        let archive = &part.archive;
        let mut members = Members {
            sum: MemberSum::default(),
            archives: self,
            name: &archive.name,
            prefix: archive.content.prefix(),
            current: None,
            fatal: None,
        };
        let result = part.unpack(&mut members, |length| {
            tally.add_bytes(length as u64);
            shared.cancellation.check()
        });
        if result.is_ok() && !part.has(&members.sum) {
            self.verifier.findings.add(format_args!(
                "index of archive \"{}\" does not fit it: it has other members{}",
                archive.name,
                part.place()
            ))?;
        }
        match (result, members.fatal) {
            (Ok(()), _) => Ok(()),
            (Err(_), Some(fatal)) => Err(fatal),
            (Err(error), None) if shared.cancellation.is_requested() => Err(error),
            (Err(error), None) => {
                self.broken.store(true, Ordering::Relaxed);
                self.verifier.findings.add(format_args!("{error:#}"))
            }
        }
    }
}

/// Whether a name stays where it is unpacked. No archive of a backup has another: one that does is not
/// looked at any further, as with pg_verifybackup from 18.6 on.
fn is_safe(path: &[u8]) -> bool {
    !path.starts_with(b"/") && path.split(|&byte| byte == b'/').all(|part| part != b"..")
}

/// Receiver of the members of one archive.
struct Members<'a> {
    /// Sum of all members, for the comparison with the index.
    sum: MemberSum,
    archives: &'a ArchiveSet<'a>,
    name: &'a str,
    prefix: Vec<u8>,
    current: Option<Current<'a>>,
    /// Error that ends the verification, as opposed to a finding.
    fatal: Option<Error>,
}

/// The member that is being read.
struct Current<'a> {
    path: Vec<u8>,
    /// What the manifest says of it, and its checksum, where that is wanted.
    expected: Option<(expected::File<'a>, Digest)>,
    /// Its content, where that is wanted.
    kept: Option<Vec<u8>>,
    /// Where its content goes, where it is WAL.
    wal: Option<File>,
}

impl<'a> Members<'a> {
    fn member(&self, member: &Member) -> Result<Current<'a>> {
        ensure!(
            is_safe(&member.path),
            "tar member has unsafe path name: \"{}\"",
            display(&member.path)
        );
        let full = [&self.prefix, member.path.as_slice()].concat();
        let path = canonical(Path::new(OsStr::from_bytes(&full)));
        let mut current = Current {
            expected: None,
            kept: None,
            wal: None,
            path,
        };
        if let Some(wal) = self.archives.wal {
            match wal.file(&current.path, member.size)? {
                Segment::NotNeeded => {}
                Segment::New(file) => current.wal = Some(file),
                Segment::Twice => self.report_twice(member)?,
            }
        }
        if !self.archives.expected.ignores(&current.path) {
            self.compare_with_manifest(member, &mut current)?;
        }
        Ok(current)
    }

    fn compare_with_manifest(&self, member: &Member, current: &mut Current<'a>) -> Result<()> {
        let verifier = self.archives.verifier;
        let findings = &verifier.findings;
        let (name, archive) = (display(&member.path), self.name);
        let Some(file) = self.archives.expected.file(&current.path) else {
            return findings.add(format_args!(
                "file \"{name}\" is present in archive \"{archive}\" but not in the manifest"
            ));
        };
        if file.find() {
            self.report_twice(member)?;
        }
        if file.size != member.size {
            return findings.add(format_args!(
                "file \"{name}\" has size {} in archive \"{archive}\" but size {} in the manifest",
                member.size, file.size
            ));
        }
        if verifier.config.checksums && file.algorithm != Algorithm::None {
            current.expected = Some((file, Digest::new(file.algorithm)));
        }
        let is_control = current.path == CONTROL_FILE && verifier.system_identifier.is_some();
        if is_control || (current.path == VERSION_FILE && member.size <= LARGEST_KEPT) {
            ensure!(
                !is_control || member.size == control_file::SIZE as u64,
                "unexpected control file size {}, expected {}",
                member.size,
                control_file::SIZE
            );
            current.kept = Some(Vec::new());
        }
        Ok(())
    }

    /// Whoever unpacks it has one or the other.
    fn report_twice(&self, member: &Member) -> Result<()> {
        self.archives.verifier.findings.add(format_args!(
            "file \"{}\" in archive \"{}\" is present more than once",
            display(&member.path),
            self.name
        ))
    }

    fn finish_member(&self, current: Current<'_>) -> Result<()> {
        let verifier = self.archives.verifier;
        let path = display(&current.path);
        if let Some((file, digest)) = current.expected {
            let name = format!("\"{path}\" in archive \"{}\"", self.name);
            if let Some(finding) = file.compare(&name, &digest.finish()) {
                verifier.findings.add(finding)?;
            }
        }
        match (current.kept, verifier.system_identifier) {
            (Some(content), Some(identifier)) if current.path == CONTROL_FILE => {
                control::check(&content, identifier, format_args!("{}: {path}", self.name))?;
            }
            (Some(content), _) => {
                let version = self.archives.version.lock();
                *version.unwrap_or_else(PoisonError::into_inner) = Some(content);
            }
            (None, _) => {}
        }
        Ok(())
    }

    /// Notes what ends the verification.
    fn guard<T>(&mut self, result: Result<T>) -> Result<T> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => {
                self.fatal = Some(error);
                bail!("the verification was ended");
            }
        }
    }
}

impl Receiver for Members<'_> {
    type Error = Error;

    fn begin(&mut self, member: &Member) -> Result<()> {
        let path = [&self.prefix, member.path.as_slice()].concat();
        self.sum
            .add(&path, member.kind, member.size, member.position);
        if member.kind == Kind::File {
            let current = self.member(member);
            self.current = Some(self.guard(current)?);
        }
        Ok(())
    }

    fn content(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(current) = &mut self.current else {
            return Ok(());
        };
        if let Some((_, digest)) = &mut current.expected {
            digest.update(bytes);
        }
        if let Some(kept) = &mut current.kept {
            kept.extend_from_slice(bytes);
        }
        if let Some(wal) = &mut current.wal {
            let written = wal.write_all(bytes);
            let written = written.context("could not write WAL into a temporary file");
            self.guard(written)?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        match self.current.take() {
            Some(current) => {
                let finished = self.finish_member(current);
                self.guard(finished)
            }
            None => Ok(()),
        }
    }
}
