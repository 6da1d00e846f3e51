//! Parts of large files in the streams of workers that ask for them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use postgres::Client;
use tar::Archive;

use crate::backup::{Backup, send_stop};
use crate::client::verify;
use crate::leftover;
use crate::program::{command, give_to_owner, succeed};
use crate::server::Cluster;
use crate::stream::{Worker, copy_of};
use crate::workload::{create_table, path_of};

/// Bytes of all parts but the last of a file.
pub const PART_SIZE: u64 = 16 << 20;

/// Bytes of a stream that lie in its first part, or in the second.
pub const IN_FIRST_PART: u64 = 1 << 20;
/// See [`IN_FIRST_PART`].
pub const IN_SECOND_PART: u64 = PART_SIZE + (1 << 20);

/// Megabytes of the large table: four parts and a short one.
const LARGE: u32 = 70;

/// Part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Path of the file.
    pub path: String,
    /// Where the part begins.
    pub offset: u64,
    /// Size of the file.
    pub file_size: u64,
    /// Bytes of the part.
    pub content: Vec<u8>,
}

/// The parts of files in a stream, in their order, and an archive of its other members.
#[track_caller]
pub fn split(stream: &[u8]) -> (Vec<Part>, Vec<u8>) {
    let (mut parts, mut rest) = (Vec::new(), Vec::new());
    // A member begins with the headers that have its long names.
    let mut begin = 0;
    let mut archive = Archive::new(stream);
    for entry in archive.entries().expect("the stream is an archive") {
        let entry = entry.expect("the stream goes on with another member");
        let header = entry.header().as_bytes();
        let content = entry.raw_file_position() as usize;
        let end = content + entry.size() as usize;
        let next = end.next_multiple_of(512);
        if entry.header().entry_type().as_byte() == b'M' {
            parts.push(Part {
                path: String::from_utf8_lossy(&entry.path_bytes()).into_owned(),
                offset: number(&header[369..381]),
                file_size: number(&header[483..495]),
                content: stream[content..end].to_vec(),
            });
        } else {
            rest.extend_from_slice(&stream[begin..next]);
        }
        begin = next;
    }
    rest.resize(rest.len() + 1024, 0);
    (parts, rest)
}

/// A number in octal digits, which a zero byte ends.
fn number(field: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(field);
    let text = text.trim_end_matches('\0');
    u64::from_str_radix(text, 8).unwrap_or_else(|_| panic!("{text:?} is no octal number"))
}

/// Offsets of the parts of a file.
pub fn offsets(parts: &[Part], path: &str) -> Vec<u64> {
    let of_file = parts.iter().filter(|part| part.path == path);
    of_file.map(|part| part.offset).collect()
}

impl Backup {
    /// Unpacks streams with parts, which may be of files in directories of another one's. No two parts may be
    /// the same.
    #[track_caller]
    pub fn unpack_parts(&self, streams: &[Vec<u8>]) {
        let streams: Vec<_> = streams.iter().map(|stream| split(stream)).collect();
        for (_, rest) in &streams {
            self.unpack(rest);
        }
        let mut seen = Vec::new();
        for part in streams.iter().flat_map(|(parts, _)| parts) {
            let place = (&part.path, part.offset);
            assert!(!seen.contains(&place), "{place:?} came twice");
            seen.push(place);
            let path = self.data_dir().join(&part.path);
            assert!(fs::symlink_metadata(&path).is_err() || path.is_file());
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path);
            let file = file.unwrap_or_else(|error| panic!("{path:?}: {error}"));
            file.write_all_at(&part.content, part.offset)
                .expect("write a part");
            give_to_owner(&path);
        }
    }
}

/// Cluster with a large table, and the path of its file.
#[track_caller]
pub fn cluster_with_large_table() -> (Cluster, String) {
    cluster_with_table_of(LARGE)
}

/// The same with a table that has seven parts, for which the program needs some time.
#[track_caller]
pub fn cluster_with_seven_parts() -> (Cluster, String) {
    cluster_with_table_of(110)
}

fn cluster_with_table_of(megabytes: u32) -> (Cluster, String) {
    let cluster = Cluster::builder().setting("autovacuum", "off").start();
    create_table(&cluster, "large", megabytes);
    let path = path_of(&mut cluster.connect(), "large");
    (cluster, path)
}

/// COPY statement of a worker that accepts parts.
pub fn copy_in_parts(id: i64) -> String {
    copy_of(&format!("send_backup_files({id}, parts => true)"))
}

/// Worker that accepts parts and stands still once it has received so many bytes.
#[track_caller]
pub fn halt_in_parts(cluster: &Cluster, id: i64, bytes: u64) -> Worker {
    let worker = Worker::spawn_halting(cluster, &copy_in_parts(id), bytes);
    worker.wait_for_bytes(bytes);
    worker
}

/// Terminates the session of a worker, whose stream fails.
#[track_caller]
pub fn lose(cluster: &Cluster, worker: Worker) {
    cluster.execute(&format!("SELECT pg_terminate_backend({})", worker.pid));
    cluster.wait_for_end_of(worker.pid);
    worker.expect_failure();
}

/// The backup of these streams and of the stop, which verifies.
#[track_caller]
pub fn verified(cluster: &Cluster, leader: &mut Client, streams: &[Vec<u8>]) -> Backup {
    let backup = Backup::folder(cluster);
    backup.unpack_parts(streams);
    backup.unpack(&send_stop(leader));
    backup.verify();
    backup
}

/// Stops a backup of [`cluster_with_large_table`], and checks what has arrived with it.
#[track_caller]
pub fn complete(cluster: &Cluster, leader: &mut Client, streams: &[Vec<u8>]) {
    let backup = verified(cluster, leader, streams);
    let mut restored = backup.restore();
    let rows = LARGE * 1024;
    restored.wait_for_sql("the rows", &format!("SELECT count(*) = {rows} FROM large"));
    if restored.has_module("amcheck") {
        let mut amcheck = command("pg_amcheck");
        amcheck.args(restored.connection_args("postgres"));
        succeed(amcheck.args(["--install-missing", "postgres"]));
    }
    restored.stop_and_check_checksums();
    leftover::assert_none(cluster);
}

/// Checks that a directory verifies, and has the server's file of this path.
#[track_caller]
pub fn assert_whole(cluster: &Cluster, target: &Path, path: &str) {
    verify(target, &[]);
    let [ours, theirs] = [target, &cluster.data_dir()].map(|data| fs::read(data.join(path)));
    assert!(ours.expect("a copy") == theirs.expect("a file"), "{path}");
}

/// Checks the content of a part behind the end of its file.
#[track_caller]
pub fn assert_zeros(content: &[u8], offset: u64) {
    assert!(content.iter().all(|byte| *byte == 0), "{offset}");
}
