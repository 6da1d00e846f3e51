//! Cases that `pg_parallel_backup restore` refuses: malicious archives and non-empty target
//! directories; and interruptions midway. Nothing is left behind.

use std::fs;
use std::path::Path;

use backup_tests::client::{Running, expect_failure, names_in, new_target, restore_of, verify};
use backup_tests::crafted::{
    archive, directory, edit, entry, file, header, link, manifest, member_header,
};
use backup_tests::disk::Disk;
use backup_tests::program::{command, give_to_owner, make_dir, succeed};
use backup_tests::verification::truncate;
use backup_tests::wait::{PATIENCE, wait_for};
use tar::EntryType;

#[test]
fn what_has_no_control_file_is_no_backup() {
    let (folder, archives) = new_target();
    made_up(&archives, &[file("base/1", b"one")], None);
    edit(&archives.join("base.tar"), Some("global/pg_control"), None);
    let said = expect_failure(&mut restore_of(&archives, &folder.join("data"), &[]));
    assert!(said.contains("have no global/pg_control"), "{said}");
    assert_eq!(names_in(&folder), ["backup"]);
}

#[test]
fn a_target_that_is_not_empty_is_refused_and_kept() {
    let (folder, archives) = new_target();
    made_up(
        &archives,
        &[directory("base/"), file("base/1", b"one")],
        None,
    );
    let target = folder.join("data");
    make_dir(&target);
    fs::write(target.join("precious"), "1").expect("a file");
    let said = expect_failure(&mut restore_of(&archives, &target, &[]));
    assert!(said.contains("exists but is not empty"), "{said}");
    assert_eq!(names_in(&target), ["precious"]);
    let wal = target.display().to_string();
    let data = folder.join("new");
    let said = expect_failure(&mut restore_of(&archives, &data, &["--waldir", &wal]));
    assert!(said.contains("exists but is not empty"), "{said}");
    assert_eq!(names_in(&target), ["precious"]);
    assert!(!data.exists());

    let none = folder.join("none");
    make_dir(&none);
    for (from, word) in [
        (&none, "has no archive of a data directory"),
        (&folder.join("missing"), "could not read directory"),
    ] {
        let said = expect_failure(&mut restore_of(from, &data, &[]));
        assert!(said.contains(word), "{said}");
    }
    let said = expect_failure(&mut restore_of(&archives, &data, &["--waldir", "relative"]));
    assert!(said.contains("must be an absolute path"), "{said}");
}

/// Writes forged archives: these members and everything that a backup must have.
fn made_up(archives: &Path, members: &[Vec<u8>], listed: Option<&[String]>) {
    make_dir(archives);
    let control = file("global/pg_control", b"control");
    let bytes = archive(&[members.concat(), control]);
    let write = |name: &str, bytes: &[u8]| {
        let path = archives.join(name);
        fs::write(&path, bytes).expect("write");
        give_to_owner(&path);
    };
    write("base.tar", &bytes);
    if let Some(files) = listed {
        write("backup_manifest", &manifest(&files.join(",\n")));
    }
}

/// Checks that the restore is refused and that nothing is written anywhere.
#[track_caller]
fn assert_refused(members: &[Vec<u8>], word: &str) {
    let (folder, archives) = new_target();
    made_up(&archives, members, None);
    let outside = folder.join("outside");
    make_dir(&outside);
    let said = expect_failure(&mut restore_of(&archives, &folder.join("data"), &[]));
    assert!(said.contains(word), "{said}");
    assert_eq!(names_in(&folder), ["backup", "outside"], "{said}");
    assert!(names_in(&outside).is_empty(), "{said}");
}

#[test]
fn what_is_made_up_and_not_hostile_is_restored() {
    let (folder, archives) = new_target();
    let listed = [
        entry("PG_VERSION", 3),
        entry("base/1", 3),
        entry("global/pg_control", 7),
    ];
    let members = [
        directory("base/"),
        file("base/1", b"one"),
        file("PG_VERSION", b"15\n"),
    ];
    made_up(&archives, &members, Some(&listed));
    let data = folder.join("data");
    succeed(&mut restore_of(&archives, &data, &[]));
    assert_eq!(
        names_in(&data),
        ["PG_VERSION", "backup_manifest", "base", "global"]
    );
    assert_eq!(succeed(command("cat").arg(data.join("base/1"))), "one");
    verify(&data, &["-n"]);
}

#[test]
fn names_that_lead_outside_are_refused() {
    for name in [
        "../outside/evil",
        "base/../../outside/evil",
        "/tmp/pgpb-evil",
        "base//1",
        "././x",
        "..",
    ] {
        for member in [file(name, b"evil"), directory(name)] {
            assert_refused(&[directory("base/"), member], "which is refused");
        }
    }
    assert!(!Path::new("/tmp/pgpb-evil").exists());
}

#[test]
fn links_devices_and_what_is_there_twice_are_refused() {
    for (name, to) in [
        ("base", "/tmp"),
        ("pg_tblspc/16384", "/tmp"),
        ("pg_wal", "../outside"),
    ] {
        let below = file(&format!("{name}/evil"), b"evil");
        assert_refused(&[link(name, to), below], "symbolic link");
    }
    for kind in [
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::Link,
    ] {
        assert_refused(&[header(kind, "base/1", "base/2", 0)], "a member of type");
    }
    assert_refused(&[file("base/1", b"one"), file("base/1", b"two")], "twice");
    let map = file("tablespace_map", b"");
    assert_refused(&[map.clone(), map], "twice");
    let closed = member_header(EntryType::Directory, 0, "base", "", 0);
    assert_refused(
        &[closed, file("base/1", b"one"), file("../x", b"")],
        "which is refused",
    );

    // The same file twice, in archives of two workers.
    let (folder, archives) = new_target();
    made_up(&archives, &[file("base/1", b"one")], None);
    let other = archives.join("base.1.tar");
    fs::write(&other, archive(&[file("base/1", b"two")])).expect("write");
    give_to_owner(&other);
    let said = expect_failure(&mut restore_of(&archives, &folder.join("data"), &[]));
    assert!(
        said.contains("backup contains file \"base/1\" twice"),
        "{said}"
    );
    assert_eq!(names_in(&folder), ["backup"]);
}

#[test]
fn maps_of_tablespaces_are_not_trusted() {
    for (map, word) in [
        (
            "16384 relative\n",
            "tablespace 16384 in \"relative\", which is refused",
        ),
        ("16384 /tmp/../tmp/pgpb-evil\n", "which is refused"),
        ("0 /tmp/pgpb-evil\n", "OID 0"),
        (
            "x /tmp/pgpb-evil\n",
            "invalid data in file \"tablespace_map\"",
        ),
        (
            "16384 /tmp/pgpb-evil",
            "invalid data in file \"tablespace_map\"",
        ),
        (
            "1 /tmp/pgpb-evil/1\n1 /tmp/pgpb-evil/2\n",
            "a tablespace twice",
        ),
    ] {
        assert_refused(&[file("tablespace_map", map.as_bytes())], word);
    }
    assert!(!Path::new("/tmp/pgpb-evil").exists());

    // An archive of a tablespace that is not in the map, and one with a path outside its
    // tablespace.
    let (folder, archives) = new_target();
    let place = folder.join("place");
    let map = format!("16384 {}\n", place.display());
    made_up(&archives, &[file("tablespace_map", map.as_bytes())], None);
    for (name, member, word) in [
        ("16385.tar", file("x", b""), "does not have"),
        ("16384.tar", file("../16385/evil", b""), "which is refused"),
        (
            "16384.0.tar",
            file("/tmp/pgpb-evil", b""),
            "which is refused",
        ),
        ("16384.0.tar", link("x", "/tmp"), "symbolic link"),
    ] {
        let path = archives.join(name);
        fs::write(&path, archive(&[member])).expect("write");
        give_to_owner(&path);
        let said = expect_failure(&mut restore_of(&archives, &folder.join("data"), &[]));
        assert!(said.contains(word), "{said}");
        assert_eq!(names_in(&folder), ["backup"]);
        fs::remove_file(path).expect("remove");
    }
}

#[test]
fn a_full_disk_is_an_error_and_empty_afterwards() {
    let (folder, archives) = new_target();
    let large = file("base/1", &vec![1; 8 << 20]);
    made_up(&archives, &[large], None);
    let path = folder.join("disk");
    let Some(_disk) = Disk::mount(&path, 4) else {
        println!("left out: this account cannot mount a file system");
        return;
    };
    let said = expect_failure(&mut restore_of(&archives, &path.join("data"), &[]));
    assert!(said.contains("No space left on device"), "{said}");
    assert!(said.contains("archive \"base.tar\""), "{said}");
    assert!(names_in(&path).is_empty());
}

#[test]
fn signals_end_a_restore() {
    // The archive takes very long to read: a sparse file of 1 TB.
    const LONG: u64 = 1 << 40;
    let running = ["INT", "TERM", "HUP"].map(|name| {
        let (folder, archives) = new_target();
        made_up(&archives, &[file("base/1", b"one")], Some(&[]));
        let path = archives.join("base.tar");
        let members = [
            file("base/1", b"one"),
            header(EntryType::Regular, "tablespace_map", "", LONG),
        ];
        fs::write(&path, members.concat()).expect("an archive");
        truncate(&path, LONG);
        let target = folder.join("data");
        let running = Running::start(&mut restore_of(&archives, &target, &[]));
        wait_for("a file to be written", PATIENCE, || {
            target.join("base/1").exists()
        });
        running.signal(name);
        (name, folder, running)
    });
    for (name, folder, running) in running {
        let (status, said) = running.end();
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains(&format!("received SIG{name}")), "{said}");
        assert_eq!(names_in(&folder), ["backup"], "{said}");
    }
}
