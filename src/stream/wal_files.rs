//! Sending of WAL segments and timeline histories, each with its `.done` file.
//!
//! Follows the end of perform_base_backup() in backup/basebackup.c. Histories come first, and segments
//! in their order.

use std::fs::Metadata;

use crate::backup::wal_range::{Segment, WalRange};
use crate::server::file::{self, TransientFile};
use crate::server::recovery;
use crate::server::report::{Error, Result, Sqlstate};
use crate::server::settings::PAGE_SIZE;

use super::archive::Archive;

/// Sends timeline histories and WAL segments. `sent` is told of each segment.
///
/// # Errors
/// `undefined_file` where a segment has been removed, and those of the stream.
pub fn send(
    wal: &WalRange,
    archive: &mut Archive<'_>,
    mut sent: impl FnMut(&Segment),
) -> Result<()> {
    for history in &wal.histories {
        send_history(&history.name, archive)?;
        send_done_file(&history.name, archive)?;
    }
    let size = u64::from(wal.segment_size.bytes());
    for segment in &wal.segments {
        send_segment(segment, size, archive)
            .inspect_err(|_| recovery::check_not_removed(segment.number, segment.timeline))?;
        send_done_file(segment.name.as_bytes(), archive)?;
        sent(segment);
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
        archive.commit(length)?;
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
