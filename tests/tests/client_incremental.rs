//! Incremental backups of the program, combined by pg_combinebackup: from 17 on.

use std::fs;
use std::path::Path;

use backup_tests::backup::Backup;
use backup_tests::client::{
    backup_of, expect_failure, names_in, new_target, private_file, program, verify,
};
use backup_tests::incremental::is_too_old;
use backup_tests::program::{account, command, major_version, run, succeed};
use backup_tests::scratch::Folder;
use backup_tests::server::Cluster;

fn summarizing_cluster() -> Cluster {
    let cluster = Cluster::builder().setting("summarize_wal", "on").start();
    cluster.execute("CREATE TABLE t AS SELECT generate_series(1, 50000) AS a");
    cluster.execute("CREATE TABLE cut AS SELECT generate_series(1, 50000) AS a");
    cluster
}

#[track_caller]
fn take(cluster: &Cluster, target: &Path, earlier: Option<&Path>, args: &[&str]) {
    let mut backup = backup_of(cluster);
    backup.arg("-D").arg(target).args(args);
    if let Some(earlier) = earlier {
        backup.arg("-i").arg(earlier.join("backup_manifest"));
    }
    let output = run(&mut backup);
    assert!(output.status.success(), "{}", account(&backup, &output));
}

#[test]
fn a_chain_of_three_is_combined_verified_and_started() {
    if is_too_old() {
        return;
    }
    let cluster = summarizing_cluster();
    let folder = Folder::new("chain");
    let [full, first, second] = ["full", "first", "second"].map(|name| folder.join(name));
    take(&cluster, &full, None, &["-j", "2"]);
    cluster.execute("UPDATE t SET a = -a WHERE a <= 10");
    cluster.execute("TRUNCATE cut");
    take(&cluster, &first, Some(&full), &["-j", "1"]);
    cluster.execute("INSERT INTO t SELECT generate_series(50001, 50010)");
    cluster.execute("CREATE DATABASE other STRATEGY file_copy");
    take(&cluster, &second, Some(&first), &["-j", "4"]);
    for backup in [&full, &first, &second] {
        verify(backup, &[]);
        succeed(program().args(["verify", "-n"]).arg(backup));
    }
    let size = |backup: &Path| {
        let size = succeed(command("du").args(["-s", "--exclude=pg_wal"]).arg(backup));
        size.split_whitespace()
            .next()
            .and_then(|kb| kb.parse::<u64>().ok())
    };
    assert!(size(&first) < size(&full));

    let combined = Backup::folder(&cluster);
    succeed(command("rm").arg("-r").arg(combined.data_dir()));
    succeed(
        command("pg_combinebackup")
            .arg("--no-sync")
            .args([&full, &first, &second])
            .arg("-o")
            .arg(combined.data_dir()),
    );
    combined.verify();
    let restored = combined.restore();
    restored.wait_for_sql(
        "the rows",
        "SELECT count(*) = 50010 AND sum(a) FILTER (WHERE a < 0) = -55 FROM t",
    );
    restored.wait_for_sql("the table that was cut", "SELECT count(*) = 0 FROM cut");
}

#[test]
fn an_incremental_backup_in_tar_format_is_verified_and_not_restored_alone() {
    if is_too_old() {
        return;
    }
    let cluster = summarizing_cluster();
    let folder = Folder::new("tar");
    let [full, tar] = ["full", "tar"].map(|name| folder.join(name));
    take(&cluster, &full, None, &[]);
    cluster.execute("INSERT INTO t VALUES (0)");
    take(&cluster, &tar, Some(&full), &["-Ft", "-j", "2", "-z"]);
    succeed(program().args(["verify", "-n"]).arg(&tar));

    let target = folder.join("restored");
    let said = expect_failure(
        program()
            .args(["restore", "-N", "-D"])
            .arg(&target)
            .arg(&tar),
    );
    assert!(said.contains("is an incremental backup"), "{said}");
    assert!(said.contains("Name all backups of the chain"), "{said}");
    assert!(!target.exists());
}

#[test]
fn an_incremental_backup_goes_to_standard_output() {
    if is_too_old() {
        return;
    }
    let cluster = summarizing_cluster();
    let folder = Folder::new("stdout");
    let full = folder.join("full");
    take(&cluster, &full, None, &[]);
    cluster.execute("INSERT INTO t VALUES (0)");
    let mut backup = backup_of(&cluster);
    backup
        .args(["-D", "-", "-i"])
        .arg(full.join("backup_manifest"));
    let output = run(&mut backup);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let has = |name: &[u8]| output.stdout.windows(name.len()).any(|part| part == name);
    assert!(has(b"/INCREMENTAL.") && has(b"INCREMENTAL FROM LSN: "));
}

#[test]
fn what_is_no_earlier_manifest_is_refused_before_anything_is_written() {
    // The setting exists from 17 on.
    let cluster = match major_version() {
        17.. => summarizing_cluster(),
        _ => Cluster::new(),
    };
    let (folder, target) = new_target();
    let other = private_file(&folder, "manifest", "x");
    for (manifest, said_by_17) in [
        (folder.join("missing"), "could not open file"),
        (other, "could not parse backup manifest"),
    ] {
        let mut backup = backup_of(&cluster);
        let said = expect_failure(backup.arg("-D").arg(&target).arg("-i").arg(manifest));
        let expected = match major_version() {
            17.. => said_by_17,
            _ => "server does not support incremental backup",
        };
        assert!(said.contains(expected), "{said}");
        assert!(!target.exists());
    }
    assert_eq!(names_in(&folder), ["manifest"]);
    assert!(fs::exists(folder.join("manifest")).expect("the file"));
}
