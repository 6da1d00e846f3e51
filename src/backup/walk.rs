//! Walk over data directory and tablespaces: the files of a base backup.
//!
//! Follows sendDir() and sendTablespace() in backup/basebackup.c. What is left out is decided by
//! `backup_format::exclusion` and here, where the surroundings count.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;

use backup_format::exclusion;
use backup_format::incremental as incremental_file;
use backup_format::path;
use backup_format::relation_file::{self, Fork, RelationFile};

use super::file_table::Kind;
use super::listing::{Entry, Listing};
use super::tablespace;
use crate::server::allocation::{self, ByteStrings};
use crate::server::backup_control::Tablespace;
use crate::server::control_file;
use crate::server::encoding;
use crate::server::file::{self, Directory, FileType, Status};
use crate::server::incremental::{EarlierManifest, Place};
use crate::server::interrupt;
use crate::server::report::{Result, Sqlstate, warning};
use crate::server::settings;

/// Lists the files, directories and, where `with_links` is set, links of pg_tblspc that a backup
/// holds, in no particular order. pg_control is not among them: it is sent when the backup stops.
///
/// # Errors
/// Where a directory cannot be read, and where `must_be_readable` is set a file. What vanishes meanwhile
/// is no error.
///
/// `earlier` is the manifest of the backup that this one follows: relation files of which some blocks have
/// changed since are listed as incremental files.
pub fn list(
    tablespaces: &[Tablespace],
    with_links: bool,
    must_be_readable: bool,
    earlier: Option<&EarlierManifest>,
) -> Result<Listing> {
    let mut walk = Walk {
        inside_data_directory: tablespaces
            .iter()
            .filter_map(|tablespace| tablespace.inside_data_directory.clone())
            .collect(),
        listing: Listing::default(),
        tablespace: 0,
        must_be_readable,
        earlier: earlier.map(Earlier::new).transpose()?,
    };
    walk.directory(b"")?;
    for tablespace in tablespaces {
        walk.tablespace = tablespace.oid;
        walk.tablespace(with_links)?;
    }
    Ok(walk.listing)
}

struct Walk<'a> {
    /// Tablespaces that lie in the data directory, relative to it: sent as tablespaces, not twice.
    inside_data_directory: HashSet<Vec<u8>>,
    listing: Listing,
    /// The tablespace that is being walked; 0 for the data directory.
    tablespace: u32,
    /// Whether a file that the server may not read is an error here. Otherwise it is one when its turn
    /// comes.
    must_be_readable: bool,
    /// For an incremental backup.
    earlier: Option<Earlier<'a>>,
}

/// The backup that an incremental one follows.
struct Earlier<'a> {
    manifest: &'a EarlierManifest,
    /// Room for the numbers of all blocks of a segment.
    blocks: Vec<u32>,
}

impl<'a> Earlier<'a> {
    fn new(manifest: &'a EarlierManifest) -> Result<Self> {
        let blocks = allocation::vec_of(0, settings::PAGES_PER_SEGMENT as usize)?;
        Ok(Self { manifest, blocks })
    }
}

impl Walk<'_> {
    /// Only the directory of this major version and catalog belongs to this cluster.
    fn tablespace(&mut self, with_link: bool) -> Result<()> {
        let link = tablespace::directory(self.tablespace);
        if with_link && let Some(metadata) = file::metadata_if_exists(&link)? {
            let entry = Entry {
                kind: Kind::Link,
                size: 0,
                mtime: metadata.mtime(),
                // A link is part of the data directory.
                tablespace: 0,
                block_list: 0,
            };
            self.listing.push(&[&link], entry)?;
        }
        let version = join(&link, settings::tablespace_version_directory().as_bytes());
        if let Some(metadata) = file::metadata_if_exists(&version)?
            && metadata.is_dir()
        {
            self.push(&version, Kind::Directory, 0, metadata.mtime())?;
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
        let names = directory.names()?;
        let is_database = exclusion::is_database_directory(path);
        let unlogged = if is_database {
            unlogged_relations(&names)?
        } else {
            Vec::new()
        };
        let mut below = Vec::new();
        // Then the listing is almost in the order of paths.
        for (number, index) in names.sorted()?.into_iter().enumerate() {
            if number.is_multiple_of(1024) {
                interrupt::check();
            }
            let name = names.get(index as usize);
            if exclusion::is_excluded_file(name)
                || (is_database && is_excluded_relation(name, &unlogged))
            {
                continue;
            }
            let path = join(path, name);
            if path == control_file::PATH {
                continue;
            }
            let Some(status) = directory.status(name)? else {
                continue;
            };
            if self.must_be_readable && status.file_type == FileType::Regular {
                directory.check_readable(name, &status)?;
            }
            if let Some(path) = self.visit(path, name, status)? {
                below.push(path);
            }
        }
        // Deep trees need no more open directories than shallow ones.
        drop(directory);
        below.iter().try_for_each(|path| self.directory(path))
    }

    /// Lists one entry. Returns the path of a directory that is to be walked.
    fn visit(&mut self, path: Vec<u8>, name: &[u8], status: Status) -> Result<Option<Vec<u8>>> {
        let Status {
            file_type,
            size,
            mtime,
            ..
        } = status;
        let may_be_emptied = matches!(file_type, FileType::Directory | FileType::Link);
        if path == b"pg_wal" && may_be_emptied {
            // The WAL that is needed comes when the backup stops, or from elsewhere.
            for name in settings::emptied_wal_directories() {
                self.push(&join(&path, name), Kind::Directory, 0, mtime)?;
            }
            self.push(&path, Kind::Directory, 0, mtime)?;
            return Ok(None);
        }
        if exclusion::is_emptied_directory(name) && may_be_emptied {
            self.push(&path, Kind::Directory, 0, mtime)?;
            return Ok(None);
        }
        match file_type {
            FileType::Regular => self.file(&path, size, mtime)?,
            FileType::Directory => {
                self.push(&path, Kind::Directory, 0, mtime)?;
                return Ok((!self.inside_data_directory.contains(&path)).then_some(path));
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
        Ok(None)
    }

    /// Lists a file, as an incremental one where only some of its blocks are needed.
    fn file(&mut self, path: &[u8], size: u64, mtime: i64) -> Result<()> {
        let Some((count, block_list)) = self.changed_blocks(path, size)? else {
            return self.push(path, Kind::File, size, mtime);
        };
        let entry = Entry {
            kind: Kind::File,
            size: incremental_file::file_size(count, settings::PAGE_SIZE),
            mtime,
            tablespace: self.tablespace,
            block_list,
        };
        let path = incremental_file::incremental_path(path);
        self.listing.push(&[&path], entry)
    }

    /// The number of changed blocks of a relation file and the place of their list. `None` where the file
    /// is sent as a whole.
    fn changed_blocks(&mut self, path: &[u8], size: u64) -> Result<Option<(u32, u32)>> {
        let Some(earlier) = &mut self.earlier else {
            return Ok(None);
        };
        let Some(place) = place_of(path) else {
            return Ok(None);
        };
        let blocks = &mut earlier.blocks;
        let changed = earlier.manifest.changed_blocks(path, place, size, blocks)?;
        let Some((count, truncation_length)) = changed else {
            return Ok(None);
        };
        let blocks = &blocks[..count as usize];
        let block_list = self.listing.push_blocks(blocks, truncation_length)?;
        Ok(Some((count, block_list)))
    }

    fn push(&mut self, path: &[u8], kind: Kind, size: u64, mtime: i64) -> Result<()> {
        let entry = Entry {
            kind,
            size,
            mtime,
            tablespace: self.tablespace,
            block_list: 0,
        };
        self.listing.push(&[path], entry)
    }
}

/// The place of a relation file; `None` for any other file.
fn place_of(path: &[u8]) -> Option<Place> {
    Some(Place {
        database: relation_file::database_of(path),
        tablespace: relation_file::tablespace_of(path)?,
        file: relation_file::relation_at(path)?,
    })
}

/// The relfilenodes of a database directory that have an init fork, sorted.
fn unlogged_relations(names: &ByteStrings) -> Result<Vec<u32>> {
    let init_forks = names
        .iter()
        .filter_map(RelationFile::parse)
        .filter(|file| file.fork == Fork::Init);
    let mut relfilenodes = allocation::collect(init_forks.map(|file| file.relfilenode))?;
    relfilenodes.sort_unstable();
    Ok(relfilenodes)
}

/// Temporary relations, and every fork but the init fork of unlogged ones.
fn is_excluded_relation(name: &[u8], unlogged: &[u32]) -> bool {
    relation_file::is_temporary_relation(name)
        || RelationFile::parse(name).is_some_and(|file| {
            file.fork != Fork::Init && unlogged.binary_search(&file.relfilenode).is_ok()
        })
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"" => name.to_vec(),
        directory => [directory, b"/", name].concat(),
    }
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
        let Ok(listing) = list(&[], true, true, None) else {
            panic!("the walk failed")
        };
        let files: HashSet<String> = (listing.entries().iter())
            .zip(listing.paths().iter())
            .filter(|(entry, _)| entry.kind == Kind::File)
            .map(|(_, path)| String::from_utf8_lossy(path).into_owned())
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
