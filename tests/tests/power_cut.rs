//! A power cut at any moment leaves a backup that is whole, or one that is marked as unfinished. When the
//! program has ended, a power cut leaves the backup whole.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use backup_tests::client::{names_in, program};
use backup_tests::crash::disk::Disk;
use backup_tests::crash::judgement::{Case, Judged, judge};
use backup_tests::crash::trace::{is_possible, record};
use backup_tests::incremental::is_too_old;
use backup_tests::program::{run, succeed};
use backup_tests::scratch::Folder;
use backup_tests::server::Cluster;
use backup_tests::verification::{ours, theirs};

/// What tells a data directory from an unfinished one: without it no server starts.
const DATA_KEY: &str = "global/pg_control";
/// What tells archives from unfinished ones, and a backup in a repository.
const ARCHIVE_KEY: &str = "base.tar";
const MANIFEST: &str = "backup_manifest";

/// A cluster with one database, so that its backups are small.
fn small_cluster() -> Cluster {
    let cluster = Cluster::builder()
        .initdb_arg("--wal-segsize=1")
        .setting("autovacuum", "off")
        .start();
    for name in ["template0", "template1"] {
        cluster.execute(&format!("ALTER DATABASE {name} IS_TEMPLATE false"));
        cluster.execute(&format!("DROP DATABASE {name}"));
    }
    cluster.execute(
        "CREATE TABLE t AS SELECT g AS a, repeat('t', 500) AS b FROM generate_series(1, 1000) AS g",
    );
    cluster
}

/// Command for a backup that is synchronized.
fn backup_of(cluster: &Cluster) -> Command {
    let mut backup = program();
    backup.args(cluster.connection_args("postgres"));
    backup.args(["-c", "fast", "-j", "2"]);
    backup
}

/// Runs a command, and cuts the power at each of its calls.
#[track_caller]
fn cut(root: &Path, command: &Command, cases: &[Case<'_>]) -> Vec<Judged> {
    let before = || Disk::of(root);
    let disks: Vec<_> = cases.iter().map(|_| before()).collect();
    let events = record(root, command);
    let judged: Vec<_> = (disks.into_iter().zip(cases))
        .map(|(disk, case)| judge(disk, &events, case))
        .collect();
    eprintln!("{judged:?}");
    for judged in &judged {
        // Otherwise nothing was seen.
        assert!(judged.syncs > 0 && judged.whole > 0, "{judged:?}");
    }
    judged
}

fn succeeds(mut command: Command) -> bool {
    run(&mut command).status.success()
}

/// Both programs have to agree.
fn is_whole_directory(backup: &Path) -> bool {
    let (ours, theirs) = (ours(&[], backup), theirs(&[], backup));
    let (ours, theirs) = (succeeds(ours), succeeds(theirs));
    // A link may lead to a WAL directory that is not there.
    assert!(ours == theirs, "{}: {ours}, {theirs}", backup.display());
    ours
}

/// A directory without a file of archives, or with one that is damaged, is not whole.
fn are_whole_archives(backup: &Path) -> bool {
    backup.is_dir() && succeeds(ours(&[], backup))
}

fn data_directory(backup: &str) -> Case<'static> {
    Case {
        backup: PathBuf::from(backup),
        others: Vec::new(),
        key: DATA_KEY,
        is_whole: &is_whole_directory,
        stays: true,
    }
}

fn archives(backup: &str, key: &'static str) -> Case<'static> {
    Case {
        backup: PathBuf::from(backup),
        others: Vec::new(),
        key,
        is_whole: &are_whole_archives,
        stays: true,
    }
}

/// With a tablespace and a WAL directory elsewhere, in directories that are made for them.
#[test]
fn a_data_directory_is_whole_or_unfinished() {
    if !is_possible() {
        return;
    }
    let cluster = small_cluster();
    let (_, location) = cluster.create_tablespace("outside");
    cluster.execute("CREATE TABLE u TABLESPACE outside AS TABLE t");
    for method in ["fsync", "syncfs"] {
        let root = Folder::new("power");
        let mut backup = backup_of(&cluster);
        backup.arg(format!("--sync-method={method}")).arg("-D");
        backup.arg(root.join("new/backup")).arg("--waldir");
        backup.arg(root.join("new/elsewhere/wal")).arg("-T");
        let space = root.join("spaces/one");
        backup.arg(format!("{}={}", location.display(), space.display()));
        let case = Case {
            others: ["new/elsewhere", "spaces"].map(PathBuf::from).to_vec(),
            ..data_directory("new/backup")
        };
        cut(&root, &backup, &[case]);
    }
}

#[test]
fn archives_are_whole_or_unfinished() {
    if !is_possible() {
        return;
    }
    let cluster = small_cluster();
    cluster.create_tablespace("outside");
    cluster.execute("CREATE TABLE u TABLESPACE outside AS TABLE t");
    for (args, key) in [
        (&["-Ft", "-j", "1"][..], ARCHIVE_KEY),
        (&["-Ft", "-Z", "client-gzip:1"], "base.0.tar.gz"),
    ] {
        let root = Folder::new("power");
        let mut backup = backup_of(&cluster);
        backup.args(args).arg("-D").arg(root.join("backup"));
        cut(&root, &backup, &[archives("backup", key)]);
        assert!(names_in(&root.join("backup")).contains(&key.to_owned()));
    }
}

#[test]
fn a_backup_in_a_repository_is_whole_or_unfinished_also_while_it_is_removed() {
    if !is_possible() {
        return;
    }
    let cluster = small_cluster();
    let root = Folder::new("power");
    let url = format!("file://{}", root.join("repository").display());
    let place = |name: &str| format!("repository/{name}");
    let backup = |name: &str| {
        let mut backup = backup_of(&cluster);
        backup.args(["-Z", "zstd", "-D", &url, "--name", name]);
        backup
    };
    cut(&root, &backup("a"), &[archives(&place("a"), MANIFEST)]);
    cut(
        &root,
        &backup("b"),
        &[
            archives(&place("b"), MANIFEST),
            archives(&place("a"), MANIFEST),
        ],
    );
    let mut restore = program();
    let target = root.join("restored");
    restore.args(["restore", "-j", "2", "-D"]).arg(&target);
    restore.arg(format!("{url}/b"));
    cut(&root, &restore, &[data_directory("restored")]);
    let mut expire = program();
    expire.args(["expire", "--keep", "1", &url]);
    let removed = Case {
        stays: false,
        ..archives(&place("a"), MANIFEST)
    };
    cut(&root, &expire, &[archives(&place("b"), MANIFEST), removed]);
    assert_eq!(names_in(&root.join("repository")), ["b"]);
}

#[test]
fn a_restore_is_whole_or_unfinished() {
    if !is_possible() {
        return;
    }
    let cluster = small_cluster();
    let origin = Folder::new("origin");
    let from = origin.join("archives");
    succeed(backup_of(&cluster).args(["-N", "-Ft", "-D"]).arg(&from));
    let root = Folder::new("power");
    let mut restore = program();
    restore.args(["restore", "-j", "2", "-D"]);
    restore.arg(root.join("restored")).arg(&from);
    cut(&root, &restore, &[data_directory("restored")]);
}

#[test]
fn a_combination_is_whole_or_unfinished() {
    if is_too_old() || !is_possible() {
        return;
    }
    let cluster = small_cluster();
    cluster.execute("ALTER SYSTEM SET summarize_wal = on");
    cluster.execute("SELECT pg_reload_conf()");
    let origin = Folder::new("origin");
    let (full, later) = (origin.join("full"), origin.join("later"));
    succeed(backup_of(&cluster).args(["-N", "-D"]).arg(&full));
    cluster.execute("UPDATE t SET b = 'changed' WHERE a % 100 = 0");
    let mut incremental = backup_of(&cluster);
    incremental.arg("-i").arg(full.join(MANIFEST));
    succeed(incremental.args(["-N", "-D"]).arg(&later));
    let root = Folder::new("power");
    fs::create_dir(root.join("there")).expect("a directory");
    backup_tests::program::give_to_owner(&root.join("there"));
    let mut combine = program();
    combine.args(["combine", "-j", "2", "-o"]);
    combine.arg(root.join("there")).args([&full, &later]);
    cut(&root, &combine, &[data_directory("there")]);
}
