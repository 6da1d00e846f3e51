//! Manifest of a backup, from what its workers noted in shared memory.
//!
//! Its size precedes it in an archive, so it is written twice: once to be measured, once to be
//! sent. It is never held as a whole. It takes four bytes of memory for each file.

use core::sync::atomic::Ordering;
use std::borrow::Cow;

use backup_format::checksum::Algorithm;
use backup_format::lsn::Lsn;
use backup_format::manifest::{File, PathStyle, Writer};
use backup_format::timeline::{self, WalRange};

use crate::backup::file_table::{FileTable, Slot};
use crate::backup::files::SharedFiles;
use crate::server::allocation;
use crate::server::backup_control::StoppedBackup;
use crate::server::checksum::{Digest, MAX_DIGEST_LENGTH};
use crate::server::interrupt;
use crate::server::parameters;
use crate::server::recovery;
use crate::server::report::{Error, Result, Sqlstate};
use crate::server::settings;

use super::closing_files::{ClosingFile, ClosingFiles};
use super::leader::Leader;

/// Name of the manifest in a backup.
pub const FILE_NAME: &[u8] = b"backup_manifest";

/// Minimum size of a piece in bytes, except for the last.
const PIECE: usize = 128 * 1024;

/// Manifest of a backup whose gate is closed, so that its files do not change any more.
pub struct Manifest {
    files: SharedFiles,
    /// The slots of the files that were sent, in the order of their paths.
    sent: Vec<u32>,
    closing: Vec<ClosingEntry>,
    ranges: Vec<WalRange>,
    algorithm: Algorithm,
    path_style: PathStyle,
}

/// Manifest entry of a file added by the stop.
struct ClosingEntry {
    path: Cow<'static, [u8]>,
    size: u64,
    mtime: i64,
    digest: Vec<u8>,
}

impl Manifest {
    /// Creates the manifest of sent files; `None` if the backup has no manifest. A session setting
    /// can have all paths encoded, whatever `path_style` says.
    ///
    /// # Errors
    /// `out_of_memory`.
    pub fn of_sent(leader: &Leader, path_style: PathStyle) -> Result<Option<Self>> {
        let (Some(algorithm), Some(files)) = (leader.manifest, leader.files()) else {
            return Ok(None);
        };
        let path_style = if parameters::manifest_force_encode() {
            PathStyle::Encoded
        } else {
            path_style
        };
        let table = files.table();
        let indexes = table.sent_files().map(|slot| table.index_of(slot) as u32);
        let sent = allocation::collect(indexes)?;
        Ok(Some(Self {
            files,
            sent,
            closing: Vec::new(),
            ranges: Vec::new(),
            algorithm,
            path_style,
        }))
    }

    /// Adds the closing files and the WAL ranges.
    ///
    /// # Errors
    /// Where the timeline history does not lead from the backup's start to its end.
    pub fn with_end(
        mut self,
        leader: &Leader,
        closing: &ClosingFiles,
        stopped: StoppedBackup,
    ) -> Result<Self> {
        self.ranges = timeline::wal_ranges(
            &recovery::timeline_history(stopped.timeline),
            leader.started.timeline,
            Lsn(leader.started.start_lsn),
            stopped.timeline,
            Lsn(stopped.stop_lsn),
        )
        .map_err(|error| Error::new(Sqlstate::ERRCODE_INTERNAL_ERROR, error.to_string()))?;
        self.closing = closing
            .iter()
            .map(|file| closing_entry(file, self.algorithm))
            .collect::<Result<_>>()?;
        Ok(self)
    }

    /// Its size in bytes.
    ///
    /// # Errors
    /// As [`Manifest::write`].
    pub fn size(&self) -> Result<u64> {
        let mut size = 0;
        let writer = self.write_protected(&mut |piece| {
            size += piece.len() as u64;
            Ok(())
        })?;
        let mut end = Vec::new();
        writer.finish(&mut end, &[0; 32]);
        Ok(size + end.len() as u64)
    }

    /// Writes it in pieces.
    ///
    /// # Errors
    /// Those of the sink. A cancel raises.
    pub fn write(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut checksum = Digest::new(Algorithm::Sha256)?;
        let writer = self.write_protected(&mut |piece| {
            checksum.update(piece)?;
            sink(piece)
        })?;
        let checksum = checksum.finish()?;
        let Some(checksum) = checksum.as_ref().first_chunk() else {
            unreachable!("SHA-256 has 32 bytes");
        };
        let mut end = Vec::new();
        writer.finish(&mut end, checksum);
        sink(&end)
    }

    /// Writes everything except the last line, the checksum of the rest.
    fn write_protected(&self, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<Writer> {
        let mut writer = Writer::new(
            self.algorithm,
            self.path_style,
            settings::manifest_system_identifier(),
        );
        // The longest entry is longer than that, but then a piece may grow.
        let mut piece = Vec::with_capacity(PIECE + 4096);
        writer.begin(&mut piece);
        let table = self.files.table();
        for index in &self.sent {
            write_slot(
                &mut writer,
                &mut piece,
                &table,
                &table.slots()[*index as usize],
            );
            if piece.len() >= PIECE {
                interrupt::check();
                sink(&piece)?;
                piece.clear();
            }
        }
        for entry in &self.closing {
            let file = File {
                path: &entry.path,
                size: entry.size,
                mtime: entry.mtime,
                digest: &entry.digest,
            };
            writer.file(&mut piece, &file);
        }
        writer.wal_ranges(&mut piece, &self.ranges);
        sink(&piece)?;
        Ok(writer)
    }
}

fn write_slot(writer: &mut Writer, out: &mut Vec<u8>, table: &FileTable<'_>, slot: &Slot) {
    let mut digest = [0; MAX_DIGEST_LENGTH];
    let places = table.digest(slot);
    let (size, mtime) = if let Some(crc) = table.combined_crc(slot) {
        let crc = crc.to_ne_bytes();
        digest[..crc.len()].copy_from_slice(&crc);
        (slot.size, slot.mtime)
    } else {
        for (byte, place) in digest.iter_mut().zip(places) {
            *byte = place.load(Ordering::Relaxed);
        }
        let size = slot.sent_size.load(Ordering::Relaxed);
        (size, slot.sent_mtime.load(Ordering::Relaxed))
    };
    let file = File {
        path: table.path(slot),
        size,
        mtime,
        digest: &digest[..places.len()],
    };
    writer.file(out, &file);
}

fn closing_entry(file: &ClosingFile, algorithm: Algorithm) -> Result<ClosingEntry> {
    let mut digest = Digest::new(algorithm)?;
    digest.update(&file.content)?;
    Ok(ClosingEntry {
        path: file.path.clone(),
        size: file.content.len() as u64,
        mtime: file.attributes.mtime,
        digest: digest.finish()?.as_ref().to_vec(),
    })
}
