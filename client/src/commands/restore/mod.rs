//! Unpacks a backup in tar format into a directory that starts, with several threads.
//!
//! It is written as a backup is: names are refused or stay beneath their directories, no server
//! starts on the directory until all of it is there and as the manifest says, and what was made is
//! removed after an error.

mod source;
mod wanted;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context, Result, ensure};
use backup_format::checksum::Algorithm;

use crate::cli::configuration::{ProgressFormat, RestoreConfig};
use crate::console::messages;
use crate::console::progress::{Activity, Expected, Phase, Worker};
use crate::manifest::backup_path::CONTROL_FILE;
use crate::manifest::exemption::is_exempt;
use crate::manifest::received_files::{Files, IncomingFiles, ReceivedFiles};
use crate::output::cleanup::{CleanupList, SharedCleanupList};
use crate::output::data_directory::DataDirectory;
use crate::output::layout::Layout;
use crate::output::sync;
use crate::output::unpacker::Unpacker;
use crate::runtime::parallel;
use crate::runtime::signals::Signals;
use crate::runtime::supervisor::{self, Shared, Watch};
use crate::stream::archive_files::ArchiveFile;
use crate::stream::input::Input;
use source::{LEFT_OUT, Source};

/// Restores the backup that the options name.
///
/// # Errors
/// Whatever keeps it from being complete. What was made has been removed then, if that was wanted.
pub fn run(plan: RestoreConfig) -> Result<()> {
    let signals = Signals::watch()?;
    let watch = Watch {
        name: "restore",
        progress: plan.progress.then_some(ProgressFormat::Text),
        first: Phase::Copying,
        workers: plan.jobs,
    };
    let made = SharedCleanupList::default();
    let (clean, verbose) = (plan.clean, plan.verbose);
    let shelf = made.clone();
    supervisor::run(
        watch,
        &signals,
        || (),
        move |shared| restore(&plan, shared, &shelf),
    )
    .inspect_err(|_| made.clean_up(clean, verbose))
}

fn restore(plan: &RestoreConfig, shared: &Shared, made: &SharedCleanupList) -> Result<()> {
    let source = Source::open(&plan.archives, &shared.stop)?;
    if let Some(listing) = &source.manifest {
        let files = &listing.manifest.files;
        shared.counters.expect(Expected {
            bytes: files
                .iter()
                .map(|file| file.size)
                .fold(0, u64::saturating_add),
            files: files.len() as u64,
        });
    } else {
        messages::warn("there is no backup manifest, with which the files could be compared");
    }
    let layout = Layout {
        target: &plan.target,
        waldir: plan.waldir.as_deref(),
        mapping: &plan.mapping,
    };
    // The server's own, until it is known whether a group may read.
    let folder = DataDirectory::create(layout, &source.tablespaces, 0o700, &mut made.lock())?;
    let mut files = unpack(plan, shared, &source, &folder)?;
    shared.counters.enter(Phase::Comparing);
    ensure!(
        files.contains_key(CONTROL_FILE),
        "the archives have no global/pg_control"
    );
    let has_manifest = source.manifest.is_some();
    if let Some(mut listing) = source.manifest {
        let compared = &mut listing.manifest.files;
        compared.retain(|file| !is_exempt(&file.path));
        files.retain(|path, _| !is_exempt(path));
        let count = compared.len();
        listing.manifest.compare(files, listing.algorithm)?;
        say(plan, &format!("{count} files are as the manifest says"));
        folder.write_manifest(&listing.restored()?)?;
    }
    // A lock that is held while the disk is waited for would keep the main thread from ending.
    let made = made.lock().clone();
    adopt_mode(plan, &made)?;
    if plan.sync.is_some() {
        shared.counters.enter(Phase::Syncing);
        say(plan, "syncing data to disk");
    }
    let last = [plan.target.clone(), plan.target.join("global")];
    sync::complete(plan.sync, &made, plan.jobs, &shared.stop, &last, || {
        folder.finish(has_manifest)
    })?;
    say(plan, "restore completed");
    Ok(())
}

/// Unpacks all archives, and returns what was in them.
fn unpack(
    plan: &RestoreConfig,
    shared: &Shared,
    source: &Source,
    folder: &DataDirectory,
) -> Result<Files> {
    let algorithm = (source.manifest.as_ref()).map_or(Algorithm::None, |listing| listing.algorithm);
    let received = ReceivedFiles::default();
    // No file is in two of them, as it can be with streams that are lost.
    let stream = folder.stream();
    let workers = shared.counters.workers();
    let unpack_one = |worker: &Worker, archive: &ArchiveFile| {
        say(plan, &format!("unpacking \"{}\"", archive.name));
        worker.begins(Activity::Receiving(archive.name.clone()));
        let arriving = IncomingFiles::new(algorithm, &worker.counter);
        let input = Input::new(archive.method)?;
        let mut unpacker = Unpacker::new(folder, input, arriving, &shared.stop).of_archive(
            stream,
            archive.content.prefix(),
            LEFT_OUT,
        );
        archive.read(|bytes| unpacker.take(bytes))?;
        received.add(unpacker.finish().with_context(|| archive.place())?)
    };
    parallel::for_each(&source.archives, workers, &shared.stop, unpack_one)?;
    Ok(received.into_files())
}

/// Whether a group may read is a property of the whole cluster, which the mode of its directories
/// tells.
fn adopt_mode(plan: &RestoreConfig, made: &CleanupList) -> Result<()> {
    let path = plan.target.join("global");
    let found = fs::metadata(&path)
        .with_context(|| format!("could not stat directory \"{}\"", path.display()))?;
    let mode = found.permissions().mode() & 0o050 | 0o700;
    for path in made.new_paths() {
        fs::set_permissions(path, Permissions::from_mode(mode)).with_context(|| {
            format!(
                "could not set permissions of directory \"{}\"",
                path.display()
            )
        })?;
    }
    Ok(())
}

fn say(plan: &RestoreConfig, text: &str) {
    if plan.verbose {
        messages::say(text);
    }
}
