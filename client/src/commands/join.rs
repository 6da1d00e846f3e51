//! Joins a backup that a program on another host leads: more workers serve it, and put their archives and
//! indexes beside the others' in the repository.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use backup_format::checksum::Algorithm;

use crate::cli::configuration::{BackupConfig, JoinConfig};
use crate::commands::completion::say;
use crate::commands::file_streams::{self, Shared};
use crate::commands::host_locks;
use crate::console::progress::{Expected, Phase};
use crate::manifest::received_files::ReceivedFiles;
use crate::output::cleanup::CleanupList;
use crate::output::new_backup::NewBackup;
use crate::output::pipe::Commands;
use crate::output::target::Target;
use crate::repository::join_info::{
    self, FORMAT, HostInfo, JOIN_FILE, JoinInfo, LARGEST_HOST, WORKERS,
};
use crate::runtime::signals::Signals;
use crate::runtime::supervisor::{self, Watch};
use crate::server::connection::Session;
use crate::server::extension::{Extension, Started};
use crate::server::opener::Opener;
use crate::server::requirements::{self, Wanted};
use crate::server::session;
use crate::server::silence;
use crate::server::workers::OpenSessions;
use crate::storage::encryption::{Recipients, SUFFIX};
use crate::storage::folder::Folder;

/// Attempts to find a number that no other host has.
const ATTEMPTS: u32 = 10;

/// Joins a backup, and returns when there are no more files for its workers.
///
/// # Errors
/// Where there is no such backup, and whatever keeps a stream from ending well. The files of streams that did
/// not end go back.
pub fn run(config: JoinConfig) -> Result<()> {
    let (mut opener, mut session) = Opener::connect(&config.backup.address)?;
    session::prepare(&mut session, &opener)?;
    let extension = Extension::find(&session)?;
    ensure!(
        extension.has_send_wal(),
        "the extension on the server is too old for other hosts to join\n\
         HINT:  Run ALTER EXTENSION pg_parallel_backup UPDATE."
    );
    opener.allow_largest_records();
    requirements::check_functions(&session, &["send_backup_files", "backup_tablespaces"])?;
    let jobs = extension.jobs(&session, config.backup.jobs)?;
    let signals = Signals::watch()?;
    let watch = Watch {
        name: "join",
        progress: config.backup.progress,
        first: Phase::Copying,
        workers: jobs,
    };
    supervisor::run(
        watch,
        &signals,
        || (),
        move |shared| {
            let shared = Shared {
                earlier: None,
                reserved: None,
                host: None,
                config: &config.backup,
                jobs,
                cancellation: &shared.cancellation,
                counters: &shared.counters,
                commands: Commands::default(),
            };
            join(&config, &shared, (&opener, &session), &extension)
        },
    )
}

fn join(
    config: &JoinConfig,
    shared: &Shared<'_>,
    (opener, session): (&Opener, &Session),
    extension: &Extension,
) -> Result<()> {
    let tablespaces = extension.tablespaces(session, Some(config.backup_id))?;
    let folder = find(config)?;
    let recipients = recipients(config, &folder)?;
    let info: Option<JoinInfo> = join_info::read(&folder, JOIN_FILE)?;
    let info = info.with_context(|| format!("\"{folder}\" has no \"{JOIN_FILE}\""))?;
    ensure!(
        info.recipients_sha256 == recipients.as_ref().map(Recipients::fingerprint),
        "the backup is encrypted for others\n\
         HINT:  Use the same --encrypt-to as the program that leads it."
    );
    let algorithm = Algorithm::parse(&info.checksums)
        .with_context(|| format!("unrecognized checksum algorithm: \"{}\"", info.checksums))?;
    let backup = BackupConfig {
        manifest: Some(algorithm),
        ..config.backup.clone()
    };
    let config = &backup;
    silence::end_without_heartbeat(session, opener)?;
    let host = register(session, &folder)?;
    say(
        config,
        &format!("joined the backup in \"{folder}\" as host {host}"),
    );
    let wanted = Wanted {
        workers: shared.jobs,
        wal: false,
    };
    let sessions = requirements::open_workers((opener, session), wanted, shared.cancellation)?;
    let sessions = OpenSessions::new(sessions);
    let started = Started {
        backup_id: info.backup_id,
        start_lsn: "0/0".to_owned(),
        timeline: "1".to_owned(),
        total_bytes: 0,
        file_count: 0,
    };
    shared.counters.expect(Expected { bytes: 0, files: 0 });
    let first_worker = usize::try_from(host * WORKERS)?;
    let entry = NewBackup::joined(folder.clone(), recipients, &info, first_worker)?;
    let target = Target::create(
        config,
        &tablespaces,
        (shared.jobs, &shared.commands),
        0o700,
        Some(entry),
        &mut CleanupList::default(),
    )?;
    let received = ReceivedFiles::new(algorithm);
    let shared = Shared {
        earlier: None,
        reserved: None,
        host: Some(host),
        config,
        jobs: shared.jobs,
        cancellation: shared.cancellation,
        counters: shared.counters,
        commands: shared.commands.clone(),
    };
    let workers = (opener, &sessions);
    file_streams::run_workers(
        &shared,
        workers,
        (session, extension),
        &started,
        &target,
        &received,
    )?;
    write_host(&folder, host, true)?;
    say(config, &format!("{} files received", received.count()));
    Ok(())
}

/// Those who can decrypt what this host writes.
fn recipients(config: &JoinConfig, folder: &Folder) -> Result<Option<Recipients>> {
    let is_encrypted = folder.files()?.iter().any(|file| {
        let name = file.name.to_string_lossy();
        name.ends_with(SUFFIX)
    });
    ensure!(
        is_encrypted != config.recipients.is_empty(),
        "the backup is {}encrypted\nHINT:  Use the same --encrypt-to as the program that leads it.",
        if is_encrypted { "" } else { "not " }
    );
    Recipients::read(&config.recipients, folder.backup_key())
}

/// The folder of the backup.
fn find(config: &JoinConfig) -> Result<Folder> {
    let repository = Folder::open(&config.repository, &config.access)?;
    // One that cannot be read is another's.
    let is_it = |folder: &Folder| {
        let info: Result<Option<JoinInfo>> = join_info::read(folder, JOIN_FILE);
        matches!(info, Ok(Some(info)) if info.backup_id == config.backup_id)
    };
    let names = match &config.name {
        Some(name) => vec![name.clone()],
        // The newest is the likeliest.
        None => repository.folders()?.into_iter().rev().collect(),
    };
    for name in names {
        let mut folder = repository.child(&name);
        if is_it(&folder) {
            folder.unlock()?;
            return Ok(folder);
        }
    }
    bail!(
        "no backup with ID {} runs in \"{repository}\"\n\
         HINT:  The program that leads it writes its file there once it has started.",
        config.backup_id
    )
}

/// Takes a number that no other host has, and holds its lock until the session ends.
fn register(session: &Session, folder: &Folder) -> Result<u32> {
    let mut seed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(1, |time| time.subsec_nanos() ^ std::process::id());
    for _ in 0..ATTEMPTS {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let host = 1 + (seed >> 4) % LARGEST_HOST;
        let is_free = host_locks::register_host(session, host)?;
        if is_free && folder.read(&HostInfo::file(host), 1 << 20)?.is_none() {
            write_host(folder, host, false)?;
            return Ok(host);
        }
    }
    bail!("could not find a free number for this host")
}

fn write_host(folder: &Folder, host: u32, done: bool) -> Result<()> {
    let hostname = rustix::system::uname();
    let info = HostInfo {
        format: FORMAT,
        host,
        hostname: hostname.nodename().to_string_lossy().into_owned(),
        done,
    };
    join_info::write(folder, &HostInfo::file(host), &info)
}
