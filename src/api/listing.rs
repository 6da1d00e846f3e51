//! backup_filelist() and backup_tablespaces(): the contents of a backup, or of one taken now.

use pgrx::name;
use pgrx::pg_sys::Oid;
use pgrx::prelude::*;

use crate::backup::file_table::Kind;
use crate::backup::{leader, lookup, tablespace, walk};
use crate::server::allocation::{self, ByteStrings};
use crate::server::backup_control::Tablespace;
use crate::server::clock;
use crate::server::encoding;
use crate::server::report::{Result, or_raise};

type FileRow = (Vec<u8>, i8, i64, i64);

#[pg_extern(sql = false)]
fn backup_filelist(
    backup_id: Option<i64>,
    tablespace: Option<Oid>,
) -> TableIterator<
    'static,
    (
        name!(path, Vec<u8>),
        name!(kind, i8),
        name!(size, i64),
        name!(mtime, i64),
    ),
> {
    let rows = file_rows(backup_id, tablespace.map(Oid::to_u32));
    TableIterator::new(or_raise(rows).into_rows())
}

fn file_rows(backup_id: Option<i64>, tablespace: Option<u32>) -> Result<FileRows> {
    let wanted = |oid| tablespace.is_none_or(|wanted| wanted == oid);
    if lists_present(backup_id) {
        let tablespaces = tablespace::current()?;
        tablespace::check_known(tablespace, &tablespaces)?;
        let listing = walk::list(&tablespaces, false, false, None)?;
        let order = listing.paths().sorted()?;
        let listed = order.iter().map(|index| *index as usize);
        let listed = listed.map(|index| (listing.paths().get(index), &listing.entries()[index]));
        return FileRows::of(
            listed
                .filter(|(_, entry)| wanted(entry.tablespace))
                .map(|(path, entry)| (path, entry.kind, entry.size, entry.mtime)),
        );
    }
    let found = lookup::find(backup_id)?;
    let table = found.files.table();
    if let Some(oid) = tablespace {
        tablespace::check_in_backup(oid, &table)?;
    }
    let slots = table.by_path().filter(|slot| wanted(slot.tablespace));
    FileRows::of(slots.map(|slot| (table.path(slot), slot.kind(), slot.size, slot.mtime)))
}

/// Rows copied before the first is returned, because the mapping of a backup's segment may end before
/// the last is.
struct FileRows {
    names: ByteStrings,
    /// Type, size and time.
    values: Vec<(i8, i64, i64)>,
}

impl FileRows {
    fn of<'a>(files: impl Iterator<Item = (&'a [u8], Kind, u64, i64)>) -> Result<Self> {
        let (mut names, mut values) = (ByteStrings::default(), Vec::new());
        for (path, kind, size, mtime) in files {
            names.push(&[&encoding::listed_name(path)])?;
            let kind = (kind as u8).cast_signed();
            let value = (kind, size.cast_signed(), clock::timestamp(mtime));
            allocation::push(&mut values, value)?;
        }
        Ok(Self { names, values })
    }

    fn into_rows(self) -> impl Iterator<Item = FileRow> {
        (0..self.names.len()).map(move |index| {
            let (kind, size, mtime) = self.values[index];
            (self.names.get(index).to_vec(), kind, size, mtime)
        })
    }
}

type TablespaceRow = (Option<Oid>, Option<Vec<u8>>, i64);

#[pg_extern(sql = false)]
fn backup_tablespaces(
    backup_id: Option<i64>,
) -> TableIterator<
    'static,
    (
        name!(spcoid, Option<Oid>),
        name!(spclocation, Option<Vec<u8>>),
        name!(size, i64),
    ),
> {
    TableIterator::new(or_raise(tablespace_rows(backup_id)))
}

fn tablespace_rows(backup_id: Option<i64>) -> Result<Vec<TablespaceRow>> {
    if lists_present(backup_id) {
        let tablespaces = tablespace::current()?;
        let listing = walk::list(&tablespaces, false, false, None)?;
        let entries = listing.entries().iter();
        let sizes = entries.map(|entry| (entry.tablespace, entry.size));
        let tablespaces = tablespaces
            .into_iter()
            .map(|Tablespace { oid, location, .. }| (oid, location));
        return Ok(sum_sizes(tablespaces.collect(), sizes));
    }
    let found = lookup::find(backup_id)?;
    let table = found.files.table();
    let sizes = table
        .slots()
        .iter()
        .map(|slot| (slot.tablespace, slot.size));
    Ok(sum_sizes(tablespace::decode(table.tablespaces()), sizes))
}

/// A row for each tablespace, and one for the data directory at the end.
fn sum_sizes(
    tablespaces: Vec<(u32, Vec<u8>)>,
    sizes: impl Iterator<Item = (u32, u64)>,
) -> Vec<TablespaceRow> {
    let mut sums = std::collections::HashMap::new();
    for (oid, size) in sizes {
        *sums.entry(oid).or_insert(0) += size;
    }
    let sum_of = |oid: u32| -> i64 { sums.get(&oid).copied().unwrap_or(0_u64).cast_signed() };
    let rows = tablespaces.into_iter().map(|(oid, location)| {
        let location = encoding::sql_text(&location).into_owned();
        (Some(Oid::from(oid)), Some(location), sum_of(oid))
    });
    rows.chain([(None, None, sum_of(0))]).collect()
}

/// Whether to list a backup taken now: no backup is given, and this session leads none.
fn lists_present(backup_id: Option<i64>) -> bool {
    backup_id.is_none() && leader::with_leader(|_| ()).is_none()
}
