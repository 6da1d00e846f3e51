//! The program receives large files in parts from several workers, and writes them into one file.

use std::fs;

use backup_tests::client::{
    Running, backup_of, expect_failure, names_in, new_target, program, restore_of, verify,
};
use backup_tests::crafted::{archive, entry, file, part};
use backup_tests::parts::{assert_whole, cluster_with_seven_parts};
use backup_tests::program::{run, succeed};
use backup_tests::server::Cluster;
use backup_tests::standin::{Lost, Script, StandIn};
use backup_tests::workload::path_of;

/// The last file of the backup, which one worker has begun, is shared by all.
#[test]
fn workers_share_the_last_file() {
    let (cluster, path) = cluster_with_seven_parts();
    let (_folder, target) = new_target();
    // Slow enough to be seen at work.
    let mut backup = backup_of(&cluster);
    backup.args(["-j", "3", "-r", "40M", "-D"]).arg(&target);
    let running = Running::start(&mut backup);
    // Everything but the large file is there, and yet all of them work.
    cluster.wait_for_sql(
        "three workers with one file",
        "SELECT coalesce(max(workers), 0) = 3 AND max(files_total - files_sent) = 1
         FROM backup_progress()",
    );
    let (status, said) = running.end();
    assert_eq!(status, Some(0), "{said}");
    assert_whole(&cluster, &target, &path);
}

#[test]
fn a_lost_worker_costs_its_parts_and_no_more() {
    let (cluster, path) = cluster_with_seven_parts();
    let (_folder, target) = new_target();
    let mut backup = backup_of(&cluster);
    backup.args(["-j", "2", "-r", "40M", "-D"]).arg(&target);
    let running = Running::start(&mut backup);
    cluster.wait_for_sql(
        "two workers with one file",
        "SELECT coalesce(max(workers), 0) = 2 AND max(files_total - files_sent) = 1
         FROM backup_progress()",
    );
    running.end_with_a_lost_worker(&cluster);
    assert_whole(&cluster, &target, &path);
}

#[test]
fn parts_arrive_compressed_and_in_streams_of_limited_size() {
    let (cluster, path) = cluster_with_seven_parts();
    for args in [
        &["-Z", "server-zstd:1"][..],
        &["--stream-size", "20MB"],
        &["--manifest-checksums", "NONE"],
        &["--manifest-checksums", "SHA256"],
        &["--no-manifest"],
    ] {
        let (_folder, target) = new_target();
        let mut backup = backup_of(&cluster);
        succeed(backup.args(["-j", "2", "-D"]).arg(&target).args(args));
        if args == ["--no-manifest"] {
            let [ours, theirs] =
                [&*target, &cluster.data_dir()].map(|data| fs::read(data.join(&path)));
            assert!(ours.expect("a copy") == theirs.expect("a file"));
        } else {
            assert_whole(&cluster, &target, &path);
        }
    }
}

/// Parts go through tablespace links to other directories.
#[test]
fn a_large_file_of_a_tablespace_arrives_in_its_place() {
    let (cluster, _) = cluster_with_seven_parts();
    let (oid, location) = cluster.create_tablespace("elsewhere");
    cluster.execute("ALTER TABLE large SET TABLESPACE elsewhere");
    let path = path_of(&mut cluster.connect(), "large");
    let (folder, target) = new_target();
    let space = folder.join("space");
    let map = format!("{}={}", location.display(), space.display());
    let mut backup = backup_of(&cluster);
    succeed(backup.args(["-j", "2", "-T", &map, "-D"]).arg(&target));
    assert_whole(&cluster, &target, &path);
    let inner = path.strip_prefix(&format!("pg_tblspc/{oid}/"));
    assert!(space.join(inner.expect("a tablespace")).is_file(), "{path}");
}

/// Content of a file of 3000 bytes, of parts of 1000 bytes.
fn content() -> Vec<u8> {
    (0..3000_u32).map(|at| (at % 251) as u8).collect()
}

/// The part of the file that begins there.
fn part_at(offset: usize) -> Vec<u8> {
    let content = content();
    part(
        "base/1",
        offset as u64,
        3000,
        &content[offset..offset + 1000],
    )
}

fn script(files: Vec<u8>) -> Script {
    Script {
        parts: true,
        files,
        ..Script::with_manifest(&[entry("base/1", 3000), entry("global/pg_control", 7)])
    }
}

const ARGS: [&str; 2] = ["--manifest-checksums", "NONE"];

/// A worker's parts arrive late, after another worker has sent them again.
#[test]
fn late_parts_of_a_lost_connection_do_not_replace_those_sent_again() {
    let late = [
        part("base/1", 1000, 3000, &[b'x'; 1000]),
        part("base/1", 0, 3000, &[b'y'; 1000]),
    ]
    .concat();
    let late = &late[..late.len() - 600];
    // In the content of the first part, behind it, and in the content of the second.
    for cut in [1000, 1536, 2400] {
        let (_folder, target) = new_target();
        let server = StandIn::start(Script {
            lost: Some(Lost {
                number: 0,
                before: late[..cut].to_vec(),
                after: late[cut..].to_vec(),
                begun: target.join("base/1"),
            }),
            ..script(archive(&[part_at(0), part_at(1000), part_at(2000)]))
        });
        let output = run(&mut server.backup(&target, &ARGS));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(
            said.contains("lost its connection and gets another"),
            "{said}"
        );
        let received = fs::read(target.join("base/1")).expect("the file");
        assert!(received == content(), "{cut}");
    }
}

/// A part that was on its way when its connection was lost, and that the server takes for received.
#[test]
fn a_missing_part_is_missed() {
    let all = [0, 1000, 2000];
    for missing in all {
        for args in [&ARGS[..], &["--no-manifest"]] {
            let (folder, target) = new_target();
            let parts: Vec<_> = all
                .into_iter()
                .filter(|&offset| offset != missing)
                .map(part_at)
                .collect();
            let server = StandIn::start(script(archive(&parts)));
            let said = expect_failure(&mut server.backup(&target, args));
            assert!(
                said.contains("not all parts of file \"base/1\" arrived"),
                "{said}"
            );
            assert!(names_in(&folder).is_empty(), "{said}");
        }
    }
}

#[test]
fn parts_that_do_not_make_a_file_are_refused() {
    let whole = || file("base/1", &content());
    for (members, word) in [
        (
            vec![part_at(0), part_at(500)],
            "file \"base/1\" has parts that overlap at byte 500",
        ),
        (
            vec![part_at(0), part_at(0)],
            "backup contains file \"base/1\" twice",
        ),
        (
            vec![part_at(0), whole()],
            "backup contains file \"base/1\" twice",
        ),
        (
            vec![whole(), part_at(0)],
            "backup contains file \"base/1\" twice",
        ),
        (
            vec![part_at(0), part("base/1", 1000, 2000, &[0; 1000])],
            "file \"base/1\" has parts of a file of 3000 bytes and of one of 2000",
        ),
        (
            vec![part("base/1", 2500, 3000, &[0; 1000])],
            "the archive has a part of a file that is not within the file",
        ),
        (
            vec![part("backup_manifest", 0, 10, &[0; 10])],
            "the backup has a part of file \"backup_manifest\", which is refused",
        ),
        (vec![part("../outside", 0, 10, &[0; 10])], "../outside"),
    ] {
        let (folder, target) = new_target();
        let server = StandIn::start(script(archive(&members)));
        let said = expect_failure(&mut server.backup(&target, &ARGS));
        assert!(said.contains(word), "{word}: {said}");
        assert!(names_in(&folder).is_empty(), "{said}");
    }
}

/// A part is not taken for a file by those who have not asked for parts.
#[test]
fn parts_are_refused_where_nobody_has_asked_for_them() {
    let whole = archive(&[part("base/1", 0, 3000, &content())]);
    let (folder, target) = new_target();
    let old = Script {
        parts: false,
        ..script(whole.clone())
    };
    let said = expect_failure(&mut StandIn::start(old).backup(&target, &ARGS));
    assert!(
        said.contains("has a part of file \"base/1\", which is refused"),
        "{said}"
    );
    let said = expect_failure(&mut StandIn::start(script(whole.clone())).backup(&target, &["-Ft"]));
    assert!(
        said.contains("the archive has a member of type 77"),
        "{said}"
    );
    // In the closing stream.
    let closing = Script {
        closing: whole.clone(),
        ..script(archive(&[]))
    };
    let said = expect_failure(&mut StandIn::start(closing).backup(&target, &ARGS));
    assert!(
        said.contains("has a part of file \"base/1\", which is refused"),
        "{said}"
    );
    // With checksums that do not follow from those of parts.
    let args = ["--manifest-checksums", "SHA256"];
    let said = expect_failure(&mut StandIn::start(script(whole.clone())).backup(&target, &args));
    assert!(said.contains("whose checksum does not follow"), "{said}");
    assert!(names_in(&folder).is_empty());

    let archives = folder.join("archives");
    backup_tests::program::make_dir(&archives);
    backup_tests::verification::new_file(&archives.join("base.tar"), &whole);
    let manifest = backup_tests::crafted::manifest(&entry("base/1", 3000));
    backup_tests::verification::new_file(&archives.join("backup_manifest"), &manifest);
    for command in [restore_of(&archives, &target, &[]), {
        let mut verify = program();
        verify.args(["verify", "-n"]).arg(&archives);
        verify
    }] {
        let mut command = command;
        let output = run(&mut command);
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(!output.status.success(), "{said}");
        assert!(
            said.contains("has a part of file \"base/1\", which is refused")
                || said.contains("a member of type 77"),
            "{said}"
        );
    }
}

/// A server without the argument sends whole files.
#[test]
fn an_older_extension_is_not_asked_for_parts() {
    let (_folder, target) = new_target();
    let server = StandIn::start(Script {
        parts: false,
        ..script(archive(&[file("base/1", &content())]))
    });
    succeed(&mut server.backup(&target, &ARGS));
    assert!(fs::read(target.join("base/1")).expect("the file") == content());
}

#[test]
fn a_backup_in_parts_starts() {
    let (cluster, _) = cluster_with_seven_parts();
    let (folder, target) = new_target();
    let mut backup = backup_of(&cluster);
    succeed(backup.args(["-j", "4", "-D"]).arg(&target));
    verify(&target, &[]);
    let mut restored = Cluster::on(&target, folder);
    restored.start();
    restored.wait_for_sql("the rows", "SELECT count(*) = 110 * 1024 FROM large");
    restored.stop_and_check_checksums();
}
