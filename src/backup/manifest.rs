//! The manifest of a backup, from what its workers have noted in shared memory.

use core::sync::atomic::Ordering;

use backup_format::checksum::Algorithm;
use backup_format::lsn::Lsn;
use backup_format::manifest::{File, PathStyle, Writer};
use backup_format::timeline;

use crate::server::backup_control::StoppedBackup;
use crate::server::checksum::{Digest, MAX_DIGEST_LENGTH};
use crate::server::interrupt;
use crate::server::recovery;
use crate::server::report::{Failure, Outcome, Sqlstate};
use crate::server::settings;
use crate::server::shared_files::FileTable;

use super::leader::Leader;
use super::stop::ClosingFile;

/// The manifest's own name in a backup.
pub const FILE_NAME: &[u8] = b"backup_manifest";

/// Pieces are at least so many bytes, but for the last.
const PIECE: usize = 1024 * 1024;

/// Writes the manifest of the files that were sent and of those that the end of the backup adds, in
/// pieces so that no single allocation grows with the cluster.
///
/// # Errors
/// Where the timeline history does not lead from the backup's start to its end.
pub fn write(
    leader: &Leader,
    files: &FileTable<'_>,
    algorithm: Algorithm,
    closing: &[ClosingFile],
    stopped: StoppedBackup,
    path_style: PathStyle,
) -> Outcome<Vec<Vec<u8>>> {
    let ranges = timeline::wal_ranges(
        &recovery::timeline_history(stopped.timeline),
        leader.started.timeline,
        Lsn(leader.started.start_lsn),
        stopped.timeline,
        Lsn(stopped.stop_lsn),
    )
    .map_err(|error| Failure::new(Sqlstate::ERRCODE_INTERNAL_ERROR, error.to_string()))?;

    let mut writer = Writer::new(
        algorithm,
        path_style,
        settings::manifest_system_identifier(),
    );
    let mut pieces = Pieces::new()?;
    writer.begin(&mut pieces.current);
    for slot in files.sent_files() {
        let mut digest = [0; MAX_DIGEST_LENGTH];
        let places = files.digest(slot);
        for (byte, place) in digest.iter_mut().zip(places) {
            *byte = place.load(Ordering::Relaxed);
        }
        let file = File {
            path: files.path(slot),
            size: slot.sent_size.load(Ordering::Relaxed),
            mtime: slot.sent_mtime.load(Ordering::Relaxed),
            digest: &digest[..places.len()],
        };
        writer.file(&mut pieces.current, &file);
        pieces.cut()?;
    }
    for file in closing {
        let mut digest = Digest::new(algorithm)?;
        digest.update(&file.content)?;
        writer.file(
            &mut pieces.current,
            &File {
                path: file.path,
                size: file.content.len() as u64,
                mtime: file.attributes.mtime,
                digest: digest.finish()?.as_ref(),
            },
        );
        pieces.cut()?;
    }
    writer.wal_ranges(&mut pieces.current, &ranges);
    pieces.finish(&writer)
}

/// What is written so far, and its checksum.
struct Pieces {
    done: Vec<Vec<u8>>,
    current: Vec<u8>,
    digest: Digest,
}

impl Pieces {
    fn new() -> Outcome<Self> {
        let digest = Digest::new(Algorithm::Sha256)?;
        Ok(Self {
            done: Vec::new(),
            current: Vec::new(),
            digest,
        })
    }

    fn cut(&mut self) -> Outcome<()> {
        if self.current.len() >= PIECE {
            interrupt::check();
            self.digest.update(&self.current)?;
            self.done.push(core::mem::take(&mut self.current));
        }
        Ok(())
    }

    fn finish(mut self, writer: &Writer) -> Outcome<Vec<Vec<u8>>> {
        self.digest.update(&self.current)?;
        let digest = self.digest.finish()?;
        let Some(digest) = digest.as_ref().first_chunk() else {
            unreachable!("SHA-256 has 32 bytes");
        };
        writer.finish(&mut self.current, digest);
        self.done.push(self.current);
        Ok(self.done)
    }
}
