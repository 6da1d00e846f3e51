//! What is lost with a connection is sent again or missed, whatever arrived of it and when.

use std::fs;

use backup_tests::client::{expect_failure, names_in, new_target, program};
use backup_tests::crafted::{archive, entry, file};
use backup_tests::program::{command, run, succeed};
use backup_tests::scratch::Folder;
use backup_tests::standin::{Lost, Script, StandIn};

/// What a lost connection had been sent, and what was sent again meanwhile.
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

/// The server has sent all of a stream, and takes it for received, when the connection is lost.
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

/// The files of a lost connection have gone to other archives: of its own there is nothing left.
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
