//! Files put into a data directory beside those of the server: as many, and as large, as a cluster
//! can have, made in a moment and without taking much of the disk.
//!
//! They have the names of relations that no catalog knows. The server has no use for them, a backup
//! takes them. Their pages are zeros, as those of a relation that was extended and not yet written.

use std::fs::{self, File};

use crate::program;
use crate::server::Cluster;

/// Beyond every relation that a test makes.
const FIRST_RELFILENODE: u32 = 90_000_000;

/// A hundred names share an inode, which is quicker than a hundred files.
const LINKS: u32 = 100;

/// Makes a sparse file of this size and returns its path, relative to the data directory as `path` is.
#[track_caller]
pub fn sparse_file(cluster: &Cluster, path: &str, size: u64) -> String {
    let whole = cluster.data_dir().join(path);
    File::create_new(&whole)
        .and_then(|file| file.set_len(size))
        .unwrap_or_else(|error| panic!("could not make {whole:?}: {error}"));
    program::give_to_owner(&whole);
    path.to_owned()
}

/// Makes relations of one file of this size each in a database's directory; their paths.
#[track_caller]
pub fn relations(cluster: &Cluster, database: u32, count: u32, size: u64) -> Vec<String> {
    (0..count)
        .map(|number| format!("base/{database}/{}", FIRST_RELFILENODE + number))
        .map(|path| sparse_file(cluster, &path, size))
        .collect()
}

/// Makes a relation of so many segments, all of them full, in a database's directory; their paths.
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

/// The size of a full segment.
pub const SEGMENT: u64 = 1 << 30;

/// Makes the directory of a database that no catalog knows, with so many empty relations.
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
