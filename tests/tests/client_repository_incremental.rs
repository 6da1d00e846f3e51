//! Incremental backups in a repository: each names the one before, and a restore finds all that it needs. From 17
//! on.

use backup_tests::client::{Running, backup_of, expect_failure, names_in, new_target, program};
use backup_tests::incremental::is_too_old;
use backup_tests::object_store::{Act, Fault, Kind};
use backup_tests::program::succeed;
use backup_tests::repository::{Access, Origin, Repository};
use backup_tests::scratch::Folder;
use backup_tests::server::Cluster;
use backup_tests::wait::{PATIENCE, wait_for};
use backup_tests::workload::{Pgbench, assert_balanced};

fn origin() -> Origin {
    let cluster = Cluster::builder().setting("summarize_wal", "on");
    Origin::on(cluster.setting("autovacuum", "off").start())
}

/// Takes three backups, each after the one before, with changes between them.
fn take_chain(origin: &Origin, access: &Access) {
    let cluster = &origin.cluster;
    access.take(cluster, "full", &["-j", "2", "-Z", "zstd"]);
    cluster.execute("UPDATE t SET filler = 'y' WHERE ctid < '(3,0)'");
    cluster.execute("TRUNCATE u");
    let earlier = access.url_of("full");
    access.take(cluster, "first", &["-j", "1", "-i", &earlier]);
    cluster.execute("INSERT INTO u SELECT 'z' FROM generate_series(1, 10)");
    cluster.execute("CREATE DATABASE another STRATEGY file_copy");
    let earlier = access.url_of("first");
    access.take(
        cluster,
        "second",
        &["-j", "4", "-Z", "server-gzip:1", "-i", &earlier],
    );
}

#[test]
fn a_chain_is_restored_by_the_name_of_its_last() {
    if is_too_old() {
        return;
    }
    let origin = origin();
    let repository = Repository::new();
    take_chain(&origin, &repository);
    for name in ["full", "first", "second"] {
        succeed(&mut repository.verify(name, &["-j", "2"]));
    }
    for (name, parent, kind) in [
        ("first", "full", "incremental"),
        ("second", "first", "incremental"),
    ] {
        let info = repository.info(name);
        assert_eq!(info["parent"], parent, "{info}");
        assert_eq!(info["kind"], kind, "{info}");
        assert_eq!(
            info["parent_start_lsn"],
            repository.info(parent)["start_lsn"]
        );
    }
    let size = |name: &str| repository.info(name)["bytes"].as_u64();
    assert!(size("first") < size("full"));
    repository.server.forget_requests();
    origin.assert_restored(&repository, "second", &["-j", "4"]);
    // The names of all say the same.
    let places = Folder::new("r");
    let mut restore = repository.program();
    restore
        .args(["restore", "-N", "-D"])
        .arg(places.join("data"));
    restore.arg(origin.mapping(&places));
    restore.args(["full", "first", "second"].map(|name| repository.url_of(name)));
    succeed(&mut restore);
    origin.assert_starts(places);
}

/// Number of rows that pgbench has written.
fn written(cluster: &Cluster) -> i64 {
    let rows = cluster
        .connect()
        .query_one("SELECT count(*) FROM pgbench_history", &[]);
    rows.expect("pgbench_history").get(0)
}

/// Takes a backup, and writes a row while it runs. Returns how many pgbench had written then.
#[track_caller]
fn take_with_a_row(repository: &Repository, cluster: &Cluster, name: &str, args: &[&str]) -> i64 {
    let first = Fault::new(Act::SlowDown)
        .on(&[Kind::Put])
        .of(&format!("*/{name}/base.0.tar*"));
    repository.server.switch_on(&first);
    let running = Running::start(&mut repository.backup(cluster, name, args));
    cluster.wait_for_sql(
        "a file that was sent",
        "SELECT coalesce(max(bytes_sent), 0) > 0 FROM backup_progress()",
    );
    cluster.execute(&format!("INSERT INTO rows VALUES ('{name}')"));
    let before = written(cluster);
    wait_for("more transactions", PATIENCE, || written(cluster) > before);
    repository.server.heal();
    let (status, said) = running.end();
    assert_eq!(status, Some(0), "{said}");
    before
}

#[test]
fn a_chain_taken_under_load_is_restored_while_the_load_goes_on() {
    if is_too_old() {
        return;
    }
    let origin = origin();
    let cluster = &origin.cluster;
    Pgbench::fill(cluster, 2);
    cluster.execute("ALTER TABLE pgbench_accounts SET TABLESPACE outside");
    cluster.execute("CREATE TABLE rows (name text) TABLESPACE outside");
    let repository = Repository::new();
    let load = Pgbench::run(cluster, 200);
    let names = ["full", "first", "second"];
    let (mut earlier, mut at_least) = (None::<String>, 0);
    for (name, jobs) in names.into_iter().zip(["2", "1", "4"]) {
        let mut args = vec!["-j", jobs, "-Z", "zstd"];
        if let Some(earlier) = &earlier {
            args.extend(["-i", earlier.as_str()]);
        }
        at_least = take_with_a_row(&repository, cluster, name, &args);
        earlier = Some(repository.url_of(name));
    }
    assert_eq!(repository.info("second")["kind"], "incremental");
    let before = written(cluster);
    let places = origin.restore(&repository, "second", &["-j", "4"]);
    wait_for("more transactions", PATIENCE, || written(cluster) > before);
    load.stop();
    let data = places.join("data");
    let mut restored = Cluster::on(&data, places);
    restored.start();
    let mut client = restored.connect();
    assert!(assert_balanced(&mut client) >= at_least);
    let rows = client.query("SELECT name FROM rows ORDER BY ctid", &[]);
    let rows: Vec<String> = rows.expect("rows").iter().map(|row| row.get(0)).collect();
    assert_eq!(rows, names);
    drop(client);
    restored.amcheck();
    restored.stop_and_check_checksums();
}

#[test]
fn a_chain_in_a_directory_is_restored() {
    if is_too_old() {
        return;
    }
    let origin = origin();
    let folder = Folder::new("repository");
    let access = Access::directory(&folder);
    take_chain(&origin, &access);
    origin.assert_restored(&access, "second", &["-j", "2"]);
    // A path is as good as a URL.
    let places = Folder::new("r");
    let mut restore = program();
    restore
        .args(["restore", "-N", "-D"])
        .arg(places.join("data"));
    restore
        .arg(origin.mapping(&places))
        .arg(folder.join("second"));
    succeed(&mut restore);
    origin.assert_starts(places);
}

#[test]
fn a_chain_with_a_gap_is_refused() {
    if is_too_old() {
        return;
    }
    let origin = origin();
    let repository = Repository::new();
    take_chain(&origin, &repository);
    let start = repository.info("first")["start_lsn"].to_string();
    let start = start.trim_matches('"');
    let manifest = repository.key("first", "backup_manifest");
    repository.server.remove(&manifest);
    let word = format!("is not in the repository: it started at {start}");
    origin.assert_not_restored(&repository, "second", &[], &word);
    origin.assert_not_restored(&repository, "first", &[], "\"first\" is not complete");
    // The one before is as it was.
    succeed(&mut repository.verify("full", &[]));
}

#[test]
fn a_name_that_is_no_backup_is_refused_before_anything_is_written() {
    if is_too_old() {
        return;
    }
    let origin = origin();
    let repository = Repository::new();
    repository.take(&origin.cluster, "full", &["-j", "1"]);
    let before = repository.server.objects();
    for (name, word) in [("missing", "missing"), ("", "backup_manifest")] {
        let earlier = repository.url_of(name);
        let args = ["-i", earlier.as_str()];
        let said = expect_failure(&mut repository.backup(&origin.cluster, "next", &args));
        assert!(said.contains(word), "{said}");
    }
    // One of another cluster: initdb with other arguments has made it.
    let other = Cluster::builder().initdb_arg("--allow-group-access");
    let other = other.setting("summarize_wal", "on").start();
    repository.take(&other, "foreign", &["-j", "1"]);
    let foreign = repository.url_of("foreign");
    let said = expect_failure(&mut repository.backup(&origin.cluster, "next", &["-i", &foreign]));
    assert!(said.contains("system identifier"), "{said}");
    assert!(repository.files("next").is_empty());
    for (file, _) in repository.files("foreign") {
        repository.server.remove(&repository.key("foreign", &file));
    }
    assert_eq!(repository.server.objects(), before);
}

#[test]
fn a_manifest_of_elsewhere_makes_a_backup_that_the_repository_cannot_restore() {
    if is_too_old() {
        return;
    }
    let origin = origin();
    let repository = Repository::new();
    let (folder, full) = new_target();
    let mut backup = backup_of(&origin.cluster);
    succeed(backup.args(["-Ft", "-j", "1", "-D"]).arg(&full));
    let manifest = full.join("backup_manifest").display().to_string();
    repository.take(&origin.cluster, "next", &["-j", "1", "-i", &manifest]);
    let info = repository.info("next");
    assert!(
        info["parent"].is_null() && info["parent_start_lsn"].is_string(),
        "{info}"
    );
    origin.assert_not_restored(&repository, "next", &[], "is not in the repository");
    assert_eq!(repository.listed(&[])[0]["chain_complete"], false);
    // Whoever names both has it.
    let places = Folder::new("r");
    let mut restore = repository.program();
    restore
        .args(["restore", "-N", "-D"])
        .arg(places.join("data"));
    restore.arg(origin.mapping(&places)).arg(&full);
    succeed(restore.arg(repository.url_of("next")));
    origin.assert_starts(places);
    assert_eq!(names_in(&folder), ["backup"]);
}

#[test]
fn earlier_servers_refuse_an_incremental_backup() {
    if !is_too_old() {
        return;
    }
    let cluster = Cluster::new();
    let repository = Repository::new();
    repository.take(&cluster, "full", &["-j", "1"]);
    let earlier = repository.url_of("full");
    let said = expect_failure(&mut repository.backup(&cluster, "next", &["-i", &earlier]));
    assert!(
        said.contains("server does not support incremental backup"),
        "{said}"
    );
    assert!(repository.files("next").is_empty());
}
