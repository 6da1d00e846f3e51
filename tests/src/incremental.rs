//! Incremental backups through SQL, and pg_combinebackup, which puts them together.

use std::path::Path;

use postgres::Client;

use crate::backup::{Backup, Started, send_stop, spawn_workers, try_start};
use crate::client::program;
use crate::failure::Failure;
use crate::program::{command, major_version, succeed};
use crate::server::Cluster;

/// Whether the server under test is too old for incremental backups.
pub fn is_too_old() -> bool {
    let is_too_old = major_version() < 17;
    if is_too_old {
        eprintln!("nothing to test before PostgreSQL 17");
    }
    is_too_old
}

/// Uploads a manifest in parts of so many bytes.
pub fn upload(client: &mut Client, manifest: &[u8], part: usize) -> Result<(), Failure> {
    for part in manifest.chunks(part) {
        client.execute("SELECT upload_manifest($1)", &[&part])?;
    }
    Ok(())
}

/// Starts a backup of what has changed since an earlier one.
pub fn try_start_after(client: &mut Client, manifest: &[u8]) -> Result<Started, Failure> {
    upload(client, manifest, 1000)?;
    try_start(client, "incremental => true")
}

/// Manifest of a backup.
#[track_caller]
pub fn manifest_of(backup: &Backup) -> Vec<u8> {
    std::fs::read(backup.data_dir().join("backup_manifest")).expect("a manifest")
}

/// Takes a backup of what has changed since an earlier one, and verifies it.
#[track_caller]
pub fn take_after(cluster: &Cluster, earlier: &Backup, workers: usize) -> Backup {
    let mut leader = cluster.connect();
    let backup = Backup::folder(cluster);
    let started = try_start_after(&mut leader, &manifest_of(earlier));
    let started = started.unwrap_or_else(|failure| panic!("start_backup(): {failure}"));
    for worker in spawn_workers(cluster, started.id, workers) {
        backup.unpack(&worker.expect());
    }
    backup.unpack(&send_stop(&mut leader));
    backup.verify();
    backup
}

/// Puts a full backup and those that follow it together, with our program, and compares the result with
/// that of pg_combinebackup. `cluster` tells which tablespaces there are.
#[track_caller]
pub fn combine(cluster: &Cluster, backups: &[&Backup]) -> Backup {
    let last = backups.last().expect("a backup");
    // Links lead to the tablespaces already.
    let _ = std::fs::remove_file(last.data_dir().join("tablespace_map"));
    let mut ours = program();
    ours.args(["combine", "-j", "2"]);
    let [theirs, ours] = [command("pg_combinebackup"), ours].map(|mut program| {
        let combined = Backup::folder(cluster);
        succeed(command("rm").arg("-r").arg(combined.data_dir()));
        program.arg("--no-sync");
        for ((oid, from), (same, to)) in last.tablespaces().iter().zip(combined.tablespaces()) {
            assert_eq!(oid, same);
            succeed(command("rm").arg("-r").arg(to));
            program
                .arg("-T")
                .arg(format!("{}={}", from.display(), to.display()));
        }
        program.args(backups.iter().map(|backup| backup.data_dir()));
        succeed(program.arg("-o").arg(combined.data_dir()));
        combined.verify();
        combined
    });
    assert_same_files(&ours.data_dir(), &theirs.data_dir());
    ours
}

/// Checks that two data directories have the same files, except for the times in their manifests.
#[track_caller]
pub fn assert_same_files(ours: &Path, theirs: &Path) {
    let of = |root: &Path| -> Vec<_> {
        let files = files_below(root).into_iter();
        files
            .filter(|(name, _)| name != "backup_manifest")
            .collect()
    };
    let (ours, theirs) = (of(ours), of(theirs));
    let names = |files: &[(String, Vec<u8>)]| -> Vec<_> {
        files.iter().map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(names(&ours), names(&theirs));
    for ((name, ours), (_, theirs)) in ours.iter().zip(&theirs) {
        assert!(ours == theirs, "{name} differs");
    }
}

/// Number and checksum of the rows of every permanent table, in every database.
#[track_caller]
pub fn contents(cluster: &Cluster) -> Vec<String> {
    let names = |client: &mut Client, query: &str| -> Vec<String> {
        let rows = client.query(query, &[]).expect(query);
        rows.iter().map(|row| row.get(0)).collect()
    };
    let databases = names(
        &mut cluster.connect(),
        "SELECT datname::text FROM pg_database WHERE datallowconn ORDER BY 1",
    );
    let mut contents = Vec::new();
    for database in databases {
        let mut client = cluster.connect_to(&database);
        let tables = names(
            &mut client,
            "SELECT oid::regclass::text FROM pg_class
             WHERE relkind IN ('r', 'm', 'S') AND relpersistence = 'p' AND relnamespace IN
                 (SELECT oid FROM pg_namespace WHERE nspname = 'public')
             ORDER BY 1",
        );
        for table in tables {
            let digest = format!(
                "SELECT format('%s: %s rows, %s', '{table}', count(*),
                     md5(string_agg(t::text, ',' ORDER BY t::text))) FROM (SELECT * FROM {table}) AS t"
            );
            contents.extend(
                names(&mut client, &digest)
                    .iter()
                    .map(|row| format!("{database}.{row}")),
            );
        }
    }
    contents
}

/// Names and contents of the files below a directory, links followed, in the order of their names.
#[track_caller]
pub fn files_below(root: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let name = path.strip_prefix(root).expect("a path below the root");
                let content = std::fs::read(&path).expect("a file");
                files.push((name.display().to_string(), content));
            }
        }
    }
    files.sort();
    files
}
