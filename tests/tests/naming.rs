//! Files sent again by name while the leader stops the backup.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use backup_tests::archive::content;
use backup_tests::backup::{start, try_send_stop};
use backup_tests::failure::Failure;
use backup_tests::leftover;
use backup_tests::program::give_to_owner;
use backup_tests::server::Cluster;
use backup_tests::stream::{copy_of, copy_out};
use backup_tests::wait::{PATIENCE, wait_for};
use serde_json::Value;

const FILES: [&str; 2] = ["a.note", "b.note"];

/// Errors that a session may get when it names files.
const REFUSALS: [&str; 4] = [
    "is being sent by another worker",
    "is being stopped",
    "has ended",
    "does not exist",
];

/// Requests both files in this order until `over` is set. Records the contents received in streams
/// that succeeded.
fn name_files(
    cluster: &Cluster,
    id: i64,
    order: [&str; 2],
    over: &AtomicBool,
    arrived: &Mutex<Vec<Vec<u8>>>,
) {
    let mut session = cluster.connect();
    let files = order.map(|file| format!("'{file}'")).join(", ");
    let copy = copy_of(&format!("send_backup_files({id}, ARRAY[{files}])"));
    while !over.load(Ordering::Relaxed) {
        match copy_out(&mut session, &copy) {
            Ok(archive) => {
                let mut arrived = arrived.lock().expect("the list");
                arrived.extend(FILES.map(|file| content(&archive, file)));
            }
            Err(failure) => {
                let said = failure.to_string();
                assert!(REFUSALS.iter().any(|words| said.contains(words)), "{said}");
            }
        }
    }
}

/// Replaces the contents of the files repeatedly, with the same size.
fn rewrite(data: &Path, over: &AtomicBool) {
    for number in 0_u64.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        for file in FILES {
            let new = data.join("postgresql.auto.conf.tmp");
            fs::write(&new, format!("{file} {number:08}")).expect("a new file");
            give_to_owner(&new);
            fs::rename(new, data.join(file)).expect("its name");
        }
    }
}

fn sha256(cluster: &Cluster, content: &[u8]) -> String {
    let query = "SELECT encode(sha256($1), 'hex')";
    let row = cluster.connect().query_one(query, &[&content]);
    row.expect("a checksum").get(0)
}

/// For each file in the manifest, some client has received that content in a stream that succeeded.
#[test]
fn a_manifest_names_only_bytes_that_were_received() {
    let cluster = Cluster::new();
    for file in FILES {
        cluster.write_file(file, format!("{file} 00000000").as_bytes());
    }
    for _ in 0..10 {
        let mut leader = cluster.connect();
        let started = start(&mut leader, "manifest_checksums => 'SHA256'");
        let arrived: Mutex<Vec<Vec<u8>>> = Mutex::default();
        let first = copy_out(&mut leader, &copy_of("send_backup_files()"));
        let first = first.expect("all files");
        for file in FILES {
            arrived
                .lock()
                .expect("the list")
                .push(content(&first, file));
        }
        let over = AtomicBool::new(false);
        let closing = std::thread::scope(|scope| {
            let [a, b] = FILES;
            let name = |order| name_files(&cluster, started.id, order, &over, &arrived);
            let namers = [[a, b], [b, a]].map(|order| scope.spawn(move || name(order)));
            scope.spawn(|| rewrite(&cluster.data_dir(), &over));
            let begun = || arrived.lock().expect("the list").len() > FILES.len();
            wait_for("files that are sent again", PATIENCE, begun);
            // The stop fails while a stream runs, and the backup continues. It eventually succeeds
            // between two streams.
            let closing = loop {
                match try_send_stop(&mut leader, "wal => true") {
                    Ok(closing) => break closing,
                    Err(failure) => assert_incomplete(&failure),
                }
            };
            over.store(true, Ordering::Relaxed);
            for namer in namers {
                namer.join().expect("the session that names files");
            }
            closing
        });
        let manifest: Value =
            serde_json::from_slice(&content(&closing, "backup_manifest")).expect("JSON");
        let arrived = arrived.into_inner().expect("the list");
        let received: Vec<_> = arrived
            .iter()
            .map(|content| sha256(&cluster, content))
            .collect();
        for file in FILES {
            let files = manifest["Files"].as_array().expect("a list");
            let entry = files.iter().find(|entry| entry["Path"] == file);
            let checksum = entry.expect("the file")["Checksum"].as_str();
            let checksum = checksum.expect("its checksum").to_owned();
            assert!(received.contains(&checksum), "{file}: {checksum}");
        }
        leftover::assert_none(&cluster);
    }
}

#[track_caller]
fn assert_incomplete(failure: &Failure) {
    let said = failure.to_string();
    assert!(said.contains("backup is incomplete"), "{said}");
}
