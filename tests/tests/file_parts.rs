//! Parts of large files, which workers share that ask for them.

use std::fs::{self, File};

use backup_tests::archive;
use backup_tests::backup::{Backup, start, try_send_stop};
use backup_tests::failure::{Failure, expect_failure};
use backup_tests::incremental;
use backup_tests::member;
use backup_tests::page::quiet_table;
use backup_tests::parts::{
    IN_FIRST_PART, IN_SECOND_PART, PART_SIZE, assert_zeros, cluster_with_large_table, complete,
    copy_in_parts, halt_in_parts, lose, offsets, split, verified,
};
use backup_tests::program::{command, run_with_input};
use backup_tests::server::Cluster;
use backup_tests::stepwise::{Stepwise, listing};
use backup_tests::stream::{PsqlWorker, copy_of, copy_out};
use backup_tests::workload::{create_table, path_of};
use postgres::Client;

/// Number of parts of a file of the backup.
fn count_of_parts(leader: &mut Client, path: &str) -> u64 {
    let listing = listing(leader, "");
    let entry = listing.iter().find(|entry| entry.path == path);
    (entry.expect("the file").size as u64).div_ceil(PART_SIZE)
}

/// Sum of the workers, of files and of bytes, as everybody sees them.
fn progress(cluster: &Cluster) -> (i32, i64, i64, i64, i64) {
    let query = "SELECT workers, files_sent, files_total, bytes_sent, bytes_total
                 FROM backup_progress()";
    let row = cluster.connect().query_one(query, &[]);
    let row = row.expect("one backup");
    (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4))
}

/// Checks the error of a stop that misses one file.
#[track_caller]
fn assert_incomplete(failure: &Failure, path: &str) {
    assert_eq!(failure.sqlstate, "55000", "{failure}");
    assert!(
        failure.message.starts_with("backup is incomplete: 1 of "),
        "{failure}"
    );
    let detail = format!("Not sent: \"{path}\".");
    assert_eq!(failure.detail, detail, "{failure}");
}

#[test]
fn workers_share_the_last_file() {
    let (cluster, path) = cluster_with_large_table();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let count = count_of_parts(&mut leader, &path);
    assert_eq!(count, 5);
    // The first worker has begun the large file, and stands still.
    let first = halt_in_parts(&cluster, id, IN_FIRST_PART);
    let second = copy_out(&mut cluster.connect(), &copy_in_parts(id)).expect("a stream");
    let first = first.expect();
    let (of_first, of_second) = (split(&first).0, split(&second).0);
    assert_eq!(offsets(&of_first, &path), [0]);
    let from_end: Vec<_> = (1..count).rev().map(|number| number * PART_SIZE).collect();
    assert_eq!(offsets(&of_second, &path), from_end);
    let (workers, files, files_total, bytes, bytes_total) = progress(&cluster);
    assert_eq!((workers, files, bytes), (0, files_total, bytes_total));
    complete(&cluster, &mut leader, &[first, second]);
}

/// It reads its file from start to end as long as there is other work for the others.
#[test]
fn a_worker_goes_on_with_its_own_file() {
    let (cluster, path) = cluster_with_large_table();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let count = count_of_parts(&mut leader, &path);
    let stream = copy_out(&mut leader, &copy_in_parts(id)).expect("a stream");
    let (parts, rest) = split(&stream);
    let expected: Vec<_> = (0..count).map(|number| number * PART_SIZE).collect();
    assert_eq!(offsets(&parts, &path), expected);
    assert!(parts.iter().all(|part| part.path == path), "{parts:?}");
    assert!(archive::members(&rest).contains(&"PG_VERSION".to_owned()));
    complete(&cluster, &mut leader, &[stream]);
}

/// Other readers do not take a part for a file.
#[test]
fn a_part_is_a_continuation_for_other_readers() {
    let (cluster, path) = cluster_with_large_table();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let stream = copy_out(&mut leader, &copy_in_parts(id)).expect("a stream");
    let mut tar = command("tar");
    let listed = run_with_input(tar.args(["--list", "--verbose", "--file=-"]), &stream);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let line = format!("{path}--Continued at byte {PART_SIZE}--");
    assert!(listed.contains(&line), "{listed}");
    leader
        .execute("SELECT abort_backup()", &[])
        .expect("the end");
}

#[test]
fn nothing_is_sent_in_parts_to_those_who_do_not_ask() {
    let (cluster, path) = cluster_with_large_table();
    let mut taken = Stepwise::start(&cluster, "");
    let stream = taken.send_files();
    assert!(split(&stream).0.is_empty());
    member::expect(&stream, &path);
    taken.stop();
    taken.backup.verify();
}

/// A worker that takes whole files only leaves a divided file to the others, and the stop misses it.
#[test]
fn whole_files_and_parts_go_together() {
    let (cluster, path) = cluster_with_large_table();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let whole = copy_of(&format!("send_backup_files({id})"));
    let first = halt_in_parts(&cluster, id, IN_SECOND_PART);
    let second = copy_out(&mut cluster.connect(), &whole).expect("a stream");
    assert_eq!(member::find(&second, &path), None);
    lose(&cluster, first);
    let third = copy_out(&mut cluster.connect(), &whole).expect("a stream");
    assert_eq!(member::find(&third, &path), None);
    let failure = expect_failure("the stop", try_send_stop(&mut leader, "wal => true"));
    assert_incomplete(&failure, &path);
    let fourth = copy_out(&mut leader, &copy_in_parts(id)).expect("a stream");
    complete(&cluster, &mut leader, &[second, third, fourth]);
}

#[test]
fn parts_of_a_lost_worker_are_sent_by_others() {
    let (cluster, path) = cluster_with_large_table();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    // One is terminated in its second part, another loses its client there.
    let first = halt_in_parts(&cluster, id, IN_SECOND_PART);
    lose(&cluster, first);
    assert_eq!(progress(&cluster).3, 0);
    let slow = format!("send_backup_files({id}, parts => true, max_rate => 4096)");
    let second = PsqlWorker::spawn(&cluster, &copy_of(&slow));
    second.wait_for_bytes(IN_FIRST_PART);
    second.kill();
    cluster.wait_for_end_of(second.pid);
    let (workers, _, _, bytes, _) = progress(&cluster);
    assert_eq!((workers, bytes), (0, 0));
    let third = copy_out(&mut leader, &copy_in_parts(id)).expect("a stream");
    let count = count_of_parts(&mut leader, &path) as usize;
    assert_eq!(offsets(&split(&third).0, &path).len(), count);
    complete(&cluster, &mut leader, &[third]);
}

/// What has arrived whole stays, and what others have begun.
#[test]
fn only_the_parts_of_a_lost_worker_come_again() {
    let (cluster, path) = cluster_with_large_table();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let lost = halt_in_parts(&cluster, id, IN_FIRST_PART);
    let first = copy_out(&mut cluster.connect(), &copy_in_parts(id)).expect("a stream");
    lose(&cluster, lost);
    let failure = expect_failure("the stop", try_send_stop(&mut leader, "wal => true"));
    assert_eq!(failure.sqlstate, "55000", "{failure}");
    let second = copy_out(&mut leader, &copy_in_parts(id)).expect("a stream");
    assert_eq!(offsets(&split(&second).0, &path), [0]);
    complete(&cluster, &mut leader, &[first, second]);
}

/// A file is as long in the backup as it was when it was listed, whichever worker sends which part when.
#[test]
fn a_file_that_is_cut_or_grows_between_its_parts_keeps_its_size() {
    for grows in [false, true] {
        let (cluster, path) = cluster_with_large_table();
        let mut leader = cluster.connect();
        let id = start(&mut leader, "retain_wal => true").id;
        let first = halt_in_parts(&cluster, id, IN_FIRST_PART);
        match grows {
            true => cluster.execute(
                "INSERT INTO large SELECT i, repeat('y', 900) FROM generate_series(1, 9000) i",
            ),
            false => cluster.execute("DELETE FROM large WHERE i > 30 * 1024"),
        }
        cluster.execute("VACUUM large");
        cluster.execute("CHECKPOINT");
        let on_disk = fs::metadata(cluster.data_dir().join(&path))
            .expect("the file")
            .len();
        assert_eq!(on_disk > 64 << 20, grows, "{on_disk}");
        let second = copy_out(&mut cluster.connect(), &copy_in_parts(id)).expect("a stream");
        let (parts, _) = split(&second);
        assert_eq!(parts.len(), 4);
        if !grows {
            let cut = parts.iter().filter(|part| part.offset > on_disk);
            assert!(cut.clone().count() > 0);
            for part in cut {
                assert_zeros(&part.content, part.offset);
            }
        }
        let backup = verified(&cluster, &mut leader, &[first.expect(), second]);
        let mut restored = backup.restore();
        let rows = if grows { 70 * 1024 + 9000 } else { 30 * 1024 };
        restored.wait_for_sql("the rows", &format!("SELECT count(*) = {rows} FROM large"));
        restored.stop_and_check_checksums();
    }
}

/// The rest of it is zeros, as the rest of a file that was cut off to nothing. The WAL removes it.
#[test]
fn a_table_that_is_dropped_between_its_parts_is_gone_after_recovery() {
    let (cluster, path) = cluster_with_large_table();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let first = halt_in_parts(&cluster, id, IN_FIRST_PART);
    cluster.execute("DROP TABLE large");
    cluster.execute("CHECKPOINT");
    assert!(!cluster.data_dir().join(&path).exists());
    let second = copy_out(&mut cluster.connect(), &copy_in_parts(id)).expect("a stream");
    let (parts, _) = split(&second);
    assert_eq!(parts.len(), 4);
    for part in &parts {
        assert_zeros(&part.content, part.offset);
    }
    let backup = verified(&cluster, &mut leader, &[first.expect(), second]);
    assert!(backup.data_dir().join(&path).exists());
    let mut restored = backup.restore();
    restored.execute("CREATE TABLE large AS SELECT 1 AS one");
    restored.execute("CHECKPOINT");
    assert!(!restored.data_dir().join(&path).exists());
    restored.stop_and_check_checksums();
}

#[test]
fn a_table_that_is_dropped_before_its_first_part_is_left_out() {
    let (cluster, path) = cluster_with_large_table();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    cluster.execute("DROP TABLE large");
    cluster.execute("CHECKPOINT");
    let stream = copy_out(&mut leader, &copy_in_parts(id)).expect("a stream");
    assert!(split(&stream).0.is_empty());
    let backup = verified(&cluster, &mut leader, &[stream]);
    assert!(!backup.data_dir().join(&path).exists());
}

#[test]
fn bad_pages_of_a_late_part_have_their_blocks_in_the_file() {
    let cluster = Cluster::builder().setting("autovacuum", "off").start();
    let path = quiet_table(&mut cluster.connect(), "large", 70 * 128, "");
    for block in [2048, 4100, 4101] {
        cluster.flip_bytes(&path, block);
    }
    let mut taken = Stepwise::start(&cluster, "");
    let failure = taken.try_stream("send_backup_files(parts => true)");
    let failure = expect_failure("the stream", failure);
    failure.assert("XX001", "checksum verification failure during base backup");
    let warnings = taken.notices.warnings();
    assert_eq!(warnings.len(), 5, "{warnings:?}");
    for (warning, block) in warnings.iter().zip([2048, 4100, 4101]) {
        let begin = format!("checksum verification failed in file \"{path}\", block {block}: ");
        assert!(warning.starts_with(&begin), "{warning}");
    }
    assert_eq!(
        warnings[3],
        format!(
            "file \"{path}\" has a total of 2 checksum verification failures in blocks 4096 to 6143"
        )
    );
    assert_eq!(warnings[4], "3 total checksum verification failures");
    let failures = "SELECT checksum_failures = 3 FROM backup_progress()";
    cluster.wait_for_sql("three failures", failures);
    let refused = expect_failure("the stop", taken.try_stream("send_stop_backup()"));
    refused.assert("XX001", "checksum verification failure during base backup");
}

/// Whoever names a divided file gets it as a whole, and it replaces its parts.
#[test]
fn a_divided_file_can_be_sent_again_by_its_name() {
    let (cluster, path) = cluster_with_large_table();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let named = copy_of(&format!("send_backup_files({id}, files => '{{{path}}}')"));
    let first = halt_in_parts(&cluster, id, IN_FIRST_PART);
    let failure = expect_failure("in use", copy_out(&mut cluster.connect(), &named));
    failure.assert(
        "55006",
        &format!("file \"{path}\" is being sent by another worker"),
    );
    let first = first.expect();
    let again = copy_out(&mut cluster.connect(), &named).expect("a stream");
    assert!(split(&again).0.is_empty());
    let (parts, rest) = split(&first);
    let mut content = Vec::new();
    for part in &parts {
        content.extend_from_slice(&part.content);
    }
    assert!(member::expect(&again, &path).content == content);
    complete(&cluster, &mut leader, &[rest, again]);
}

#[test]
fn a_stream_of_so_many_bytes_ends_with_a_part() {
    let (cluster, path) = cluster_with_large_table();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let call = format!("send_backup_files({id}, parts => true, max_bytes => 1)");
    let mut streams = Vec::new();
    while streams.len() < 5_000 {
        let stream = copy_out(&mut leader, &copy_of(&call)).expect("a stream");
        if split(&stream).0.is_empty() && archive::members(&stream).is_empty() {
            break;
        }
        streams.push(stream);
    }
    for stream in &streams {
        assert!(split(stream).0.len() <= 1);
    }
    let parts = streams
        .iter()
        .flat_map(|stream| offsets(&split(stream).0, &path));
    assert_eq!(parts.count() as u64, count_of_parts(&mut leader, &path));
    complete(&cluster, &mut leader, &streams);
}

/// Only CRC-32C of a file follows from those of its parts.
#[test]
fn files_with_other_checksums_are_not_divided() {
    let (cluster, path) = cluster_with_large_table();
    for (checksums, divided) in [("SHA256", false), ("NONE", true), ("OFF", true)] {
        let options = format!("manifest_checksums => '{checksums}'");
        let mut taken = Stepwise::start(&cluster, &options);
        let stream = taken.stream("send_backup_files(parts => true)");
        assert_eq!(!split(&stream).0.is_empty(), divided, "{checksums}");
        taken.backup.unpack_parts(&[stream]);
        taken.stop();
        if checksums != "OFF" {
            taken.backup.verify();
        }
        assert!(taken.backup.data_dir().join(&path).exists());
    }
}

/// Neither a file of which some blocks have changed, nor a new one, which comes whole.
#[test]
fn files_of_an_incremental_backup_are_not_divided() {
    if incremental::is_too_old() {
        return;
    }
    let cluster = Cluster::builder()
        .setting("autovacuum", "off")
        .setting("summarize_wal", "on")
        .start();
    create_table(&cluster, "large", 40);
    // Hint bits of later would change all of its blocks.
    cluster.execute("VACUUM large");
    let full = Backup::take(&cluster, 2);
    cluster.execute("UPDATE large SET filler = 'changed' WHERE i < 10000");
    create_table(&cluster, "another", 40);
    let [large, another] = ["large", "another"].map(|table| path_of(&mut cluster.connect(), table));
    let (directory, name) = large.rsplit_once('/').expect("a directory");
    let mut leader = cluster.connect();
    let started = incremental::try_start_after(&mut leader, &incremental::manifest_of(&full));
    let id = started.expect("an incremental backup").id;
    let stream = copy_out(&mut leader, &copy_in_parts(id)).expect("a stream");
    assert!(split(&stream).0.is_empty());
    for path in [&format!("{directory}/INCREMENTAL.{name}"), &another] {
        member::expect(&stream, path);
    }
    let backup = verified(&cluster, &mut leader, &[stream]);
    let restored = incremental::combine(&cluster, &[&full, &backup]).restore();
    restored.wait_for_sql(
        "the rows",
        "SELECT (SELECT count(*) = 9999 FROM large WHERE filler = 'changed')
             AND (SELECT count(*) = 40 * 1024 FROM another)",
    );
}

/// The server's own function and the crate's compute the same.
#[test]
fn checksums_are_combined_whoever_computes_them() {
    let (cluster, _) = cluster_with_large_table();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let first = halt_in_parts(&cluster, id, IN_FIRST_PART);
    let mut second = cluster.connect();
    second
        .batch_execute("SET pg_parallel_backup.checksum_vectors = server")
        .expect("the setting");
    let second = copy_out(&mut second, &copy_in_parts(id)).expect("a stream");
    complete(&cluster, &mut leader, &[first.expect(), second]);
}

#[test]
fn other_files_than_large_relations_are_sent_whole() {
    let cluster = Cluster::builder().setting("autovacuum", "off").start();
    for path in ["large", "base/1/large", "base/1/4000000001"] {
        let path = cluster.data_dir().join(path);
        let file = File::create(&path).expect("a file");
        file.set_len(2 * PART_SIZE).expect("its size");
        backup_tests::program::give_to_owner(&path);
    }
    let mut taken = Stepwise::start(&cluster, "");
    let stream = taken.stream("send_backup_files(parts => true)");
    let (parts, rest) = split(&stream);
    assert!(parts.iter().all(|part| part.path == "base/1/4000000001"));
    assert_eq!(parts.len(), 2);
    let members = archive::members(&rest);
    for path in ["large", "base/1/large"] {
        assert!(members.contains(&path.to_owned()), "{members:?}");
    }
}

#[test]
fn parts_are_for_all_files_of_the_queue() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    for arguments in [
        "files => '{PG_VERSION}'",
        "tablespace => 0",
        "target => 'blackhole'",
    ] {
        let copy = copy_of(&format!(
            "send_backup_files({id}, parts => true, {arguments})"
        ));
        let failure = expect_failure(arguments, copy_out(&mut leader, &copy));
        failure.assert(
            "22023",
            "argument \"parts\" cannot be used with \"files\", \"tablespace\" or another target than client",
        );
    }
    let copy = copy_of(&format!("send_backup_files({id}, parts => NULL)"));
    let failure = expect_failure("NULL", copy_out(&mut leader, &copy));
    failure.assert("22004", "argument \"parts\" cannot be null");
    // Nothing has been taken.
    let files = copy_out(&mut leader, &copy_of(&format!("send_backup_files({id})")));
    assert!(archive::members(&files.expect("all files")).len() > 100);
}
