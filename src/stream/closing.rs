//! The stream that ends a backup: what was not to be sent before everything else.
//!
//! Follows the end of perform_base_backup() in backup/basebackup.c. `global/pg_control` comes after
//! everything that recovery needs, the WAL among it, which core sends behind it: a server starts on a
//! directory that has `pg_control`, and without `backup_label` it starts from the wrong checkpoint. So
//! an archive that is cut anywhere gives nothing that starts, or a backup that is whole.

use std::fs::Metadata;

use backup_format::compression::Compression;
use backup_format::manifest::PathStyle;

use crate::backup::manifest;
use crate::backup::stop::{self, ClosingFile, Stopped};
use crate::backup::wal_range::{self, Segment, WalRange};
use crate::backup::worker;
use crate::server::backend_progress::{ProgressPhase, ProgressRow};
use crate::server::file::{self, TransientFile};
use crate::server::recovery;
use crate::server::report::{Error, Result, Sqlstate};
use crate::server::settings::PAGE_SIZE;
use crate::server::shared_backup;

use super::archive::{Archive, Exit};
use super::compressor::Compressor;

/// What the end of a backup is asked to do.
pub struct Request {
    /// Whether the WAL from start to stop is sent.
    pub wal: bool,
    /// Whether to wait for the WAL to be archived.
    pub wait: bool,
    /// Whether files may have been left out.
    pub allow_incomplete: bool,
    /// How the archive is compressed.
    pub compression: Compression,
}

/// Stops the backup that this session leads and sends its last files into the stream of the running
/// COPY.
///
/// # Errors
/// As [`stop::stop`]; where WAL is missing; and those of the stream.
pub fn send(request: &Request) -> Result<()> {
    let compressor = Compressor::new(request.compression)?;
    let stopped = stop::stop(request.wait, request.allow_incomplete, |_, _| Ok(()))?;
    let exit = Exit::of_leader(&stopped.running.leader().backup);
    let mut archive = Archive::new(exit, compressor);
    send_files(&stopped, request.wal, &mut archive)?;
    // Nothing that can be cancelled comes after the end of the archive.
    stopped.release_wal();
    archive.finish()?;
    stopped.finish();
    Ok(())
}

/// Sends the last files of a backup that has stopped.
///
/// # Errors
/// Where WAL is missing, before anything is sent or later; and those of the stream.
pub fn send_files(stopped: &Stopped, wal: bool, archive: &mut Archive<'_>) -> Result<()> {
    let leader = stopped.running.leader();
    // A promotion renames the last segment of the old timeline, which may be one that is missed.
    let or_promotion = |failure| match worker::check_not_promoted(&leader.backup) {
        Err(promotion) => promotion,
        Ok(()) => failure,
    };
    let wal = if wal {
        Some(wal_range::find(leader, stopped.end).map_err(or_promotion)?)
    } else {
        None
    };
    let closing = stopped.closing_files_of_stream()?;
    for file in &closing.before_wal {
        send_closing_file(file, archive)?;
    }
    if let Some(wal) = wal {
        leader.backup.enter(shared_backup::Phase::TransferringWal);
        let _row = ProgressRow::start(ProgressPhase::TransferringWal);
        send_wal(&wal, archive).map_err(or_promotion)?;
    }
    send_closing_file(&closing.control_file, archive)?;
    if let Some(manifest) = stopped.manifest(&closing, PathStyle::Utf8)? {
        let size = manifest.size()?;
        archive.file(manifest::FILE_NAME, size, &file::attributes_of_new_file())?;
        manifest.write(&mut |piece| archive.append(piece))?;
        archive.pad(size)?;
    }
    Ok(())
}

fn send_closing_file(file: &ClosingFile, archive: &mut Archive<'_>) -> Result<()> {
    archive.whole_file(&file.path, &file.content, &file.attributes)
}

fn send_wal(wal: &WalRange, archive: &mut Archive<'_>) -> Result<()> {
    for name in &wal.histories {
        send_history(name, archive)?;
        send_done_file(name, archive)?;
    }
    let size = u64::from(wal.segment_size.bytes());
    for segment in &wal.segments {
        send_segment(segment, size, archive)
            .inspect_err(|_| recovery::check_not_removed(segment.number, segment.timeline))?;
        send_done_file(segment.name.as_bytes(), archive)?;
    }
    Ok(())
}

/// Any failure may mean that the segment was removed or recycled meanwhile; the caller looks.
fn send_segment(segment: &Segment, size: u64, archive: &mut Archive<'_>) -> Result<()> {
    let path = in_pg_wal(segment.name.as_bytes());
    let (file, metadata) = open(&path)?;
    if metadata.len() != size {
        return Err(unexpected_size(segment));
    }
    archive.file(&path, size, &file::attributes(&metadata))?;
    let mut offset = 0;
    while offset < size {
        let part = archive.next_part(size - offset, PAGE_SIZE)?;
        let length = part.len();
        let count = file
            .read_at(part, offset)
            .map_err(|error| Error::of_file("read file", &path, &error))?;
        // What was just read is of this segment only if it is still there.
        recovery::check_not_removed(segment.number, segment.timeline);
        if count < length {
            return Err(unexpected_size(segment));
        }
        archive.keep(length)?;
        offset += length as u64;
    }
    archive.pad(size)
}

fn unexpected_size(segment: &Segment) -> Error {
    Error::new(
        Sqlstate::ERRCODE_DATA_CORRUPTED,
        format!("unexpected WAL file size \"{}\"", segment.name),
    )
}

fn send_history(name: &[u8], archive: &mut Archive<'_>) -> Result<()> {
    let path = in_pg_wal(name);
    let (file, metadata) = open(&path)?;
    // A line for each timeline that there ever was: small.
    let mut content = vec![0; usize::try_from(metadata.len()).unwrap_or(usize::MAX)];
    let count = file
        .read_at(&mut content, 0)
        .map_err(|error| Error::of_file("read file", &path, &error))?;
    archive.whole_file(&path, &content[..count], &file::attributes(&metadata))
}

/// Marks a file as archived, so that a restored server does not archive it again.
fn send_done_file(name: &[u8], archive: &mut Archive<'_>) -> Result<()> {
    let path = [b"pg_wal/archive_status/", name, b".done"].concat();
    archive.whole_file(&path, &[], &file::attributes_of_new_file())
}

fn open(path: &[u8]) -> Result<(TransientFile, Metadata)> {
    let failure = |action: &str, error| Error::of_file(action, path, &error);
    let file = TransientFile::open(path)?.map_err(|error| failure("open file", error))?;
    let metadata = file
        .metadata()
        .map_err(|error| failure("stat file", error))?;
    Ok((file, metadata))
}

fn in_pg_wal(name: &[u8]) -> Vec<u8> {
    [b"pg_wal/", name].concat()
}
