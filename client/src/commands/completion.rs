//! End of a backup whose files have all been received.

use anyhow::{Result, anyhow};
use backup_format::lsn::Lsn;

use crate::cli::configuration::{BackupConfig, Format};
use crate::console::messages;
use crate::console::progress::{Counters, Phase};
use crate::manifest::backup_path::CONTROL_FILE;
use crate::manifest::comparison::compare;
use crate::manifest::received_files::ReceivedFiles;
use crate::output::cleanup::CleanupList;
use crate::output::new_backup::Summary;
use crate::output::sync;
use crate::output::target::Target;
use crate::output::wal_store::WalStore;
use crate::runtime::cancellation::Cancellation;

/// WAL that came over a stream of its own, and where the backup started.
pub type StoredWal<'a> = (&'a WalStore<'a>, (Lsn, u32));

/// Completes a backup that was received: compares it with the manifest, synchronizes it, and
/// removes the marks that keep a server from starting on it.
///
/// # Errors
/// Where the backup differs from the manifest, errors of the operating system, and cancellation.
pub fn complete(
    config: &BackupConfig,
    (jobs, cancellation, counters): (usize, &Cancellation, &Counters),
    (target, wal): (&Target, Option<StoredWal<'_>>),
    received: ReceivedFiles,
    standby: Option<String>,
    cleanup: &CleanupList,
) -> Result<()> {
    counters.enter(Phase::Comparing);
    let files = received.into_files()?;
    if !files.contains(CONTROL_FILE) {
        return Err(anyhow!("the server did not send global/pg_control"));
    }
    let (mut manifest, mut ranges) = (None, Vec::new());
    let mut summary = Summary {
        files: files.count() as u64,
        bytes: files.bytes(),
        stop_lsn: None,
    };
    if let Some(algorithm) = config.manifest {
        let file = manifest.insert(target.take_manifest()?);
        let (read, count) = compare(file.reader()?, files, algorithm, |_| false)?;
        ranges = read.wal_ranges;
        summary.files = count as u64;
        summary.stop_lsn = ranges
            .iter()
            .map(|range| range.end)
            .max()
            .map(|lsn| lsn.to_string());
        say(config, &format!("{count} files match the manifest"));
    }
    if let Some((store, start)) = wal {
        store.check_complete(&ranges, start)?;
        store.end()?;
    }
    if let Some(settings) = standby {
        target.make_standby(&settings)?;
    }
    target.end(manifest.as_ref(), &summary, cancellation)?;
    if config.sync.is_some() {
        counters.enter(Phase::Syncing);
        say(config, "syncing data to disk");
    }
    let mut last = Vec::new();
    if config.pipe.is_none() && !config.is_in_store() {
        last.push(config.target.clone());
    }
    if config.format == Format::Plain {
        last.push(config.target.join("global"));
    }
    sync::complete(config.sync, cleanup, jobs, cancellation, &last, || {
        if let Some((store, _)) = wal {
            store.finish()?;
        }
        target.finish(manifest.as_ref(), cancellation)
    })?;
    say(config, "base backup completed");
    Ok(())
}

/// Reports a step, where the user wants that.
pub fn say(config: &BackupConfig, text: &str) {
    if config.verbose {
        messages::say(text);
    }
}
