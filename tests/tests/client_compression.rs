//! Compressed backups by the command line program. The program or the server compresses.

use std::fs;

use backup_tests::backup::Backup;
use backup_tests::client::{
    Running, backup_of, expect_failure, names_in, new_target, program, unpack_all, verify,
};
use backup_tests::leftover;
use backup_tests::page::quiet_table;
use backup_tests::program::{account, command, run, run_with_input, succeed};
use backup_tests::server::Cluster;

const PROGRAMS: [(&str, &str); 3] = [("gzip", ".gz"), ("lz4", ".lz4"), ("zstd", ".zst")];

/// Cluster with a table in a tablespace. Its server logs statements.
fn cluster() -> Cluster {
    let cluster = Cluster::builder().setting("log_statement", "all").start();
    cluster.create_tablespace("outside");
    quiet_table(&mut cluster.connect(), "t", 300, "TABLESPACE outside");
    cluster
}

/// Compression method, which is also the name of the decompression program.
fn method_of(how: &str) -> &str {
    let (_, method) = how.split_once('-').expect("a side and a method");
    method
}

#[track_caller]
fn assert_restores(backup: Backup) {
    let restored = backup.restore();
    let row = restored.connect().query_one("SELECT count(*) FROM t", &[]);
    assert_eq!(row.expect("the table").get::<_, i64>(0), 2100);
}

#[test]
fn wrong_values_are_refused_before_anything_happens() {
    let (folder, target) = new_target();
    for (args, word) in [
        (&["-Ft", "-Z", "zip"][..], "algorithm: \"zip\""),
        (&["-Ft", "-Z", ""], "algorithm: \"\""),
        (&["-Ft", "-Z", "middle-gzip"], "algorithm: \"middle-gzip\""),
        (&["-Ft", "-Z", "gzip:10"], "between 1 and 9"),
        (&["-Ft", "-Z", "10"], "between 1 and 9"),
        (&["-Ft", "-Z", "-1"], "between 1 and 9"),
        (
            &["-Ft", "-Z", "none:1"],
            "does not accept a compression level",
        ),
        (&["-Ft", "-Z", "gzip:workers=2"], "worker count"),
        (&["-Ft", "-Z", "lz4:long"], "long-distance mode"),
        (&["-Ft", "-Z", "server-zstd:workers=2"], "by the server"),
        (&["-Ft", "-Z", "zstd:level=3,"], "found empty string"),
        (&["-z"], "only tar mode backups can be compressed"),
        (&["-Fp", "-Z", "client-lz4"], "only tar mode backups"),
        (&["-Fp", "-Z", "5"], "only tar mode backups"),
        // The last option takes effect.
        (&["-Fp", "-Z", "none", "-z"], "only tar mode backups"),
        (&["-Fp", "-Z", "server-gzip", "-z"], "only tar mode backups"),
    ] {
        // Nothing listens there.
        let mut program = program();
        program.args(["-h", "/nowhere", "-D"]).arg(&target);
        let said = expect_failure(program.args(args));
        assert!(said.contains(word), "{args:?}: {said}");
        assert!(!said.contains("/nowhere"), "{args:?}: {said}");
    }
    for args in [&["-Fp", "-Z", "none"][..], &["-Fp", "-z", "-Z", "0"]] {
        let mut program = program();
        program.args(["-h", "/nowhere", "-D"]).arg(&target);
        let said = expect_failure(program.args(args));
        assert!(said.contains("/nowhere"), "{args:?}: {said}");
    }
    assert!(names_in(&folder).is_empty());
}

#[test]
fn the_usual_programs_open_archives_of_each_method_and_either_side() {
    let cluster = cluster();
    for (method, suffix) in PROGRAMS {
        for (side, jobs) in [("client", 2), ("server", 3)] {
            let (_folder, target) = new_target();
            let how = format!("{side}-{method}");
            let jobs = format!("-j{jobs}");
            succeed(
                backup_of(&cluster)
                    .args(["-Ft", "-X", "fetch", "-Z", &how, &jobs, "-D"])
                    .arg(&target),
            );
            for name in names_in(&target) {
                let is_compressed = name.ends_with(&format!(".tar{suffix}"));
                assert!(is_compressed || name == "backup_manifest", "{name}");
            }
            let backup = unpack_all(&cluster, &target);
            // One restore is enough, because all backups were verified.
            if how == "server-zstd" {
                assert_restores(backup);
            }
        }
        // Each worker requests compression for two archives, and the closing stream requests it
        // too.
        let asked = format!("compression => '{method}'");
        assert_eq!(cluster.log().matches(&asked).count(), 6 + 1);
    }
    leftover::assert_none(&cluster);
}

#[test]
fn archives_have_the_names_of_pg_basebackup_and_are_one_frame() {
    let cluster = cluster();
    let (folder, ours) = new_target();
    let theirs = folder.join("theirs");
    succeed(
        backup_of(&cluster)
            .args(["-Ft", "-z", "-j", "1", "-D"])
            .arg(&ours),
    );
    succeed(
        command("pg_basebackup")
            .args(cluster.connection_args("postgres"))
            .args(["-c", "fast", "-X", "stream", "--no-sync", "-Ft", "-z", "-D"])
            .arg(&theirs),
    );
    assert_eq!(names_in(&ours), names_in(&theirs));
    assert!(names_in(&ours).contains(&"base.tar.gz".to_owned()));

    for side in ["client", "server"] {
        let target = folder.join(side);
        let how = format!("{side}-zstd");
        let mut program = backup_of(&cluster);
        succeed(program.args(["-Ft", "-j1", "-Z", &how, "-D"]).arg(&target));
        let list = succeed(
            command("zstd")
                .arg("--list")
                .arg(target.join("base.tar.zst")),
        );
        let frames = list
            .lines()
            .last()
            .and_then(|line| line.split_whitespace().next());
        assert_eq!(frames, Some("1"), "{list}");
    }
}

#[test]
fn levels_and_options_are_obeyed() {
    let cluster = cluster();
    let size = |how: &str, opened: bool| {
        let (_folder, target) = new_target();
        let mut program = backup_of(&cluster);
        succeed(program.args(["-Ft", "-j1", "-Z", how, "-D"]).arg(&target));
        if opened {
            drop(unpack_all(&cluster, &target));
        }
        let mut names = names_in(&target);
        names.retain(|name| name.starts_with("base.tar."));
        let [name] = &names[..] else {
            panic!("{names:?}");
        };
        fs::metadata(target.join(name)).expect("an archive").len()
    };
    let better = |less: &str, more: &str| {
        let (worse, better) = (size(less, false), size(more, more.contains(',')));
        assert!(
            better < worse - worse / 50,
            "{less} {worse}, {more} {better}"
        );
    };
    better("gzip:1", "gzip:level=9");
    better("server-lz4:1", "server-lz4:9");
    better("zstd:-5", "zstd:long,level=5,workers=2");
    assert!(cluster.log().contains("compression => 'lz4:9'"));
}

#[test]
fn a_directory_can_be_filled_by_compressed_streams() {
    let cluster = Cluster::builder().setting("log_statement", "all").start();
    for (method, _) in PROGRAMS {
        let (_folder, target) = new_target();
        let how = format!("server-{method}");
        succeed(
            backup_of(&cluster)
                .args(["-Z", &how, "-j", "2", "-D"])
                .arg(&target),
        );
        verify(&target, &[]);
        let asked = format!("compression => '{method}'");
        let log = cluster.log();
        let asked = log.lines().filter(|line| line.contains(&asked));
        let (wal, files): (Vec<_>, Vec<_>) = asked.partition(|line| line.contains("send_wal("));
        assert_eq!(files.len(), 2 + 1);
        assert!(!wal.is_empty());
    }
}

#[test]
fn standard_output_gets_one_compressed_archive() {
    let cluster = cluster();
    for how in ["client-gzip", "client-lz4", "client-zstd", "server-lz4"] {
        let mut program = backup_of(&cluster);
        let output = run(program.args(["-D", "-", "-Z", how]));
        assert!(output.status.success(), "{}", account(&program, &output));
        let archive = run_with_input(command(method_of(how)).args(["-d", "-c"]), &output.stdout);
        assert!(archive.status.success(), "{how}");
        let backup = Backup::folder(&cluster);
        backup.unpack(&archive.stdout);
        backup.verify();
    }
}

#[test]
fn a_compressed_archive_of_a_damaged_cluster_has_no_end() {
    let cluster = Cluster::new();
    let path = quiet_table(&mut cluster.connect(), "t", 30, "");
    cluster.flip_bytes(&path, 5);
    for how in ["client-gzip", "client-zstd", "server-gzip", "server-lz4"] {
        let mut program = backup_of(&cluster);
        let output = run(program.args(["-D", "-", "-Z", how]));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("checksum"), "{said}");
        let opened = run_with_input(command(method_of(how)).args(["-d", "-c"]), &output.stdout);
        assert!(!opened.status.success(), "{how}");
    }
}

#[test]
fn compressed_archives_of_a_lost_connection_begin_anew() {
    let cluster = Cluster::new();
    for how in ["gzip:1", "server-lz4"] {
        let (_folder, target) = new_target();
        let mut program = backup_of(&cluster);
        // A rate limit on the server counts compressed bytes, which are few of the 22 MB.
        let rate = if how == "gzip:1" { "8M" } else { "1M" };
        program.args(["-Ft", "-j", "2", "-r", rate, "-Z", how, "-D"]);
        let backup = Running::start(program.arg(&target));
        backup.end_with_a_lost_worker(&cluster);
        drop(unpack_all(&cluster, &target));
    }
}
