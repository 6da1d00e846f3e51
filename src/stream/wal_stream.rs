//! Streams of send_wal(): WAL that is complete, while the backup runs.

use std::time::Duration;

use backup_format::compression::Compression;

use crate::backup::options::Target;
use crate::backup::wal_sender::WalSender;
use crate::backup::worker;
use crate::server::backend_progress::{ProgressPhase, ProgressRow};
use crate::server::report::Result;

use super::archive::Archive;
use super::throttle::Throttle;
use super::{compress, wal_files};

/// Arguments of send_wal().
pub struct Request {
    /// The backup; `None` for the one that this session leads.
    pub backup_id: Option<i64>,
    /// The caller has all WAL before it on its disk.
    pub from_lsn: Option<u64>,
    /// Longest wait for the first segment.
    pub wait: Duration,
    /// How the archive is compressed.
    pub compression: Compression,
}

/// Sends the segments that are complete into the stream of the running COPY, after a wait where there is
/// none.
///
/// No rate limit holds: one below the rate of WAL would fill the server.
///
/// # Errors
/// As [`WalSender::join`], [`WalSender::acknowledge`] and [`WalSender::wait_for_segments`]; and those of
/// the stream.
pub fn send(request: &Request) -> Result<()> {
    let encoder = compress::encoder(request.compression)?;
    let sender = WalSender::join(request.backup_id)?;
    let first = sender.acknowledge(request.from_lsn)?;
    let backup = sender.backup();
    let progress = ProgressRow::start(backup.backup_type(), ProgressPhase::TransferringWal);
    let throttle = Throttle::new(None, None, &backup.rate_clock);
    let mut archive = Archive::new(Target::Client, throttle, encoder, sender.running_check())?;
    let wal = sender.wait_for_segments(first, request.wait)?;
    if let Some(wal) = &wal {
        let mut bytes = 0;
        wal_files::send(wal, &mut archive, |_| {
            bytes += u64::from(wal.segment_size.bytes());
            progress.set_bytes_sent(bytes);
        })
        .map_err(|failure| worker::or_promotion(backup, failure))?;
    }
    archive.finish()?;
    if let Some(wal) = &wal {
        sender.settle(wal);
    }
    Ok(())
}
