//! The walk over the data directory and the tablespaces: which files a base backup holds.
//!
//! Follows sendDir() and sendTablespace() in backup/basebackup.c. What is left out is decided by
//! `backup_format::exclusion` and here, where the surroundings count.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::unix::fs::MetadataExt;

use backup_format::exclusion;
use backup_format::path;
use backup_format::relation_file::{self, Fork, RelationFile};

use super::tablespace;
use crate::server::backup_control::Tablespace;
use crate::server::control_file;
use crate::server::encoding;
use crate::server::file::{self, Directory, FileType, Status};
use crate::server::interrupt;
use crate::server::report::{Result, Sqlstate, warning};
use crate::server::settings;
use crate::server::shared_files::{Entry, Kind};

/// Lists the files, directories and, where `with_links` is set, links of pg_tblspc that a backup
/// holds, in no particular order. pg_control is not among them: it is sent when the backup stops.
///
/// # Errors
/// Where a directory cannot be read. What vanishes meanwhile is no error.
pub fn list(tablespaces: &[Tablespace], with_links: bool) -> Result<Vec<Entry>> {
    let mut walk = Walk {
        inside_data_directory: tablespaces
            .iter()
            .filter_map(|tablespace| tablespace.inside_data_directory.clone())
            .collect(),
        entries: Vec::new(),
        tablespace: 0,
    };
    walk.directory(b"")?;
    for tablespace in tablespaces {
        walk.tablespace = tablespace.oid;
        walk.tablespace(with_links)?;
    }
    Ok(walk.entries)
}

struct Walk {
    /// Tablespaces that lie in the data directory, relative to it: sent as tablespaces, not twice.
    inside_data_directory: HashSet<Vec<u8>>,
    entries: Vec<Entry>,
    /// The tablespace that is being walked; 0 for the data directory.
    tablespace: u32,
}

impl Walk {
    /// Only the directory of this major version and catalog belongs to this cluster.
    fn tablespace(&mut self, with_link: bool) -> Result<()> {
        let link = tablespace::directory(self.tablespace);
        if with_link && let Some(metadata) = file::metadata_if_exists(&link)? {
            self.entries.push(Entry {
                path: link.clone(),
                kind: Kind::Link,
                size: 0,
                mtime: metadata.mtime(),
                // A link is part of the data directory.
                tablespace: 0,
            });
        }
        let version = join(&link, settings::tablespace_version_directory().as_bytes());
        if let Some(metadata) = file::metadata_if_exists(&version)?
            && metadata.is_dir()
        {
            self.push(version.clone(), Kind::Directory, 0, metadata.mtime());
            self.directory(&version)?;
        }
        Ok(())
    }

    /// Lists what is in a directory. The data directory itself is the empty path.
    fn directory(&mut self, path: &[u8]) -> Result<()> {
        let name: &[u8] = if path.is_empty() { b"." } else { path };
        let Some(directory) = Directory::open(name)? else {
            return Ok(());
        };
        let mut names = directory.names();
        // Then the listing is almost in the order of paths.
        names.sort_unstable();
        let is_database = exclusion::is_database_directory(path);
        let unlogged = if is_database {
            unlogged_relations(&names)
        } else {
            HashSet::new()
        };
        let mut below = Vec::new();
        for (number, name) in names.iter().enumerate() {
            if number.is_multiple_of(1024) {
                interrupt::check();
            }
            let bytes = name.to_bytes();
            if exclusion::is_excluded_file(bytes)
                || (is_database && is_excluded_relation(bytes, &unlogged))
            {
                continue;
            }
            let path = join(path, bytes);
            if path == control_file::PATH {
                continue;
            }
            if let Some(status) = directory.status(name)? {
                below.extend(self.visit(path, bytes, status));
            }
        }
        // Deep trees need no more open directories than shallow ones.
        drop(directory);
        below.iter().try_for_each(|path| self.directory(path))
    }

    /// Lists one entry. Returns the path of a directory that is to be walked.
    fn visit(&mut self, path: Vec<u8>, name: &[u8], status: Status) -> Option<Vec<u8>> {
        let Status {
            file_type,
            size,
            mtime,
        } = status;
        let may_be_emptied = matches!(file_type, FileType::Directory | FileType::Link);
        if path == b"pg_wal" && may_be_emptied {
            // The WAL that is needed comes when the backup stops, or from elsewhere.
            for name in settings::emptied_wal_directories() {
                self.push(join(&path, name), Kind::Directory, 0, mtime);
            }
            self.push(path, Kind::Directory, 0, mtime);
            return None;
        }
        if exclusion::is_emptied_directory(name) && may_be_emptied {
            self.push(path, Kind::Directory, 0, mtime);
            return None;
        }
        match file_type {
            FileType::Regular => self.push(path, Kind::File, size, mtime),
            FileType::Directory => {
                self.push(path.clone(), Kind::Directory, 0, mtime);
                return (!self.inside_data_directory.contains(&path)).then_some(path);
            }
            // The tablespace behind it has a walk of its own.
            FileType::Link if path::is_tablespace_link(&path) => {}
            FileType::Link | FileType::Special => {
                let path = encoding::display(&path);
                warning(
                    Sqlstate::ERRCODE_WARNING,
                    format!("skipping special file \"{path}\""),
                );
            }
        }
        None
    }

    fn push(&mut self, path: Vec<u8>, kind: Kind, size: u64, mtime: i64) {
        self.entries.push(Entry {
            path,
            kind,
            size,
            mtime,
            tablespace: self.tablespace,
        });
    }
}

/// The relfilenodes of a database directory that have an init fork.
fn unlogged_relations(names: &[CString]) -> HashSet<u32> {
    names
        .iter()
        .filter_map(|name| RelationFile::parse(name.to_bytes()))
        .filter(|file| file.fork == Fork::Init)
        .map(|file| file.relfilenode)
        .collect()
}

/// Temporary relations, and every fork but the init fork of unlogged ones.
fn is_excluded_relation(name: &[u8], unlogged: &HashSet<u32>) -> bool {
    relation_file::is_temporary_relation(name)
        || RelationFile::parse(name)
            .is_some_and(|file| file.fork != Fork::Init && unlogged.contains(&file.relfilenode))
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        return name.to_vec();
    }
    let mut path = Vec::with_capacity(directory.len() + 1 + name.len());
    path.extend_from_slice(directory);
    path.push(b'/');
    path.extend_from_slice(name);
    path
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use std::collections::HashSet;

    use pgrx::{Spi, pg_test};

    use super::{Kind, list};

    #[pg_test]
    fn the_listing_has_every_relation_and_no_unlogged_data() {
        let made = "CREATE UNLOGGED TABLE unlogged (a int);
                    CREATE TEMPORARY TABLE temporary AS SELECT 1 AS a";
        assert_eq!(Spi::run(made), Ok(()));
        let Ok(entries) = list(&[], true) else {
            panic!("the walk failed")
        };
        let files: HashSet<String> = entries
            .iter()
            .filter(|entry| entry.kind == Kind::File)
            .map(|entry| String::from_utf8_lossy(&entry.path).into_owned())
            .collect();
        let path_of = |relation: &str| {
            let query = format!("SELECT pg_relation_filepath('{relation}')");
            Spi::get_one::<String>(&query)
                .ok()
                .flatten()
                .unwrap_or_default()
        };
        for relation in ["pg_class", "pg_class_oid_index", "pg_database"] {
            assert!(files.contains(&path_of(relation)), "{relation}");
        }
        let unlogged = path_of("unlogged");
        assert!(files.contains(&format!("{unlogged}_init")));
        assert!(!files.contains(&unlogged));
        assert!(!files.contains(&path_of("temporary")));
        for excluded in ["global/pg_control", "postmaster.pid"] {
            assert!(!files.contains(excluded), "{excluded}");
        }
        assert!(!files.iter().any(|path| path.starts_with("pg_wal/")));
    }
}
