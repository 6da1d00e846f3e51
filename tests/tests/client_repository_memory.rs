//! Memory use of the program with a repository in a store: small, whatever the size of the cluster and the speed
//! of the store.

use std::process::Command;

use backup_tests::memory::measure;
use backup_tests::object_store::{Act, Fault, Kind};
use backup_tests::planted;
use backup_tests::repository::Repository;
use backup_tests::scratch::Folder;
use backup_tests::server::Cluster;

const AT_MOST_KB: u64 = 64 * 1024;

/// Checks the peak memory of a program.
#[track_caller]
fn assert_small(what: &str, program: &Command) {
    let measured = measure(program);
    assert_eq!(measured.status, 0, "{what}: {measured:?}");
    let memory = measured.peak_kb;
    println!("{what}: {memory} kB");
    assert!(memory < AT_MOST_KB, "{memory} kB: {what}");
}

/// Cluster of some hundred MB, in files of which each is larger than a part of an upload.
fn large_cluster() -> Cluster {
    let cluster = Cluster::new();
    planted::relations(&cluster, 1, 10, 32 << 20);
    cluster
}

#[test]
fn four_workers_take_little_memory() {
    let cluster = large_cluster();
    let repository = Repository::new();
    for (name, compression) in [
        ("none", "none"),
        ("zstd", "zstd"),
        ("gzip", "server-gzip:1"),
    ] {
        let args = ["-j", "4", "-Z", compression];
        assert_small(name, &repository.backup(&cluster, name, &args));
        assert_small("verify", &repository.verify(name, &["-j", "4"]));
        let places = Folder::new("r");
        let restore = repository.restore(name, &places.join("data"), &["-j", "4"]);
        assert_small("restore", &restore);
    }
    assert_small("list", &repository.list(&[]));
}

#[test]
fn a_store_that_fails_now_and_then_takes_no_more_memory() {
    let cluster = large_cluster();
    let repository = Repository::new();
    // Parts wait for their repetition while the server sends more.
    let fault = Fault::new(Act::SlowDown)
        .on(&[Kind::Part, Kind::Get])
        .every(2);
    repository.server.switch_on(&fault);
    assert_small("backup", &repository.backup(&cluster, "b", &["-j", "4"]));
    let archives = repository.archives("b").len();
    assert!(archives > 3, "{archives}");
    assert!(repository.server.requests().faulted() > 20);
    assert_small("verify", &repository.verify("b", &["-j", "4"]));
}
