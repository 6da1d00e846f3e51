//! What is lost with a connection is sent again or missed, whatever arrived of it and when.

use backup_tests::client::{names_in, new_target};
use backup_tests::crafted::{entry, file};
use backup_tests::program::{command, run, succeed};
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
