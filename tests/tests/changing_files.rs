//! Files that change between the listing and their place in a stream. A stream must keep the
//! announced size, and the manifest must describe the bytes sent. WAL replay repairs the rest.

use std::fs::{self, File};
use std::path::PathBuf;

use backup_tests::member;
use backup_tests::program::{command, make_dir, succeed};
use backup_tests::server::Cluster;
use backup_tests::stepwise::Stepwise;
use backup_tests::stream::{Worker, copy_of};

/// Non-zero bytes; nearby positions have different values.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8 + 1).collect()
}

/// Plants a file and returns its path on disk.
fn plant(cluster: &Cluster, name: &str, length: usize) -> PathBuf {
    cluster.write_file(name, &pattern(length));
    cluster.data_dir().join(name)
}

/// Stops the backup and verifies everything that arrived.
#[track_caller]
fn stop_and_verify(taken: &mut Stepwise) {
    taken.stop();
    taken.backup.verify();
}

/// Whether the backup's manifest contains a path.
fn is_in_manifest(taken: &Stepwise, path: &str) -> bool {
    let manifest = fs::read_to_string(taken.backup.data_dir().join("backup_manifest"));
    let manifest: serde_json::Value =
        serde_json::from_str(&manifest.expect("backup_manifest")).expect("the manifest is JSON");
    let files = manifest["Files"].as_array().expect("Files is a list");
    files.iter().any(|file| file["Path"] == path)
}

#[test]
fn a_vanished_file_is_skipped_and_not_in_the_manifest() {
    let cluster = Cluster::new();
    let path = plant(&cluster, "vanishing", 1000);
    plant(&cluster, "staying", 1000);
    let mut taken = Stepwise::start(&cluster, "");
    fs::remove_file(path).expect("could not remove a file");
    assert!(
        taken
            .listing()
            .iter()
            .any(|entry| entry.path == "vanishing")
    );

    let stream = taken.send_files();
    assert_eq!(member::find(&stream, "vanishing"), None);
    member::expect(&stream, "staying");
    stop_and_verify(&mut taken);
    assert!(!is_in_manifest(&taken, "vanishing"));
    assert!(is_in_manifest(&taken, "staying"));
}

#[test]
fn a_vanished_file_that_is_asked_for_is_skipped_as_well() {
    let cluster = Cluster::new();
    let path = plant(&cluster, "vanishing", 1000);
    let mut taken = Stepwise::start(&cluster, "");
    fs::remove_file(path).expect("could not remove a file");
    let stream = taken.stream("send_backup_files(files => ARRAY['vanishing', 'PG_VERSION'])");
    let members = member::members(&stream);
    assert_eq!(members.len(), 1);
    assert_eq!(members[0].name(), "PG_VERSION");
    taken.send_files();
    taken.stop();
}

#[test]
fn a_vanished_directory_takes_its_files_along() {
    let cluster = Cluster::new();
    let dir = cluster.data_dir().join("extra");
    make_dir(&dir);
    make_dir(&dir.join("inner"));
    plant(&cluster, "extra/one", 10);
    plant(&cluster, "extra/inner/two", 10);
    let mut taken = Stepwise::start(&cluster, "");
    fs::remove_dir_all(dir).expect("could not remove a folder");
    let stream = taken.send_files();
    for file in ["extra/one", "extra/inner/two"] {
        assert_eq!(member::find(&stream, file), None, "{file}");
    }
    stop_and_verify(&mut taken);
    assert!(!is_in_manifest(&taken, "extra/one"));
}

/// Paths of relations; WAL covers any truncation or extension. These files hold no pages.
const RELATIONS: [&str; 2] = ["base/1/4000000001", "base/1/4000000002.1"];
const UNVERIFIED: &str = "verify_checksums => false";

#[track_caller]
fn resize(path: &PathBuf, length: usize) {
    let file = File::options().write(true).open(path);
    file.and_then(|file| file.set_len(length as u64))
        .unwrap_or_else(|error| panic!("could not resize {path:?}: {error}"));
}

#[test]
fn a_shrunk_relation_is_padded_with_zeros_to_the_listed_size() {
    let cluster = Cluster::new();
    let [shrunk, emptied] = RELATIONS;
    let paths =
        [(shrunk, 1_000_000), (emptied, 1234)].map(|(name, length)| plant(&cluster, name, length));
    let mut taken = Stepwise::start(&cluster, UNVERIFIED);
    resize(&paths[0], 12_345);
    resize(&paths[1], 0);
    let stream = taken.send_files();
    let mut expected = pattern(12_345);
    expected.resize(1_000_000, 0);
    // assert_eq! would print two megabytes.
    assert!(member::expect(&stream, shrunk).content == expected);
    assert_eq!(member::expect(&stream, emptied).content, vec![0; 1234]);
    stop_and_verify(&mut taken);
    assert!(is_in_manifest(&taken, shrunk));
}

#[test]
fn a_relation_that_shrinks_while_it_is_sent_is_padded_with_zeros() {
    const LENGTH: usize = 32 << 20;
    const SHORTENED: usize = 24 << 20;
    let cluster = Cluster::new();
    let name = RELATIONS[0];
    let path = plant(&cluster, name, LENGTH);
    let mut taken = Stepwise::start(&cluster, UNVERIFIED);
    let id = taken.started.id;
    let copy = copy_of(&format!("send_backup_files({id}, ARRAY['{name}'])"));
    // The reader halts after the first bytes. The connection buffers less than the eight megabytes
    // needed here to shorten a file before it is read.
    let worker = Worker::spawn_halting(&cluster, &copy, 1000);
    worker.wait_for_bytes(1000);
    resize(&path, SHORTENED);
    let stream = worker.expect();

    let mut expected = pattern(SHORTENED);
    expected.resize(LENGTH, 0);
    assert!(member::expect(&stream, name).content == expected);
    taken.backup.unpack(&stream);
    taken.send_files();
    stop_and_verify(&mut taken);
}

#[test]
fn a_grown_relation_is_cut_at_the_listed_size() {
    let cluster = Cluster::new();
    let [grown, empty] = RELATIONS;
    let paths = [(grown, 12_345), (empty, 0)].map(|(name, length)| plant(&cluster, name, length));
    let mut taken = Stepwise::start(&cluster, UNVERIFIED);
    fs::write(&paths[0], pattern(500_000)).expect("could not write a file");
    fs::write(&paths[1], pattern(600)).expect("could not write a file");
    let stream = taken.send_files();
    assert_eq!(member::expect(&stream, grown).content, pattern(12_345));
    assert_eq!(member::expect(&stream, empty).content, [0; 0]);
    stop_and_verify(&mut taken);
}

/// Nothing repairs a truncated configuration file.
#[test]
fn files_that_are_no_relations_are_sent_as_they_are_by_then() {
    let cluster = Cluster::new();
    let paths = ["grown", "shrunk"].map(|name| plant(&cluster, name, 10_000));
    let mut taken = Stepwise::start(&cluster, "");
    fs::write(&paths[0], pattern(12_345)).expect("could not write a file");
    resize(&paths[1], 100);
    // After two rewrites a file can have its first inode number again.
    for size in ["7MB", "1234MB"] {
        cluster.execute(&format!("ALTER SYSTEM SET work_mem = '{size}'"));
    }
    let stream = taken.send_files();
    assert_eq!(member::expect(&stream, "grown").content, pattern(12_345));
    assert_eq!(member::expect(&stream, "shrunk").content, pattern(100));
    let settings = member::expect(&stream, "postgresql.auto.conf").content;
    let settings = String::from_utf8_lossy(&settings).into_owned();
    assert!(settings.ends_with("work_mem = '1234MB'\n"), "{settings}");
    stop_and_verify(&mut taken);
}

#[test]
fn a_file_replaced_by_rename_is_sent_whole() {
    let cluster = Cluster::new();
    let longer = plant(&cluster, "longer", 1000);
    let shorter = plant(&cluster, "shorter", 200_000);
    let mut taken = Stepwise::start(&cluster, "");
    for (path, length) in [(&longer, 300_000), (&shorter, 10)] {
        let new = cluster.socket_dir().join("new");
        fs::write(&new, pattern(length)).expect("could not write a file");
        backup_tests::program::give_to_owner(&new);
        fs::rename(new, path).expect("could not rename a file");
    }
    // Replaced by the server itself.
    cluster.execute("ALTER SYSTEM SET work_mem = '7MB'");

    let stream = taken.send_files();
    assert!(member::expect(&stream, "longer").content == pattern(300_000));
    assert_eq!(member::expect(&stream, "shorter").content, pattern(10));
    let settings = member::expect(&stream, "postgresql.auto.conf").content;
    assert!(String::from_utf8_lossy(&settings).ends_with("work_mem = '7MB'\n"));
    stop_and_verify(&mut taken);
}

#[test]
fn a_file_that_became_a_link_is_not_followed() {
    let cluster = Cluster::new();
    let path = plant(&cluster, "file", 1000);
    let secret = cluster.make_dir("outside").join("secret");
    fs::write(&secret, "DONOTCOPY".repeat(200)).expect("could not write outside");
    let mut taken = Stepwise::start(&cluster, "");
    fs::remove_file(&path).expect("could not remove a file");
    succeed(command("ln").arg("-s").arg(&secret).arg(&path));
    // The stream may fail or omit the file. It must not contain anything from outside.
    match taken.try_stream("send_backup_files(files => ARRAY['file'])") {
        Ok(stream) => assert!(!member::contains(&stream, "DONOTCOPY")),
        Err(failure) => assert!(failure.message.contains("file"), "{failure}"),
    }
    fs::remove_file(&path).expect("could not remove a link");
    taken.send_files();
    stop_and_verify(&mut taken);
}

#[test]
fn a_file_made_after_the_start_is_left_to_the_wal() {
    let cluster = Cluster::new();
    let mut taken = Stepwise::start(&cluster, "");
    plant(&cluster, "late", 1000);
    cluster.execute("CREATE TABLE late AS SELECT generate_series(1, 1000) AS a");
    let stream = taken.send_files();
    assert_eq!(member::find(&stream, "late"), None);
    stop_and_verify(&mut taken);
    let restored = taken.backup.restore();
    let row = restored
        .connect()
        .query_one("SELECT count(*) FROM late", &[])
        .expect("the table");
    assert_eq!(row.get::<_, i64>(0), 1000);
}
