//! Backups of a repository, and the chains that they form.
//!
//! A backup that this program put into a repository has a description. A directory that was made another
//! way, by `-D DIRECTORY` or by pg_basebackup, is described from its manifest and its label.

use std::ffi::OsStr;

use anyhow::{Context, Result, bail};
use backup_format::backup_label::BackupLabel;
use backup_format::incremental;
use chrono::{DateTime, Utc};

use crate::cli::backup_name::Kind;
use crate::manifest;
use crate::manifest::parser::Manifest;
use crate::repository::backup_info::BackupInfo;
use crate::repository::index;
use crate::repository::join_info::{HostInfo, JOIN_FILE};
use crate::storage::encryption::{KEY_FILE, SUFFIX};
use crate::storage::folder::Folder;
use crate::storage::source::check_size;

/// File whose presence makes a backup complete.
pub const MANIFEST: &str = "backup_manifest";
/// Larger than any label.
const LARGEST_LABEL: u64 = 1 << 20;

/// A backup in a repository.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name of the backup.
    pub name: String,
    /// Its folder.
    pub folder: Folder,
    /// Whether it is complete.
    pub state: State,
    /// What is known of it.
    pub facts: Option<Facts>,
    /// Bytes of the files directly in its folder.
    pub stored: u64,
    /// When one of these files was changed last.
    pub modified: Option<DateTime<Utc>>,
    /// Whether it is a data directory.
    pub is_directory: bool,
    /// Whether all in it was written for a repository.
    pub is_own: bool,
}

impl Entry {
    fn unreadable(name: String, folder: Folder, error: &anyhow::Error) -> Self {
        Self {
            name,
            folder,
            state: State::Unreadable(format!("{error:#}")),
            facts: None,
            stored: 0,
            modified: None,
            is_directory: false,
            is_own: false,
        }
    }

    /// Time by which backups are ordered: the start, or what is known of it.
    pub fn time(&self) -> Option<DateTime<Utc>> {
        let facts = self.facts.as_ref()?;
        facts.start_time.or(facts.stop_time)
    }
}

/// State of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It has a manifest.
    Complete,
    /// It is being taken, or was given up, or is being removed.
    Unfinished,
    /// Nothing can be said, for this reason.
    Unreadable(String),
}

/// What is known of a backup.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Full or incremental.
    pub kind: Kind,
    /// Identifier of the cluster, if it is known.
    pub system_identifier: Option<String>,
    /// Where recovery begins.
    pub start_lsn: Option<String>,
    /// Where the earlier backup started.
    pub parent_start_lsn: Option<String>,
    /// Name of the earlier backup, as it was when this one was taken.
    pub parent: Option<String>,
    /// Start.
    pub start_time: Option<DateTime<Utc>>,
    /// End.
    pub stop_time: Option<DateTime<Utc>>,
    /// Bytes of its files.
    pub bytes: u64,
    /// Bytes of its archives; none for a directory.
    pub stored_bytes: Option<u64>,
    /// The description in the repository, if there is one.
    pub info: Option<BackupInfo>,
}

/// All backups of a repository, the oldest first. What has no time comes last.
///
/// # Errors
/// Where the repository cannot be read.
pub fn list(repository: &Folder) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for name in repository.folders()? {
        let mut folder = repository.child(&name);
        match folder.unlock() {
            Ok(()) => entries.extend(look_at(name, folder)?),
            Err(error) => entries.push(Entry::unreadable(name, folder, &error)),
        }
    }
    entries.sort_by_key(|entry| (entry.time().is_none(), entry.time(), entry.name.clone()));
    Ok(entries)
}

/// The backup in a folder; [`None`] where it holds nothing of a backup.
fn look_at(name: String, folder: Folder) -> Result<Option<Entry>> {
    let files = match folder.files() {
        Ok(files) => files,
        Err(error) => return Ok(Some(Entry::unreadable(name, folder, &error))),
    };
    let has = |wanted: &str| {
        let encrypted = format!("{wanted}{SUFFIX}");
        let is_it = |name: &OsStr| name == wanted || name == encrypted.as_str();
        files.iter().any(|file| is_it(&file.name))
    };
    // Also what is left of a backup that was removed in part.
    let is_of_repository = |name: &str| {
        HostInfo::host_of(name).is_some()
            || [JOIN_FILE, KEY_FILE].contains(&name)
            || is_archive(name)
    };
    let names: Vec<_> = files
        .iter()
        .map(|file| file.name.to_string_lossy())
        .collect();
    let has_archive = names.iter().any(|name| is_of_repository(name));
    let has_info = has(crate::repository::backup_info::FILE);
    if !(has(MANIFEST) || has_info || has("PG_VERSION") || has_archive) {
        return Ok(None);
    }
    let stored = files.iter().map(|file| file.size).sum();
    let is_directory = has("PG_VERSION");
    if is_directory && !has("backup_label") {
        // A server has started on it, and it is no backup any more.
        return Ok(None);
    }
    let is_own = has_info || names.iter().all(|name| is_of_repository(name));
    let facts = match has_info {
        true => BackupInfo::read(&folder).map(|info| info.map(Facts::from)),
        false if has(MANIFEST) => {
            let manifest = files.iter().find(|file| file.name == MANIFEST);
            // It is written last.
            let time = manifest.and_then(|file| file.modified);
            describe(&folder, is_directory, time).map(Some)
        }
        false => Ok(None),
    };
    let (state, facts) = match facts {
        Ok(facts) if has(MANIFEST) => (State::Complete, facts),
        Ok(facts) => (State::Unfinished, facts),
        Err(error) => (State::Unreadable(format!("{error:#}")), None),
    };
    Ok(Some(Entry {
        name,
        folder,
        state,
        facts,
        stored,
        modified: files.iter().filter_map(|file| file.modified).max(),
        is_directory,
        is_own,
    }))
}

/// Whether a name is that of an archive, of its index or of the mark of an upload.
fn is_archive(name: &str) -> bool {
    let name = name.strip_suffix(".upload").unwrap_or(name);
    let name = name.strip_suffix(SUFFIX).unwrap_or(name);
    let name = name.strip_suffix(index::SUFFIX).unwrap_or(name);
    let suffixes = [".tar", ".tar.gz", ".tgz", ".tar.lz4", ".tar.zst"];
    let stem = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix));
    let Some(stem) = stem else {
        return false;
    };
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let mut parts = stem.split('.');
    let first = parts.next().unwrap_or_default();
    (["base", "pg_wal"].contains(&first) || is_number(first)) && parts.all(is_number)
}

/// Describes a backup by its manifest, and a directory by its label too.
fn describe(
    folder: &Folder,
    is_directory: bool,
    stop_time: Option<DateTime<Utc>>,
) -> Result<Facts> {
    let found = folder.find(MANIFEST);
    let cannot_read = || format!("could not read \"{folder}/{MANIFEST}\"");
    let found = found.with_context(cannot_read)?;
    let (mut source, _) = found.context("the manifest has gone")?;
    check_size(&mut *source, manifest::LARGEST).with_context(cannot_read)?;
    let (mut bytes, mut is_incremental) = (0_u64, false);
    let manifest = Manifest::read(source, |entry| {
        bytes = bytes.saturating_add(entry.size);
        is_incremental |= incremental::relation_path(&entry.path).is_some();
    })?;
    let starts = manifest.wal_ranges.iter().map(|range| range.start);
    let mut facts = Facts {
        kind: match is_incremental {
            true => Kind::Incremental,
            false => Kind::Full,
        },
        system_identifier: manifest.system_identifier.map(|number| number.to_string()),
        start_lsn: starts.min().map(|lsn| lsn.to_string()),
        parent_start_lsn: None,
        parent: None,
        start_time: None,
        stop_time,
        bytes,
        stored_bytes: None,
        info: None,
    };
    if is_directory && let Some(label) = folder.read("backup_label", LARGEST_LABEL)? {
        let parsed = BackupLabel::parse(&label)
            .map_err(|error| anyhow::anyhow!("\"{folder}/backup_label\": {error}"))?;
        if let Some(from) = parsed.incremental_from {
            facts.kind = Kind::Incremental;
            facts.parent_start_lsn = Some(from.lsn.to_string());
        }
    }
    Ok(facts)
}

impl From<BackupInfo> for Facts {
    fn from(info: BackupInfo) -> Self {
        Self {
            kind: info.kind,
            system_identifier: Some(info.system_identifier.clone()),
            start_lsn: Some(info.start_lsn.clone()),
            parent_start_lsn: info.parent_start_lsn.clone(),
            parent: info.parent.clone(),
            start_time: Some(info.start_time),
            stop_time: info.stop_time,
            bytes: info.bytes,
            stored_bytes: Some(info.stored_bytes),
            info: Some(info),
        }
    }
}

impl Facts {
    /// Whether an incremental backup can have been made from another backup.
    fn is_made_from(&self, other: &Self) -> bool {
        let is_same = match (&self.system_identifier, &other.system_identifier) {
            (Some(own), Some(other)) => own == other,
            _ => true,
        };
        self.kind == Kind::Incremental
            && is_same
            && self.parent_start_lsn.is_some()
            && self.parent_start_lsn == other.start_lsn
    }
}

/// The backup that an incremental backup was made from, among complete ones; [`None`] where there is none.
pub fn parent_of<'a>(entries: &'a [Entry], entry: &Entry) -> Option<&'a Entry> {
    let facts = entry.facts.as_ref()?;
    let is_parent = |other: &&Entry| {
        other.name != entry.name
            && other.state == State::Complete
            && (other.facts.as_ref()).is_some_and(|other| facts.is_made_from(other))
    };
    // Of two that start at the same place, it is the one of that name.
    let named = entries
        .iter()
        .filter(is_parent)
        .find(|other| Some(&other.name) == facts.parent.as_ref());
    named.or_else(|| entries.iter().find(is_parent))
}

/// The backups that one needs, the full one first and itself last.
///
/// # Errors
/// Where there is no complete backup of that name, or one before it is missing.
pub fn chain<'a>(entries: &'a [Entry], name: &str) -> Result<Vec<&'a Entry>> {
    let entry = entries.iter().find(|entry| entry.name == name);
    let mut entry = entry.with_context(|| format!("there is no backup \"{name}\""))?;
    let mut chain = Vec::new();
    loop {
        match &entry.state {
            State::Complete => {}
            State::Unfinished => bail!("backup \"{}\" is not complete", entry.name),
            State::Unreadable(reason) => bail!("backup \"{}\": {reason}", entry.name),
        }
        chain.push(entry);
        let facts = entry.facts.as_ref();
        if facts.is_none_or(|facts| facts.kind == Kind::Full) {
            chain.reverse();
            return Ok(chain);
        }
        if chain.len() > entries.len() {
            bail!("the backups before \"{name}\" go in a circle");
        }
        entry = parent_of(entries, entry).with_context(|| {
            let facts = facts.and_then(|facts| facts.parent_start_lsn.clone());
            format!(
                "the backup that \"{}\" was made from is not in the repository: it started at {}",
                entry.name,
                facts.as_deref().unwrap_or("an unknown place")
            )
        })?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_from_files_of_others() {
        for name in [
            "base.tar",
            "base.0.tar.zst",
            "base.0.1.tar.gz.age",
            "16384.3.tar.index",
            "16384.3.tar.index.age",
            "pg_wal.tar",
            "base.0.tar.upload",
            "base.0.tar.age.upload",
        ] {
            assert!(is_archive(name), "{name}");
        }
        for name in [
            "site.tar.gz",
            "x.target",
            ".tar",
            "base",
            "base.x.tar",
            "a.1.tar",
        ] {
            assert!(!is_archive(name), "{name}");
        }
    }
}
