//! Puts a full backup and the incremental backups after it together, with several threads, as
//! pg_combinebackup does. Every file that the result is made of is read once, and checked against its
//! manifest on the way.
//!
//! The rules of a backup hold: no server starts on the directory before it is complete, and created files
//! are removed after an error.

mod archives;
mod backup;
mod chain;
mod output;
mod recipe;
mod slice;

use std::cmp::Reverse;
use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use backup_format::backup_label::without_incremental;
use backup_format::checksum::Algorithm;
use backup_format::incremental;
use rustix::fs::{Mode, OFlags};

use crate::cli::configuration::{CombineConfig, CopyMethod, NewManifest as Wanted};
use crate::commands::new_directory::{self, Manner};
use crate::console::messages;
use crate::console::progress::{Activity, Expected};
use crate::manifest::backup_path::{BACKUP_LABEL, MANIFEST, TABLESPACE_MAP, display};
use crate::manifest::exemption::{is_exempt, is_within};
use crate::manifest::new_manifest::NewManifest;
use crate::output::cleanup::SharedCleanupList;
use crate::output::data_directory::DataDirectory;
use crate::output::layout::Layout;
use crate::runtime::parallel;
use crate::runtime::supervisor::Shared;
use crate::storage::folder::Folder;
use crate::stream::part::Tablespace;
use backup::{Backup, Contents};
use chain::Chain;
use output::Output;
use recipe::Recipe;

/// Directory of WAL, of which the manifest knows nothing.
const WAL: &[u8] = b"pg_wal";
/// Files that are named in a message, of those that are missing.
const NAMED: usize = 5;

/// Combines backups. `name` is what that is called in messages.
///
/// # Errors
/// Whatever keeps the result from being complete. What was made has been removed then, if that was
/// wanted.
pub fn run(config: CombineConfig, name: &'static str) -> Result<()> {
    let manner = Manner {
        name,
        jobs: config.jobs,
        sync: config.sync,
        clean: config.clean,
        progress: config.progress,
        verbose: config.verbose,
    };
    new_directory::run(manner, move |shared, cleanup| {
        combine(&config, manner, shared, cleanup)
    })
}

/// A file of the result.
struct Job {
    /// Its path in the newest backup.
    source: Vec<u8>,
    /// Bytes, as far as they are known before the file is read.
    size: u64,
}

/// Path of the relation file that an incremental file is for; [`None`] for another file. Outside of the
/// directories of relations somebody gave it that name, as pg_combinebackup has it.
fn relation_path(path: &[u8]) -> Option<Vec<u8>> {
    let slash = path.iter().rposition(|&byte| byte == b'/')?;
    let directory = &path[..slash];
    let has_relations = directory == b"global"
        || directory.starts_with(b"base/")
        || directory.starts_with(b"pg_tblspc/");
    incremental::relation_path(path).filter(|_| has_relations)
}

fn combine(
    config: &CombineConfig,
    manner: Manner,
    shared: &Shared,
    cleanup: &SharedCleanupList,
) -> Result<()> {
    let Shared {
        cancellation,
        counters,
    } = shared;
    let layout = Layout {
        target: &config.target,
        waldir: config.waldir.as_deref(),
        mapping: &config.mapping,
    };
    DataDirectory::check(layout)?;
    let spool = spool_folder(&config.target);
    let folders = (config.backups.iter()).map(|backup| Folder::open_backup(backup, &config.access));
    let folders: Vec<_> = folders.collect::<Result<_>>()?;
    let chain = Chain::open(&folders, &spool, counters.workers(), cancellation)?;
    let newest = chain.newest();
    check_copy_method(config, &chain)?;
    let algorithm = match config.manifest {
        Wanted::None => None,
        Wanted::With(algorithm) => Some(algorithm),
        Wanted::AsBefore => newest.algorithm(),
    };
    ensure!(
        algorithm.is_none() || newest.manifest().is_some(),
        "cannot generate a manifest because no manifest is available for the final input backup\n\
         HINT:  Use --no-manifest to go on without one."
    );
    let tablespaces = newest.tablespaces()?;
    DataDirectory::check_mapping(layout, &tablespaces)?;
    check_mapping(config, newest, &tablespaces)?;
    let contents = newest.contents()?;
    check_complete(newest, &contents)?;
    let jobs = plan(&chain, contents.files);
    counters.expect(Expected {
        bytes: jobs.iter().map(|job| job.size).fold(0, u64::saturating_add),
        files: jobs.len() as u64,
    });
    if config.dry_run {
        return parallel::for_each(&jobs, counters.workers(), cancellation, |_, job| {
            check_sources(&chain, job)
        });
    }

    let mode = newest.mode()?;
    let folder = DataDirectory::create(layout, &tablespaces, mode, &mut cleanup.lock())?;
    for directory in &contents.directories {
        folder.make_directory(directory, mode)?;
    }
    let manifest = match algorithm {
        None => None,
        Some(algorithm) => {
            let system = newest
                .manifest()
                .and_then(|manifest| manifest.system_identifier);
            Some(NewManifest::new(
                folder.create_manifest()?,
                algorithm,
                system,
            ))
        }
    };
    let output = Output {
        folder: &folder,
        manifest: manifest.as_ref(),
        algorithm: algorithm.unwrap_or(Algorithm::None),
        file_mode: mode & 0o640,
        copy: config.copy,
        cancellation,
    };
    output.write(BACKUP_LABEL, &without_incremental(&chain.label))?;
    parallel::for_each(&jobs, counters.workers(), cancellation, |worker, job| {
        worker.begins(Activity::Receiving(display(&job.source)));
        match relation_path(&job.source) {
            Some(path) => {
                let recipe = Recipe::find(&chain, &path)?;
                output.assemble(&path, recipe, &worker.counter)
            }
            None => {
                let file = newest.file(&job.source)?;
                output.copy(&job.source, file, &worker.counter)
            }
        }
    })?;
    if let (Some(manifest), Some(old)) = (manifest, newest.manifest()) {
        manifest.finish(&old.wal_ranges)?;
    }
    new_directory::complete(manner, &config.target, shared, cleanup, || {
        folder.finish(algorithm.is_some())
    })?;
    if config.copy == CopyMethod::Link {
        messages::warn(
            "--link mode was used; any modifications to the output directory might destructively \
             modify input directories",
        );
    }
    Ok(())
}

/// The nearest directory on the way to the target in which a file needs no name: one with a name would make
/// the target look used.
fn spool_folder(target: &Path) -> PathBuf {
    let takes_files = |path: &&Path| {
        let path = match path.as_os_str().is_empty() {
            true => Path::new("."),
            false => path,
        };
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR).is_ok()
    };
    let there = target.ancestors().find(takes_files);
    match there {
        Some(path) if !path.as_os_str().is_empty() => path.to_owned(),
        Some(_) => PathBuf::from("."),
        None => env::temp_dir(),
    }
}

fn check_copy_method(config: &CombineConfig, chain: &Chain<'_>) -> Result<()> {
    let option = match config.copy {
        CopyMethod::Clone => "--clone",
        CopyMethod::Link => "--link",
        CopyMethod::Copy | CopyMethod::CopyFileRange => return Ok(()),
    };
    for backup in chain.backups() {
        ensure!(
            backup.has_files(),
            "{option} cannot be used with the archives in \"{}\"",
            backup.path.display()
        );
    }
    Ok(())
}

/// A tablespace of a plain backup is where the backup is: the result needs another place.
fn check_mapping(
    config: &CombineConfig,
    newest: &Backup<'_>,
    tablespaces: &[Tablespace],
) -> Result<()> {
    for Tablespace { location, .. } in tablespaces {
        ensure!(
            !newest.has_files() || config.mapping.contains_key(location),
            "tablespace at \"{}\" has no tablespace mapping\n\
             HINT:  Use -T to say where it is to be.",
            location.display()
        );
    }
    Ok(())
}

/// That all files of the manifest are there. A file that it does not have is worth a warning, as in
/// pg_combinebackup; where relations are it may be left from another backup, and is refused.
fn check_complete(newest: &Backup<'_>, contents: &Contents) -> Result<()> {
    let Some(expected) = newest.expected() else {
        return Ok(());
    };
    for (path, _) in &contents.files {
        match expected.file(path) {
            Some(file) => {
                file.find();
            }
            None if is_exempt(path) || is_special(path) => {}
            None if ["base", "global", "pg_tblspc"]
                .iter()
                .any(|directory| is_within(path, directory.as_bytes())) =>
            {
                bail!(
                    "manifest of \"{}\" contains no entry for file \"{}\"",
                    newest.path.display(),
                    display(path)
                )
            }
            None => messages::warn(format_args!(
                "manifest of \"{}\" contains no entry for file \"{}\"",
                newest.path.display(),
                display(path)
            )),
        }
    }
    // Of a directory, links lead to the tablespaces, from whatever they were made.
    if let Some(map) = expected.file(TABLESPACE_MAP) {
        map.find();
    }
    let missing = expected.missing();
    if missing.is_empty() {
        return Ok(());
    }
    let named: Vec<_> = missing
        .iter()
        .take(NAMED)
        .map(|path| format!("\"{}\"", display(path)))
        .collect();
    bail!(
        "{} missing in the backup in \"{}\"\nDETAIL:  Among them: {}.",
        match missing.len() {
            1 => "1 file of the manifest is".to_owned(),
            count => format!("{count} files of the manifest are"),
        },
        newest.path.display(),
        named.join(", ")
    )
}

/// The files of the result, the largest first.
fn plan(chain: &Chain<'_>, files: Vec<(Vec<u8>, u64)>) -> Vec<Job> {
    let full = chain.backups().first().and_then(Backup::expected);
    let mut jobs: Vec<_> = files
        .into_iter()
        .filter(|(path, _)| !is_special(path))
        .map(|(source, size)| {
            // The result is about as large as the full file.
            let whole = relation_path(&source).and_then(|path| full?.file(&path));
            let size = whole.map_or(size, |file| file.size);
            Job { source, size }
        })
        .collect();
    jobs.sort_by_key(|job| Reverse(job.size));
    jobs
}

/// Files that are made anew.
fn is_special(path: &[u8]) -> bool {
    [BACKUP_LABEL, MANIFEST, TABLESPACE_MAP].contains(&path)
}

/// Checks for a dry run that everything is there that a file is made of.
fn check_sources(chain: &Chain<'_>, job: &Job) -> Result<()> {
    match relation_path(&job.source) {
        Some(path) => Recipe::find(chain, &path).map(drop),
        None => chain.newest().file(&job.source).map(drop),
    }
}
