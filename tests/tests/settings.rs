//! Settings `pg_parallel_backup.manifest_force_encode` and `…server_processors`.

use std::fs;

use backup_tests::failure::expect_failure;
use backup_tests::program::{command, succeed};
use backup_tests::server::Cluster;
use backup_tests::stepwise::Stepwise;
use backup_tests::stream::{copy_of, copy_out};
use serde_json::Value;

const FORCE_ENCODE: &str = "SET pg_parallel_backup.manifest_force_encode = on";

/// Number of files in a manifest, after a check that each has its name in hexadecimal.
#[track_caller]
fn assert_encoded(manifest: &str) -> usize {
    let manifest: Value = serde_json::from_str(manifest).expect("JSON");
    let files = manifest["Files"].as_array().expect("a list");
    for file in files {
        let name = file["Encoded-Path"].as_str().expect("an encoded path");
        assert!(name.bytes().all(|byte| byte.is_ascii_hexdigit()), "{file}");
        assert_eq!(file["Path"], Value::Null, "{file}");
    }
    files.len()
}

#[test]
fn a_manifest_with_all_paths_encoded_is_accepted_by_pg_verifybackup() {
    let cluster = Cluster::new();
    let mut taken = Stepwise::start(&cluster, "");
    taken.leader.batch_execute(FORCE_ENCODE).expect("SET");
    taken.send_files();
    taken.stop();
    taken.backup.verify();
    let path = taken.backup.data_dir().join("backup_manifest");
    let text = fs::read_to_string(path).expect("a manifest");
    assert!(assert_encoded(&text) > 900);
}

#[test]
fn the_manifest_of_stop_backup_is_encoded_as_well() {
    let cluster = Cluster::new();
    let mut taken = Stepwise::start(&cluster, "");
    taken.leader.batch_execute(FORCE_ENCODE).expect("SET");
    let _ = taken.stream("send_backup_files()");
    let query = "SELECT backup_manifest FROM stop_backup()";
    let row = taken.leader.query_one(query, &[]).expect("stop_backup()");
    assert!(assert_encoded(row.get(0)) > 900);
}

#[test]
fn the_setting_of_a_worker_does_not_count() {
    let cluster = Cluster::new();
    let mut taken = Stepwise::start(&cluster, "");
    let mut worker = cluster.connect();
    worker.batch_execute(FORCE_ENCODE).expect("SET");
    let stream = copy_of(&format!("send_backup_files({})", taken.started.id));
    let stream = copy_out(&mut worker, &stream).expect("the stream of the worker");
    taken.backup.unpack(&stream);
    taken.stop();
    taken.backup.verify();
    let path = taken.backup.data_dir().join("backup_manifest");
    let text = fs::read_to_string(path).expect("a manifest");
    assert!(!text.contains("Encoded-Path"), "{text}");
}

#[test]
fn the_processors_are_those_of_the_operating_system_and_cannot_be_set() {
    let cluster = Cluster::new();
    let mut client = cluster.connect();
    client
        .batch_execute("SELECT FROM backup_progress()")
        .expect("backup_progress()");
    let shown = client
        .query_one("SHOW pg_parallel_backup.server_processors", &[])
        .expect("SHOW");
    let nproc = succeed(command("nproc").env_remove("OMP_NUM_THREADS"));
    assert_eq!(shown.get::<_, String>(0), nproc.trim());
    let set = "SET pg_parallel_backup.server_processors = 3";
    expect_failure(set, client.batch_execute(set)).assert(
        "55P02",
        "parameter \"pg_parallel_backup.server_processors\" cannot be changed",
    );
}

/// A misspelled name is not accepted as a placeholder setting.
#[test]
fn no_other_setting_has_the_prefix() {
    let cluster = Cluster::new();
    let mut client = cluster.connect();
    client
        .batch_execute("SELECT FROM backup_progress()")
        .expect("backup_progress()");
    let set = "SET pg_parallel_backup.manifest_force_encoding = on";
    expect_failure(set, client.batch_execute(set)).assert(
        "42602",
        "invalid configuration parameter name \"pg_parallel_backup.manifest_force_encoding\"",
    );
}
