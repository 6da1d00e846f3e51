//! WAL segments of a cluster: their names, their presence, and enough writing to make the server
//! remove them.

use postgres::Client;

use crate::builder::Builder;
use crate::member;
use crate::server::Cluster;
use crate::wait::{PATIENCE, wait_for};

/// Builder for a cluster that keeps as little WAL as possible.
pub fn forgetful() -> Builder {
    Cluster::builder()
        .initdb_arg("--wal-segsize=1")
        .setting("min_wal_size", "2MB")
        .setting("max_wal_size", "2MB")
}

/// Name of the segment that contains an LSN on timeline 1.
#[track_caller]
pub fn segment_of(client: &mut Client, lsn: &str) -> String {
    client
        .query_one("SELECT pg_walfile_name($1::text::pg_lsn)", &[&lsn])
        .expect("pg_walfile_name")
        .get(0)
}

/// Writes a record and switches to the next segment.
#[track_caller]
pub fn switch_wal(client: &mut Client) {
    client
        .batch_execute("SELECT pg_logical_emit_message(false, '', ''); SELECT pg_switch_wal()")
        .expect("pg_switch_wal");
}

/// Whether the server still has a segment with this name.
pub fn exists(cluster: &Cluster, segment: &str) -> bool {
    cluster.data_dir().join("pg_wal").join(segment).exists()
}

/// Writes WAL and takes checkpoints until the server has removed a segment.
#[track_caller]
pub fn write_until_gone(cluster: &Cluster, segment: &str) {
    let mut client = cluster.connect();
    wait_for("the server to remove a WAL segment", PATIENCE, || {
        switch_wal(&mut client);
        client.batch_execute("CHECKPOINT").expect("CHECKPOINT");
        !exists(cluster, segment)
    });
}

/// Writes several times the amount of WAL that the server keeps by default.
#[track_caller]
pub fn write_much(cluster: &Cluster) {
    let mut client = cluster.connect();
    for _ in 0..12 {
        switch_wal(&mut client);
        client.batch_execute("CHECKPOINT").expect("CHECKPOINT");
    }
}

/// Position at which the last WAL segment of an archive ends.
#[track_caller]
pub fn end_of_segments(archive: &[u8]) -> Option<String> {
    let members = member::members(archive);
    let segments = members.iter().filter(|member| {
        let name = member.name();
        name.strip_prefix("pg_wal/")
            .is_some_and(|name| name.len() == 24)
    });
    let last = segments.max_by_key(|member| member.path[b"pg_wal/00000001".len()..].to_vec())?;
    let size = last.content.len() as u64;
    let name = last.name();
    let part = |from: usize| u64::from_str_radix(&name[from..from + 8], 16).ok();
    let end = (part(15)? << 32) + (part(23)? + 1) * size;
    Some(format!("{:X}/{:X}", end >> 32, end & 0xFFFF_FFFF))
}
