//! Stream that ends a backup.
//!
//! Follows the end of perform_base_backup() in backup/basebackup.c. `global/pg_control` comes after
//! everything that recovery needs, the WAL among it, which core sends behind it: a server starts on a
//! directory that has `pg_control`, and without `backup_label` it starts from the wrong checkpoint. So
//! an archive that is cut anywhere gives nothing that starts, or a backup that is whole.

use backup_format::compression::Compression;
use backup_format::manifest::PathStyle;

use crate::backup::closing_files::ClosingFile;
use crate::backup::manifest;
use crate::backup::state;
use crate::backup::stop::{self, Stopped};
use crate::backup::wal_range::WalRange;
use crate::backup::worker;
use crate::server::backend_progress::{ProgressPhase, ProgressRow};
use crate::server::file;
use crate::server::report::Result;

use super::archive::Archive;
use super::{compress, wal_files};

/// Arguments of send_stop_backup().
pub struct Request {
    /// Whether the WAL from start to stop is sent, without what was acknowledged.
    pub wal: bool,
    /// Whether to wait for the WAL to be archived.
    pub wait: bool,
    /// Whether unsent files are allowed.
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
    let encoder = compress::encoder(request.compression)?;
    let stopped = stop::stop(request.wait, request.allow_incomplete, |_, _| Ok(()))?;
    let mut archive = Archive::of_leader(&stopped.running.leader().backup, encoder)?;
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
    let or_promotion = |failure| worker::or_promotion(&leader.backup, failure);
    let wal = if wal {
        Some(WalRange::of_stopped(leader, stopped.end).map_err(or_promotion)?)
    } else {
        None
    };
    let closing = stopped.closing_files_of_stream()?;
    for file in &closing.before_wal {
        send_closing_file(file, archive)?;
    }
    if let Some(wal) = wal {
        leader.backup.enter(state::Phase::TransferringWal);
        let _row = ProgressRow::start(leader.backup.backup_type(), ProgressPhase::TransferringWal);
        wal_files::send(&wal, archive, |segment| {
            leader.backup.wal.count_segment(wal.end_of(segment));
        })
        .map_err(or_promotion)?;
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
