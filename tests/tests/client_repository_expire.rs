//! `pg_parallel_backup expire`: what nobody needs is removed from a repository, and nothing else.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use backup_tests::client::{backup_of, expect_failure, names_in};
use backup_tests::incremental::is_too_old;
use backup_tests::program::{command, major_version, make_dir, run, succeed};
use backup_tests::repository::{Access, Origin, Repository};
use backup_tests::scratch::Folder;
use backup_tests::server::Cluster;
use serde_json::{Value, json};

/// The time so many days ago.
fn days_ago(days: u32) -> String {
    let mut date = command("date");
    date.args([
        "-u",
        "-d",
        &format!("{days} days ago"),
        "+%Y-%m-%dT%H:%M:%SZ",
    ]);
    succeed(&mut date).trim_end().to_owned()
}

/// Makes a backup that old.
#[track_caller]
fn age(repository: &Repository, name: &str, days: u32) {
    repository.forge_info(name, |info| {
        info["start_time"] = json!(days_ago(days));
        info["stop_time"] = info["start_time"].clone();
    });
}

/// Repository with four backups of a cluster, 40 to 10 days old.
fn sample() -> (Cluster, Repository) {
    let cluster = Cluster::new();
    let repository = Repository::new();
    repository.take(&cluster, "a", &["-j", "1", "-Z", "zstd"]);
    for (name, days) in [("b", 30), ("c", 20), ("d", 10)] {
        repository.copy("a", name);
        age(&repository, name, days);
    }
    age(&repository, "a", 40);
    (cluster, repository)
}

fn names(access: &Access) -> Vec<String> {
    access.states().into_iter().map(|(name, _)| name).collect()
}

/// Tells what would be removed, in text and in JSON, and then removes it. Returns the verdicts.
#[track_caller]
fn expire(access: &Access, args: &[&str], removed: &[&str]) -> Vec<(String, bool, String)> {
    let before = names(access);
    let with = |more: &[&str]| succeed(&mut access.expire(&[args, more].concat()));
    let parse = |text: &str| -> Vec<(String, bool, String)> {
        let rows: Vec<Value> = serde_json::from_str(text).expect(text);
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        rows.iter()
            .map(|row| {
                let remove = row["remove"].as_bool().expect("a truth value");
                (text(&row["name"]), remove, text(&row["reason"]))
            })
            .collect()
    };
    let verdicts = parse(&with(&["--dry-run", "--json"]));
    let said = with(&["-n"]);
    assert_eq!(names(access), before, "a dry run removed something");
    let lines = verdicts.iter().map(|(name, remove, reason)| {
        let what = if *remove { "would remove" } else { "keeping" };
        format!("{what} \"{name}\": {reason}\n")
    });
    assert_eq!(said, lines.collect::<String>());
    let mut judged: Vec<_> = verdicts.iter().map(|(name, ..)| name.clone()).collect();
    judged.sort();
    let mut expected = before.clone();
    expected.sort();
    assert_eq!(judged, expected);
    let mut found: Vec<_> = verdicts.iter().filter(|(_, remove, _)| *remove).collect();
    found.sort();
    let found: Vec<_> = found.into_iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(found, removed, "{verdicts:?}");

    let said = with(&[]);
    for (name, remove, reason) in &verdicts {
        let what = if *remove { "removing" } else { "keeping" };
        let line = format!("{what} \"{name}\": {reason}\n");
        assert!(said.contains(&line), "{said}");
    }
    let left: Vec<_> = before
        .into_iter()
        .filter(|name| !removed.contains(&name.as_str()))
        .collect();
    assert_eq!(names(access), left);
    verdicts
}

#[test]
fn so_many_of_the_newest_are_kept() {
    let (_, repository) = sample();
    let verdicts = expire(&repository, &["--keep", "2"], &["a", "b"]);
    let reason = |name: &str| {
        let found = verdicts.iter().find(|(other, ..)| other == name);
        found.expect("a verdict").2.as_str()
    };
    assert_eq!(reason("a"), "nothing that is kept needs it");
    assert_eq!(reason("c"), "it is full backup 2 from the newest");
    assert_eq!(reason("d"), "it is the newest full backup of its cluster");
    for name in ["c", "d"] {
        succeed(&mut repository.verify(name, &[]));
    }
    assert!(repository.files("a").is_empty() && repository.files("b").is_empty());
    // Nothing is left to do.
    expire(&repository, &["--keep", "2"], &[]);
    expire(&repository, &["--keep", "5"], &[]);
}

#[test]
fn what_is_of_some_time_is_kept_and_the_newest_always() {
    let (_, repository) = sample();
    expire(&repository, &["--keep-within", "35d"], &["a"]);
    expire(
        &repository,
        &["--keep-within", "25d", "--keep", "1"],
        &["b"],
    );
    expire(&repository, &["--keep-within", "15d", "--keep", "2"], &[]);
    expire(&repository, &["--keep-within", "1h"], &["c"]);
    expire(&repository, &["--keep-within", "0s"], &[]);
    assert_eq!(names(&repository), ["d"]);
}

#[test]
fn each_cluster_keeps_its_newest() {
    let (_, repository) = sample();
    for name in ["a", "b"] {
        repository.forge_info(name, |info| info["system_identifier"] = json!("1"));
    }
    expire(&repository, &["--keep", "1"], &["a", "c"]);
    assert_eq!(names(&repository), ["b", "d"]);
}

#[test]
fn what_is_not_complete_is_removed_after_some_time() {
    let (_, repository) = sample();
    for name in ["b", "d"] {
        let manifest = repository.key(name, "backup_manifest");
        repository.server.remove(&manifest);
    }
    // It may be being taken. It is not one of those that are kept.
    let verdicts = expire(&repository, &["--keep", "2"], &[]);
    let reason = |name: &str| {
        let found = verdicts.iter().find(|(other, ..)| other == name);
        found.expect("a verdict").2.clone()
    };
    assert_eq!(reason("b"), "it is not complete, and may be being taken");
    for (file, _) in repository.files("b") {
        let path = repository.server.folder().join(repository.key("b", &file));
        let file = File::options().write(true).open(path);
        let two_days_ago = SystemTime::now() - Duration::from_secs(2 * 86_400);
        file.and_then(|file| file.set_modified(two_days_ago))
            .expect("an old file");
    }
    expire(&repository, &["--keep", "2", "--unfinished", "3d"], &[]);
    expire(&repository, &["--keep", "2"], &["b"]);
    expire(&repository, &["--keep", "2", "--unfinished", "0s"], &["d"]);
    assert_eq!(names(&repository), ["a", "c"]);
}

#[test]
fn what_cannot_be_read_ends_it_before_anything_is_removed() {
    let (_, repository) = sample();
    repository.write("c", "backup.json", b"{");
    let before = repository.server.objects();
    for args in [
        &["--keep", "1"][..],
        &["--keep", "1", "-n"],
        &["--keep", "1", "--json"],
    ] {
        let said = expect_failure(&mut repository.expire(args));
        assert!(
            said.contains("backup \"c\" cannot be read, and may need others"),
            "{said}"
        );
        assert!(said.contains("backup.json"), "{said}");
    }
    assert_eq!(repository.server.objects(), before);
}

#[test]
fn what_says_nothing_of_what_to_keep_is_refused() {
    let repository = Repository::new();
    for (args, word) in [
        (&[][..], "nothing says which backups to keep"),
        (
            &["--unfinished", "0s"],
            "nothing says which backups to keep",
        ),
        (&["--keep", "0"], "must be at least 1"),
        (&["--keep-within", "14"], "time \"14\" is not a valid value"),
        (&["--keep-within", "x"], "HINT:  Valid units are"),
        (
            &["--keep", "1", "--unfinished", "1"],
            "time \"1\" is not a valid value",
        ),
    ] {
        let said = expect_failure(&mut repository.expire(args));
        assert!(said.contains(word), "{word}: {said}");
    }
    // There is nothing to remove.
    let said = succeed(&mut repository.expire(&["--keep", "1"]));
    assert_eq!(said, "");
    let said = succeed(&mut repository.expire(&["--keep", "1", "--json"]));
    assert_eq!(said, "[]\n");
}

#[test]
fn of_directories_only_backups_are_removed() {
    let cluster = Cluster::new();
    let folder = Folder::new("repository");
    let access = Access::directory(&folder);
    // By programs that know nothing of a repository.
    succeed(backup_of(&cluster).args(["-D"]).arg(folder.join("plain")));
    let mut pg_basebackup = command("pg_basebackup");
    pg_basebackup.args(cluster.connection_args("postgres"));
    pg_basebackup.args(["-c", "fast", "--no-sync", "-Ft", "-D"]);
    succeed(pg_basebackup.arg(folder.join("tar")));
    for name in ["old", "new"] {
        access.take(&cluster, name, &["-j", "1"]);
    }
    make_dir(&folder.join("notes"));
    fs::write(folder.join("notes/base.txt"), "x").expect("write");
    fs::write(folder.join("file"), "x").expect("write");
    assert_eq!(names(&access).len(), 4);
    let mut dry = access.expire(&["--keep", "1", "-n"]);
    let said = succeed(&mut dry);
    assert!(said.contains("would remove \"old\""), "{said}");
    succeed(&mut access.expire(&["--keep", "1"]));
    let left = names_in(&folder);
    assert!(!left.contains(&"old".to_owned()), "{left:?}");
    for name in ["file", "new", "notes"] {
        assert!(left.contains(&name.to_owned()), "{left:?}");
    }
    assert_eq!(names_in(&folder.join("notes")), ["base.txt"]);
    succeed(&mut access.verify("new", &[]));
}

#[test]
fn what_is_no_backup_to_a_repository_is_left_alone() {
    let cluster = Cluster::new();
    let other = Cluster::new();
    let folder = Folder::new("repository");
    let access = Access::directory(&folder);
    for name in ["old", "new"] {
        access.take(&cluster, name, &["-j", "1"]);
    }
    // Manifests of earlier versions do not say which cluster they are of.
    for (cluster, name) in [(&cluster, "plain"), (&other, "of_another")] {
        succeed(backup_of(cluster).args(["-D"]).arg(folder.join(name)));
    }
    // A directory on which a server has started, and one of a part of a backup.
    succeed(backup_of(&cluster).args(["-D"]).arg(folder.join("live")));
    fs::remove_file(folder.join("live/backup_label")).expect("remove");
    succeed(
        backup_of(&cluster)
            .args(["--no-manifest", "-D"])
            .arg(folder.join("part")),
    );
    make_dir(&folder.join("scripts"));
    for file in ["site.tar.gz", "x.target"] {
        fs::write(folder.join("scripts").join(file), "x").expect("write");
    }
    let mut expire = access.expire(&["--keep", "1", "--unfinished", "0s"]);
    let said = succeed(&mut expire);
    assert!(said.contains("removing \"old\""), "{said}");
    let left = names_in(&folder);
    // From 17 on manifests say it, and the clusters of the tests have one identifier.
    let expected = match major_version() {
        ..17 => &["live", "new", "of_another", "part", "plain", "scripts"][..],
        _ => &["live", "of_another", "part", "scripts"],
    };
    assert_eq!(left, expected, "{said}");
    assert_eq!(
        names_in(&folder.join("scripts")),
        ["site.tar.gz", "x.target"]
    );
}

/// Makes a directory a backup that ended so many days ago.
#[track_caller]
fn age_directory(directory: &Path, days: u64) {
    let manifest = directory.join("backup_manifest");
    let file = File::options().write(true).open(manifest);
    let time = SystemTime::now() - Duration::from_secs(days * 86_400);
    file.and_then(|file| file.set_modified(time))
        .expect("an old manifest");
}

#[test]
fn directories_with_something_elsewhere_are_kept() {
    if is_too_old() {
        // Without the cluster in the manifest, no directory is removed.
        return;
    }
    let cluster = Cluster::new();
    let (_, space) = cluster.create_tablespace("space");
    let (folder, outside) = (Folder::new("repository"), Folder::new("outside"));
    let access = Access::directory(&folder);
    let mapping = format!("-T{}={}", space.display(), outside.join("space").display());
    succeed(
        backup_of(&cluster)
            .args([&mapping, "-D"])
            .arg(folder.join("spaces")),
    );
    cluster.execute("DROP TABLESPACE space");
    succeed(backup_of(&cluster).arg("-D").arg(outside.join("data")));
    symlink(outside.join("data"), folder.join("link")).expect("a link");
    for name in ["old", "new"] {
        succeed(backup_of(&cluster).arg("-D").arg(folder.join(name)));
    }
    for (name, days) in [("spaces", 9), ("link", 8), ("old", 7)] {
        age_directory(&folder.join(name), days);
    }
    let verdicts = expire(&access, &["--keep", "1"], &["old"]);
    for (name, reason) in [
        ("spaces", "it may have tablespaces outside of its directory"),
        ("link", "its directory is a symbolic link"),
    ] {
        let verdict = (name.to_owned(), false, reason.to_owned());
        assert!(verdicts.contains(&verdict), "{verdicts:?}");
    }
    succeed(
        command("pg_verifybackup")
            .arg("-n")
            .arg(outside.join("data")),
    );
}

#[test]
fn directories_make_chains_by_their_labels() {
    if is_too_old() {
        return;
    }
    let cluster = Cluster::builder().setting("summarize_wal", "on").start();
    let folder = Folder::new("repository");
    let access = Access::directory(&folder);
    succeed(backup_of(&cluster).arg("-D").arg(folder.join("full")));
    let earlier = folder.join("full/backup_manifest");
    let mut incremental = backup_of(&cluster);
    incremental.arg("-i").arg(earlier).arg("-D");
    succeed(incremental.arg(folder.join("changes")));
    succeed(backup_of(&cluster).arg("-D").arg(folder.join("new")));
    age_directory(&folder.join("full"), 20);
    age_directory(&folder.join("changes"), 2);
    let verdicts = expire(&access, &["--keep", "1", "--keep-within", "7d"], &[]);
    let needed = "it belongs to a backup that is kept: it is within the time that is kept";
    let verdict = ("full".to_owned(), false, needed.to_owned());
    assert!(verdicts.contains(&verdict), "{verdicts:?}");
    expire(&access, &["--keep", "1"], &["changes", "full"]);
}

/// Cluster with two full backups, 40 and 20 days old, and two incremental ones after the first, 30 and 10.
fn chains() -> (Origin, Repository) {
    let cluster = Cluster::builder().setting("summarize_wal", "on");
    let origin = Origin::on(cluster.setting("autovacuum", "off").start());
    let repository = Repository::new();
    let take = |name: &str, earlier: &str| {
        let earlier = repository.url_of(earlier);
        let args = ["-j", "2", "-Z", "zstd", "-i", &earlier];
        let args = if name.starts_with("full") {
            &args[..4]
        } else {
            &args
        };
        repository.take(&origin.cluster, name, args);
        origin.cluster.execute("INSERT INTO t VALUES ('y')");
    };
    for (name, earlier) in [
        ("full1", ""),
        ("inc1", "full1"),
        ("inc2", "inc1"),
        ("full2", ""),
    ] {
        take(name, earlier);
    }
    for (name, days) in [("full1", 40), ("inc1", 30), ("full2", 20), ("inc2", 10)] {
        age(&repository, name, days);
    }
    (origin, repository)
}

#[test]
fn a_chain_is_kept_or_removed_as_a_whole() {
    if is_too_old() {
        return;
    }
    let (_, repository) = chains();
    let verdicts = expire(&repository, &["--keep-within", "15d"], &[]);
    let full = verdicts.iter().find(|(name, ..)| name == "full1");
    let reason = &full.expect("a verdict").2;
    assert!(
        reason.starts_with("it belongs to a backup that is kept"),
        "{reason}"
    );
    expire(&repository, &["--keep", "2"], &[]);
    let verdicts = expire(&repository, &["--keep", "1"], &["full1", "inc1", "inc2"]);
    // What needs another is removed before it.
    let order: Vec<_> = verdicts.iter().filter(|(_, remove, _)| *remove).collect();
    let order: Vec<_> = order.into_iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(order, ["inc2", "inc1", "full1"]);
    succeed(&mut repository.verify("full2", &[]));
}

#[test]
fn what_an_unfinished_backup_needs_is_kept() {
    if is_too_old() {
        return;
    }
    let (_, repository) = chains();
    let manifest = repository.key("inc2", "backup_manifest");
    repository.server.remove(&manifest);
    let verdicts = expire(&repository, &["--keep", "1"], &[]);
    let parent = verdicts.iter().find(|(name, ..)| name == "inc1");
    assert_eq!(
        parent.expect("a verdict").2,
        "an unfinished backup is made from it"
    );
    expire(
        &repository,
        &["--keep", "1", "--unfinished", "0s"],
        &["inc2"],
    );
    expire(&repository, &["--keep", "1"], &["full1", "inc1"]);
}

#[test]
fn a_chain_with_a_gap_is_not_touched() {
    if is_too_old() {
        return;
    }
    let (_, repository) = chains();
    for (file, _) in repository.files("inc1") {
        repository.server.remove(&repository.key("inc1", &file));
    }
    // The backup before it is not there, so nobody knows whether it needs the full one.
    let verdicts = expire(&repository, &["--keep", "1"], &[]);
    let reason = |name: &str| {
        let found = verdicts.iter().find(|(other, ..)| other == name);
        found.expect("a verdict").2.clone()
    };
    assert_eq!(reason("full1"), "\"inc2\" may have been made from it");
    assert!(
        reason("inc2").contains("is not in the repository"),
        "{}",
        reason("inc2")
    );
    let output = run(&mut repository.list(&[]));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("chain broken"), "{said}");
}
