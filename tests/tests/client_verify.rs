//! `pg_parallel_backup verify` beside `pg_verifybackup`: both look at the same damaged copies of a
//! backup, and have to find the same.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use backup_tests::client::{backup_of, names_in, new_target, program};
use backup_tests::crafted::edit;
use backup_tests::page::quiet_table;
use backup_tests::program::{
    account, bindir, command, give_to_owner, major_version, make_dir, run, succeed,
};
use backup_tests::scratch::Folder;
use backup_tests::server::Cluster;

/// The program, where it finds pg_waldump as anybody's does.
fn ours(args: &[&str], backup: &Path) -> Command {
    let mut verify = program();
    let path = std::env::var("PATH").expect("PATH");
    verify.env("PATH", format!("{}:{path}", bindir().display()));
    verify.arg("verify").args(args).arg(backup);
    verify
}

fn theirs(args: &[&str], backup: &Path) -> Command {
    let mut verify = command("pg_verifybackup");
    verify.args(args).arg(backup);
    verify
}

/// What a program found, line by line, without its own name and sorted: threads find things in any
/// order.
fn findings(output: &Output) -> Vec<String> {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let mut lines: Vec<_> = said
        .lines()
        .map(|line| {
            let line = line.trim_start_matches("pg_parallel_backup: ");
            let line = line.trim_start_matches("pg_verifybackup: ");
            // Older versions have other words.
            let line = line.replace("fatal: ", "error: ");
            line.replace(
                "is not a file or directory",
                "is not a regular file or directory",
            )
        })
        .filter(|line| !line.is_empty())
        .collect();
    lines.sort();
    lines
}

/// Both find the same, which has a word in it.
#[track_caller]
fn assert_same(args: &[&str], backup: &Path, word: &str) {
    let (mut ours, mut theirs) = (ours(args, backup), theirs(args, backup));
    let (our_output, their_output) = (run(&mut ours), run(&mut theirs));
    let both = format!(
        "{}\n{}",
        account(&ours, &our_output),
        account(&theirs, &their_output)
    );
    assert_eq!(findings(&our_output), findings(&their_output), "{both}");
    assert_eq!(our_output.status, their_output.status, "{both}");
    assert!(findings(&our_output).join("\n").contains(word), "{both}");
    let success = our_output.status.success();
    assert_eq!(success, word == SUCCESS, "{both}");
}

/// Ours finds something that theirs does not look for, or says in another way.
#[track_caller]
fn assert_found(args: &[&str], backup: &Path, words: &[&str]) {
    let mut verify = ours(args, backup);
    let output = run(&mut verify);
    let said = account(&verify, &output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for word in words {
        assert!(said.contains(word), "{word}: {said}");
    }
}

const SUCCESS: &str = "backup successfully verified";

/// A cluster with a tablespace, and backups of it that are copied before they are damaged.
struct Origin {
    folder: Folder,
    cluster: Cluster,
    /// The file of a table, and of one in the tablespace.
    tables: [String; 2],
    oid: u32,
}

impl Origin {
    fn new() -> Self {
        let cluster = Cluster::builder().setting("autovacuum", "off").start();
        let (oid, _) = cluster.create_tablespace("outside");
        let mut client = cluster.connect();
        let tables = [
            quiet_table(&mut client, "t", 200, ""),
            quiet_table(&mut client, "u", 100, "TABLESPACE outside"),
        ];
        let (folder, _) = new_target();
        Self {
            folder,
            cluster,
            tables,
            oid,
        }
    }

    fn backup(&self, name: &str, args: &[&str]) -> PathBuf {
        let target = self.folder.join(name);
        let mut backup = backup_of(&self.cluster);
        backup.args(args).arg("-D").arg(&target);
        if !args.contains(&"-Ft") {
            let location = self.location();
            let new = self.folder.join(format!("{name}-space"));
            backup.arg("-T");
            backup.arg(format!("{}={}", location.display(), new.display()));
        }
        succeed(&mut backup);
        target
    }

    fn location(&self) -> PathBuf {
        self.cluster.socket_dir().join("outside")
    }

    /// A copy to damage, with its tablespaces as directories of their own.
    fn copy(&self, backup: &Path, name: &str) -> PathBuf {
        let copy = self.folder.join(name);
        let _ = fs::remove_dir_all(&copy);
        succeed(command("cp").args(["-a", "--"]).arg(backup).arg(&copy));
        let link = copy.join(format!("pg_tblspc/{}", self.oid));
        if link.is_symlink() {
            let space = self.folder.join(format!("{name}-space"));
            let _ = fs::remove_dir_all(&space);
            let origin = fs::read_link(&link).expect("a link");
            succeed(command("cp").args(["-a", "--"]).arg(origin).arg(&space));
            fs::remove_file(&link).expect("remove the link");
            symlink(&space, &link).expect("a new link");
        }
        copy
    }
}

#[track_caller]
fn change_byte(path: &Path, place: u64) {
    let file = File::options().read(true).write(true).open(path);
    let file = file.unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], place).expect("write");
}

#[track_caller]
fn append(path: &Path) {
    let content = fs::read(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    fs::write(path, [&content[..], b"more"].concat()).expect("append");
}

#[track_caller]
fn truncate(path: &Path, size: u64) {
    let file = File::options().write(true).open(path);
    file.and_then(|file| file.set_len(size))
        .unwrap_or_else(|error| panic!("{path:?}: {error}"));
}

#[track_caller]
fn new_file(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    give_to_owner(path);
}

#[track_caller]
fn remove(path: &Path) {
    fs::remove_file(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
}

/// The segments of a folder.
fn segments(folder: &Path) -> Vec<PathBuf> {
    let names = names_in(folder);
    let segments = names.iter().filter(|name| name.len() == 24);
    segments.map(|name| folder.join(name)).collect()
}

/// What is done to a copy, and a word of what is found then.
type Damage<'a> = (&'a str, &'a dyn Fn(&Path), &'a str);

#[test]
fn damage_of_a_directory_is_found_as_pg_verifybackup_finds_it() {
    let origin = Origin::new();
    let backup = origin.backup("plain", &[]);
    let [table, in_tablespace] = &origin.tables;
    assert_same(&[], &backup, SUCCESS);
    let damages: &[Damage<'_>] = &[
        (
            "missing",
            &|copy| remove(&copy.join(table)),
            "is present in the manifest but not on disk",
        ),
        (
            "missing directory",
            &|copy| fs::remove_dir_all(copy.join("base/1")).expect("remove"),
            "is present in the manifest but not on disk",
        ),
        (
            "extra",
            &|copy| new_file(&copy.join("base/extra"), b"1"),
            "\"base/extra\" is present on disk but not in the manifest",
        ),
        (
            "extra in the tablespace",
            &|copy| {
                let path = copy.join(in_tablespace);
                new_file(&path.with_file_name("extra"), b"1");
            },
            "/extra\" is present on disk but not in the manifest",
        ),
        (
            "truncated",
            &|copy| truncate(&copy.join(table), 8192),
            "has size 8192 on disk but size",
        ),
        (
            "appended",
            &|copy| append(&copy.join(in_tablespace)),
            "has size",
        ),
        (
            "changed",
            &|copy| change_byte(&copy.join(table), 100_000),
            "checksum mismatch for file",
        ),
        (
            "changed in the tablespace",
            &|copy| change_byte(&copy.join(in_tablespace), 8191),
            "checksum mismatch for file \"pg_tblspc/",
        ),
        (
            "many at once",
            &|copy| {
                remove(&copy.join("base/1/PG_VERSION"));
                append(&copy.join("global/pg_filenode.map"));
                change_byte(&copy.join(table), 0);
                change_byte(&copy.join(in_tablespace), 0);
                new_file(&copy.join("extra"), b"1");
            },
            "checksum mismatch for file",
        ),
        (
            "a tablespace that is gone",
            &|copy| {
                let link = copy.join(format!("pg_tblspc/{}", origin.oid));
                remove(&link);
                symlink("/nowhere", link).expect("a link");
            },
            "could not stat file or directory",
        ),
        (
            "no regular file",
            &|copy| {
                let path = copy.join("global/pg_filenode.map");
                remove(&path);
                succeed(command("mkfifo").arg(path));
            },
            "is not a regular file or directory",
        ),
        (
            "what may change",
            &|copy| {
                append(&copy.join("postgresql.auto.conf"));
                new_file(&copy.join("standby.signal"), b"");
                new_file(&copy.join("recovery.signal"), b"");
            },
            SUCCESS,
        ),
        (
            "wal missing",
            &|copy| {
                segments(&copy.join("pg_wal"))
                    .iter()
                    .for_each(|path| remove(path))
            },
            "WAL parsing failed for timeline 1",
        ),
        (
            "wal changed",
            &|copy| {
                let segments = segments(&copy.join("pg_wal"));
                fs::write(&segments[0], vec![7; 16 << 20]).expect("write");
            },
            "WAL parsing failed for timeline 1",
        ),
        (
            "no manifest",
            &|copy| remove(&copy.join("backup_manifest")),
            "could not open file",
        ),
        (
            "control file truncated",
            &|copy| truncate(&copy.join("global/pg_control"), 100),
            "\"global/pg_control\" has size 100",
        ),
        (
            "control file changed",
            &|copy| change_byte(&copy.join("global/pg_control"), 40),
            if major_version() >= 17 {
                "global/pg_control: CRC is incorrect"
            } else {
                "checksum mismatch for file \"global/pg_control\""
            },
        ),
    ];
    for (name, damage, word) in damages {
        println!("{name}");
        let copy = origin.copy(&backup, "copy");
        damage(&copy);
        assert_same(&[], &copy, word);
    }
}

#[test]
fn what_cannot_be_read_is_found() {
    let origin = Origin::new();
    let backup = origin.backup("plain", &[]);
    let [table, in_tablespace] = &origin.tables;
    let closed = |path: PathBuf| {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("a mode");
    };
    closed(backup.join(table));
    assert_same(&[], &backup, "could not open file");
    closed(backup.join("base/1"));
    closed(
        backup
            .join(in_tablespace)
            .parent()
            .expect("a folder")
            .to_owned(),
    );
    assert_same(&[], &backup, "could not open directory");
    fs::set_permissions(backup.join("base/1"), fs::Permissions::from_mode(0o700)).expect("a mode");
}

#[test]
fn options_mean_what_they_mean_to_pg_verifybackup() {
    let origin = Origin::new();
    let backup = origin.backup("plain", &[]);
    let [table, in_tablespace] = &origin.tables;
    change_byte(&backup.join(table), 9000);
    assert_same(&["-s"], &backup, SUCCESS);
    assert_same(&["-i", table], &backup, SUCCESS);
    assert_same(&["--ignore", "./base//"], &backup, SUCCESS);
    assert_same(&["-i", "bas"], &backup, "checksum mismatch");
    assert_same(&["-n", "-q"], &backup, "checksum mismatch");
    assert_same(&["-e"], &backup, "checksum mismatch");

    // The first finding is the only one: sizes are looked at before any content is.
    append(&backup.join(in_tablespace));
    assert_same(&["-e"], &backup, "has size");
    let mut quiet = ours(&["-q", "-s", "-i", in_tablespace], &backup);
    let output = run(&mut quiet);
    assert!(output.status.success(), "{}", account(&quiet, &output));
    assert!(output.stdout.is_empty() && output.stderr.is_empty());

    // Manifest and WAL in other places.
    let copy = origin.backup("other", &[]);
    let manifest = origin.folder.join("manifest");
    let wal = origin.folder.join("wal");
    fs::rename(copy.join("backup_manifest"), &manifest).expect("move the manifest");
    fs::rename(copy.join("pg_wal"), &wal).expect("move the WAL");
    make_dir(&copy.join("pg_wal"));
    let (manifest, wal) = (manifest.display().to_string(), wal.display().to_string());
    assert_same(&["-m", &manifest], &copy, "WAL parsing failed");
    assert_same(&["-m", &manifest, "-n"], &copy, SUCCESS);
    assert_same(&["-m", &manifest, "-w", &wal], &copy, SUCCESS);
    assert_same(&["-w", &wal], &copy, "could not open file");

    for (args, word) in [
        (&["-P", "-q"][..], "cannot be used with"),
        (&["-F", "x"], "invalid value"),
        (&["-j", "0"], "number of jobs"),
        (&["a", "b"], "unexpected argument"),
    ] {
        assert_found(args, &copy, &[word]);
    }
    let missing = origin.folder.join("missing");
    assert_same(&["-m", &manifest], &missing, "could not open directory");
}

#[test]
fn a_manifest_that_was_changed_is_refused() {
    let origin = Origin::new();
    let backup = origin.backup("plain", &[]);
    let manifest = backup.join("backup_manifest");
    let text = fs::read_to_string(&manifest).expect("a manifest");
    let last_line = text.rfind("\"Manifest-Checksum\"").expect("a checksum");
    for (changed, word) in [
        (
            text.replacen("\"Size\": ", "\"Size\": 1", 1),
            "manifest checksum mismatch",
        ),
        (text.replacen("GMT", "CET", 1), "manifest checksum mismatch"),
        (
            text.trim_end().to_owned(),
            "last line not newline-terminated",
        ),
        (
            text.replacen("\"Path\": \"base/1/1", "\"Path\": \"base/1/2", 1),
            "manifest checksum mismatch",
        ),
        (
            text.replacen("n\": 1,", "n\": 7,", 1)
                .replacen("n\": 2,", "n\": 7,", 1),
            "unexpected manifest version",
        ),
    ] {
        fs::write(&manifest, changed).expect("write");
        assert_same(&[], &backup, word);
    }
    for changed in [&text[..last_line], &text[..text.len() / 2], "", "{}\n"] {
        fs::write(&manifest, changed).expect("write");
        assert_found(&[], &backup, &["could not parse backup manifest"]);
        assert!(!run(&mut theirs(&[], &backup)).status.success());
    }
}

#[test]
fn a_backup_of_another_cluster_is_refused() {
    if major_version() < 17 {
        println!("left out: manifests do not name the cluster");
        return;
    }
    let origin = Origin::new();
    let other = Cluster::builder().initdb_arg("--wal-segsize=1").start();
    let foreign = other.data_dir().join("global/pg_control");
    for (args, name) in [(&[][..], "plain"), (&["-Ft", "-j", "1"], "tar")] {
        let backup = origin.backup(name, args);
        if name == "plain" {
            fs::copy(&foreign, backup.join("global/pg_control")).expect("copy");
            assert_same(&[], &backup, "manifest system identifier is");
        } else {
            let content = fs::read(&foreign).expect("pg_control");
            let control = "global/pg_control";
            edit(
                &backup.join("base.tar"),
                Some(control),
                Some((control, &content)),
            );
            if major_version() >= 18 {
                assert_same(&["-n"], &backup, "manifest system identifier is");
            } else {
                assert_found(&["-n"], &backup, &["manifest system identifier is"]);
            }
        }
    }
}

/// The archives of a backup with these options, and what both programs say of them.
#[track_caller]
fn assert_tar(backup: &Path, word: &str) {
    if major_version() >= 18 {
        assert_same(&["-n"], backup, word);
    } else if word == SUCCESS {
        succeed(&mut ours(&["-n"], backup));
    } else {
        assert_found(&["-n"], backup, &[word]);
    }
}

#[test]
fn damage_of_archives_is_found_as_pg_verifybackup_finds_it() {
    let origin = Origin::new();
    let backup = origin.backup("tar", &["-Ft", "-j", "1"]);
    let [table, in_tablespace] = &origin.tables;
    let space = format!("{}.tar", origin.oid);
    assert_tar(&backup, SUCCESS);
    succeed(&mut ours(&[], &backup));
    // Where the content of a table begins in its archive.
    let content_of = |archive: &Path, name: &str| {
        let bytes = fs::read(archive).expect("an archive");
        let header = bytes
            .windows(name.len() + 1)
            .position(|window| window == [name.as_bytes(), b"\0"].concat())
            .expect("the member");
        (header + 512) as u64
    };
    let name_in_space = in_tablespace
        .split_once(&format!("{}/", origin.oid))
        .map(|(_, name)| name)
        .expect("a name in the tablespace");
    let damages: &[Damage<'_>] = &[
        (
            "changed",
            &|copy| {
                let archive = copy.join("base.tar");
                change_byte(&archive, content_of(&archive, table) + 100_000);
            },
            "checksum mismatch for file",
        ),
        (
            "changed in the tablespace",
            &|copy| {
                let archive = copy.join(&space);
                change_byte(&archive, content_of(&archive, name_in_space));
            },
            "checksum mismatch for file \"pg_tblspc/",
        ),
        (
            "missing",
            &|copy| edit(&copy.join("base.tar"), Some(table), None),
            "is present in the manifest but not on disk",
        ),
        (
            "an archive missing",
            &|copy| remove(&copy.join(&space)),
            "is present in the manifest but not on disk",
        ),
        (
            "unexpected files",
            &|copy| {
                new_file(&copy.join("base.tar.xz"), b"1");
                new_file(&copy.join("notes"), b"1");
                make_dir(&copy.join("16000.tar"));
            },
            "is not expected in a tar format backup",
        ),
        (
            "extra",
            &|copy| edit(&copy.join("base.tar"), None, Some(("extra", b"1"))),
            "file \"extra\" is present in archive \"base.tar\" but not in the manifest",
        ),
        (
            "another size",
            &|copy| {
                let version = "PG_VERSION";
                edit(
                    &copy.join("base.tar"),
                    Some(version),
                    Some((version, b"15.1\n")),
                );
            },
            "file \"PG_VERSION\" has size 5 in archive \"base.tar\"",
        ),
    ];
    for (name, damage, word) in damages {
        println!("{name}");
        let copy = origin.copy(&backup, "copy");
        damage(&copy);
        assert_tar(&copy, word);
    }
}

#[test]
fn archives_that_are_no_archives_are_found() {
    let origin = Origin::new();
    let backup = origin.backup("tar", &["-Ft", "-j", "2"]);
    assert_found(
        &["-n", "-F", "p"],
        &backup,
        &["is present on disk but not in the manifest"],
    );
    let damages: &[Damage<'_>] = &[
        (
            "cut off",
            &|copy| {
                let archive = copy.join("base.1.tar");
                let size = fs::metadata(&archive).expect("an archive").len();
                truncate(&archive, size - 1024);
            },
            "archive \"base.1.tar\": the archive is incomplete",
        ),
        (
            "garbage",
            &|copy| new_file(&copy.join("base.1.tar"), &[7; 2000]),
            "archive \"base.1.tar\": the archive has no valid header",
        ),
        (
            "empty",
            &|copy| truncate(&copy.join("base.0.tar"), 0),
            "archive \"base.0.tar\": the archive is incomplete",
        ),
        (
            "something behind its end",
            &|copy| append(&copy.join("base.0.tar")),
            "archive \"base.0.tar\": the archive goes on after its end",
        ),
        (
            "not what it is called",
            &|copy| {
                let name = copy.join("base.0.tar");
                fs::rename(name, copy.join("base.0.tar.zst")).expect("rename");
            },
            "archive \"base.0.tar.zst\": could not decompress data by zstd",
        ),
        (
            "unreadable",
            &|copy| {
                let closed = fs::Permissions::from_mode(0o000);
                fs::set_permissions(copy.join("base.0.tar"), closed).expect("a mode");
            },
            "could not open file \"base.0.tar\": Permission denied",
        ),
    ];
    for (name, damage, word) in damages {
        println!("{name}");
        let copy = origin.copy(&backup, "copy");
        damage(&copy);
        assert_found(&[], &copy, &[word]);
        let output = run(&mut ours(&["-n"], &copy));
        let said = findings(&output);
        // What is in there is not taken for missing.
        assert_eq!(said.len(), 1, "{said:?}");
    }

    // The same files once more, by another worker.
    let copy = origin.copy(&backup, "copy");
    let (from, to) = (copy.join("base.1.tar"), copy.join("base.2.tar"));
    succeed(command("cp").args([from, to]));
    assert_found(&["-n"], &copy, &["is present more than once"]);
    // And a worker's archive that is gone.
    let copy = origin.copy(&backup, "copy");
    remove(&copy.join("base.0.tar"));
    assert_found(
        &["-n"],
        &copy,
        &[
            "is present in the manifest but not on disk",
            "\"global/pg_control\"",
        ],
    );
}

#[test]
fn archives_of_several_workers_are_verified_with_their_wal() {
    let origin = Origin::new();
    for compression in ["none", "gzip:1", "lz4", "zstd"] {
        let name = compression.replace(':', "");
        let backup = origin.backup(&name, &["-Ft", "-j", "3", "-Z", compression]);
        let temporary = Folder::new("tmp");
        let mut verify = ours(&["-j", "2", "-P"], &backup);
        let output = run(verify.env("TMPDIR", &*temporary));
        let said = account(&verify, &output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains(SUCCESS), "{said}");
        assert!(names_in(&temporary).is_empty());
        let mut elsewhere = ours(&["-w", "/nowhere"], &backup);
        let output = run(&mut elsewhere);
        let said = account(&elsewhere, &output);
        assert!(said.contains("WAL parsing failed for timeline 1"), "{said}");
    }
    // The one that lies beside the others belongs to no backup.
    let backup = origin.backup("without", &["-Ft", "-j", "2", "-X", "none"]);
    assert_found(&[], &backup, &["WAL parsing failed for timeline 1"]);
    succeed(&mut ours(&["-n"], &backup));
}

#[test]
fn archives_of_pg_basebackup_are_verified_with_their_wal() {
    let origin = Origin::new();
    for method in ["stream", "fetch"] {
        let target = origin.folder.join(method);
        succeed(
            command("pg_basebackup")
                .args(origin.cluster.connection_args("postgres"))
                .args(["-c", "fast", "--no-sync", "-Ft", "-z", "-X", method, "-D"])
                .arg(&target),
        );
        let compressed = if method == "stream" {
            "pg_wal.tar.gz"
        } else {
            "base.tar.gz"
        };
        assert!(target.join(compressed).exists());
        succeed(&mut ours(&[], &target));
    }
}

#[test]
fn without_pg_waldump_of_its_version_wal_is_not_taken_for_verified() {
    let origin = Origin::new();
    let backup = origin.backup("plain", &[]);
    let none = Folder::new("path");
    let mut verify = ours(&[], &backup);
    verify.env("PATH", &*none);
    let output = run(&mut verify);
    let said = account(&verify, &output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("program \"pg_waldump\" is needed"), "{said}");
    succeed(ours(&["-n"], &backup).env("PATH", &*none));

    let other = none.join("pg_waldump");
    new_file(&other, b"#!/bin/sh\necho 'pg_waldump (PostgreSQL) 9.6'\n");
    fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).expect("a mode");
    let mut verify = ours(&[], &backup);
    verify.env("PATH", &*none);
    let output = run(&mut verify);
    let said = account(&verify, &output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let wanted = format!(
        "program \"pg_waldump\" of PostgreSQL {} is needed",
        major_version()
    );
    assert!(said.contains(&wanted), "{said}");
    assert!(!said.contains(SUCCESS), "{said}");
}
