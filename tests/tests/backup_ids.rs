//! Backup IDs that name no backup of this server: the server reads nothing for them and does not
//! crash.

use std::collections::BTreeSet;
use std::fs;

use backup_tests::backup::{Backup, send_stop, spawn_workers, start};
use backup_tests::failure::{Failure, expect_failure};
use backup_tests::program;
use backup_tests::server::Cluster;
use backup_tests::session::backend_pid;
use backup_tests::stream::{copy_of, copy_out};
use postgres::Client;

/// Magic number at the start of a backup's shared state, in version 0.1.0.
const MAGIC: u64 = u64::from_be_bytes(*b"pgpbk\x00\x01\x00");

const NONCE: i64 = 0x1234_5678;

fn id_of(nonce: i64, handle: u32) -> i64 {
    nonce << 32 | i64::from(handle)
}

/// Uses an ID in every way. Each must report that the backup does not exist and how to find one.
#[track_caller]
fn assert_unknown(session: &mut Client, id: i64) {
    let copy = copy_of(&format!("send_backup_files('{id}'::bigint)"));
    let mut failures = vec![expect_failure(&copy, copy_out(session, &copy))];
    for call in [
        format!("backup_filelist('{id}'::bigint)"),
        format!("backup_tablespaces('{id}'::bigint)"),
        format!("send_backup_files('{id}'::bigint, target => 'blackhole')"),
    ] {
        let statement = format!("SELECT * FROM {call}");
        failures.push(expect_failure(
            &statement,
            session.batch_execute(&statement),
        ));
    }
    let expected = Failure {
        sqlstate: "42704".to_owned(),
        severity: "ERROR".to_owned(),
        message: format!("backup {id} does not exist"),
        detail: "No session of this server leads a backup of that number.".to_owned(),
        hint: "A backup ends with the session that started it. \
               SELECT * FROM backup_progress() shows the backups that run."
            .to_owned(),
    };
    for failure in failures {
        assert_eq!(failure, expected);
    }
}

/// Handles of all segments of a cluster with `dynamic_shared_memory_type = mmap`.
fn handles(cluster: &Cluster) -> BTreeSet<u32> {
    let entries = fs::read_dir(cluster.data_dir().join("pg_dynshmem")).expect("pg_dynshmem");
    entries
        .filter_map(|entry| {
            let name = entry.ok()?.file_name().into_string().ok()?;
            name.strip_prefix("mmap.")?.parse().ok()
        })
        .collect()
}

fn cluster_with_visible_segments() -> Cluster {
    Cluster::builder()
        .setting("dynamic_shared_memory_type", "mmap")
        .start()
}

/// The segments belong to a parallel query, to the server itself, and to the backup. Of the
/// backup's two, only the first identifies it, and only with the right nonce.
#[test]
fn a_segment_of_somebody_else_is_not_read() {
    let cluster = cluster_with_visible_segments();
    let mut leader = cluster.connect();
    let before = handles(&cluster);
    let id = start(&mut leader, "").id;
    let own: BTreeSet<u32> = handles(&cluster).difference(&before).copied().collect();
    assert_eq!(own.len(), 2);

    let mut query = cluster.connect();
    let pid = backend_pid(&mut query);
    let setting = match program::major_version() {
        ..16 => "force_parallel_mode",
        _ => "debug_parallel_query",
    };
    let parallel = std::thread::spawn(move || {
        query.batch_execute(&format!("SET {setting} = on; SELECT pg_sleep(3600)"))
    });
    cluster.wait_for_sql(
        "a parallel query",
        "SELECT count(*) = 1 FROM pg_stat_activity
         WHERE backend_type = 'parallel worker' AND wait_event = 'PgSleep'",
    );
    let with_parallel = handles(&cluster);
    assert!(with_parallel.len() > before.len() + own.len());

    let nonce = id >> 32;
    let mut session = cluster.connect();
    for handle in with_parallel {
        for nonce in [1, nonce, NONCE, i64::from(i32::MAX)] {
            if id_of(nonce, handle) != id {
                assert_unknown(&mut session, id_of(nonce, handle));
            }
        }
    }
    cluster.execute(&format!("SELECT pg_cancel_backend({pid})"));
    let canceled = parallel.join().expect("the thread of the query");
    expect_failure("the parallel query", canceled)
        .assert("57014", "canceling statement due to user request");

    let backup = Backup::folder(&cluster);
    for worker in spawn_workers(&cluster, id, 1) {
        backup.unpack(&worker.expect());
    }
    backup.unpack(&send_stop(&mut leader));
    backup.verify();
}

/// The server looks up a handle in its own table, not in the directory.
#[test]
fn a_planted_segment_is_not_read() {
    let cluster = cluster_with_visible_segments();
    let mut session = cluster.connect();
    // One byte, the start of a backup's state, and a page that begins like one.
    for (handle, length) in [(77_u32, 1), (78, 12), (79, 4096)] {
        let mut content = MAGIC.to_ne_bytes().to_vec();
        content.extend_from_slice(&(NONCE as u32).to_ne_bytes());
        content.resize(length, 0xFF);
        cluster.write_file(&format!("pg_dynshmem/mmap.{handle}"), &content);
        assert_unknown(&mut session, id_of(NONCE, handle));
    }
}

/// Advisory locks of any user. Their tags equal that of a backup except for the lock class.
#[test]
fn an_advisory_lock_announces_no_backup() {
    let cluster = cluster_with_visible_segments();
    let mut locker = cluster.connect();
    let mut session = cluster.connect();
    for handle in handles(&cluster) {
        let id = id_of(NONCE, handle);
        locker
            .batch_execute(&format!(
                "SELECT pg_advisory_lock({id}), pg_advisory_lock(({handle}::bigint << 32) | {NONCE}),
                        pg_advisory_lock({NONCE}, {0}), pg_advisory_lock({0}, {NONCE})",
                handle.cast_signed()
            ))
            .expect("advisory locks");
        assert_unknown(&mut session, id);
    }
    let rows = session.query("SELECT FROM backup_progress()", &[]);
    assert!(rows.expect("backup_progress()").is_empty());
}

/// With POSIX shared memory, the segments of all clusters on a machine share one directory.
#[test]
fn the_backup_of_another_cluster_is_unknown_here() {
    let (here, elsewhere) = (Cluster::new(), Cluster::new());
    let mut leader_here = here.connect();
    let id_here = start(&mut leader_here, "").id;
    let mut leader = elsewhere.connect();
    let id = start(&mut leader, "").id;
    let mut session = here.connect();
    assert_unknown(&mut session, id);
    assert_unknown(&mut session, id_of(id_here >> 32, id as u32));
    let files = format!("SELECT count(*) FROM backup_filelist({id})");
    let rows = elsewhere.connect().query_one(&files, &[]);
    assert!(rows.expect("the listing").get::<_, i64>(0) > 0);
}

/// The ID of an ended backup stays unknown, however the backup ended, even in a session that has
/// used it.
#[test]
fn the_number_of_a_backup_that_has_ended_is_stale() {
    let cluster = Cluster::new();
    let mut session = cluster.connect();
    for end in [
        "SELECT abort_backup()",
        "SELECT FROM stop_backup(allow_incomplete => true)",
        "SELECT pg_terminate_backend(pg_backend_pid())",
    ] {
        let mut leader = cluster.connect();
        let pid = backend_pid(&mut leader);
        let id = start(&mut leader, "").id;
        let files = format!("SELECT count(*) FROM backup_filelist({id})");
        session.query_one(&files, &[]).expect("the listing");
        let ended = leader.batch_execute(end);
        if ended.is_err() {
            cluster.wait_for_end_of(pid);
        }
        assert_unknown(&mut session, id);
        if ended.is_ok() {
            assert_unknown(&mut leader, id);
        }
    }
}
