//! What is restored of a backup, if not all of it.

use std::collections::HashSet;

use crate::manifest::backup_path::parse_oid;

/// OID below which databases are made by initdb. A server needs them.
const FIRST_NORMAL_OID: u32 = 16384;

/// Databases and tablespaces that are restored.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// OIDs of databases; `None` for all.
    databases: Option<HashSet<u32>>,
    /// OIDs of tablespaces outside the data directory; `None` for all.
    tablespaces: Option<HashSet<u32>>,
}

impl Filter {
    /// Lets everything pass.
    pub const ALL: Self = Self {
        databases: None,
        tablespaces: None,
    };

    /// Lets pass what belongs to these databases and tablespaces, and what belongs to none.
    pub fn new(databases: Option<HashSet<u32>>, tablespaces: Option<HashSet<u32>>) -> Self {
        Self {
            databases,
            tablespaces,
        }
    }

    /// Whether everything passes.
    pub fn is_all(&self) -> bool {
        self.databases.is_none() && self.tablespaces.is_none()
    }

    /// Whether a tablespace passes.
    pub fn passes_tablespace(&self, oid: u32) -> bool {
        self.tablespaces
            .as_ref()
            .is_none_or(|wanted| wanted.contains(&oid))
    }

    /// Whether a file or directory passes.
    pub fn passes(&self, path: &[u8]) -> bool {
        let mut parts = path.split(|&byte| byte == b'/');
        let (first, second) = (parts.next(), parts.next());
        let database = match (first, second.and_then(parse_oid)) {
            (Some(b"base"), database) => database,
            (Some(b"pg_tblspc"), Some(tablespace)) => {
                if !self.passes_tablespace(tablespace) {
                    return false;
                }
                // Behind the directory of the version.
                parts.nth(1).and_then(parse_oid)
            }
            _ => None,
        };
        let is_wanted = |database: u32| {
            database < FIRST_NORMAL_OID
                || (self.databases.as_ref()).is_none_or(|wanted| wanted.contains(&database))
        };
        database.is_none_or(is_wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_other_databases_and_tablespaces_does_not_pass() {
        let filter = Filter::new(Some(HashSet::from([16400])), Some(HashSet::from([16500])));
        for path in [
            "PG_VERSION",
            "global/1260",
            "base",
            "base/1/1259",
            "base/5/1259",
            "base/16400",
            "base/16400/16401.1",
            "pg_tblspc",
            "pg_tblspc/16500",
            "pg_tblspc/16500/PG_15_202209061",
            "pg_tblspc/16500/PG_15_202209061/16400/16402",
            "pg_wal/000000010000000000000001",
        ] {
            assert!(filter.passes(path.as_bytes()), "{path}");
            assert!(Filter::ALL.passes(path.as_bytes()), "{path}");
        }
        for path in [
            "base/16401",
            "base/16401/1259",
            "pg_tblspc/16501",
            "pg_tblspc/16501/PG_15_202209061/16400/16402",
            "pg_tblspc/16500/PG_15_202209061/16401/16402",
        ] {
            assert!(!filter.passes(path.as_bytes()), "{path}");
            assert!(Filter::ALL.passes(path.as_bytes()), "{path}");
        }
    }
}
