//! Unpacks a backup in tar format into a directory that starts, with several threads.
//!
//! The same rules hold as for a backup: names are checked, no server starts on the directory before
//! it is complete and matches the manifest, and created files are removed after an error.

mod source;
mod wanted;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context, Result, bail, ensure};
use backup_format::checksum::Algorithm;

use crate::cli::configuration::RestoreConfig;
use crate::commands::new_directory::{self, Manner};
use crate::console::messages;
use crate::console::progress::{Activity, Expected, Phase, Worker};
use crate::manifest::backup_path::{CONTROL_FILE, display};
use crate::manifest::incoming_files::IncomingFiles;
use crate::manifest::received_files::{Files, ReceivedFiles};
use crate::output::cleanup::{CleanupList, SharedCleanupList};
use crate::output::data_directory::DataDirectory;
use crate::output::layout::Layout;
use crate::output::unpacker::Unpacker;
use crate::runtime::parallel;
use crate::runtime::supervisor::Shared;
use crate::stream::archive_files::ArchiveFile;
use crate::stream::input::Input;
use source::{LEFT_OUT, Source, is_incremental_file};

/// Restores a backup.
///
/// # Errors
/// Whatever keeps it from being complete. What was made has been removed then, if that was wanted.
pub fn run(config: RestoreConfig) -> Result<()> {
    let manner = Manner {
        name: "restore",
        jobs: config.jobs,
        sync: config.sync,
        clean: config.clean,
        progress: config.progress,
        verbose: config.verbose,
    };
    new_directory::run(manner, move |shared, cleanup| {
        restore(&config, manner, shared, cleanup)
    })
}

fn restore(
    config: &RestoreConfig,
    manner: Manner,
    shared: &Shared,
    cleanup: &SharedCleanupList,
) -> Result<()> {
    let source = Source::open(&config.archives, &shared.cancellation)?;
    if let Some(listing) = &source.manifest {
        shared.counters.expect(Expected {
            bytes: listing.bytes,
            files: listing.count,
        });
    } else {
        messages::warn("backup has no manifest, so its files are not verified");
    }
    let layout = Layout {
        target: &config.target,
        waldir: config.waldir.as_deref(),
        mapping: &config.mapping,
    };
    // The server's own, until it is known whether a group may read.
    let folder = DataDirectory::create(layout, &source.tablespaces, 0o700, &mut cleanup.lock())?;
    let files = unpack(config, shared, &source, &folder)?;
    shared.counters.enter(Phase::Comparing);
    ensure!(
        files.contains(CONTROL_FILE),
        "the archives have no global/pg_control"
    );
    let has_manifest = source.manifest.is_some();
    if !has_manifest && let Some(path) = files.untaken().find(|path| is_incremental_file(path)) {
        bail!(
            "the archives have the incremental file \"{}\", which cannot be restored alone\n\
             HINT:  Name all backups of the chain, the full one first.",
            display(path)
        );
    }
    if let Some(listing) = source.manifest {
        let count = listing.compare(files)?;
        say(config, &format!("{count} files match the manifest"));
        listing.write_restored(&mut folder.create_manifest()?)?;
    }
    let made = cleanup.lock().clone();
    adopt_mode(config, &made)?;
    new_directory::complete(manner, &config.target, shared, cleanup, || {
        folder.finish(has_manifest)
    })
}

/// Unpacks all archives, and returns their content.
fn unpack(
    config: &RestoreConfig,
    shared: &Shared,
    source: &Source,
    folder: &DataDirectory,
) -> Result<Files> {
    let algorithm = (source.manifest.as_ref()).map_or(Algorithm::None, |listing| listing.algorithm);
    let received = ReceivedFiles::new(algorithm);
    // No file is in two of them, as it can be with streams that are lost.
    let stream = received.stream();
    let workers = shared.counters.workers();
    let unpack_one = |worker: &Worker, archive: &ArchiveFile| {
        say(config, &format!("unpacking \"{}\"", archive.name));
        worker.begins(Activity::Receiving(archive.name.clone()));
        let arriving = IncomingFiles::of_stream(&received, stream, &worker.counter);
        let input = Input::new(archive.method)?;
        let mut unpacker = Unpacker::new(folder, input, arriving, &shared.cancellation)
            .of_archive(archive.content.prefix(), LEFT_OUT);
        archive.read(|bytes| unpacker.take(bytes))?;
        unpacker.finish().with_context(|| archive.place())
    };
    parallel::for_each(&source.archives, workers, &shared.cancellation, unpack_one)?;
    Ok(received.into_files())
}

/// Applies the cluster's group access, known by the mode of its directories, to created
/// directories.
fn adopt_mode(config: &RestoreConfig, cleanup: &CleanupList) -> Result<()> {
    let path = config.target.join("global");
    let found = fs::metadata(&path)
        .with_context(|| format!("could not stat directory \"{}\"", path.display()))?;
    let mode = found.permissions().mode() & 0o050 | 0o700;
    for path in cleanup.new_paths() {
        fs::set_permissions(path, Permissions::from_mode(mode)).with_context(|| {
            format!(
                "could not set permissions of directory \"{}\"",
                path.display()
            )
        })?;
    }
    Ok(())
}

fn say(config: &RestoreConfig, text: &str) {
    if config.verbose {
        messages::say(text);
    }
}
