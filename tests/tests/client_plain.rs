//! Plain backups by the command line program, compared with `pg_basebackup`.

use std::fs;
use std::path::Path;
use std::process::Command;

use backup_tests::client::{backup_of, expect_failure, names_in, new_target, program, verify};
use backup_tests::leftover;
use backup_tests::page::quiet_table;
use backup_tests::program::{account, command, major_version, make_dir, run, succeed};
use backup_tests::scratch::Folder;
use backup_tests::server::Cluster;
use backup_tests::workload::{Pgbench, assert_balanced};

/// Names of files and directories that differ between any two backups.
const OWN: [&str; 4] = ["backup_label", "backup_manifest", "pg_wal", "pg_control"];

fn idle_cluster() -> Cluster {
    Cluster::builder().setting("autovacuum", "off").start()
}

/// Settles the cluster, so that nothing is left to write, not even hint bits.
fn settle(cluster: &Cluster) {
    cluster.execute("VACUUM (FREEZE)");
    cluster.execute("CHECKPOINT");
}

fn basebackup(cluster: &Cluster, args: &[&str], target: &Path) -> Command {
    let mut program = command("pg_basebackup");
    program
        .args(cluster.connection_args("postgres"))
        .args(["-c", "fast", "-X", "fetch", "--no-sync"])
        .args(args)
        .arg("-D")
        .arg(target);
    program
}

/// Types, modes and names of everything below a directory.
fn entries(folder: &Path) -> String {
    let mut find = command("find");
    find.arg(folder).args(["-printf", "%P %y %m\n"]);
    let found = succeed(&mut find);
    let mut lines: Vec<_> = found
        .lines()
        .filter(|line| !line.starts_with("pg_wal/"))
        .collect();
    lines.sort_unstable();
    lines.join("\n")
}

#[track_caller]
fn assert_same(ours: &Path, theirs: &Path) {
    let mut diff = command("diff");
    diff.args(["--recursive", "--no-dereference"]);
    for name in OWN {
        diff.arg(format!("--exclude={name}"));
    }
    succeed(diff.arg(ours).arg(theirs));
    assert_eq!(entries(ours), entries(theirs));
}

/// Creates a cluster from `backup` in a directory.
fn restore(folder: Folder) -> Cluster {
    let mut restored = Cluster::on(&folder.join("backup"), folder);
    restored.start();
    restored
}

#[test]
fn a_backup_is_that_of_pg_basebackup() {
    let cluster = idle_cluster();
    quiet_table(&mut cluster.connect(), "t", 300, "");
    cluster.execute("CREATE UNLOGGED TABLE u AS SELECT generate_series(1, 1000)");
    cluster.execute("CREATE DATABASE other");
    settle(&cluster);
    let (folder, ours) = new_target();
    let theirs = folder.join("theirs");
    succeed(backup_of(&cluster).arg("-D").arg(&ours));
    succeed(&mut basebackup(&cluster, &[], &theirs));
    assert_same(&ours, &theirs);
    verify(&ours, &[]);
    leftover::assert_none(&cluster);
}

#[test]
fn a_cluster_with_group_access_stays_one() {
    let cluster = Cluster::builder()
        .initdb_arg("--allow-group-access")
        .setting("autovacuum", "off")
        .start();
    settle(&cluster);
    let (folder, ours) = new_target();
    let theirs = folder.join("theirs");
    succeed(backup_of(&cluster).args(["-j", "3", "-D"]).arg(&ours));
    succeed(&mut basebackup(&cluster, &[], &theirs));
    assert_same(&ours, &theirs);
}

#[test]
fn a_backup_of_a_busy_cluster_verifies_and_starts() {
    let cluster = Cluster::new();
    Pgbench::fill(&cluster, 2);
    let load = Pgbench::run(&cluster, 100);
    let (folder, target) = new_target();
    succeed(
        backup_of(&cluster)
            .args(["-j", "4", "-P", "-v", "-D"])
            .arg(&target),
    );
    load.stop();
    verify(&target, &[]);
    let mut restored = restore(folder);
    assert!(assert_balanced(&mut restored.connect()) > 0);
    restored.amcheck();
    restored.stop_and_check_checksums();
}

#[test]
fn tablespaces_go_where_they_are_mapped() {
    let cluster = idle_cluster();
    let (oid, location) = cluster.create_tablespace("plain");
    let odd_location = cluster.make_dir("odd = place");
    cluster.execute(&format!(
        "CREATE TABLESPACE odd LOCATION '{}'",
        odd_location.display()
    ));
    quiet_table(&mut cluster.connect(), "t", 10, "TABLESPACE plain");
    quiet_table(&mut cluster.connect(), "o", 10, "TABLESPACE odd");
    let (folder, target) = new_target();
    let (new, odd) = (folder.join("new = place"), folder.join("deep/er"));
    let escaped = |path: &Path| path.display().to_string().replace('=', "\\=");
    succeed(
        backup_of(&cluster)
            .arg(format!("-T{}={}", escaped(&location), escaped(&new)))
            .arg("-T")
            .arg(format!("{}={}", escaped(&odd_location), escaped(&odd)))
            .arg("-D")
            .arg(&target),
    );
    let link = target.join(format!("pg_tblspc/{oid}"));
    assert_eq!(fs::read_link(link).expect("a link"), new);
    assert_eq!(names_in(&odd).len(), 1);
    assert!(!target.join("tablespace_map").exists());
    verify(&target, &[]);

    let theirs = folder.join("theirs");
    let (their_new, their_odd) = (folder.join("their new"), folder.join("their odd"));
    succeed(&mut basebackup(
        &cluster,
        &[
            &format!("-T{}={}", escaped(&location), their_new.display()),
            &format!("-T{}={}", escaped(&odd_location), their_odd.display()),
        ],
        &theirs,
    ));
    assert_same(&new, &their_new);
    assert_same(&odd, &their_odd);

    let restored = restore(folder);
    let row = restored
        .connect()
        .query_one(
            "SELECT (SELECT count(*) FROM t) + (SELECT count(*) FROM o)",
            &[],
        )
        .expect("both tables");
    assert_eq!(row.get::<_, i64>(0), 140);
}

#[test]
fn a_tablespace_that_is_not_mapped_needs_its_own_place() {
    let cluster = Cluster::new();
    let (oid, location) = cluster.create_tablespace("here");
    let (folder, target) = new_target();
    let said = expect_failure(backup_of(&cluster).arg("-D").arg(&target));
    assert!(said.contains(&oid.to_string()), "{said}");
    assert!(
        said.contains(&format!(
            "\"{}\" exists but is not empty",
            location.display()
        )),
        "{said}"
    );
    assert!(names_in(&folder).is_empty());
    // The server's own files there are untouched.
    assert_eq!(names_in(&location).len(), 1);
    leftover::assert_none(&cluster);
}

#[test]
fn two_tablespaces_do_not_share_a_place() {
    let cluster = Cluster::new();
    let (_, first) = cluster.create_tablespace("first");
    let (_, second) = cluster.create_tablespace("second");
    let (folder, target) = new_target();
    let new = folder.join("new");
    let said = expect_failure(
        backup_of(&cluster)
            .arg(format!("-T{}={}", first.display(), new.display()))
            .arg(format!("-T{}={}", second.display(), new.display()))
            .arg("-D")
            .arg(&target),
    );
    assert!(said.contains("two parts of the backup"), "{said}");
    assert!(names_in(&folder).is_empty());
}

#[test]
fn a_mapping_for_no_tablespace_is_refused() {
    let cluster = Cluster::new();
    let (folder, target) = new_target();
    let said = expect_failure(
        backup_of(&cluster)
            .args(["-T/no=/where", "-D"])
            .arg(&target),
    );
    assert!(said.contains("no tablespace in \"/no\""), "{said}");
    assert!(names_in(&folder).is_empty());
}

#[test]
fn the_wal_goes_where_it_is_wanted() {
    let cluster = Cluster::new();
    let (folder, target) = new_target();
    let waldir = folder.join("wal");
    succeed(
        backup_of(&cluster)
            .arg("--waldir")
            .arg(&waldir)
            .arg("-D")
            .arg(&target),
    );
    assert_eq!(
        fs::read_link(target.join("pg_wal")).expect("a link"),
        waldir
    );
    assert!(names_in(&waldir).iter().any(|name| name.len() == 24));
    verify(&target, &[]);
    restore(folder).amcheck();
}

#[test]
fn without_wal_there_is_none() {
    let cluster = Cluster::new();
    let (_folder, target) = new_target();
    let mut program = backup_of(&cluster);
    let output = run(program.args(["-X", "none", "-D"]).arg(&target));
    let said = account(&program, &output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("required WAL segments"), "{said}");
    let mut empty = vec!["archive_status"];
    if major_version() >= 17 {
        empty.push("summaries");
    }
    assert_eq!(names_in(&target.join("pg_wal")), empty);
    verify(&target, &["-n"]);
}

#[test]
fn every_algorithm_of_the_manifest_is_compared() {
    let cluster = Cluster::new();
    let (folder, _) = new_target();
    for algorithm in ["NONE", "crc32c", "SHA224", "SHA256", "SHA384", "SHA512"] {
        let target = folder.join(algorithm);
        let mut program = backup_of(&cluster);
        program.args(["-v", "--manifest-checksums", algorithm, "-D"]);
        let output = run(program.arg(&target));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("files match the manifest"), "{said}");
        verify(&target, &[]);
        fs::remove_dir_all(&target).expect("remove a backup");
    }
    let target = folder.join("without");
    succeed(
        backup_of(&cluster)
            .args(["--no-manifest", "-D"])
            .arg(&target),
    );
    assert!(!target.join("backup_manifest").exists());
    assert!(target.join("global/pg_control").exists());
}

#[test]
fn an_empty_directory_is_used_and_nothing_said() {
    let cluster = Cluster::new();
    let (_folder, target) = new_target();
    make_dir(&target);
    let mut program = backup_of(&cluster);
    let output = run(program.args(["-j", "1", "-D"]).arg(&target));
    let said = account(&program, &output);
    assert!(output.status.success(), "{said}");
    assert!(
        output.stderr.is_empty() && output.stdout.is_empty(),
        "{said}"
    );
    verify(&target, &[]);
}

#[test]
fn every_way_to_the_disk_is_taken() {
    let cluster = Cluster::new();
    for args in [&["--sync-method=syncfs"][..], &[]] {
        let (_folder, target) = new_target();
        let mut program = program();
        program
            .args(cluster.connection_args("postgres"))
            .args(["-c", "fast", "-v", "-D"])
            .arg(&target)
            .args(args);
        let output = run(&mut program);
        let said = account(&program, &output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("syncing data to disk"), "{said}");
        verify(&target, &[]);
    }
}

#[test]
fn the_label_and_the_rate_reach_the_server() {
    let cluster = Cluster::new();
    let (_folder, target) = new_target();
    succeed(
        backup_of(&cluster)
            .args(["-l", "it's nightly", "-r", "500M", "-D"])
            .arg(&target),
    );
    let label = fs::read_to_string(target.join("backup_label")).expect("a label");
    assert!(label.contains("LABEL: it's nightly\n"), "{label}");
}

#[test]
fn a_standby_of_the_backup_follows_its_primary() {
    let cluster = Cluster::new();
    cluster.execute("SELECT pg_create_physical_replication_slot('for_standby')");
    let (folder, target) = new_target();
    succeed(
        backup_of(&cluster)
            .args(["-R", "-S", "for_standby", "-D"])
            .arg(&target),
    );
    verify(&target, &[]);
    let settings = fs::read_to_string(target.join("postgresql.auto.conf")).expect("settings");
    assert!(
        settings.contains("primary_slot_name = 'for_standby'"),
        "{settings}"
    );
    let standby = restore(folder);
    cluster.execute("CREATE TABLE t AS SELECT generate_series(1, 10) AS i");
    standby.wait_for_sql(
        "the table on the standby",
        "SELECT pg_is_in_recovery() AND to_regclass('t') IS NOT NULL",
    );
    cluster.wait_for_sql(
        "the slot to be used",
        "SELECT active FROM pg_replication_slots WHERE slot_name = 'for_standby'",
    );
}
