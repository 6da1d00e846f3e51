//! `pg_parallel_backup verify` of directories, compared with `pg_verifybackup`: both must report
//! the same findings on the same damaged copies of a backup.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use backup_tests::client::restore_of;
use backup_tests::crafted::{edit, entry, manifest_of_cluster};
use backup_tests::program::{account, command, major_version, make_dir, run, succeed, words};
use backup_tests::scratch::Folder;
use backup_tests::server::Cluster;
use backup_tests::verification::{
    Damage, Origin, SUCCESS, append, assert_found, assert_same, change_byte, new_file, ours,
    remove, segments, theirs, truncate,
};

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

    // Only the first error is reported: sizes are checked before contents.
    append(&backup.join(in_tablespace));
    assert_same(&["-e"], &backup, "has size");
    let mut quiet = ours(&["-q", "-s", "-i", in_tablespace], &backup);
    let output = run(&mut quiet);
    assert!(output.status.success(), "{}", account(&quiet, &output));
    assert!(output.stdout.is_empty() && output.stderr.is_empty());

    // Manifest and WAL in other locations.
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
    // Written by another process: a child of this one could have it open for writing, and nobody could run it.
    let script = "printf '%s\\n' '#!/bin/sh' 'echo pg_waldump \"(PostgreSQL)\" 9.6' >\"$0\"; chmod 755 \"$0\"";
    succeed(command("sh").args(["-c", script]).arg(&other));
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

/// Returns the output of a program that must fail, and must not block on a FIFO without a writer.
#[track_caller]
fn refusal(program: &Command) -> String {
    let mut limited = command("timeout");
    limited.arg("60").args(words(program));
    for (name, value) in program.get_envs() {
        limited.env(name, value.unwrap_or_default());
    }
    let output = run(&mut limited);
    let said = account(&limited, &output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

/// Replaces a file with an object of another type.
#[track_caller]
fn replace(path: &Path, kind: &str) {
    remove(path);
    match kind {
        "FIFO" => drop(succeed(command("mkfifo").args(["-m", "666"]).arg(path))),
        "socket" => drop(UnixListener::bind(path).expect("a socket")),
        "device" => symlink("/dev/zero", path).expect("a link"),
        _ => make_dir(path),
    }
}

#[test]
fn what_is_no_regular_file_is_not_read() {
    let origin = Origin::new();
    let plain = origin.backup("plain", &[]);
    let tar = origin.backup("tar", &["-Ft", "-j", "1"]);
    let [table, _] = &origin.tables;
    let segment = segments(&plain.join("pg_wal")).remove(0);
    let segment = segment.strip_prefix(&plain).expect("a segment").to_owned();
    let segment = segment.to_str().expect("UTF-8");
    for kind in ["FIFO", "socket", "device", "directory"] {
        for name in ["PG_VERSION", "global/pg_control", table] {
            let copy = origin.copy(&plain, "copy");
            replace(&copy.join(name), kind);
            let said = refusal(&ours(&[], &copy));
            let word = match kind {
                "directory" => "is present in the manifest but not on disk",
                _ => "is not a regular file or directory",
            };
            assert!(said.contains(&format!("\"{name}\" {word}")), "{said}");
        }
        for (name, word) in [
            ("backup_manifest", "backup_manifest\": Not a regular file"),
            (segment, "is not a regular file"),
        ] {
            let copy = origin.copy(&plain, "copy");
            replace(&copy.join(name), kind);
            let said = refusal(&ours(&[], &copy));
            assert!(said.contains(word), "{kind} {name}: {said}");
        }
        for (name, verify_word) in [
            ("base.tar", "file \"base.tar\" is not a regular file"),
            ("backup_manifest", "backup_manifest\": Not a regular file"),
        ] {
            let copy = origin.copy(&tar, "copy");
            replace(&copy.join(name), kind);
            let said = refusal(&ours(&[], &copy));
            assert!(said.contains(verify_word), "{kind}: {said}");
            let target = origin.folder.join("restored");
            let said = refusal(&restore_of(&copy, &target, &[]));
            assert!(said.contains("Not a regular file"), "{kind}: {said}");
            assert!(!target.exists());
        }
    }
}

#[test]
fn files_of_any_size_are_not_held_in_memory() {
    const CONTROL_FILE: &str = "global/pg_control";
    let folder = Folder::new("v");
    let backup = folder.join("backup");
    make_dir(&backup);
    make_dir(&backup.join("global"));
    new_file(&backup.join("PG_VERSION"), b"15\n");
    new_file(&backup.join(CONTROL_FILE), b"");
    let files = [entry("PG_VERSION", 3), entry(CONTROL_FILE, 8192)].join(",");
    let manifest = manifest_of_cluster(7, &files);
    new_file(&backup.join("backup_manifest"), &manifest);
    for (name, word) in [
        (CONTROL_FILE, "global/pg_control: CRC is incorrect"),
        ("backup_manifest", "backup_manifest\": File too large"),
    ] {
        truncate(&backup.join(name), 64 << 30);
        let verify = ours(&["-n"], &backup);
        let mut limited = command("bash");
        limited.args(["-c", "ulimit -v 4000000; exec \"$@\"", "bash"]);
        limited.args(words(&verify));
        let output = run(&mut limited);
        let said = account(&limited, &output);
        assert!(said.contains(word), "{said}");
    }
}
