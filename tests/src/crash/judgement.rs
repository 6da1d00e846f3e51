//! Judgement of what power cuts leave of a backup.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};

use crate::crash::cut::Cut;
use crate::crash::disk::{Disk, Tree};
use crate::crash::trace::Event;
use crate::scratch::Folder;

/// Cuts at each call that leave some of what was not synchronized, by lot.
const LOTS: u32 = 6;
/// End of the names of what is unfinished.
const UNFINISHED: &str = ".unfinished";
/// Mark in a directory that is being written to.
const CLAIM: &str = "pg_parallel_backup.unfinished";

/// A backup that is written or removed.
pub struct Case<'a> {
    /// Its directory, relative to that of the recording.
    pub backup: PathBuf,
    /// What else belongs to it: its tablespaces and its WAL.
    pub others: Vec<PathBuf>,
    /// File that it has only when it is finished, relative to its directory.
    pub key: &'a str,
    /// Whether a directory has all of a backup, as programs say that verify it.
    pub is_whole: &'a dyn Fn(&Path) -> bool,
    /// Whether it is there in the end.
    pub stays: bool,
}

/// What was judged.
#[derive(Clone, Copy, Debug, Default)]
pub struct Judged {
    /// Calls after which the power was cut.
    pub calls: usize,
    /// Calls that synchronize.
    pub syncs: usize,
    /// Different states of the disk that look like a backup.
    pub states: usize,
    /// Those of them that are whole.
    pub whole: usize,
}

/// Cuts the power after each call of a program. What is left is whole, or nobody takes it for a backup; and
/// when the program has ended, a backup that stays is whole whatever was lost.
#[track_caller]
pub fn judge(mut disk: Disk, events: &[Event], case: &Case<'_>) -> Judged {
    let key = case.backup.join(case.key);
    let manifest = case.backup.join("backup_manifest");
    let cuts = Cut::all(LOTS);
    let mut judged = Judged::default();
    let mut known = HashSet::new();
    for event in events {
        if !disk.apply(event) {
            continue;
        }
        judged.calls += 1;
        judged.syncs += usize::from(matches!(event, Event::Sync(_) | Event::SyncAll));
        for cut in &cuts {
            if !disk.leaves(*cut, &key) && !disk.leaves(*cut, &manifest) {
                continue;
            }
            let tree = case.part_of(disk.after(*cut));
            if known.insert(hash(&tree)) {
                judged.states += 1;
                let outcome = outcome(&disk, &tree, case);
                let place = || format!("call {}, {cut:?}, {}", judged.calls, short(event));
                judged.whole += usize::from(outcome.unwrap_or_else(|said| {
                    panic!(
                        "{} looks like a backup: {said}\n{}",
                        case.backup.display(),
                        place()
                    )
                }));
            }
        }
    }
    for cut in &cuts {
        let tree = case.part_of(disk.after(*cut));
        if !case.stays {
            assert!(!tree.contains_key(&key), "{cut:?} leaves {key:?}");
            continue;
        }
        let outcome = outcome(&disk, &tree, case);
        assert_eq!(outcome, Ok(true), "{cut:?} after the end");
        assert_eq!(marks(&tree), Vec::<PathBuf>::new(), "{cut:?}");
    }
    judged
}

impl Case<'_> {
    /// The backup alone, and the directories above it.
    fn part_of(&self, mut tree: Tree) -> Tree {
        let parts: Vec<_> = self.others.iter().chain([&self.backup]).collect();
        let is_part = |path: &Path| {
            let mut parts = parts.iter();
            parts.any(|part| path.starts_with(part) || part.starts_with(path))
        };
        tree.retain(|path, _| is_part(path));
        tree
    }
}

/// Whether a state is whole; an error for one that only looks so.
fn outcome(disk: &Disk, tree: &Tree, case: &Case<'_>) -> Result<bool, String> {
    let folder = Folder::new("cut");
    disk.make_in(&folder, tree);
    let backup = folder.join(&case.backup);
    if (case.is_whole)(&backup) {
        return Ok(true);
    }
    if !tree.contains_key(&case.backup.join(case.key)) {
        return Ok(false);
    }
    // Last names are given one after the other, and may be lost in any order: everything else is there.
    let marks = marks(tree);
    for mark in &marks {
        let mark = folder.join(mark);
        if mark.file_name() == Some(OsStr::new(CLAIM)) {
            fs::remove_file(&mark).map_err(|error| error.to_string())?;
        } else {
            fs::rename(&mark, mark.with_extension("")).map_err(|error| error.to_string())?;
        }
    }
    match !marks.is_empty() && (case.is_whole)(&backup) {
        true => Ok(false),
        false => Err(format!(
            "it has {}, and is not whole. Its marks: {marks:?}",
            case.key
        )),
    }
}

/// Files that say that they, or their directories, are unfinished.
fn marks(tree: &Tree) -> Vec<PathBuf> {
    let is_mark = |path: &&PathBuf| path.to_string_lossy().ends_with(UNFINISHED);
    tree.keys().filter(is_mark).cloned().collect()
}

fn hash(tree: &Tree) -> u64 {
    let mut hasher = DefaultHasher::new();
    tree.hash(&mut hasher);
    hasher.finish()
}

fn short(event: &Event) -> String {
    match event {
        Event::Write(fd, offset, bytes) => {
            format!("Write({fd}, {offset:?}, {} bytes)", bytes.len())
        }
        event => format!("{event:?}"),
    }
}
