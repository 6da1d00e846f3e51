//! Data lost with a connection is sent again or reported as missing, however much of it had
//! arrived.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use backup_tests::client::{
    Running, backup_of, expect_failure, names_in, new_target, program, restore_of, unpack,
};
use backup_tests::crafted::{archive, directory, entry, file};
use backup_tests::lossy::Lossy;
use backup_tests::program::{account, command, make_dir, run, succeed};
use backup_tests::scratch::Folder;
use backup_tests::server::Cluster;
use backup_tests::standin::{Lost, Script, StandIn};
use backup_tests::wait::{PATIENCE, wait_for};

/// Files of the lost connection arrive late, after they were sent again on another.
#[test]
fn late_files_of_a_lost_connection_do_not_replace_those_sent_again() {
    let late = [
        file("base/1", b"two"),
        file("base/2", b"gone"),
        file("base/3", b"torn"),
    ]
    .concat();
    let late = &late[..late.len() - 511];
    let files = [entry("base/1", 3), entry("global/pg_control", 7)];
    for cut in [0, 1024, 2500] {
        let (_folder, target) = new_target();
        let server = StandIn::start(Script {
            lost: Some(Lost {
                number: 0,
                before: late[..cut].to_vec(),
                after: late[cut..].to_vec(),
                begun: target.join("base/1"),
            }),
            ..Script::with_manifest(&files)
        });
        let args = ["--manifest-checksums", "NONE"];
        let output = run(&mut server.backup(&target, &args));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(
            said.contains("lost its connection and gets another"),
            "{said}"
        );
        assert_eq!(names_in(&target.join("base")), ["1"], "{cut}");
        let content = succeed(command("cat").arg(target.join("base/1")));
        assert_eq!(content, "one", "{cut}");
    }
}

/// The connection is lost after the server has sent a whole stream and counts it as received.
#[test]
fn files_that_got_lost_on_their_way_are_missed() {
    let files = [entry("base/1", 3), entry("global/pg_control", 7)];
    for (args, word) in [
        (
            &["--manifest-checksums", "NONE"][..],
            "\"base/1\" is in the manifest and did not arrive",
        ),
        (&["--no-manifest"], "Without a manifest"),
    ] {
        let (folder, target) = new_target();
        let server = StandIn::start(Script {
            lost: Some(Lost {
                number: 0,
                before: Script::honest().files,
                after: Vec::new(),
                begun: target.join("base/1"),
            }),
            files: archive(&[]),
            ..Script::with_manifest(&files)
        });
        let said = expect_failure(&mut server.backup(&target, args));
        assert!(said.contains(word), "{said}");
        assert!(names_in(&folder).is_empty(), "{said}");
    }
}

/// The files of the lost connection went to other archives. Its own archive must not remain.
#[test]
fn what_a_command_had_of_a_lost_archive_does_not_stay() {
    let outside = Folder::new("t");
    let torn = file("5/1", b"torn");
    let server = StandIn::start(Script {
        tablespaces: vec![("16384".to_owned(), "/srv/ts".to_owned())],
        lost: Some(Lost {
            number: 1,
            before: torn[..torn.len() - 100].to_vec(),
            after: Vec::new(),
            begun: outside.join("16384.tar"),
        }),
        ..Script::with_manifest(&[entry("base/1", 3), entry("global/pg_control", 7)])
    });
    let pipe = format!("cat >{}/%f", outside.display());
    let mut backup = program();
    backup.args(server.connection_args());
    succeed(backup.args(["-j1", "--manifest-checksums", "NONE", "--pipe", &pipe]));
    assert_eq!(
        names_in(&outside),
        ["16384.tar", "backup_manifest", "base.tar"]
    );
    let archive = fs::read(outside.join("16384.tar")).expect("an archive");
    assert!(archive == [0; 1024], "{} bytes", archive.len());
}

/// Server with two directories in its listing. One of them was in transit when the connection was
/// lost.
fn without_a_directory(target: &Path, named: Option<Vec<u8>>) -> StandIn {
    let torn = file("base/1", b"torn");
    let files = [entry("base/1", 3), entry("global/pg_control", 7)];
    StandIn::start(Script {
        lost: Some(Lost {
            number: 0,
            before: torn[..torn.len() - 100].to_vec(),
            after: Vec::new(),
            begun: target.join("base/1"),
        }),
        directories: vec!["base".to_owned(), "em'pty".to_owned()],
        named,
        ..Script::with_manifest(&files)
    })
}

#[test]
fn directories_that_got_lost_on_their_way_are_asked_for_again() {
    let args = ["--manifest-checksums", "NONE"];
    let again = || archive(&[directory("em'pty/")]);
    let (_folder, target) = new_target();
    succeed(&mut without_a_directory(&target, Some(again())).backup(&target, &args));
    assert_eq!(names_in(&target.join("em'pty")), [""; 0]);

    let (_folder, target) = new_target();
    let server = StandIn::start(Script {
        lost: Some(Lost {
            number: 1,
            before: Vec::new(),
            after: Vec::new(),
            begun: target.clone(),
        }),
        directories: vec!["base".to_owned(), "em'pty".to_owned()],
        named: Some(again()),
        ..Script::with_manifest(&[entry("base/1", 3), entry("global/pg_control", 7)])
    });
    let args = ["-Ft", "--manifest-checksums", "NONE"];
    succeed(&mut server.backup(&target, &args));
    let unpacked = Folder::new("u");
    for name in names_in(&target) {
        if name.ends_with(".tar") {
            unpack(&target.join(name), &unpacked);
        }
    }
    assert_eq!(names_in(&unpacked.join("em'pty")), [""; 0]);
}

#[test]
fn directories_that_are_gone_on_the_server_are_not_missed() {
    let (_folder, target) = new_target();
    let server = without_a_directory(&target, Some(archive(&[])));
    let output = run(&mut server.backup(&target, &["-v", "--manifest-checksums", "NONE"]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("1 directory gone since the backup began"),
        "{said}"
    );
    assert!(!target.join("em'pty").exists());
}

#[test]
fn directories_that_cannot_be_sent_again_are_an_error_that_names_them() {
    let (folder, target) = new_target();
    let server = without_a_directory(&target, None);
    let said = expect_failure(&mut server.backup(&target, &["--manifest-checksums", "NONE"]));
    for word in [
        "1 directory did not arrive",
        "it is being sent by another worker",
        "Among them: \"em'pty\".",
    ] {
        assert!(said.contains(word), "{said}");
    }
    assert!(names_in(&folder).is_empty(), "{said}");
}

/// A tablespace without relations is a single directory. The server has sent its archive and counts
/// it as received; the connection is lost after that.
#[test]
fn a_tablespace_that_is_one_directory_survives_the_loss_of_its_stream() {
    let cluster = Cluster::new();
    let (oid, location) = cluster.create_tablespace("bare");
    let version = names_in(&location);
    let outside = Folder::new("o");
    let pipe = format!("cat >{}/%f", outside.display());
    for (args, archive) in [
        (&["-j1"][..], format!("{oid}.tar")),
        // Numbered after the archives of the workers, unless the other worker had it.
        (&["-j2"], format!("{oid}.")),
        (&["-j1", "-Z", "server-gzip:1"], format!("{oid}.tar.gz")),
        (&["-j1", "--pipe", &pipe], format!("{oid}.tar")),
    ] {
        let (folder, target) = new_target();
        let lossy = Lossy::before(&cluster, &format!("tablespace => {oid}"));
        let mut backup = backup_of(&cluster);
        backup.arg("-h").arg(lossy.dir()).args(args);
        let to_commands = args.contains(&"--pipe");
        if !to_commands {
            backup.arg("-Ft").arg("-D").arg(&target);
        }
        let output = run(&mut backup);
        let said = account(&backup, &output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("gets another") && lossy.has_lost(), "{said}");

        let archives = if to_commands { &*outside } else { &target };
        let names = names_in(archives);
        let is_there = names.iter().any(|name| name.starts_with(&archive));
        assert!(is_there, "{names:?}");
        let (data, space) = (folder.join("data"), folder.join("space"));
        let map = format!("{}={}", location.display(), space.display());
        succeed(&mut restore_of(archives, &data, &["-T", &map]));
        assert_eq!(names_in(&space), version, "{args:?}");
    }
}

#[test]
fn a_tablespace_that_is_dropped_before_its_stream_is_not_missed() {
    let cluster = Cluster::new();
    // The stream of this tablespace is lost, so that the program has something to look for.
    let (lost, _) = cluster.create_tablespace("lost");
    let (held, _) = cluster.create_tablespace("held");
    let (dropped, _) = cluster.create_tablespace("dropped");
    assert!(lost < held && held < dropped, "archives come by their OIDs");
    // Names that are listed in escaped form are found too.
    for name in [
        &b"caf\xe9"[..],
        "caf\u{e9}".as_bytes(),
        b"it's \\ \"odd\", {}",
    ] {
        make_dir(&cluster.data_dir().join(OsStr::from_bytes(name)));
    }
    let outside = Folder::new("o");
    let (reached, go_on) = (outside.join("reached"), outside.join("go_on"));
    let pipe = format!(
        "cat >{0}/%f; if [ %f = {held}.tar ]; then touch {1}; until [ -e {2} ]; do sleep 0.05; done; fi",
        outside.display(),
        reached.display(),
        go_on.display()
    );
    let lossy = Lossy::before(&cluster, &format!("tablespace => {lost}"));
    let mut backup = backup_of(&cluster);
    backup.arg("-h").arg(lossy.dir());
    let running = Running::start(backup.args(["-v", "-j1", "--pipe", &pipe]));
    wait_for("the first tablespace", PATIENCE, || reached.exists());
    cluster.execute("DROP TABLESPACE dropped");
    fs::write(&go_on, "").expect("a file");
    let (status, said) = running.end();
    assert_eq!(status, Some(0), "{said}");
    assert!(
        said.contains("1 directory gone since the backup began"),
        "{said}"
    );
    let names = names_in(&outside);
    assert!(names.contains(&format!("{lost}.tar")), "{names:?}");
    assert!(!names.contains(&format!("{dropped}.tar")), "{names:?}");
}
