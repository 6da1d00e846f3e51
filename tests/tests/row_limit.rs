//! Manifest too large for a row.

use std::fs;
use std::io::Read;
use std::path::PathBuf;

use backup_tests::backup::start;
use backup_tests::failure::expect_failure;
use backup_tests::server::Cluster;
use backup_tests::stream::copy_of;
use postgres::Client;

/// Number of files. The manifest entry of each has 8 kB.
const FILES: u32 = 140_000;

/// Runs a COPY and counts the bytes that the server sends.
fn count_bytes(client: &mut Client, call: &str) -> u64 {
    let mut stream = client.copy_out(&copy_of(call)).expect("the COPY");
    let mut part = vec![0; 1 << 20];
    let mut bytes = 0;
    loop {
        match stream.read(&mut part).expect("the stream") {
            0 => return bytes,
            count => bytes += count as u64,
        }
    }
}

#[test]
#[ignore = "takes 3 GB of memory"]
fn a_manifest_of_more_than_a_gigabyte_leaves_the_backup_running_and_goes_into_a_stream() {
    let cluster = Cluster::builder().setting("autovacuum", "off").start();
    let mut directory = PathBuf::from("deep");
    while directory.as_os_str().len() < 3600 {
        directory.push("d".repeat(250));
    }
    // Use relative paths, because absolute ones would be too long.
    std::env::set_current_dir(cluster.data_dir()).expect("the data directory");
    fs::create_dir_all(&directory).expect("a deep directory");
    for number in 0..FILES {
        fs::write(directory.join(format!("{number:0100}")), b"").expect("a file");
    }
    let mut leader = cluster.connect();
    leader
        .batch_execute("SET pg_parallel_backup.manifest_force_encode = on")
        .expect("SET");
    start(&mut leader, "");
    count_bytes(&mut leader, "send_backup_files()");
    let refused = leader.query("SELECT * FROM stop_backup()", &[]);
    let failure = expect_failure("stop_backup()", refused);
    assert_eq!(failure.sqlstate, "54000", "{failure}");
    assert!(failure.hint.contains("send_stop_backup()"), "{failure}");
    assert!(count_bytes(&mut leader, "send_stop_backup()") > 1 << 30);
}
