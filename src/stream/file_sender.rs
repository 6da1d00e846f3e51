//! Sending of one entry of the listing, or of a part of a large file.
//!
//! Follows sendFile() and _tarWriteDir() in backup/basebackup.c.

use core::ops::Range;
use std::fs::Metadata;
use std::io;

use backup_format::archive::{Attributes, FilePart};
use backup_format::checksum::Algorithm;
use backup_format::incremental::{self, BlockList};
use backup_format::relation_file;

use crate::backup::file_table::{FileTable, Kind, PartSlot, Slot};
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
        let path = &*self.table.path_on_server(slot);
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
        let block_list = self.table.block_list(slot);
        // What is read: of an incremental file, parts of the whole.
        let extent = block_list.map_or(size, |_| metadata.len());
        let mut footprint =
            (extent > FOOTPRINT_FROM).then(|| CacheFootprint::of_file(&file, extent));
        let attributes = file::attributes(&metadata);
        archive.file(self.member_name(self.table.path(slot)), size, &attributes)?;

        let mut content = Content {
            file: Some(&file),
            path,
            verifier,
            digest: Digest::new(self.algorithm)?,
            has_ended: false,
        };
        let mut sent = |length: u64, offset: u64| {
            self.bytes_sent += length;
            if self.claimed {
                self.table.count_bytes(slot, length);
            }
            self.progress.set_bytes_sent(self.bytes_sent);
            if let Some(footprint) = &mut footprint {
                footprint.passed(offset);
            }
        };
        if let Some(list) = block_list {
            let length = content.send_header(archive, &list)?;
            sent(length, 0);
            for run in runs(list.blocks()) {
                content.send_range(archive, run, &mut sent)?;
            }
        } else {
            content.send_range(archive, 0..size, &mut sent)?;
        }
        archive.pad(size)?;
        if let Some(footprint) = footprint {
            footprint.finish(extent);
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

    /// Whether an entry can be sent in parts: it is a large file, and does not vanish or become unlogged before
    /// its first part. Called by the entry's owner.
    ///
    /// # Errors
    /// The operating system's.
    pub fn can_divide(&self, slot: &Slot) -> Result<bool> {
        let path = self.table.path(slot);
        Ok(self.table.can_divide(slot)
            && open_listed(path)?.is_some()
            && !unlogged::has_become_unlogged(path)?)
    }

    /// Sends a part of a file and notes the outcome. All parts have the size and the time of the listing, and
    /// a file that has vanished since it was divided is one that has become shorter.
    ///
    /// # Errors
    /// As [`FileSender::send`].
    pub fn send_part(&mut self, archive: &mut Archive<'_>, part: &PartSlot) -> Result<()> {
        let (slot, range) = (self.table.file_of(part), self.table.range_of(part));
        let (path, size) = (self.table.path(slot), range.end - range.start);
        let opened = open_listed(path)?;
        let file = opened.as_ref().map(|(file, _)| file);
        let attributes = match &opened {
            Some((_, metadata)) => file::attributes(metadata),
            None => file::attributes_of_new_file(),
        };
        let attributes = Attributes {
            mtime: slot.mtime,
            ..attributes
        };
        let verify_from = self.verify_from;
        let verifier = verify_from.and_then(|lsn| PageVerifier::for_file(path, lsn));
        let mut footprint = file.map(|file| CacheFootprint::of_range(file, &range));
        let place = FilePart {
            offset: range.start,
            file_size: slot.size,
        };
        archive.file_part(self.member_name(path), size, place, &attributes)?;

        let mut content = Content {
            file,
            path,
            verifier: verifier.map(|verifier| verifier.of_part(&range)),
            digest: Digest::new(self.algorithm)?,
            has_ended: false,
        };
        let mut sent = |length: u64, offset: u64| {
            self.bytes_sent += length;
            self.table.count_part_bytes(part, length);
            self.progress.set_bytes_sent(self.bytes_sent);
            if let Some(footprint) = &mut footprint {
                footprint.passed(offset);
            }
        };
        content.send_range(archive, range.clone(), &mut sent)?;
        archive.pad(size)?;
        if let Some(footprint) = footprint {
            footprint.finish(range.end);
        }
        let failures = content.verifier.map(PageVerifier::finish);
        self.failures += u64::from(failures.unwrap_or(0));
        let crc = content.digest.finish()?.crc32c();
        self.table.carried_part(part, crc, failures);
        Ok(())
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

/// The bytes of consecutive blocks.
fn runs(blocks: impl Iterator<Item = u32>) -> impl Iterator<Item = Range<u64>> {
    let mut blocks = blocks.peekable();
    core::iter::from_fn(move || {
        let first = blocks.next()?;
        let mut last = first;
        while let Some(next) = blocks.next_if(|next| *next == last + 1) {
            last = next;
        }
        let page_size = PAGE_SIZE as u64;
        Some(u64::from(first) * page_size..(u64::from(last) + 1) * page_size)
    })
}

/// Content of a file that is being sent.
struct Content<'a> {
    /// `None` where it has vanished, and is sent as one that has become shorter.
    file: Option<&'a TransientFile>,
    path: &'a [u8],
    verifier: Option<PageVerifier<'a>>,
    digest: Digest,
    /// Whether the file has become shorter. Then the rest is zeros: a block that is truncated away and
    /// those behind it have their changes in the WAL.
    has_ended: bool,
}

impl Content<'_> {
    /// Sends the header of an incremental file and returns its length.
    fn send_header(&mut self, archive: &mut Archive<'_>, list: &BlockList<'_>) -> Result<u64> {
        let header = incremental::header(list.blocks(), list.truncation_length, PAGE_SIZE);
        self.digest.update(&header)?;
        archive.append(&header)?;
        Ok(header.len() as u64)
    }

    /// Sends a range of the file. `sent` is told of each part: its length, and where it ends.
    fn send_range(
        &mut self,
        archive: &mut Archive<'_>,
        range: Range<u64>,
        sent: &mut impl FnMut(u64, u64),
    ) -> Result<()> {
        let mut offset = range.start;
        while offset < range.end {
            let length = self.send_part(archive, offset, range.end - offset)?;
            offset += length;
            sent(length, offset);
        }
        Ok(())
    }

    /// Sends up to `wanted` bytes at `offset` and returns how many.
    fn send_part(&mut self, archive: &mut Archive<'_>, offset: u64, wanted: u64) -> Result<u64> {
        let part = archive.next_part(wanted, PAGE_SIZE)?;
        let failure = |error: io::Error| Error::of_file("read file", self.path, &error);
        let file = self.file.filter(|_| !self.has_ended);
        let count = match file {
            Some(file) => file.read_at(part, offset).map_err(failure)?,
            None => 0,
        };
        self.has_ended |= count < part.len();
        let (read, missing) = part.split_at_mut(count);
        let digest = &mut self.digest;
        match (&mut self.verifier, file) {
            (Some(verifier), Some(file)) => {
                verifier.verify(read, offset, digest, |page, offset| {
                    file.read_at(page, offset)
                })?;
            }
            _ => digest.update(read)?,
        }
        missing.fill(0);
        digest.update(missing)?;
        let length = part.len();
        archive.commit(length)?;
        Ok(length as u64)
    }
}

/// Opens a regular file of the listing. `None` where it has vanished.
fn open_listed(path: &[u8]) -> Result<Option<(TransientFile, Metadata)>> {
    // In pg_tblspc, a link is on the way.
    let opened = (!path.starts_with(b"pg_tblspc/"))
        .then(|| TransientFile::open_without_links(path))
        .flatten();
    let file = match opened {
        Some(file) => file,
        None => match open_by_steps(path)? {
            Some(file) => file,
            None => return Ok(None),
        },
    };
    let metadata = file
        .metadata()
        .map_err(|error| Error::of_file("stat file", path, &error))?;
    if metadata.is_file() {
        Ok(Some((file, metadata)))
    } else {
        Err(file::has_changed(path, "regular file"))
    }
}

/// Opens a file of the listing after a look at each directory on the way. `None` where it has vanished.
fn open_by_steps(path: &[u8]) -> Result<Option<TransientFile>> {
    if !file::has_real_parents(path)? {
        return Ok(None);
    }
    match TransientFile::open(path)? {
        Ok(file) => Ok(Some(file)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => Ok(None),
            // A link, or a socket.
            Some(libc::ELOOP | libc::ENXIO) => Err(file::has_changed(path, "regular file")),
            _ => Err(Error::of_file("open file", path, &error)),
        },
    }
}
