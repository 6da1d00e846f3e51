//! The tablespaces of a backup: found in pg_tblspc, shared with the workers.

use crate::backup::file_table::FileTable;
use crate::server::backup_control::Tablespace;
use crate::server::file;
use crate::server::report::{Error, Result, Sqlstate};
use crate::server::settings;

/// The tablespaces that the links in pg_tblspc lead to now, by do_pg_backup_start's rules. In-place
/// tablespaces, which are directories, belong to the data directory.
///
/// # Errors
/// Where pg_tblspc cannot be read.
pub fn current() -> Result<Vec<Tablespace>> {
    let mut tablespaces = Vec::new();
    let names = file::read_directory(b"pg_tblspc")?.unwrap_or_default();
    for name in names.iter() {
        let Some(oid) = std::str::from_utf8(name)
            .ok()
            .and_then(|digits| digits.parse().ok())
        else {
            continue;
        };
        if let Some(location) = file::link_target(&directory(oid))? {
            let inside_data_directory = relative_to_data_directory(&location);
            tablespaces.push(Tablespace {
                oid,
                location,
                inside_data_directory,
            });
        }
    }
    tablespaces.sort_by_key(|tablespace| tablespace.oid);
    Ok(tablespaces)
}

/// `pg_tblspc/<oid>`.
#[must_use]
pub fn directory(oid: u32) -> Vec<u8> {
    format!("pg_tblspc/{oid}").into_bytes()
}

/// Makes sure that an oid names a tablespace of a backup; 0 is the data directory.
///
/// # Errors
/// `undefined_object`.
pub fn check_in_backup(oid: u32, table: &FileTable<'_>) -> Result<()> {
    check_one_of(
        oid,
        decode(table.tablespaces())
            .into_iter()
            .map(|(known, _)| known),
    )
}

/// The same for tablespaces that are not part of a backup yet.
///
/// # Errors
/// `undefined_object`.
pub fn check_known(oid: Option<u32>, tablespaces: &[Tablespace]) -> Result<()> {
    oid.map_or(Ok(()), |oid| {
        check_one_of(oid, tablespaces.iter().map(|known| known.oid))
    })
}

fn check_one_of(oid: u32, mut known: impl Iterator<Item = u32>) -> Result<()> {
    if oid == 0 || known.any(|known| known == oid) {
        return Ok(());
    }
    Err(Error::new(
        Sqlstate::ERRCODE_UNDEFINED_OBJECT,
        format!("tablespace with OID {oid} is not part of the backup"),
    )
    .hint("backup_tablespaces() shows those that are. What has no location of its own belongs to the data directory, which is 0."))
}

fn relative_to_data_directory(location: &[u8]) -> Option<Vec<u8>> {
    let rest = location.strip_prefix(settings::data_directory().as_slice())?;
    rest.strip_prefix(b"/")
        .filter(|inside| !inside.is_empty())
        .map(<[u8]>::to_vec)
}

/// Oids and locations as bytes for the shared segment: each oid and length as four bytes, then the
/// location.
#[must_use]
pub fn encode(tablespaces: &[Tablespace]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for tablespace in tablespaces {
        bytes.extend_from_slice(&tablespace.oid.to_ne_bytes());
        bytes.extend_from_slice(&(tablespace.location.len() as u32).to_ne_bytes());
        bytes.extend_from_slice(&tablespace.location);
    }
    bytes
}

/// Reads back what [`encode`] wrote: oids and locations.
#[must_use]
pub fn decode(mut bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut tablespaces = Vec::new();
    while let Some((oid, rest)) = bytes.split_first_chunk()
        && let Some((length, rest)) = rest.split_first_chunk()
        && let Some((location, rest)) = rest.split_at_checked(u32::from_ne_bytes(*length) as usize)
    {
        tablespaces.push((u32::from_ne_bytes(*oid), location.to_vec()));
        bytes = rest;
    }
    tablespaces
}
