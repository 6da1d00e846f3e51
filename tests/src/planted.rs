//! Files planted in a data directory: as many and as large as a cluster can have, created quickly
//! and with little disk space.
//!
//! Their names are those of relations that are in no catalog. The server does not use them; a
//! backup includes them. Their pages are zeros, like those of a relation that was extended but not
//! yet written.

use std::fs::{self, File};

use crate::program;
use crate::server::Cluster;

/// Larger than the relfilenode of any relation in the tests.
const FIRST_RELFILENODE: u32 = 90_000_000;

/// Names per inode. Hard links are faster to create than files.
const LINKS: u32 = 100;

/// Creates a sparse file of this size. Both `path` and the returned path are relative to the data
/// directory.
#[track_caller]
pub fn sparse_file(cluster: &Cluster, path: &str, size: u64) -> String {
    let whole = cluster.data_dir().join(path);
    File::create_new(&whole)
        .and_then(|file| file.set_len(size))
        .unwrap_or_else(|error| panic!("could not make {whole:?}: {error}"));
    program::give_to_owner(&whole);
    path.to_owned()
}

/// Creates relations of one file each, of this size, in a database's directory. Returns their
/// paths.
#[track_caller]
pub fn relations(cluster: &Cluster, database: u32, count: u32, size: u64) -> Vec<String> {
    (0..count)
        .map(|number| format!("base/{database}/{}", FIRST_RELFILENODE + number))
        .map(|path| sparse_file(cluster, &path, size))
        .collect()
}

/// Creates a relation of this many full segments in a database's directory. Returns their paths.
#[track_caller]
pub fn segments(cluster: &Cluster, database: u32, relation: u32, count: u32) -> Vec<String> {
    let first = format!("base/{database}/{}", FIRST_RELFILENODE + relation);
    let name = |segment| match segment {
        0 => first.clone(),
        _ => format!("{first}.{segment}"),
    };
    (0..count)
        .map(|segment| sparse_file(cluster, &name(segment), SEGMENT))
        .collect()
}

/// Size of a full segment.
pub const SEGMENT: u64 = 1 << 30;

/// Creates the directory of a database that is in no catalog, with this many empty relations.
#[track_caller]
pub fn database(cluster: &Cluster, oid: u32, relations: u32) {
    let dir = cluster.data_dir().join(format!("base/{oid}"));
    program::make_dir(&dir);
    let path = |number: u32| dir.join((FIRST_RELFILENODE + number).to_string());
    for number in 0..relations {
        let made = match number % LINKS {
            0 => File::create_new(path(number)).map(drop),
            place => fs::hard_link(path(number - place), path(number)),
        };
        made.unwrap_or_else(|error| panic!("could not make {:?}: {error}", path(number)));
    }
    for number in (0..relations).step_by(LINKS as usize) {
        program::give_to_owner(&path(number));
    }
}
