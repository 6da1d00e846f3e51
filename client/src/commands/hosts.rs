//! Other hosts whose workers serve the same backup, as the program sees them that leads it.
//!
//! A host has a file in the repository and holds an advisory lock on the server while it works. It has ended
//! well once its file says so, and is lost when nobody holds its lock and its file does not. The sessions of a
//! lost host are ended, since the server keeps files for them. Its archives count either way if they have their
//! indexes, which are written behind them. Of a lost host the server may have taken files for received that are
//! in no archive: they come again, by their names.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use backup_format::member::Kind;

use crate::commands::completion::say;
use crate::commands::file_streams::{self, Shared};
use crate::commands::host_locks;
use crate::console::messages;
use crate::manifest::digest;
use crate::manifest::received_files::{Ownership, ReceivedFile, ReceivedFiles};
use crate::manifest::stream::twice;
use crate::output::new_backup::NewBackup;
use crate::output::target::Target;
use crate::repository::backup_info::ArchiveInfo;
use crate::repository::index::{self, Entry, Member};
use crate::repository::join_info::{self, HostInfo};
use crate::server::connection::Session;
use crate::server::extension::{Extension, Started};
use crate::server::opener::Opener;
use crate::server::workers::{self, OpenSessions};
use crate::storage::encryption;
use crate::stream::archive_files::ArchiveFile;

/// Time between two looks at other hosts.
const LOOK: Duration = Duration::from_secs(1);

/// Waits for other hosts, and takes over what they have received. After the loss of one the own workers run
/// again for the files that it has given back.
///
/// # Errors
/// Errors of the repository and of the server, where two archives have the same file, and cancellation.
pub fn receive(
    shared: &Shared<'_>,
    workers: (&Opener, &OpenSessions),
    leader: (&Session, &Extension),
    started: &Started,
    target: &Target,
    received: &ReceivedFiles,
) -> Result<()> {
    let Some(backup) = target.repository() else {
        return Ok(());
    };
    let mut ended = BTreeSet::new();
    let mut is_said = false;
    loop {
        let mut lost = Vec::new();
        let hosts = hosts(backup)?;
        let waiting: Vec<_> = hosts
            .into_iter()
            .filter(|host| !ended.contains(host))
            .collect();
        if waiting.is_empty() {
            return Ok(());
        }
        if !is_said {
            say(shared.config, "waiting for other hosts");
            is_said = true;
        }
        // In this order: what ends in between has its file before it gives up its lock.
        let working = host_locks::working_hosts(leader.0)?;
        for host in waiting {
            let info: Option<HostInfo> = join_info::read(backup.folder(), &HostInfo::file(host))?;
            let Some(info) = info else {
                continue;
            };
            if info.done {
                say(
                    shared.config,
                    &format!("host \"{}\" has ended", info.hostname),
                );
            } else if working.contains(&host) {
                continue;
            } else {
                messages::warn(format_args!(
                    "host \"{}\" was lost, and its files are received anew",
                    info.hostname
                ));
                exclude(shared, (workers.0, leader.0), host, &info.hostname)?;
                received.lose_host();
                lost.push(host);
            }
            adopt(backup, host, received)?;
            ended.insert(host);
        }
        if lost.is_empty() {
            shared.cancellation.check()?;
            workers::check_leader(leader.0, workers.0.silence)?;
            shared.cancellation.wait(LOOK);
        } else {
            file_streams::run_workers(shared, workers, leader, started, target, received)?;
        }
    }
}

/// Numbers of the hosts that have joined.
fn hosts(backup: &NewBackup) -> Result<Vec<u32>> {
    let files = backup.folder().files()?;
    let hosts = files
        .iter()
        .filter_map(|file| HostInfo::host_of(file.name.to_str()?));
    Ok(hosts.collect())
}

/// Ends the sessions of a lost host, and keeps it from opening more: a program that stands still holds files on
/// the server as long as its connections last.
///
/// # Errors
/// Where sessions are still there after the time in which the server should have noticed the loss by itself,
/// errors of the server, and cancellation.
fn exclude(
    shared: &Shared<'_>,
    (opener, leader): (&Opener, &Session),
    host: u32,
    hostname: &str,
) -> Result<()> {
    let begin = Instant::now();
    let mut is_warned = false;
    while !host_locks::exclude(leader, host)? {
        let other = opener.open_aside();
        let ended = other.and_then(|other| host_locks::end_sessions(&other, host));
        if let (Err(error), false) = (ended, is_warned) {
            is_warned = true;
            messages::warn(format_args!(
                "could not end the sessions of host \"{hostname}\": {error:#}"
            ));
        }
        let limit = opener.silence.limit;
        if let Some(limit) = limit.filter(|&limit| begin.elapsed() >= limit) {
            bail!(
                "host \"{hostname}\" was lost, and its sessions on the server have not ended within {} s\n\
                 DETAIL:  They keep files of the backup: {}.\n\
                 HINT:  End the program on that host, or its sessions with pg_terminate_backend(). The role of \
                 this program may do that if it is the role of the host, or a member of pg_signal_backend.",
                limit.as_secs(),
                host_locks::describe_sessions(leader, host)?
            );
        }
        shared.cancellation.check()?;
        workers::check_leader(leader, opener.silence)?;
        shared.cancellation.wait(LOOK);
    }
    Ok(())
}

/// Takes over the archives of a host that have indexes.
fn adopt(backup: &NewBackup, host: u32, received: &ReceivedFiles) -> Result<()> {
    let files = backup.folder().files()?;
    let names: BTreeMap<_, _> = files
        .iter()
        .filter_map(|file| Some((file.name.to_str()?, file.size)))
        .collect();
    for (&name, &size) in &names {
        let archive = ArchiveFile::by_name(backup.folder(), name);
        let Some(mut archive) = archive.filter(|archive| is_of_host(&archive.name, host)) else {
            continue;
        };
        let plain_name = name.strip_suffix(encryption::SUFFIX).unwrap_or(name);
        let index = index::name_of(plain_name);
        let has_index = |name: &str| names.contains_key(name);
        if !has_index(&index) && !has_index(&format!("{index}{}", encryption::SUFFIX)) {
            continue;
        }
        archive.size = size;
        let info = adopt_archive(&archive, received)
            .with_context(|| format!("could not take over archive \"{name}\" of another host"))?;
        backup.add(info);
    }
    Ok(())
}

/// Whether an archive is of a host, by the number of its worker.
fn is_of_host(name: &str, host: u32) -> bool {
    let worker = name
        .split('.')
        .nth(1)
        .and_then(|number| number.parse().ok());
    worker.is_some_and(|worker| HostInfo::host_of_worker(worker) == host)
}

fn adopt_archive(archive: &ArchiveFile, received: &ReceivedFiles) -> Result<ArchiveInfo> {
    let mut index = archive.open_index()?;
    let stream = received.stream();
    let mut directories = HashSet::new();
    while let Some(entry) = index.next()? {
        let Entry::Member(Member {
            path,
            kind,
            size,
            checksum,
            ..
        }) = entry
        else {
            continue;
        };
        if kind != Kind::File {
            directories.insert(path);
            continue;
        }
        ensure!(
            checksum.len() == digest::length(received.algorithm),
            "its index has checksums of another algorithm"
        );
        let Ownership::Own(id) = received.begin(&path, stream)? else {
            return Err(twice(&path));
        };
        let file = ReceivedFile {
            size,
            digest: &checksum,
        };
        received.complete(id, stream, file);
    }
    received.end_stream(stream, directories)?;
    let totals = index.totals().context("its index has no totals")?;
    Ok(ArchiveInfo {
        name: archive.name.clone(),
        bytes: totals.plain,
        stored_bytes: totals.stored,
        members: totals.members,
    })
}
