//! `pg_parallel_backup verify` of archives from one worker and from several. From PostgreSQL 18 on,
//! `pg_verifybackup` also reads archives of one worker and must report the same findings.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use backup_tests::client::{names_in, unpack};
use backup_tests::crafted::edit;
use backup_tests::program::{account, command, major_version, make_dir, run, succeed};
use backup_tests::scratch::Folder;
use backup_tests::verification::{
    Damage, Origin, SUCCESS, append, assert_found, assert_same, change_byte, findings, new_file,
    ours, remove, segments, truncate,
};

/// Takes a backup with these options into archives, and checks the result of both programs.
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
    // Offset of a table's content in its archive.
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
        (
            "a name that is of another place",
            &|copy| {
                let content = format!("{}\n", major_version());
                edit(
                    &copy.join("base.tar"),
                    Some("PG_VERSION"),
                    Some(("/PG_VERSION", content.as_bytes())),
                );
            },
            "tar member has unsafe path name: \"/PG_VERSION\"",
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
        // The files of a damaged or unreadable archive are not reported as missing.
        assert_eq!(said.len(), 1, "{said:?}");
    }

    // The same files again, in an archive of another worker.
    let copy = origin.copy(&backup, "copy");
    let (from, to) = (copy.join("base.1.tar"), copy.join("base.2.tar"));
    succeed(command("cp").args([from, to]));
    assert_found(&["-n"], &copy, &["is present more than once"]);
    // An archive of a worker is missing.
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
        // The progress must not mention a checkpoint: only a backup waits for one.
        assert!(!said.contains("checkpoint"), "{said}");
        assert!(names_in(&temporary).is_empty());
        let mut elsewhere = ours(&["-w", "/nowhere"], &backup);
        let output = run(&mut elsewhere);
        let said = account(&elsewhere, &output);
        assert!(said.contains("WAL parsing failed for timeline 1"), "{said}");
    }
    // A backup without WAL fails the WAL check, whatever lies beside its archives.
    let backup = origin.backup("without", &["-Ft", "-j", "2", "-X", "none"]);
    assert_found(&[], &backup, &["WAL parsing failed for timeline 1"]);
    succeed(&mut ours(&["-n"], &backup));
}

#[test]
fn wal_that_is_there_twice_is_found() {
    let origin = Origin::new();
    let backup = origin.backup("tar", &["-Ft", "-X", "fetch", "-j", "2"]);
    let folder = Folder::new("tmp");
    unpack(&backup.join("base.0.tar"), &folder);
    let segments = segments(&folder.join("pg_wal"));
    let name = segments[0].file_name().expect("a name");
    succeed(
        command("tar")
            .args(["--blocking-factor=1", "-c", "-f"])
            .arg(backup.join("pg_wal.tar"))
            .arg("-C")
            .arg(folder.join("pg_wal"))
            .arg(name),
    );
    let name = name.to_str().expect("digits");
    assert_found(&[], &backup, &[name, "is present more than once"]);
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
