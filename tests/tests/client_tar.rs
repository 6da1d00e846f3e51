//! Backups in archives by the command line program.

use backup_tests::backup::Backup;
use backup_tests::client::{backup_of, expect_failure, names_in, new_target, unpack, verify};
use backup_tests::page::quiet_table;
use backup_tests::program::{account, command, make_dir, run, succeed};
use backup_tests::server::Cluster;

#[test]
fn one_worker_gives_the_archives_of_pg_basebackup() {
    let cluster = Cluster::builder().setting("autovacuum", "off").start();
    let (oid, _) = cluster.create_tablespace("outside");
    quiet_table(&mut cluster.connect(), "t", 30, "TABLESPACE outside");
    cluster.execute("VACUUM (FREEZE)");
    cluster.execute("CHECKPOINT");
    let (folder, ours) = new_target();
    let theirs = folder.join("theirs");
    succeed(
        backup_of(&cluster)
            .args(["-Ft", "-j", "1", "-D"])
            .arg(&ours),
    );
    succeed(
        command("pg_basebackup")
            .args(cluster.connection_args("postgres"))
            .args(["-c", "fast", "-X", "stream", "--no-sync", "-Ft", "-D"])
            .arg(&theirs),
    );
    assert_eq!(names_in(&ours), names_in(&theirs));

    for (target, name) in [(&ours, "ours"), (&theirs, "theirs")] {
        let unpacked = folder.join(format!("{name}-unpacked"));
        make_dir(&unpacked);
        make_dir(&unpacked.join("space"));
        unpack(&target.join("base.tar"), &unpacked);
        unpack(&target.join(format!("{oid}.tar")), &unpacked.join("space"));
    }
    let mut diff = command("diff");
    diff.args(["--recursive", "--exclude=pg_wal", "--exclude=pg_control"]);
    diff.arg("--exclude=backup_label");
    succeed(
        diff.arg(folder.join("ours-unpacked"))
            .arg(folder.join("theirs-unpacked")),
    );
}

#[test]
fn archives_of_several_workers_are_one_backup() {
    let cluster = Cluster::new();
    let (oid, location) = cluster.create_tablespace("outside");
    quiet_table(&mut cluster.connect(), "t", 300, "TABLESPACE outside");
    quiet_table(&mut cluster.connect(), "u", 300, "");
    let (folder, target) = new_target();
    succeed(
        backup_of(&cluster)
            .args(["-F", "tar", "-j", "3", "-D"])
            .arg(&target),
    );
    let names = names_in(&target);
    assert!(names.contains(&"base.0.tar".to_owned()), "{names:?}");
    assert!(names.contains(&"backup_manifest".to_owned()), "{names:?}");

    let data = folder.join("backup-unpacked");
    let space = folder.join("space");
    for folder in [&data, &space, &data.join("pg_tblspc")] {
        make_dir(folder);
    }
    let link = data.join(format!("pg_tblspc/{oid}"));
    succeed(command("ln").arg("-s").arg(&space).arg(link));
    for name in names.iter().filter(|name| name.ends_with(".tar")) {
        let into = match name.split('.').next() {
            Some("base") => data.clone(),
            Some("pg_wal") => data.join("pg_wal"),
            _ => space.clone(),
        };
        unpack(&target.join(name), &into);
    }
    succeed(command("cp").arg(target.join("backup_manifest")).arg(&data));
    verify(&data, &[]);
    let map = std::fs::read_to_string(data.join("tablespace_map")).expect("a map");
    assert_eq!(map, format!("{oid} {}\n", location.display()));
    std::fs::write(
        data.join("tablespace_map"),
        format!("{oid} {}\n", space.display()),
    )
    .expect("write the map");
    let mut restored = Cluster::on(&data, folder);
    restored.start();
    restored.amcheck();
}

#[test]
fn without_a_manifest_there_are_only_archives() {
    let cluster = Cluster::new();
    let (_folder, target) = new_target();
    succeed(
        backup_of(&cluster)
            .args(["-Ft", "-j", "1", "--no-manifest", "-D"])
            .arg(&target),
    );
    assert_eq!(names_in(&target), ["base.tar", "pg_wal.tar"]);
}

#[test]
fn archives_are_removed_after_a_failure() {
    let cluster = Cluster::new();
    let path = quiet_table(&mut cluster.connect(), "t", 30, "");
    cluster.flip_bytes(&path, 5);
    let (folder, target) = new_target();
    let said = expect_failure(backup_of(&cluster).args(["-Ft", "-D"]).arg(&target));
    assert!(said.contains("checksum"), "{said}");
    assert!(names_in(&folder).is_empty());
}

#[test]
fn everything_goes_to_standard_output_as_one_archive() {
    let cluster = Cluster::new();
    cluster.create_tablespace("outside");
    quiet_table(&mut cluster.connect(), "t", 300, "TABLESPACE outside");
    let backup = Backup::folder(&cluster);
    let mut program = backup_of(&cluster);
    let output = run(program.args(["-D", "-", "-l", "it's one", "-v", "-P"]));
    assert!(output.status.success(), "{}", account(&program, &output));
    backup.unpack(&output.stdout);
    backup.verify();
    let label = std::fs::read_to_string(backup.data_dir().join("backup_label")).expect("a label");
    assert!(label.contains("LABEL: it's one\n"), "{label}");
    let restored = backup.restore();
    let row = restored.connect().query_one("SELECT count(*) FROM t", &[]);
    assert_eq!(row.expect("the table").get::<_, i64>(0), 2100);
}

#[test]
fn an_archive_of_a_damaged_cluster_has_no_end() {
    let cluster = Cluster::new();
    let path = quiet_table(&mut cluster.connect(), "t", 30, "");
    cluster.flip_bytes(&path, 5);
    let mut program = backup_of(&cluster);
    let output = run(program.args(["-Ft", "-D", "-"]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("checksum"), "{said}");
    assert!(!output.stdout.ends_with(&[0; 1024]));
}
