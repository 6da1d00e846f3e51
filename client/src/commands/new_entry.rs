//! Entry of a backup in a repository, as it is when the backup has started.

use anyhow::{Context, Result};
use chrono::Utc;

use crate::cli::backup_name::Kind;
use crate::cli::configuration::{BackupConfig, RepositoryConfig};
use crate::manifest::parser::Manifest;
use crate::output::new_backup::NewBackup;
use crate::repository::backup_info::{BackupInfo, Named};
use crate::server::connection::Session;
use crate::server::extension::{self, Started};
use crate::server::manifest_upload::EarlierManifest;
use crate::server::row::{number, text, value};
use crate::storage::encryption::Recipients;
use crate::storage::folder::Folder;

/// OID below which databases and tablespaces are made by initdb.
const FIRST_NORMAL_OID: u32 = 16384;

/// Where the entry will be, before the backup starts.
#[derive(Clone, Debug)]
pub struct Reserved {
    folder: Folder,
    recipients: Option<Recipients>,
}

/// Checks that the repository can be reached and has no backup of that name.
///
/// # Errors
/// Where it has one, and errors of the store and of the options.
pub fn reserve(config: &RepositoryConfig) -> Result<Reserved> {
    let mut folder = Folder::open(&config.location, &config.access)?.child(&config.name);
    let recipients = Recipients::read(&config.recipients, None)?;
    if let Some(recipients) = &recipients {
        folder.add_key_of(recipients);
    }
    NewBackup::check_free(&folder)?;
    Ok(Reserved { folder, recipients })
}

/// Describes a backup that has started.
///
/// # Errors
/// Errors of the server, and of the manifest of the earlier backup.
pub fn describe(
    config: &BackupConfig,
    (reserved, earlier): (Reserved, Option<&EarlierManifest>),
    session: &Session,
    started: &Started,
) -> Result<NewBackup> {
    let name = config
        .repository
        .as_ref()
        .map(|repository| repository.name.clone());
    let (mut parent, mut parent_start_lsn) = (None, None);
    if let Some(earlier) = earlier {
        let manifest = Manifest::read(earlier.reader()?, |_| ())?;
        let starts = manifest.wal_ranges.iter().map(|range| range.start);
        parent_start_lsn = starts.min().map(|lsn| lsn.to_string());
        parent = earlier.backup_name();
    }
    let system = session.rows("SELECT system_identifier FROM pg_control_system()", &[])?;
    let system = system
        .first()
        .context("the server has no pg_control_system()")?;
    let tablespaces =
        format!("SELECT oid, spcname FROM pg_tablespace WHERE oid >= {FIRST_NORMAL_OID}");
    let (start_lsn, timeline) = started.start()?;
    let info = BackupInfo {
        format: BackupInfo::FORMAT,
        name: name.unwrap_or_default(),
        kind: match config.incremental {
            Some(_) => Kind::Incremental,
            None => Kind::Full,
        },
        parent,
        parent_start_lsn,
        // It is a bigint, whose sign is part of the number.
        system_identifier: number::<i64>(system, 0)?.cast_unsigned().to_string(),
        server_version: session.server_version()?,
        timeline,
        // As those of manifests are written here, which servers write in other ways too.
        start_lsn: start_lsn.to_string(),
        stop_lsn: None,
        start_time: Utc::now(),
        stop_time: None,
        bytes: started.total_bytes,
        stored_bytes: 0,
        files: started.file_count,
        compression: config.compress.compression.to_string(),
        label: config.label.clone(),
        program: format!("pg_parallel_backup {}", env!("CARGO_PKG_VERSION")),
        backup_id: started.backup_id,
        checksums: extension::algorithm(config)
            .name()
            .unwrap_or("NONE")
            .to_owned(),
        databases: named(session, "SELECT oid, datname FROM pg_database")?,
        tablespaces: named(session, &tablespaces)?,
        archives: Vec::new(),
    };
    Ok(NewBackup::new(reserved.folder, reserved.recipients, info))
}

fn named(session: &Session, query: &str) -> Result<Vec<Named>> {
    let rows = session.rows(&format!("{query} ORDER BY oid"), &[])?;
    rows.iter()
        .map(|row| {
            Ok(Named {
                oid: text(row, 0)?.parse().context("an OID is no number")?,
                name: String::from_utf8_lossy(value(row, 1)?).into_owned(),
            })
        })
        .collect()
}
