//! Streams that end after so many bytes: what a lost connection costs is bounded.

use std::fs;

use backup_tests::archive::members;
use backup_tests::backup::{Backup, send_stop, start};
use backup_tests::client::{
    Running, backup_of, decompress, names_in, new_target, program, restore_of, terminate_a_worker,
    verify,
};
use backup_tests::failure::expect_failure;
use backup_tests::program::succeed;
use backup_tests::server::Cluster;
use backup_tests::stream::{copy_of, copy_out};
use backup_tests::workload::create_table;

const MEGABYTE: u64 = 1024 * 1024;

fn cluster() -> Cluster {
    let cluster = Cluster::builder().setting("autovacuum", "off").start();
    for table in ["one", "two", "three"] {
        create_table(&cluster, table, 8);
    }
    cluster
}

/// Bytes of the files in an archive.
fn bytes_of_files(archive: &[u8]) -> Vec<u64> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().expect("an archive");
    entries
        .map(|entry| entry.expect("a member").size())
        .collect()
}

#[test]
fn a_stream_ends_with_the_file_that_brings_it_to_so_many_bytes() {
    let cluster = cluster();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let backup = Backup::folder(&cluster);
    let mut worker = cluster.connect();
    let copy = copy_of(&format!(
        "send_backup_files({id}, max_bytes => {})",
        4 * MEGABYTE
    ));
    let mut streams = Vec::new();
    loop {
        let archive = copy_out(&mut worker, &copy).expect("a stream");
        if members(&archive).is_empty() {
            break;
        }
        streams.push(archive);
    }
    assert!(streams.len() > 4, "{}", streams.len());
    for (number, archive) in streams.iter().enumerate() {
        let sizes = bytes_of_files(archive);
        let (last, before) = sizes.split_last().expect("a member");
        let before: u64 = before.iter().sum();
        assert!(before < 4 * MEGABYTE, "{before}");
        // Only the end of the queue ends a stream earlier.
        let is_last = number + 1 == streams.len();
        assert!(is_last || before + last >= 4 * MEGABYTE, "{before} {last}");
        backup.unpack(archive);
    }
    backup.unpack(&send_stop(&mut leader));
    backup.verify();
    backup.restore();
}

#[test]
fn files_of_an_earlier_stream_of_the_same_worker_stay_sent() {
    let cluster = cluster();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let mut worker = cluster.connect();
    let copy = copy_of(&format!("send_backup_files({id}, max_bytes => 1)"));
    copy_out(&mut worker, &copy).expect("a stream");
    let sent = |leader: &mut postgres::Client| -> i64 {
        let row = leader.query_one("SELECT files_sent FROM backup_progress()", &[]);
        row.expect("the progress").get(0)
    };
    let before = sent(&mut leader);
    assert!(before > 0);
    drop(worker);
    cluster.wait_for_sql(
        "the worker to go",
        "SELECT workers = 0 FROM backup_progress()",
    );
    assert_eq!(sent(&mut leader), before);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    for (arguments, state, message) in [
        (
            "max_bytes => 0",
            "22003",
            "argument \"max_bytes\" must be at least 1, and is 0",
        ),
        (
            "max_bytes => -5",
            "22003",
            "argument \"max_bytes\" must be at least 1, and is -5",
        ),
        (
            "files => '{PG_VERSION}', max_bytes => 5",
            "22023",
            "argument \"max_bytes\" cannot be used with a list of files",
        ),
    ] {
        let copy = copy_of(&format!("send_backup_files({id}, {arguments})"));
        let failure = expect_failure(arguments, copy_out(&mut leader, &copy));
        failure.assert(state, message);
    }
    // Nothing has been taken.
    let files = copy_out(&mut leader, &copy_of(&format!("send_backup_files({id})")));
    assert!(files.expect("all files").len() as u64 > MEGABYTE);
}

#[test]
fn the_program_takes_all_formats_in_several_streams() {
    let cluster = cluster();
    let (oid, location) = cluster.create_tablespace("elsewhere");
    cluster.execute("CREATE TABLE far TABLESPACE elsewhere AS SELECT * FROM one");
    let size = ["--stream-size", "4MB"];

    let (folder, target) = new_target();
    let relocated = format!(
        "--tablespace-mapping={}={}",
        location.display(),
        folder.join("space").display()
    );
    succeed(
        backup_of(&cluster)
            .args(size)
            .args(["-j", "2", &relocated, "-D"])
            .arg(&target),
    );
    verify(&target, &[]);

    for more in [
        &["-Z", "none"][..],
        &["-Z", "server-zstd"],
        &["-Z", "client-gzip"],
    ] {
        let (folder, target) = new_target();
        succeed(
            backup_of(&cluster)
                .args(size)
                .args(["-Ft", "-j", "2", "-D"])
                .arg(&target)
                .args(more),
        );
        let names = names_in(&target);
        assert!(
            names.iter().any(|name| name.starts_with("base.0.1.tar")),
            "{names:?}"
        );
        succeed(program().args(["verify", "-n"]).arg(&target));
        let restored = folder.join("restored");
        let space = format!(
            "--tablespace-mapping={}={}",
            location.display(),
            folder.join("space").display()
        );
        succeed(&mut restore_of(&target, &restored, &[&space]));
        verify(&restored, &[]);
    }

    // One worker has one archive, as tools expect it.
    let (_folder, target) = new_target();
    succeed(
        backup_of(&cluster)
            .args(size)
            .args(["-Ft", "-j", "1", "-D"])
            .arg(&target),
    );
    assert_eq!(
        names_in(&target),
        [
            format!("{oid}.tar"),
            "backup_manifest".into(),
            "base.tar".into(),
            "pg_wal.tar".into()
        ]
    );
}

/// The server counts the streams that ended as received. So the archive is whole only if it still has
/// them, and the stream that was lost is in it once.
#[test]
fn one_worker_continues_its_archive_behind_the_last_whole_stream() {
    let cluster = cluster();
    let (oid, location) = cluster.create_tablespace("elsewhere");
    // Half of them is left by compression, so that a rate limit holds for them.
    cluster.execute(
        "CREATE TABLE far TABLESPACE elsewhere AS
             SELECT (SELECT string_agg(md5(i || ' ' || j), '') FROM generate_series(1, 28) AS j)
             FROM generate_series(1, 8192) AS i;
         CREATE TABLE farther TABLESPACE elsewhere AS SELECT * FROM far;
         CREATE TABLE farthest TABLESPACE elsewhere AS SELECT * FROM far",
    );
    // In the archive of the data directory, and in that of the tablespace.
    for (method, rate, suffix, when) in [
        ("none", "16M", "", "bytes_sent > 9000000"),
        ("client-lz4", "16M", ".lz4", "bytes_sent > 9000000"),
        // It limits what is compressed.
        (
            "server-zstd",
            "2M",
            ".zst",
            "bytes_sent > bytes_total - 15000000",
        ),
    ] {
        let (folder, target) = new_target();
        let mut backup = backup_of(&cluster);
        backup.args([
            "-Ft",
            "-j1",
            "-r",
            rate,
            "--stream-size",
            "4MB",
            "-Z",
            method,
        ]);
        let running = Running::start(backup.arg("-D").arg(&target));
        let query = format!("SELECT coalesce(bool_or({when}), false) FROM backup_progress()");
        cluster.wait_for_sql("a later stream", &query);
        terminate_a_worker(&cluster);
        let (status, said) = running.end();
        assert_eq!(status, Some(0), "{said}");
        assert!(said.contains("gets another"), "{said}");
        for part in ["base".to_owned(), oid.to_string()] {
            let archive = target.join(format!("{part}.tar{suffix}"));
            let plain = decompress(&archive);
            let mut names = members(&fs::read(&plain).expect("an archive"));
            if plain != archive {
                fs::remove_file(&plain).expect("a copy");
            }
            let count = names.len();
            names.sort();
            names.dedup();
            assert_eq!(names.len(), count, "{part} {method}");
        }
        succeed(program().args(["verify", "-n"]).arg(&target));
        let map = format!("{}={}", location.display(), folder.join("space").display());
        let restored = folder.join("restored");
        succeed(&mut restore_of(&target, &restored, &["-T", &map]));
        verify(&restored, &[]);
    }
}
