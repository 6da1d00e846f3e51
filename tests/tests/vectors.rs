//! Setting `pg_parallel_backup.checksum_vectors`: all instruction sets compute the same checksums.

use std::fs;

use backup_tests::backup::Backup;
use backup_tests::failure::{Failure, expect_failure};
use backup_tests::member;
use backup_tests::page::{PAGE_SIZE, quiet_table, read_page, with_checksum};
use backup_tests::server::Cluster;
use backup_tests::stepwise::Stepwise;
use backup_tests::stream::{Worker, copy_of};
use postgres::Client;
use serde_json::Value;

const VALUES: [&str; 4] = ["auto", "avx512", "avx2", "server"];

/// Files that differ between two backups of the same idle cluster.
const OF_ONE_BACKUP: [&str; 2] = ["backup_label", "global/pg_control"];

/// Cluster with files of all sizes around those that fill a vector or a buffer.
fn idle_cluster() -> Cluster {
    let cluster = Cluster::builder().setting("autovacuum", "off").start();
    for near in [0, 8, 16, 64, 128, 256, 1024, 4096, 131_072, 262_144] {
        for size in [near + 1, near + 7, near + 63, near + 64, near + 255] {
            // Neighboring bytes differ, so that a swap changes the checksum.
            let byte = |at: u32| (at.wrapping_mul(at) / 7 % 251) as u8;
            let bytes: Vec<u8> = (0..size).map(byte).collect();
            cluster.write_file(&format!("planted_{near}_{size}"), &bytes);
        }
    }
    for pages in [1, 2, 15, 16, 17, 100] {
        quiet_table(&mut cluster.connect(), &format!("t{pages}"), pages, "");
    }
    // Frozen rows get no hint bits. A session would otherwise set them in between.
    cluster.execute("VACUUM (FREEZE)");
    cluster.execute("CHECKPOINT");
    cluster
}

#[track_caller]
fn select(client: &mut Client, value: &str) {
    let set = format!("SET pg_parallel_backup.checksum_vectors = '{value}'");
    if let Err(error) = client.batch_execute(&set) {
        panic!("{set}: {}", Failure::from(error));
    }
}

fn show(client: &mut Client) -> String {
    let query = "SELECT current_setting('pg_parallel_backup.checksum_vectors')";
    client.query_one(query, &[]).expect("the setting").get(0)
}

/// Loads the library, by the first call of a function.
fn load(client: &mut Client) {
    let statement = "SELECT FROM backup_progress()";
    client.batch_execute(statement).expect("backup_progress()");
}

#[test]
fn archives_are_the_same_byte_for_byte() {
    let cluster = idle_cluster();
    let mut taken = Stepwise::start(&cluster, "");
    let everything = "files => ARRAY(SELECT path FROM backup_filelist())";
    let mut first: Option<Vec<u8>> = None;
    for value in VALUES {
        select(&mut taken.leader, value);
        let stream = taken.stream(&format!("send_backup_files({everything})"));
        assert_eq!(show(&mut taken.leader), value);
        match &first {
            None => {
                let count = member::members(&stream).len() as i64;
                assert_eq!(count, taken.started.file_count);
                first = Some(stream);
            }
            Some(first) => assert!(stream == *first, "{value}"),
        }
    }
    assert_eq!(taken.notices.warnings(), [""; 0]);
}

#[test]
fn manifests_are_the_same_and_accepted_by_pg_verifybackup() {
    let cluster = idle_cluster();
    let mut first: Option<Vec<Value>> = None;
    for value in VALUES {
        let mut taken = Stepwise::start(&cluster, "");
        select(&mut taken.leader, value);
        taken.send_files();
        taken.stop();
        taken.backup.verify();
        let path = taken.backup.data_dir().join("backup_manifest");
        let text = fs::read_to_string(path).expect("a manifest");
        let mut manifest: Value = serde_json::from_str(&text).expect("JSON");
        let files = manifest["Files"].as_array_mut().expect("a list");
        files.retain(|file| !OF_ONE_BACKUP.iter().any(|path| file["Path"] == *path));
        for file in files.iter_mut() {
            // Each checkpoint rewrites some small files.
            file["Last-Modified"].take();
        }
        let first = first.get_or_insert_with(|| files.clone());
        assert!(first.len() > 900, "{text}");
        for (file, of_first) in files.iter().zip(&*first) {
            assert_eq!(file, of_first, "{value}");
        }
        assert_eq!(files.len(), first.len(), "{value}");
    }
}

#[test]
fn workers_with_different_vectors_make_one_backup() {
    let cluster = idle_cluster();
    let mut taken = Stepwise::start(&cluster, "");
    let copy = copy_of(&format!("send_backup_files({})", taken.started.id));
    let workers = VALUES.map(|value| {
        let (mut client, notices) = cluster.connect_with_notices();
        select(&mut client, value);
        Worker::take_over(client, notices, &copy, u64::MAX)
    });
    for worker in workers {
        let notices = worker.notices.clone();
        taken.backup.unpack(&worker.expect());
        assert_eq!(notices.warnings(), [""; 0]);
    }
    taken.stop();
    taken.backup.verify();
    taken.backup.restore().stop_and_check_checksums();
}

#[test]
fn a_damaged_page_is_found_wherever_it_is() {
    const PAGES: u32 = 40;
    let cluster = Cluster::builder().setting("autovacuum", "off").start();
    let path = quiet_table(&mut cluster.connect(), "t", PAGES, "");
    let mut taken = Stepwise::start(&cluster, "");
    let call = format!("send_backup_files(files => ARRAY['{path}'])");
    for block in 0..PAGES {
        // One bit, at a different position in each page.
        let place = (100 + block as usize * 199, 1 << (block % 8));
        let flip = || cluster.change_page(&path, block, |page| page[place.0] ^= place.1);
        flip();
        let known = taken.notices.warnings().len();
        for value in VALUES {
            select(&mut taken.leader, value);
            let failure = expect_failure(value, taken.try_stream(&call));
            assert_eq!(failure.sqlstate, "XX001", "{value}, {block}: {failure}");
        }
        let warnings = taken.notices.warnings().split_off(known);
        assert_eq!(warnings.len(), VALUES.len(), "{warnings:?}");
        let begin = format!("checksum verification failed in file \"{path}\", block {block}: ");
        assert!(warnings[0].starts_with(&begin), "{warnings:?}");
        // Calculated and expected checksums are equal too.
        assert!(warnings.iter().all(|it| *it == warnings[0]), "{warnings:?}");
        flip();
    }
    for value in VALUES {
        select(&mut taken.leader, value);
        taken.stream(&call);
    }
}

#[test]
fn many_damaged_pages_are_reported_alike() {
    let cluster = Cluster::builder().setting("autovacuum", "off").start();
    let path = quiet_table(&mut cluster.connect(), "t", 300, "");
    for block in [0, 1, 14, 15, 16, 17, 31, 63, 64, 127, 255, 299] {
        cluster.flip_bytes(&path, block);
    }
    // A new page has no checksum.
    cluster.change_page(&path, 200, |page| page.fill(0));
    let mut taken = Stepwise::start(&cluster, "");
    for target in ["client", "blackhole"] {
        let call = format!("send_backup_files(files => ARRAY['{path}'], target => '{target}')");
        let reports = VALUES.map(|value| {
            let known = taken.notices.warnings().len();
            select(&mut taken.leader, value);
            let failure = expect_failure(value, taken.try_stream(&call));
            assert_eq!(failure.sqlstate, "XX001", "{value}: {failure}");
            taken.notices.warnings().split_off(known)
        });
        let total = format!("file \"{path}\" has a total of 12 checksum verification failures");
        assert!(reports[0].contains(&total), "{reports:?}");
        assert!(reports.iter().all(|it| *it == reports[0]), "{reports:?}");
    }
}

#[test]
fn blocks_of_a_later_segment_have_their_number_in_the_relation() {
    const FIRST_BLOCK: u32 = 131_072;
    const PAGES: u32 = 33;
    let cluster = Cluster::builder().setting("autovacuum", "off").start();
    if !cluster.has_module("pageinspect") {
        return;
    }
    let mut client = cluster.connect();
    let create = client.batch_execute("CREATE EXTENSION pageinspect");
    create.expect("CREATE EXTENSION");
    let path = quiet_table(&mut client, "t", PAGES, "");
    let mut segment = Vec::new();
    for block in 0..PAGES {
        let page = read_page(&cluster.data_dir().join(&path), block);
        segment.extend(with_checksum(&mut client, page, FIRST_BLOCK + block));
    }
    let later = format!("{path}.1");
    cluster.write_file(&later, &segment);
    let mut taken = Stepwise::start(&cluster, "");
    let call = format!("send_backup_files(files => ARRAY['{later}'])");
    for value in VALUES {
        select(&mut taken.leader, value);
        let stream = taken.stream(&call);
        let sent = member::expect(&stream, &later).content;
        assert_eq!(sent.len(), PAGES as usize * PAGE_SIZE);
        assert!(sent == segment, "{value}");
    }
    assert_eq!(taken.notices.warnings(), [""; 0]);
}

#[test]
fn any_user_may_choose_and_only_these() {
    let cluster = Cluster::new();
    cluster.execute("CREATE ROLE worker LOGIN");
    cluster.execute("GRANT EXECUTE ON FUNCTION backup_progress TO worker");
    let mut client = cluster.connect_as("worker");
    load(&mut client);
    assert_eq!(show(&mut client), "auto");
    for value in VALUES {
        select(&mut client, &value.to_uppercase());
        assert_eq!(show(&mut client), value);
    }
    for wrong in ["", "sse2", "avx", "avx2 ", "on", "0"] {
        let set = format!("SET pg_parallel_backup.checksum_vectors = '{wrong}'");
        let failure = expect_failure(&set, client.batch_execute(&set));
        let name = "pg_parallel_backup.checksum_vectors";
        failure.assert(
            "22023",
            &format!("invalid value for parameter \"{name}\": \"{wrong}\""),
        );
        assert!(failure.hint.contains(&VALUES.join(", ")), "{failure}");
        assert_eq!(show(&mut client), "server");
    }
    let reset = client.batch_execute("RESET ALL");
    reset.expect("RESET");
    assert_eq!(show(&mut client), "auto");
}

#[test]
fn a_choice_made_before_the_library_is_loaded_holds() {
    let cluster = Cluster::builder()
        .setting("pg_parallel_backup.checksum_vectors", "avx2")
        .start();
    let (mut client, notices) = cluster.connect_with_notices();
    load(&mut client);
    assert_eq!(show(&mut client), "avx2");
    let mut client = cluster.connect();
    select(&mut client, "server");
    load(&mut client);
    assert_eq!(show(&mut client), "server");
    assert_eq!(notices.warnings(), [""; 0]);

    // An invalid value causes a message and does no harm.
    let (mut client, notices) = cluster.connect_with_notices();
    select(&mut client, "sse2");
    load(&mut client);
    assert!(VALUES.contains(&show(&mut client).as_str()));
    let warnings = notices.warnings();
    assert!(warnings[0].ends_with(": \"sse2\""), "{warnings:?}");
    let backup = Backup::take(&cluster, 2);
    backup.verify();
}
