//! Relations that become unlogged while the backup runs.
//!
//! An unlogged relation is known by its init fork, and a backup holds no other fork of it. Recovery
//! relies on that (storage/file/reinit.c): when it begins it removes all other forks of relations that
//! have an init fork, and at its end it copies each init fork to the main fork, which must not exist. A
//! main fork that is there without its init fork at the beginning, while replay makes the init fork,
//! ends recovery with `could not create file …: File exists`.
//!
//! The init fork appears after the main fork. Between the two there is nothing when a table is made; when
//! an index is made or rebuilt, or a relation moves to another tablespace, there is all of its content
//! (`index_build()`, `index_copy_data()`, `heapam_relation_copy_data()`). A relation never gets an init
//! fork later than that, since ALTER TABLE ... SET UNLOGGED makes new files. The init fork is in the WAL
//! (`log_smgrcreate()` and an image of each of its pages), and exists before its record does. So:
//!
//! - An init fork whose record is older than the start of the backup is there when its directory is read:
//!   the walk lists it and leaves out the rest.
//! - What appears later is made by replay. A worker that meets a fork whose relation has an init fork by
//!   then leaves it out, as core does ([`has_become_unlogged`]).
//! - A fork that was sent before is in the backup. So the backup has to hold an init fork as well
//!   ([`missing_init_forks`]), by which recovery removes what was sent. Core has nothing of the kind. It
//!   can be empty, because replay fills it, and so it does not matter whether the file is gone by then.
//!   Those whose records lie before the end of the backup exist when the server has stopped it: they are
//!   looked for afterwards, and before as well, since the stop may wait long for the archive and their
//!   relations may be dropped meanwhile.
//! - One that appears even later is not found. A server that recovers just to the end of the backup never
//!   hears of it. One that goes on, a standby for example, is where core's backups are too: the recovery
//!   that has replayed it does not end, and the next one, which finds the init fork, does.
//!
//! A standby has no main forks of unlogged relations, and so none of this.

use std::collections::{BTreeSet, HashSet};

use backup_format::exclusion;
use backup_format::incremental;
use backup_format::path::file_name;
use backup_format::relation_file::{self, Fork, RelationFile};

use crate::backup::file_table::{FileTable, Kind};
use crate::server::encoding;
use crate::server::file;
use crate::server::interrupt;
use crate::server::report::{Error, Result, Sqlstate};

use super::leader::Leader;

/// The paths that an error names.
const EXAMPLES: usize = 5;

/// Whether a file of the listing belongs to a relation that has got an init fork since.
///
/// # Errors
/// The operating system's.
pub fn has_become_unlogged(path: &[u8]) -> Result<bool> {
    match init_fork_of(path) {
        Some(init_fork) => Ok(file::metadata_if_exists(&init_fork)?.is_some()),
        None => Ok(false),
    }
}

/// The init forks that are not in the listing, of relations of which other forks have been sent: their
/// paths. The gate is closed.
///
/// Where streams had members relative to a tablespace, nobody knows what its location is where the last
/// files go. Then tablespaces stay as they are in core's backups.
///
/// # Errors
/// Where a directory cannot be read.
pub fn missing_init_forks(leader: &Leader) -> Result<Vec<Vec<u8>>> {
    let Some(files) = leader.files() else {
        return Ok(Vec::new());
    };
    let table = files.table();
    let new = new_init_forks(&table)?;
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let missing: BTreeSet<_> = table
        .sent_files()
        .filter_map(|slot| init_fork_of(&table.path_on_server(slot)))
        .filter(|init_fork| new.contains(init_fork))
        .collect();
    Ok(missing.into_iter().collect())
}

/// Makes sure that [`missing_init_forks`] has found none, for a stop that cannot hand them over.
///
/// # Errors
/// `object_not_in_prerequisite_state`.
pub fn check_none_is_missing(missing: &[Vec<u8>]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing
        .iter()
        .take(EXAMPLES)
        .map(|path| format!("\"{}\"", encoding::display(path)))
        .collect();
    let more = if missing.len() > names.len() {
        ", ..."
    } else {
        ""
    };
    Err(Error::new(
        Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "relations have become unlogged since their files were sent",
    )
    .detail(format!(
        "Their init forks are not in the backup: {}{more}.",
        names.join(", ")
    ))
    .hint("Use send_stop_backup(), which sends them. The backup goes on."))
}

/// The init forks of all databases of the listing that are not in it.
fn new_init_forks(table: &FileTable<'_>) -> Result<HashSet<Vec<u8>>> {
    let without_tablespaces = table.has_relative_streams();
    let databases = table.slots().iter().filter(|slot| {
        slot.kind() == Kind::Directory
            && exclusion::is_database_directory(table.path(slot))
            && !(without_tablespaces && slot.tablespace != 0)
    });
    let mut new = HashSet::new();
    for slot in databases {
        interrupt::check();
        let directory = table.path(slot);
        let names = file::read_directory(directory)?.unwrap_or_default();
        for name in names.iter() {
            let is_init_fork =
                RelationFile::parse(name).is_some_and(|file| file.fork == Fork::Init);
            if !is_init_fork {
                continue;
            }
            let path = [directory, b"/", name].concat();
            let is_listed = table.find(&path).is_some()
                || table.find(&incremental::incremental_path(&path)).is_some();
            if !is_listed {
                new.insert(path);
            }
        }
    }
    Ok(new)
}

/// The path of the init fork by which recovery would remove a file; `None` for an init fork, and for what
/// cannot be unlogged.
fn init_fork_of(path: &[u8]) -> Option<Vec<u8>> {
    let directory = &path[..path.len() - file_name(path).len()];
    let file = relation_file::relation_at(path)
        .filter(|file| file.fork != Fork::Init)
        .filter(|_| directory != b"global/")?;
    Some([directory, format!("{}_init", file.relfilenode).as_bytes()].concat())
}
