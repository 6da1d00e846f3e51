//! Guarantees of docs/guarantees.md, each with at least one test named after it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use backup_tests::archive::{content, members};
use backup_tests::backup::{Backup, send_stop, spawn_workers, start, try_send_stop};
use backup_tests::failure::expect_failure;
use backup_tests::leftover;
use backup_tests::page::quiet_table;
use backup_tests::program::{command, give_to_owner, succeed};
use backup_tests::server::Cluster;
use backup_tests::session::backend_pid;
use backup_tests::stream::{Worker, copy_of, copy_out};
use backup_tests::wait::{PATIENCE, wait_for};
use backup_tests::workload::{Pgbench, assert_balanced, create_table, path_of};

const MEGABYTE: u64 = 1 << 20;

fn quiet_cluster() -> Cluster {
    Cluster::builder()
        .setting("dynamic_shared_memory_type", "mmap")
        .setting("autovacuum", "off")
        .start()
}

#[test]
fn guarantee_1_complete_every_file_leaves_once_whatever_happens_to_workers() {
    let cluster = quiet_cluster();
    create_table(&cluster, "big", 16);
    let mut leader = cluster.connect();
    let started = start(&mut leader, "");
    let copy = copy_of(&format!("send_backup_files({})", started.id));

    // A stream that breaks off after some files counts for nothing.
    let lost = Worker::spawn_halting(&cluster, &copy, MEGABYTE);
    lost.wait_for_bytes(MEGABYTE);
    cluster.execute(&format!("SELECT pg_terminate_backend({})", lost.pid));
    cluster.wait_for_end_of(lost.pid);
    lost.expect_failure();
    let failure = expect_failure("send_stop_backup()", try_send_stop(&mut leader, ""));
    let count = started.file_count;
    failure.assert(
        "55000",
        &format!("backup is incomplete: {count} of {count} files have not been sent"),
    );

    let mut times: BTreeMap<String, u32> = BTreeMap::new();
    for worker in spawn_workers(&cluster, started.id, 3) {
        for name in members(&worker.expect()) {
            *times
                .entry(name.trim_end_matches('/').to_owned())
                .or_default() += 1;
        }
    }
    let listed: BTreeMap<String, u32> = leader
        .query("SELECT path FROM backup_filelist()", &[])
        .expect("backup_filelist()")
        .iter()
        .map(|row| (row.get(0), 1))
        .collect();
    assert_eq!(times, listed);
    send_stop(&mut leader);
}

#[test]
fn guarantee_2_restorable_from_a_source_that_writes() {
    let cluster = Cluster::new();
    Pgbench::fill(&cluster, 1);
    let load = Pgbench::run(&cluster, 100);
    let backup = Backup::take(&cluster, 2);
    load.stop();
    backup.verify();
    let restored = backup.restore();
    assert!(assert_balanced(&mut restored.connect()) > 0);
    restored.amcheck();
}

#[test]
fn guarantee_2_restorable_pg_control_leaves_last() {
    let cluster = quiet_cluster();
    let mut leader = cluster.connect();
    let started = start(&mut leader, "");
    for worker in spawn_workers(&cluster, started.id, 2) {
        let names = members(&worker.expect());
        assert!(!names.iter().any(|name| name.contains("pg_control")));
    }
    // This checkpoint must be in the pg_control of the closing tar.
    cluster.execute("CHECKPOINT");
    let read = || fs::read(cluster.data_dir().join("global/pg_control")).expect("pg_control");
    let before_stop = read();
    let closing = send_stop(&mut leader);
    assert_eq!(content(&closing, "global/pg_control"), before_stop);
    let names = members(&closing);
    assert!(names.iter().any(|name| name == "backup_label"), "{names:?}");
    let last = &names[names.len() - 2..];
    assert_eq!(last, ["global/pg_control", "backup_manifest"]);
}

#[test]
fn guarantee_2_restorable_with_files_vanished_shrunk_and_grown() {
    let cluster = quiet_cluster();
    let data = cluster.data_dir();
    let [shrinks, grows] = ["base/1/4000000001", "base/1/4000000002"];
    for name in ["vanishes", shrinks, grows] {
        cluster.write_file(name, &[b'a'; 3000]);
    }
    let mut leader = cluster.connect();
    start(&mut leader, "");
    fs::remove_file(data.join("vanishes")).expect("a file to remove");
    let resize = |name: &str, length: u64| {
        let file = fs::File::options().write(true).open(data.join(name));
        file.and_then(|file| file.set_len(length))
            .expect("a file to resize");
    };
    resize(shrinks, 1000);
    resize(grows, 100_000);
    let stream = copy_out(&mut leader, &copy_of("send_backup_files()")).expect("a stream");
    assert!(!members(&stream).iter().any(|name| name == "vanishes"));
    let mut padded = vec![b'a'; 1000];
    padded.resize(3000, 0);
    assert_eq!(content(&stream, shrinks), padded);
    assert_eq!(content(&stream, grows), [b'a'; 3000]);
    let backup = Backup::folder(&cluster);
    backup.unpack(&stream);
    backup.unpack(&send_stop(&mut leader));
    backup.verify();
}

#[test]
fn guarantee_3_verified_a_bad_page_is_told_sent_and_refused() {
    let cluster = quiet_cluster();
    let path = quiet_table(&mut cluster.connect(), "t", 8, "");
    cluster.flip_bytes(&path, 3);
    let (mut leader, _) = cluster.connect_with_notices();
    let started = start(&mut leader, "");
    let copy = copy_of(&format!("send_backup_files({})", started.id));
    let worker = Worker::spawn(&cluster, &copy);
    let (notices, received) = (worker.notices.clone(), worker.received_counter());
    worker
        .expect_failure()
        .assert("XX001", "checksum verification failure during base backup");
    let warnings = notices.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let expected = format!("checksum verification failed in file \"{path}\", block 3: calculated ");
    assert!(warnings[0].starts_with(&expected), "{warnings:?}");
    let sent = received.load(std::sync::atomic::Ordering::Relaxed);
    assert!(
        sent > started.total_bytes as u64,
        "{sent} bytes before the error"
    );

    cluster.wait_for_sql(
        "the failure to reach the statistics",
        "SELECT checksum_failures = 1 FROM pg_stat_database
         WHERE datname = current_database()",
    );
    let failure = expect_failure("send_stop_backup()", try_send_stop(&mut leader, ""));
    assert_eq!(failure.sqlstate, "XX001", "{failure}");
    // The backup has ended nevertheless.
    leftover::assert_none(&cluster);
    start(&mut leader, "");
}

#[test]
fn guarantee_4_nothing_else_leaves_the_server() {
    const SECRET: &str = "nobody may read this";
    let cluster = quiet_cluster();
    let data = cluster.data_dir();
    let outside = cluster.make_dir("outside");
    fs::write(outside.join("secret"), SECRET).expect("a secret");
    give_to_owner(&outside.join("secret"));
    // Listed as a file and a directory, then replaced by links before they are sent.
    cluster.write_file("becomes_link", &[b'a'; 20]);
    succeed(command("mkdir").arg(data.join("folder")));
    cluster.write_file("folder/secret", &[b'a'; 20]);
    symlink(outside.join("secret"), data.join("is_link")).expect("a link");
    let mut leader = cluster.connect();
    start(&mut leader, "");
    fs::remove_file(data.join("becomes_link")).expect("a file to remove");
    symlink(outside.join("secret"), data.join("becomes_link")).expect("a link");
    fs::rename(data.join("folder"), data.join("folder_before")).expect("a folder to rename");
    symlink(&outside, data.join("folder")).expect("a link");

    for name in [
        "is_link",
        "folder/../../outside/secret",
        "../outside/secret",
        "/etc/passwd",
    ] {
        let copy = copy_of(&format!("send_backup_files(files => ARRAY['{name}'])"));
        expect_failure(&copy, copy_out(&mut leader, &copy)).assert(
            "22023",
            &format!("file \"{name}\" is not part of the backup"),
        );
    }
    for call in [
        "send_backup_files(files => ARRAY['becomes_link'])",
        "send_backup_files(files => ARRAY['folder/secret'])",
        "send_backup_files()",
        "send_stop_backup(allow_incomplete => true, wal => true)",
    ] {
        // A file whose type has changed may be skipped or cause an error. The secret must not
        // leave.
        let mut received = Vec::new();
        if let Ok(mut stream) = leader.copy_out(&copy_of(call)) {
            let _ = stream.read_to_end(&mut received);
        }
        let shown = received
            .windows(SECRET.len())
            .any(|part| part == SECRET.as_bytes());
        assert!(!shown, "{call} sent what lies outside");
    }
}

#[test]
fn guarantee_5_no_leftovers_after_any_end() {
    let cluster = quiet_cluster();
    create_table(&cluster, "big", 16);
    for end in ["abort", "stop", "disconnect", "terminate", "error"] {
        let mut leader = cluster.connect();
        let pid = backend_pid(&mut leader);
        let id = start(&mut leader, "retain_wal => true").id;
        let slow = copy_of(&format!("send_backup_files({id}, max_rate => 1024)"));
        let worker = Worker::spawn(&cluster, &slow);
        worker.wait_for_bytes(MEGABYTE / 2);
        assert_eq!(leftover::shared_segments(&cluster).len(), 1, "{end}");
        let begin = Instant::now();
        match end {
            "abort" => leader
                .batch_execute("SELECT abort_backup()")
                .expect("abort"),
            "stop" => leader
                .batch_execute("SELECT stop_backup(allow_incomplete => true)")
                .expect("stop"),
            "disconnect" => drop(leader),
            "terminate" => cluster.execute(&format!("SELECT pg_terminate_backend({pid})")),
            _ => {
                // An ERROR does not end the session; FATAL does.
                expect_failure("the error", leader.batch_execute("SELECT 1 / 0"));
                cluster.execute(&format!("SELECT pg_terminate_backend({pid})"));
            }
        }
        worker
            .expect_failure()
            .assert("55000", &format!("backup {id} has ended"));
        assert!(
            begin.elapsed() < Duration::from_secs(12),
            "{end}: {:?}",
            begin.elapsed()
        );
        leftover::assert_none(&cluster);
    }
    let backup = Backup::take(&cluster, 1);
    backup.verify();
}

#[test]
fn guarantee_6_bounded_memory_of_a_worker_and_of_the_segment() {
    const FILES: u64 = 5000;
    let cluster = quiet_cluster();
    let mut leader = cluster.connect();
    create_table(&cluster, "big", 64);
    let folder = cluster.data_dir().join("base/planted");
    fs::create_dir(&folder).expect("a folder");
    give_to_owner(&folder);
    for number in 0..FILES {
        cluster.write_file(&format!("base/planted/file_{number}"), b"x");
    }
    let started = start(&mut leader, "");
    let paths: i64 = leader
        .query_one(
            "SELECT sum(octet_length(path))::bigint FROM backup_filelist()",
            &[],
        )
        .expect("backup_filelist()")
        .get(0);
    let segment = leftover::shared_segments(&cluster)[0];
    let count = started.file_count as u64;
    assert!(count > FILES);
    let bound = 120 * count + paths as u64 + 64 * 1024;
    assert!(segment <= bound, "{segment} bytes for {count} files");

    let big = path_of(&mut leader, "big");
    let copy = copy_of(&format!(
        "send_backup_files({}, ARRAY['{big}'])",
        started.id
    ));
    let worker = Worker::spawn_halting(&cluster, &copy, 60 * MEGABYTE);
    worker.wait_for_bytes(60 * MEGABYTE);
    // Private memory, without shared buffers. An idle backend has about 3 MB.
    let status = fs::read_to_string(format!("/proc/{}/status", worker.pid)).expect("its status");
    let own: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("{status}"));
    assert!(own < 16 * 1024, "{own} kB");
    worker.expect();
}

#[test]
fn guarantee_7_safe_beside_the_functions_of_the_server() {
    let cluster = Cluster::new();
    let postmaster = cluster.pid();
    let mut bystander = cluster.connect();
    let mut leader = cluster.connect();
    start(&mut leader, "");
    expect_failure(
        "pg_backup_stop()",
        leader.query("SELECT pg_backup_stop()", &[]),
    )
    .assert(
        "55000",
        "cannot use pg_backup_stop() for a backup started by start_backup()",
    );
    copy_out(&mut leader, &copy_of("send_backup_files()")).expect("the files");
    send_stop(&mut leader);

    leader
        .batch_execute("SELECT pg_backup_start('core', true)")
        .expect("pg_backup_start()");
    expect_failure("stop_backup()", leader.query("SELECT stop_backup()", &[])).assert(
        "55000",
        "the backup in progress was not started by start_backup()",
    );
    leader
        .batch_execute("SELECT pg_backup_stop(false)")
        .expect("pg_backup_stop()");
    // A crash would have ended this session, even if the postmaster survived.
    bystander
        .batch_execute("SELECT 1")
        .expect("the session is still there");
    assert_eq!(cluster.pid(), postmaster);
    assert_eq!(cluster.crashes(), Vec::<String>::new());
}

#[test]
fn guarantee_7_also_at_the_exit_of_a_session() {
    let cluster = Cluster::new();
    let mut bystander = cluster.connect();
    for starts in [
        "start_backup(fast => true)",
        "pg_backup_start('core', true)",
    ] {
        let mut leader = cluster.connect();
        let pid = backend_pid(&mut leader);
        // The library is loaded in both cases.
        leader
            .batch_execute("SELECT * FROM backup_progress()")
            .expect("a row");
        leader
            .batch_execute(&format!("SELECT {starts}"))
            .expect("a backup");
        drop(leader);
        wait_for("the session to end", PATIENCE, || {
            let rows = bystander
                .query("SELECT 1 FROM pg_stat_activity WHERE pid = $1", &[&pid])
                .expect("pg_stat_activity");
            rows.is_empty()
        });
    }
    leftover::assert_none(&cluster);
}
