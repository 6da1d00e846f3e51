//! Unpacks a backup in tar format into a directory that starts, with several threads.
//!
//! The same rules hold as for a backup: names are checked, no server starts on the directory before
//! it is complete and matches the manifest, and created files are removed after an error.

mod partial;
mod source;
mod wanted;

use std::cmp::Reverse;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context, Result, bail, ensure};
use backup_format::checksum::Algorithm;

use crate::cli::backup_name::Kind;
use crate::cli::configuration::{CombineConfig, CopyMethod, Location, NewManifest, RestoreConfig};
use crate::commands::combine;
use crate::commands::new_directory::{self, Manner};
use crate::console::messages;
use crate::console::progress::{Activity, Expected, Phase, Worker};
use crate::manifest::backup_path::{CONTROL_FILE, display};
use crate::manifest::incoming_files::IncomingFiles;
use crate::manifest::received_files::{Files, ReceivedFiles};
use crate::output::cleanup::{CleanupList, SharedCleanupList};
use crate::output::data_directory::DataDirectory;
use crate::output::filter::Filter;
use crate::output::layout::Layout;
use crate::output::unpacker::Unpacker;
use crate::repository::backup_info::BackupInfo;
use crate::repository::catalog;
use crate::runtime::parallel;
use crate::runtime::supervisor::Shared;
use crate::storage::folder::Folder;
use crate::stream::archive_files::ArchiveFile;
use crate::stream::archive_parts::ArchivePart;
use crate::stream::part::Tablespace;
use source::{LEFT_OUT, Source, is_incremental_file};

/// Name of the work, for messages.
const NAME: &str = "restore";

/// Restores a backup. An incremental backup in a repository is restored with those that it was made from.
///
/// # Errors
/// Whatever keeps it from being complete. What was made has been removed then, if that was wanted.
pub fn run(config: RestoreConfig) -> Result<()> {
    let (json, target) = (config.json, config.target.clone());
    let what = What::find(&config)?;
    let count = match &what {
        What::One(..) => 1,
        What::Chain(backups) => backups.len(),
    };
    match what {
        What::Chain(backups) => {
            ensure!(
                config.only_databases.is_empty() && config.only_tablespaces.is_empty(),
                "only a full backup can be restored in parts"
            );
            combine::run(in_chain(config, backups), NAME)?;
        }
        What::One(folder, info) => restore_one(config, folder, info)?,
    }
    if json {
        let result = serde_json::json!({
            "restored": true,
            "directory": target.to_string_lossy(),
            "backups": count,
        });
        writeln!(std::io::stdout(), "{result}").context("could not write to standard output")?;
    }
    Ok(())
}

fn restore_one(config: RestoreConfig, folder: Folder, info: Option<Box<BackupInfo>>) -> Result<()> {
    let manner = Manner {
        name: NAME,
        jobs: config.jobs,
        sync: config.sync,
        clean: config.clean,
        progress: config.progress,
        verbose: config.verbose,
    };
    new_directory::run(manner, move |shared, cleanup| {
        restore(&config, (&folder, info.as_deref()), manner, shared, cleanup)
    })
}

/// What there is to restore.
enum What {
    /// A backup by itself: its folder, and its description if it is in a repository.
    One(Folder, Option<Box<BackupInfo>>),
    /// A full backup and the incremental ones after it.
    Chain(Vec<Location>),
}

impl What {
    fn find(config: &RestoreConfig) -> Result<Self> {
        let [backup] = config.backups.as_slice() else {
            return Ok(Self::Chain(config.backups.clone()));
        };
        let folder = Folder::open_backup(backup, &config.access)?;
        let info = BackupInfo::read(&folder)?.map(Box::new);
        let is_incremental = |info: &BackupInfo| info.kind == Kind::Incremental;
        if !info.as_deref().is_some_and(is_incremental) {
            return Ok(Self::One(folder, info));
        }
        let Some((repository, name)) = backup.split() else {
            return Ok(Self::One(folder, info));
        };
        let entries = catalog::list(&Folder::open(&repository, &config.access)?)?;
        let chain = catalog::chain(&entries, &name)?;
        let place = |name: &str| match &repository {
            Location::Directory(path) => Location::Directory(path.join(name)),
            Location::Objects(url) => Location::Objects(format!("{url}/{name}")),
        };
        Ok(Self::Chain(
            chain.iter().map(|entry| place(&entry.name)).collect(),
        ))
    }
}

fn in_chain(config: RestoreConfig, backups: Vec<Location>) -> CombineConfig {
    CombineConfig {
        backups,
        access: config.access,
        target: config.target,
        waldir: config.waldir,
        mapping: config.mapping,
        jobs: config.jobs,
        manifest: NewManifest::AsBefore,
        copy: CopyMethod::Copy,
        dry_run: false,
        sync: config.sync,
        clean: config.clean,
        progress: config.progress,
        verbose: config.verbose,
    }
}

fn restore(
    config: &RestoreConfig,
    (from, info): (&Folder, Option<&BackupInfo>),
    manner: Manner,
    shared: &Shared,
    cleanup: &SharedCleanupList,
) -> Result<()> {
    let filter = partial::filter(config, info)?;
    let source = Source::open(from, info.is_some(), &shared.cancellation)?;
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
    let is_wanted = |tablespace: &&Tablespace| filter.passes_tablespace(tablespace.oid);
    let tablespaces: Vec<_> = source
        .tablespaces
        .iter()
        .filter(is_wanted)
        .cloned()
        .collect();
    let folder = DataDirectory::create(layout, &tablespaces, 0o700, &mut cleanup.lock())?;
    let folder = folder.synchronized(config.sync.is_some());
    let files = unpack(config, shared, &source, (&folder, &filter))?;
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
        let count = listing.compare(files, &filter)?;
        say(config, &format!("{count} files match the manifest"));
        if filter.is_all() {
            listing.write_restored(&mut folder.create_manifest()?)?;
        } else {
            messages::warn(
                "the restored cluster has no backup manifest, because it is a part of the backup\n\
                 HINT:  Drop the databases and tablespaces that were left out, once the server has started. \
                 If recovery ends because \"WAL contains references to invalid pages\" of these, start the \
                 server once with ignore_invalid_pages = on.",
            );
        }
    }
    let has_manifest = has_manifest && filter.is_all();
    let made = cleanup.lock().clone();
    adopt_mode(config, &made)?;
    new_directory::complete(manner, &config.target, shared, cleanup, || {
        folder.finish(has_manifest)
    })
}

/// Unpacks the archives, and returns their content.
fn unpack(
    config: &RestoreConfig,
    shared: &Shared,
    source: &Source,
    (folder, filter): (&DataDirectory, &Filter),
) -> Result<Files> {
    let algorithm = (source.manifest.as_ref()).map_or(Algorithm::None, |listing| listing.algorithm);
    let received = ReceivedFiles::new(algorithm);
    // No file is in two of them, as it can be with streams that are lost.
    let stream = received.stream();
    let workers = shared.counters.workers();
    let parts = plan(config, &source.archives, filter)?;
    let unpack_one = |worker: &Worker, part: &ArchivePart| {
        let archive = &part.archive;
        worker.begins(Activity::Receiving(archive.name.clone()));
        let arriving = IncomingFiles::of_stream(&received, stream, &worker.counter);
        let mut unpacker = Unpacker::new(folder, part.input()?, arriving, &shared.cancellation)
            .of_archive(archive.content.prefix(), LEFT_OUT)
            .with_filter(filter);
        part.read(|bytes| unpacker.take(bytes))?;
        let finished = match part.next() {
            Some(end) => unpacker.finish_part(end),
            None => unpacker.finish(),
        };
        finished.with_context(|| archive.place())
    };
    parallel::for_each(&parts, workers, &shared.cancellation, unpack_one)?;
    received.into_files()
}

/// What is read of the archives, the largest part first. An archive whose index is of no use is read as a
/// whole.
fn plan(
    config: &RestoreConfig,
    archives: &[ArchiveFile],
    filter: &Filter,
) -> Result<Vec<ArchivePart>> {
    let mut parts = Vec::new();
    for archive in archives {
        say(config, &format!("unpacking \"{}\"", archive.name));
        if !archive.has_index {
            parts.push(ArchivePart::whole(archive));
            continue;
        }
        match ArchivePart::plan(archive, |path| filter.passes(path)) {
            Ok(planned) => parts.extend(planned),
            Err(error) => {
                messages::warn(format_args!(
                    "{error:#}\nDETAIL:  Archive \"{}\" is read as a whole.",
                    archive.name
                ));
                parts.push(ArchivePart::whole(archive));
            }
        }
    }
    parts.sort_by_key(|part| Reverse(part.size()));
    Ok(parts)
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
