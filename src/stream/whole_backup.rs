//! A whole backup in one statement and one stream: the case of one worker, which is the leader.

use crate::backup::options::{StartOptions, Target};
use crate::backup::worker::Worker;
use crate::backup::{leader, stop};
use crate::server::report::Result;

use super::archive::Archive;

use super::{closing, compress, data_files};

/// Starts a backup, sends everything and stops it. Whatever fails ends the backup.
///
/// # Errors
/// Those of [`leader::start`], [`data_files::send`] and [`closing::send`].
pub fn send(options: &StartOptions, end: &closing::Request) -> Result<()> {
    let encoder = compress::encoder(end.compression)?;
    leader::start(options)?;
    let _end = leader::EndBackupOnDrop;
    let backup = leader::own_backup()?;
    let mut archive = Archive::of_leader(&backup, encoder)?;
    let failures = send_data_files(&mut archive)?;
    if failures > 0 {
        archive.finish()?;
        return Err(data_files::report_damage(failures));
    }
    let stopped = stop::stop(end.wait, end.allow_incomplete, |_, _| Ok(()))?;
    closing::send_files(&stopped, end.wal, &mut archive)?;
    stopped.release_wal();
    archive.finish()?;
    stopped.finish();
    Ok(())
}

/// Sends the data files, and returns the number of bad pages. Its mappings end before the stop.
fn send_data_files(archive: &mut Archive<'_>) -> Result<u64> {
    let worker = Worker::join(None)?;
    let failures = data_files::send_files(&worker, &data_files::Request::default(), archive)?;
    worker.settle(Target::Client)?;
    Ok(failures)
}
