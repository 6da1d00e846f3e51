//! Sending of one entry of the listing.
//!
//! Follows sendFile() and _tarWriteDir() in backup/basebackup.c.

use std::fs::Metadata;
use std::io;

use backup_format::archive::Attributes;
use backup_format::checksum::Algorithm;
use backup_format::relation_file;

use crate::backup::file_table::{FileTable, Kind, Slot};
use crate::backup::queue::SendOutcome;
use crate::backup::unlogged;
use crate::server::backend_progress::ProgressRow;
use crate::server::checksum::Digest;
use crate::server::file::{self, TransientFile};
use crate::server::page_cache::CacheFootprint;
use crate::server::report::{Error, Result};
use crate::server::settings::{self, PAGE_SIZE};

use super::archive::Archive;
use super::page_verifier::PageVerifier;

/// Minimum size of a file whose page cache footprint is managed.
const FOOTPRINT_FROM: u64 = 1024 * 1024;

/// Sender of a stream's files.
pub struct FileSender<'a> {
    /// The files of the backup.
    pub table: FileTable<'a>,
    /// The manifest's algorithm.
    pub algorithm: Algorithm,
    /// The position from which a page counts as changed; `None` verifies nothing.
    pub verify_from: Option<u64>,
    /// Whether the worker owns the entries, so that outcomes are noted.
    pub claimed: bool,
    /// Prefix of listed paths that member names lack.
    pub prefix: Vec<u8>,
    /// This session's progress.
    pub progress: ProgressRow,
    /// Bytes of files sent by this stream.
    pub bytes_sent: u64,
    /// Bad pages found by this stream.
    pub failures: u64,
}

impl FileSender<'_> {
    /// Sends an entry and notes the outcome.
    ///
    /// # Errors
    /// The operating system's, the connection's and the check's of the archive.
    pub fn send(&mut self, archive: &mut Archive<'_>, slot: &Slot) -> Result<()> {
        let sent = match slot.kind() {
            Kind::Directory => self.send_directory(archive, slot)?,
            Kind::Link => self.send_link(archive, slot)?,
            Kind::File => self.send_file(archive, slot)?,
        };
        if !sent {
            // Whoever removed it has left a record in the WAL, or it was none of the server's. So has
            // whoever made the init fork of a relation.
            self.note(slot, &SendOutcome::Vanished);
        }
        Ok(())
    }

    fn note(&self, slot: &Slot, outcome: &SendOutcome<'_>) {
        if self.claimed {
            self.table.carried(slot, outcome);
        }
    }

    fn member_name<'n>(&self, path: &'n [u8]) -> &'n [u8] {
        path.strip_prefix(self.prefix.as_slice()).unwrap_or(path)
    }

    fn send_directory(&self, archive: &mut Archive<'_>, slot: &Slot) -> Result<bool> {
        let path = self.table.path(slot);
        let Some(metadata) = file::metadata_if_exists(path)? else {
            return Ok(false);
        };
        let mut attributes = file::attributes(&metadata);
        if metadata.is_symlink() {
            // pg_wal and the like can be links; in a backup they are directories.
            attributes.mode = settings::directory_mode();
        } else if !metadata.is_dir() {
            return Ok(false);
        }
        archive.directory(self.member_name(path), &attributes)?;
        self.note(slot, &sent_without_content(&attributes));
        Ok(true)
    }

    fn send_link(&self, archive: &mut Archive<'_>, slot: &Slot) -> Result<bool> {
        let path = self.table.path(slot);
        let (Some(target), Some(metadata)) =
            (file::link_target(path)?, file::metadata_if_exists(path)?)
        else {
            return Ok(false);
        };
        let attributes = file::attributes(&metadata);
        archive.link(self.member_name(path), &target, &attributes)?;
        self.note(slot, &sent_without_content(&attributes));
        Ok(true)
    }

    fn send_file(&mut self, archive: &mut Archive<'_>, slot: &Slot) -> Result<bool> {
        let path = self.table.path(slot);
        let Some((file, metadata)) = open_listed(path)? else {
            return Ok(false);
        };
        if unlogged::has_become_unlogged(path)? {
            return Ok(false);
        }
        let verify_from = self.verify_from;
        let verifier = verify_from.and_then(|lsn| PageVerifier::for_file(path, lsn));
        // A relation has the size of the listing: what was added since is in the WAL, and so is what
        // was cut off. Nothing repairs other files, which are sent as they are now.
        let size = if relation_file::is_relation(path) {
            slot.size
        } else {
            metadata.len()
        };
        let mut footprint = (size > FOOTPRINT_FROM).then(|| CacheFootprint::start(&file, size));
        let attributes = file::attributes(&metadata);
        archive.file(self.member_name(path), size, &attributes)?;

        let mut content = Content {
            file: &file,
            path,
            size,
            verifier,
            digest: Digest::new(self.algorithm)?,
        };
        let mut offset = 0;
        while offset < size {
            let length = content.send_part(archive, offset)?;
            offset += length;
            self.bytes_sent += length;
            if self.claimed {
                self.table.count_bytes(slot, length);
            }
            self.progress.set_bytes_sent(self.bytes_sent);
            if let Some(footprint) = &mut footprint {
                footprint.passed(offset);
            }
        }
        archive.pad(size)?;
        if let Some(footprint) = footprint {
            footprint.finish(size);
        }

        let failures = content.verifier.map(PageVerifier::finish);
        self.failures += u64::from(failures.unwrap_or(0));
        let digest = content.digest.finish()?;
        let mtime = attributes.mtime;
        self.note(
            slot,
            &SendOutcome::Sent {
                size,
                mtime,
                digest: digest.as_ref(),
                failures,
            },
        );
        Ok(true)
    }
}

fn sent_without_content(attributes: &Attributes) -> SendOutcome<'static> {
    SendOutcome::Sent {
        size: 0,
        mtime: attributes.mtime,
        digest: &[],
        failures: None,
    }
}

/// Content of a file, of the size in its header.
struct Content<'a> {
    file: &'a TransientFile,
    path: &'a [u8],
    size: u64,
    verifier: Option<PageVerifier<'a>>,
    digest: Digest,
}

impl Content<'_> {
    /// Sends the part at `offset` and returns its length. A file that has become shorter is filled
    /// with zeros.
    fn send_part(&mut self, archive: &mut Archive<'_>, offset: u64) -> Result<u64> {
        let part = archive.next_part(self.size - offset, PAGE_SIZE)?;
        let failure = |error: io::Error| Error::of_file("read file", self.path, &error);
        let count = self.file.read_at(part, offset).map_err(failure)?;
        let (read, missing) = part.split_at_mut(count);
        if let Some(verifier) = &mut self.verifier {
            verifier.verify(read, offset, |page, offset| self.file.read_at(page, offset))?;
        }
        missing.fill(0);
        self.digest.update(part)?;
        let length = part.len();
        archive.commit(length)?;
        Ok(length as u64)
    }
}

/// Opens a regular file of the listing. `None` where it has vanished.
fn open_listed(path: &[u8]) -> Result<Option<(TransientFile, Metadata)>> {
    if !file::has_real_parents(path)? {
        return Ok(None);
    }
    let failure = |action: &str, error: io::Error| Error::of_file(action, path, &error);
    let file = match TransientFile::open(path)? {
        Ok(file) => file,
        Err(error) => {
            return match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => Ok(None),
                // A link, or a socket.
                Some(libc::ELOOP | libc::ENXIO) => Err(file::has_changed(path, "regular file")),
                _ => Err(failure("open file", error)),
            };
        }
    };
    let metadata = file
        .metadata()
        .map_err(|error| failure("stat file", error))?;
    if metadata.is_file() {
        Ok(Some((file, metadata)))
    } else {
        Err(file::has_changed(path, "regular file"))
    }
}
