//! Databases and tablespaces of a restore that leaves out others.

use std::collections::HashSet;

use anyhow::{Context, Result};

use crate::cli::configuration::RestoreConfig;
use crate::output::filter::Filter;
use crate::repository::backup_info::{BackupInfo, Named};

/// What is restored, by the description of the backup if there is one.
///
/// # Errors
/// Where a database or tablespace is not known.
pub fn filter(config: &RestoreConfig, info: Option<&BackupInfo>) -> Result<Filter> {
    let databases = info.map(|info| info.databases.as_slice());
    let tablespaces = info.map(|info| info.tablespaces.as_slice());
    Ok(Filter::new(
        oids("database", &config.only_databases, databases)?,
        oids("tablespace", &config.only_tablespaces, tablespaces)?,
    ))
}

fn oids(what: &str, wanted: &[String], known: Option<&[Named]>) -> Result<Option<HashSet<u32>>> {
    if wanted.is_empty() {
        return Ok(None);
    }
    let oid = |text: &String| {
        let Some(known) = known else {
            return text.parse().ok().with_context(|| {
                format!(
                    "the backup does not tell which {what} \"{text}\" is\n\
                     HINT:  Give its OID."
                )
            });
        };
        let by_name = known.iter().find(|other| other.name == *text);
        let by_oid = || known.iter().find(|other| other.oid.to_string() == *text);
        let found = by_name.or_else(by_oid);
        found
            .map(|other| other.oid)
            .with_context(|| format!("the backup has no {what} \"{text}\""))
    };
    wanted.iter().map(oid).collect::<Result<_>>().map(Some)
}
