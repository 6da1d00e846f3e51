//! Differences between major versions of the server: in-place tablespaces from 16 on; the
//! manifest's version, WAL summaries and incremental backups from 17 on; `pg_verifybackup` on tar
//! files from 18 on.

use std::fs;
use std::path::{Path, PathBuf};

use backup_tests::archive::{content, members};
use backup_tests::backup::Backup;
use backup_tests::member;
use backup_tests::page::quiet_table;
use backup_tests::program::{account, command, give_to_owner, major_version, run, succeed};
use backup_tests::server::Cluster;
use backup_tests::stepwise::Stepwise;
use backup_tests::stream::{copy_of, copy_out};
use serde_json::Value;

/// Whether the server under test is too old for a test's subject.
fn is_before(version: u32) -> bool {
    let is_before = major_version() < version;
    if is_before {
        eprintln!("nothing to test before PostgreSQL {version}");
    }
    is_before
}

/// Takes a backup of a cluster with `pg_basebackup`.
#[track_caller]
fn pg_basebackup(cluster: &Cluster, name: &str, args: &[&str]) -> PathBuf {
    let dir = cluster.make_dir(name);
    succeed(
        command("pg_basebackup")
            .args(cluster.connection_args("postgres"))
            .args(["-c", "fast", "--no-sync", "-D"])
            .arg(&dir)
            .args(args),
    );
    dir
}

#[track_caller]
fn manifest_in(dir: &Path) -> Value {
    let path = dir.join("backup_manifest");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

/// Keys of a backup_label: the text before the colon in each line.
#[track_caller]
fn keys_of_label(dir: &Path) -> Vec<String> {
    let path = dir.join("backup_label");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let key = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
    text.lines().map(key).collect()
}

#[test]
fn manifest_and_label_are_of_the_kind_that_pg_basebackup_writes() {
    let cluster = Cluster::new();
    let theirs = pg_basebackup(&cluster, "pg_basebackup", &["-X", "none"]);
    let backup = Backup::take(&cluster, 1);
    assert_eq!(keys_of_label(&backup.data_dir()), keys_of_label(&theirs));

    let ours = manifest_in(&backup.data_dir());
    let theirs = manifest_in(&theirs);
    for name in ["PostgreSQL-Backup-Manifest-Version", "System-Identifier"] {
        assert_eq!(ours[name], theirs[name], "{name}");
    }
    let keys = |manifest: &Value| -> Vec<String> {
        let keys = manifest.as_object().expect("an object").keys();
        keys.cloned().collect()
    };
    assert_eq!(keys(&ours), keys(&theirs));
}

#[test]
fn summaries_of_wal_stay_behind() {
    if is_before(17) {
        return;
    }
    let cluster = Cluster::builder().setting("summarize_wal", "on").start();
    cluster.execute("CREATE TABLE t AS SELECT 1 AS a");
    cluster.execute("CHECKPOINT");
    let summaries = "SELECT count(*) > 0 FROM pg_available_wal_summaries()";
    cluster.wait_for_sql("a summary of WAL", summaries);

    let mut taken = Stepwise::start(&cluster, "");
    let listing = taken.listing();
    let mut names = members(&taken.send_files());
    names.extend(members(&taken.stop()));
    let files = fs::read_dir(cluster.data_dir().join("pg_wal/summaries")).expect("summaries");
    assert!(files.count() > 0, "there is no summary to leave out");

    let inside = |path: &str| path.starts_with("pg_wal/summaries/") && !path.ends_with('/');
    assert!(!listing.iter().any(|entry| inside(&entry.path)));
    assert!(!names.iter().any(|name| inside(name)), "{names:?}");
    let arrived = fs::read_dir(taken.backup.data_dir().join("pg_wal/summaries"));
    assert_eq!(arrived.expect("the directory arrives").count(), 0);
    taken.backup.verify();
    taken.backup.restore();
}

#[test]
fn a_backup_is_the_base_of_an_incremental_one() {
    if is_before(17) {
        return;
    }
    let cluster = Cluster::builder().setting("summarize_wal", "on").start();
    cluster.execute("CREATE TABLE t AS SELECT generate_series(1, 50000) AS a");
    let full = Backup::take(&cluster, 2);
    full.verify();
    cluster.execute("INSERT INTO t SELECT generate_series(50001, 50010)");

    let manifest = full.data_dir().join("backup_manifest");
    let manifest = manifest.to_str().expect("a path in ASCII");
    let incremental = pg_basebackup(&cluster, "incremental", &["--incremental", manifest]);
    let combined = Backup::folder(&cluster);
    succeed(command("rm").arg("-r").arg(combined.data_dir()));
    succeed(
        command("pg_combinebackup")
            .arg("--no-sync")
            .arg(full.data_dir())
            .arg(&incremental)
            .arg("-o")
            .arg(combined.data_dir()),
    );
    combined.verify();
    let restored = combined.restore();
    restored.wait_for_sql("the rows", "SELECT count(*) = 50010 FROM t");
}

#[test]
fn an_in_place_tablespace_belongs_to_the_data_directory() {
    let cluster = Cluster::builder()
        .setting("allow_in_place_tablespaces", "on")
        .start();
    let mut client = cluster.connect();
    client
        .batch_execute("CREATE TABLESPACE in_place LOCATION ''")
        .expect("CREATE TABLESPACE");
    let path = quiet_table(&mut client, "t", 3, "TABLESPACE in_place");
    let place: Vec<_> = path.split('/').take(2).collect();

    let mut taken = Stepwise::start(&cluster, "tablespace_map => false");
    let known = "SELECT count(*) FROM backup_tablespaces()";
    let known = taken.leader.query_one(known, &[]).expect(known);
    assert_eq!(known.get::<_, i64>(0), 1);
    let listing = taken.listing();
    let listed: Vec<_> = listing
        .iter()
        .filter(|entry| entry.path == place.join("/"))
        .map(|entry| entry.kind)
        .collect();
    assert_eq!(listed, ['d']);
    let stream = taken.stream("send_backup_files(tablespace => 0)");
    assert_eq!(member::expect(&stream, &path).content.len(), 3 * 8192);
    taken.backup.unpack(&stream);
    taken.stop();
    taken.backup.verify();
    taken
        .backup
        .restore()
        .wait_for_sql("the rows", "SELECT count(*) = 21 FROM t");
}

/// Table content to look for in an archive.
const MARK: &str = "the content of a table";

/// Cluster with [`MARK`] in a table of a tablespace.
fn cluster_with_tablespace() -> (Cluster, u32) {
    let cluster = Cluster::new();
    let (oid, _) = cluster.create_tablespace("elsewhere");
    cluster.execute(&format!(
        "CREATE TABLE t TABLESPACE elsewhere AS SELECT '{MARK}'::text AS a"
    ));
    (cluster, oid)
}

/// Runs `pg_verifybackup` on the tar files and the manifest in a directory; the error is its
/// output. It cannot check WAL in tar files.
fn verify_tar(dir: &Path) -> Result<(), String> {
    let mut verify = command("pg_verifybackup");
    verify.args(["--format=tar", "-n"]).arg(dir);
    let output = run(&mut verify);
    if output.status.success() {
        Ok(())
    } else {
        Err(account(&verify, &output))
    }
}

/// Changes a byte of the table in a tar file.
fn damage(path: &Path) {
    let mut archive = fs::read(path).expect("could not read an archive");
    let mark = MARK.as_bytes();
    let place = archive.windows(mark.len()).position(|bytes| bytes == mark);
    archive[place.expect("the table is in the archive")] ^= 1;
    fs::write(path, archive).expect("could not write an archive");
}

#[track_caller]
fn assert_verified(dir: &Path, with_table: &str) {
    if let Err(account) = verify_tar(dir) {
        panic!("{account}");
    }
    damage(&dir.join(with_table));
    let account = verify_tar(dir).expect_err("a changed file passed");
    assert!(account.contains("checksum mismatch"), "{account}");
}

#[test]
fn pg_verifybackup_reads_the_stream_of_base_backup_as_a_tar_file() {
    if is_before(18) {
        return;
    }
    let (cluster, _) = cluster_with_tablespace();
    let stream = copy_out(
        &mut cluster.connect(),
        &copy_of("base_backup(fast => true, wal => true)"),
    )
    .expect("base_backup()");
    let dir = cluster.make_dir("tar");
    fs::write(dir.join("base.tar"), &stream).expect("could not write base.tar");
    fs::write(
        dir.join("backup_manifest"),
        content(&stream, "backup_manifest"),
    )
    .expect("could not write the manifest");
    assert_verified(&dir, "base.tar");
}

#[test]
fn pg_verifybackup_reads_a_tar_file_of_each_tablespace() {
    if is_before(18) {
        return;
    }
    let (cluster, oid) = cluster_with_tablespace();
    let mut taken = Stepwise::start(&cluster, "");
    let tablespace = taken.stream(&format!("send_backup_files(tablespace => {oid})"));
    let base = taken.stream("send_backup_files(tablespace => 0)");
    let closing = taken.closing_tar();

    let dir = cluster.make_dir("tar");
    let write = |path: PathBuf, stream: &[u8]| -> PathBuf {
        fs::write(&path, stream).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        give_to_owner(&path);
        path
    };
    write(dir.join(format!("{oid}.tar")), &tablespace);
    write(
        dir.join("backup_manifest"),
        &content(&closing, "backup_manifest"),
    );
    // The base.tar of pg_basebackup corresponds to two streams here.
    let base = write(dir.join("base.tar"), &base);
    let closing = write(cluster.make_dir("apart").join("closing.tar"), &closing);
    let mut join = command("tar");
    join.args(["--concatenate", "--file"])
        .arg(base)
        .arg(closing);
    succeed(&mut join);
    assert_verified(&dir, &format!("{oid}.tar"));
}
