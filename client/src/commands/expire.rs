//! Removes backups from a repository that nobody needs any more.
//!
//! A full backup and all that was made from it, directly or not, are a family, which is removed as a whole
//! or not at all. The newest full backup of each cluster is never removed. Of a backup the manifest is removed
//! first, and what was made from another backup goes before that one, so that nothing half-removed looks whole.
//!
//! What is not understood is kept. A backup that cannot be read ends the command, because it may need others.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::cli::backup_name::Kind;
use crate::cli::configuration::ExpireConfig;
use crate::console::escape;
use crate::repository::catalog::{self, Entry, MANIFEST, State};
use crate::storage::encryption::SUFFIX;
use crate::storage::folder::Folder;

/// What becomes of a backup.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Verdict {
    name: String,
    /// Whether it is removed.
    remove: bool,
    /// Why it is removed or kept.
    reason: String,
}

/// Removes what is not kept, and prints what and why.
///
/// # Errors
/// Where the repository cannot be read or changed. What was not removed by then is whole.
pub fn run(config: &ExpireConfig) -> Result<()> {
    let repository = Folder::open(&config.repository, &config.access)?;
    let entries = catalog::list(&repository)?;
    for entry in &entries {
        if let State::Unreadable(reason) = &entry.state {
            bail!(
                "backup \"{}\" cannot be read, and may need others: {reason}",
                entry.name
            );
        }
    }
    let verdicts = judge(config, &entries, Utc::now());
    report(config, &verdicts)?;
    if config.dry_run {
        return Ok(());
    }
    // The newest of a family first, the oldest family first.
    for verdict in verdicts.iter().filter(|verdict| verdict.remove) {
        let entry = entries.iter().find(|entry| entry.name == verdict.name);
        if let Some(entry) = entry {
            remove(entry)?;
        }
    }
    Ok(())
}

fn remove(entry: &Entry) -> Result<()> {
    for name in [MANIFEST.to_owned(), format!("{MANIFEST}{SUFFIX}")] {
        entry.folder.remove(&name)?;
    }
    entry.folder.remove_all()
}

/// What becomes of each backup, in the order in which they are removed.
fn judge(config: &ExpireConfig, entries: &[Entry], now: DateTime<Utc>) -> Vec<Verdict> {
    let kept = kept(config, entries, now);
    let mut verdicts = Vec::new();
    for family in families(entries) {
        let reason = family.iter().find_map(|entry| kept.get(&entry.name));
        for entry in family.iter().rev() {
            verdicts.push(Verdict {
                name: entry.name.clone(),
                remove: reason.is_none(),
                reason: match (kept.get(&entry.name), reason) {
                    (Some(own), _) => own.clone(),
                    (None, Some(reason)) => {
                        format!("it belongs to a backup that is kept: {reason}")
                    }
                    (None, None) => "nothing that is kept needs it".to_owned(),
                },
            });
        }
    }
    let judged: HashSet<_> = verdicts
        .iter()
        .map(|verdict| verdict.name.clone())
        .collect();
    let others = entries.iter().filter(|entry| !judged.contains(&entry.name));
    verdicts.extend(others.map(|entry| outsider(config, entry, now)));
    verdicts
}

/// Backups that are kept, with the reasons. Those that they need are not among them.
fn kept(config: &ExpireConfig, entries: &[Entry], now: DateTime<Utc>) -> HashMap<String, String> {
    let mut kept = HashMap::new();
    let mut keep = |entry: &Entry, reason: &str| {
        let first = kept.entry(entry.name.clone());
        first.or_insert_with(|| reason.to_owned());
    };
    let mut counts: HashMap<_, usize> = HashMap::new();
    for entry in entries.iter().rev().filter(|entry| is_full(entry)) {
        // What has no time or no cluster is kept, and does not take the place of another.
        if entry.time().is_some() && cluster(entry).is_some() {
            let count = counts.entry(cluster(entry)).or_default();
            *count += 1;
            match *count {
                1 => keep(entry, "it is the newest full backup of its cluster"),
                count if count <= config.keep.unwrap_or_default() => {
                    let reason = format!("it is full backup {count} from the newest");
                    keep(entry, &reason);
                }
                _ => {}
            }
        }
    }
    let oldest = (config.keep_within)
        .and_then(|time| chrono::Duration::from_std(time).ok())
        .and_then(|time| now.checked_sub_signed(time));
    for entry in entries {
        let facts = entry.facts.as_ref();
        let end = facts.and_then(|facts| facts.stop_time.or(facts.start_time));
        let is_complete = entry.state == State::Complete;
        if is_complete && end.is_none() {
            keep(entry, "its time is not known");
        }
        if is_complete && cluster(entry).is_none() {
            keep(entry, "its cluster is not known");
        }
        if is_complete && end.zip(oldest).is_some_and(|(end, oldest)| end >= oldest) {
            keep(entry, "it is within the time that is kept");
        }
        if is_complete && entry.is_directory && has_tablespaces(entry) {
            keep(entry, "it may have tablespaces outside of its directory");
        }
        if entry.folder.path().is_some_and(Path::is_symlink) {
            keep(entry, "its directory is a symbolic link");
        }
        let is_incremental = facts.is_some_and(|facts| facts.kind == Kind::Incremental);
        if !is_incremental || is_complete && catalog::chain(entries, &entry.name).is_ok() {
            continue;
        }
        match catalog::parent_of(entries, entry) {
            Some(parent) => keep(parent, "an unfinished backup is made from it"),
            // Nobody can tell which of those before it is needed.
            None => entries
                .iter()
                .filter(|other| other.name != entry.name && cluster(other) == cluster(entry))
                .for_each(|other| {
                    let reason = format!("\"{}\" may have been made from it", entry.name);
                    keep(other, &reason);
                }),
        }
    }
    kept
}

/// The cluster that a backup is of, as far as that is known.
fn cluster(entry: &Entry) -> Option<&str> {
    entry.facts.as_ref()?.system_identifier.as_deref()
}

/// Whether a data directory may have links to other places.
fn has_tablespaces(entry: &Entry) -> bool {
    let folder = entry.folder.child("pg_tblspc");
    let files = folder.files().map_or(1, |files| files.len());
    let folders = folder.folders().map_or(1, |folders| folders.len());
    files + folders > 0
}

fn is_full(entry: &Entry) -> bool {
    entry.state == State::Complete
        && (entry.facts.as_ref()).is_some_and(|facts| facts.kind == Kind::Full)
}

/// Each complete full backup with what was made from it, the oldest first.
fn families(entries: &[Entry]) -> Vec<Vec<&Entry>> {
    let mut families: BTreeMap<usize, Vec<(usize, &Entry)>> = BTreeMap::new();
    for entry in entries {
        let Ok(chain) = catalog::chain(entries, &entry.name) else {
            continue;
        };
        let root = chain
            .first()
            .and_then(|root| entries.iter().position(|entry| entry.name == root.name));
        if let Some(root) = root.filter(|_| chain.first().is_some_and(|root| is_full(root))) {
            families.entry(root).or_default().push((chain.len(), entry));
        }
    }
    let families = families.into_values().map(|mut family| {
        family.sort_by_key(|(depth, _)| *depth);
        family.into_iter().map(|(_, entry)| entry).collect()
    });
    families.collect()
}

/// What becomes of a backup that belongs to no family.
fn outsider(config: &ExpireConfig, entry: &Entry, now: DateTime<Utc>) -> Verdict {
    let is_link = entry.folder.path().is_some_and(Path::is_symlink);
    let limit = chrono::Duration::from_std(config.unfinished).unwrap_or(chrono::Duration::MAX);
    let is_abandoned = entry
        .modified
        .is_some_and(|modified| !is_link && now - modified >= limit);
    let (remove, reason) = match &entry.state {
        State::Unreadable(reason) => (false, format!("it cannot be read: {reason}")),
        State::Unfinished if entry.is_directory || !entry.is_own => (
            false,
            "it is not known as a backup to a repository".to_owned(),
        ),
        State::Unfinished if is_abandoned => (
            true,
            "it is not complete, and nothing was added for long".to_owned(),
        ),
        State::Unfinished => (
            false,
            "it is not complete, and may be being taken".to_owned(),
        ),
        State::Complete => (
            false,
            "the backup that it was made from is not in the repository".to_owned(),
        ),
    };
    Verdict {
        name: entry.name.clone(),
        remove,
        reason,
    }
}

fn report(config: &ExpireConfig, verdicts: &[Verdict]) -> Result<()> {
    let mut text = String::new();
    if config.json {
        text = format!("{}\n", serde_json::to_string_pretty(verdicts)?);
    } else {
        for verdict in verdicts {
            let what = match (verdict.remove, config.dry_run) {
                (true, true) => "would remove",
                (true, false) => "removing",
                (false, _) => "keeping",
            };
            let name = escape::name(verdict.name.as_bytes());
            let reason = escape::message(verdict.reason.as_bytes());
            text.push_str(&format!("{what} \"{name}\": {reason}\n"));
        }
    }
    std::io::stdout()
        .write_all(text.as_bytes())
        .context("could not write to standard output")
}
