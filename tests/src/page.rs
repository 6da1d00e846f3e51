//! Changes pages of relations on disk without the server's knowledge.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use postgres::Client;

use crate::server::Cluster;

/// Size of a page.
pub const PAGE_SIZE: usize = 8192;

/// Position of `pd_upper` in a page.
const UPPER: std::ops::Range<usize> = 14..16;

/// Creates a table of about `pages` pages that nothing will write again: its rows are frozen and
/// its pages on disk. Returns its path, relative to the data directory.
#[track_caller]
pub fn quiet_table(client: &mut Client, name: &str, pages: u32, clause: &str) -> String {
    let rows = pages * 7;
    client
        .batch_execute(&format!(
            "CREATE TABLE {name} {clause} AS
             SELECT repeat('x', 1000) AS filler FROM generate_series(1, {rows})"
        ))
        .expect("CREATE TABLE");
    // VACUUM and CHECKPOINT do not run in the transaction block of a multi-statement string.
    client
        .batch_execute(&format!("VACUUM (FREEZE) {name}"))
        .expect("VACUUM");
    client.batch_execute("CHECKPOINT").expect("CHECKPOINT");
    client
        .query_one("SELECT pg_relation_filepath($1::text::regclass)", &[&name])
        .expect("pg_relation_filepath")
        .get(0)
}

impl Cluster {
    /// Changes one page of a file in the data directory.
    #[track_caller]
    pub fn change_page(&self, path: &str, block: u32, change: impl FnOnce(&mut [u8])) {
        let path = self.data_dir().join(path);
        let mut page = read_page(&path, block);
        change(&mut page);
        let file = File::options().write(true).open(&path);
        file.and_then(|file| file.write_all_at(&page, offset(block)))
            .unwrap_or_else(|error| panic!("could not write {path:?}: {error}"));
    }

    /// Makes the checksum of a page wrong and leaves the rest intact.
    #[track_caller]
    pub fn flip_bytes(&self, path: &str, block: u32) {
        self.change_page(path, block, flip_bytes);
    }
}

/// Changes bytes of a page in the middle of its rows.
pub fn flip_bytes(page: &mut [u8]) {
    for byte in &mut page[5000..5010] {
        *byte = !*byte;
    }
}

/// Sets the LSN of a page, which invalidates its checksum.
pub fn set_lsn(page: &mut [u8], lsn: u64) {
    page[0..4].copy_from_slice(&((lsn >> 32) as u32).to_ne_bytes());
    page[4..8].copy_from_slice(&(lsn as u32).to_ne_bytes());
}

/// Marks a page as new, never filled.
pub fn mark_new(page: &mut [u8]) {
    page[UPPER].fill(0);
}

/// Reads one page.
#[track_caller]
pub fn read_page(path: &Path, block: u32) -> Vec<u8> {
    let mut page = vec![0; PAGE_SIZE];
    let file: PathBuf = path.to_owned();
    File::open(&file)
        .and_then(|file| file.read_exact_at(&mut page, offset(block)))
        .unwrap_or_else(|error| panic!("could not read block {block} of {path:?}: {error}"));
    page
}

/// Returns a page with the checksum that is correct for block `block` of its relation.
#[track_caller]
pub fn with_checksum(client: &mut Client, mut page: Vec<u8>, block: u32) -> Vec<u8> {
    let checksum: i16 = client
        .query_one("SELECT page_checksum($1, $2)", &[&page, &i64::from(block)])
        .expect("page_checksum of the extension pageinspect")
        .get(0);
    page[8..10].copy_from_slice(&checksum.to_ne_bytes());
    page
}

/// Parses an LSN in the form `X/Y`.
#[track_caller]
pub fn parse_lsn(lsn: &str) -> u64 {
    let (high, low) = lsn.split_once('/').expect("an LSN has a slash");
    let part = |text| u64::from_str_radix(text, 16).expect("an LSN is hexadecimal");
    part(high) << 32 | part(low)
}

fn offset(block: u32) -> u64 {
    u64::from(block) * PAGE_SIZE as u64
}

/// Cluster with a corrupt page, on which a backup fails at the end of a stream.
#[track_caller]
pub fn corrupt_cluster() -> Cluster {
    let cluster = Cluster::new();
    let path = quiet_table(&mut cluster.connect(), "t", 30, "");
    cluster.flip_bytes(&path, 5);
    cluster
}
