//! The command line program against a malicious server. Nothing is written outside the target, and
//! no target is left behind.

use std::path::{Path, PathBuf};

use backup_tests::client::{expect_failure, names_in, new_target, program};
use backup_tests::crafted::{
    archive, directory, entry, file, header, link, manifest, member_header,
};
use backup_tests::program::{command, make_dir, run, run_with_input, succeed};
use backup_tests::scratch::Folder;
use backup_tests::standin::{Script, StandIn};
use backup_tests::terminal::Terminal;
use tar::EntryType;

/// Directory whose content must not change. It contains only the empty directory `outside`.
fn guarded_target() -> (Folder, PathBuf, PathBuf) {
    let (folder, target) = new_target();
    let outside = folder.join("outside");
    make_dir(&outside);
    (folder, target, outside)
}

#[track_caller]
fn assert_refused(script: Script, args: &[&str], word: &str) {
    let (folder, target, outside) = guarded_target();
    let server = StandIn::start(script);
    let said = expect_failure(&mut server.backup(&target, args));
    assert!(said.contains(word), "{said}");
    assert_eq!(names_in(&folder), ["outside"], "{said}");
    assert!(names_in(&outside).is_empty(), "{said}");
}

#[test]
fn what_is_not_hostile_is_accepted() {
    for (script, args) in [
        (Script::honest(), &["--no-manifest"][..]),
        (Script::honest(), &["--no-manifest", "-Ft"]),
        (
            Script::with_manifest(&[entry("base/1", 3), entry("global/pg_control", 7)]),
            &["--manifest-checksums", "NONE"],
        ),
    ] {
        let (_folder, target) = new_target();
        let server = StandIn::start(script);
        succeed(&mut server.backup(&target, args));
        if !args.contains(&"-Ft") {
            let content = succeed(command("cat").arg(target.join("base/1")));
            assert_eq!(content, "one");
        }
    }
}

#[test]
fn names_that_lead_outside_are_refused() {
    for name in [
        "../outside/evil",
        "base/../../outside/evil",
        "/tmp/pgpb-evil",
        "./base/1",
        "base//1",
        "base/./1",
        "..",
    ] {
        for member in [file(name, b"evil"), directory(name)] {
            for format in ["-Fp", "-Ft"] {
                let script = Script {
                    files: archive(&[directory("base/"), member.clone()]),
                    ..Script::honest()
                };
                assert_refused(script, &["--no-manifest", format], "which is refused");
            }
        }
    }
    assert!(!Path::new("/tmp/pgpb-evil").exists());
}

#[test]
fn links_are_refused_and_so_is_what_would_be_below() {
    for (name, to) in [
        ("base/1", "../../outside"),
        ("base", "/tmp"),
        ("pg_tblspc/16384", "/tmp"),
        ("pg_wal", "../outside"),
    ] {
        for format in ["-Fp", "-Ft"] {
            let script = Script {
                files: archive(&[link(name, to), file(&format!("{name}/evil"), b"evil")]),
                ..Script::honest()
            };
            assert_refused(script, &["--no-manifest", format], "symbolic link");
        }
    }
}

#[test]
fn a_link_in_the_target_is_not_followed() {
    // The link to a tablespace exists. A member with another spelling of its path must not follow
    // it.
    let (folder, target, outside) = guarded_target();
    let place = folder.join("place");
    for (name, word) in [
        ("pg_tblspc/016384/evil", "base/1"),
        ("pg_tblspc/16384/../../evil", "which is refused"),
        ("pg_tblspc/16384", "not a valid place for a file"),
    ] {
        let server = StandIn::start(Script {
            tablespaces: vec![("16384".to_owned(), place.display().to_string())],
            files: archive(&[
                file(name, b"evil"),
                file("base/1", b"one"),
                file("base/1", b"2"),
            ]),
            ..Script::honest()
        });
        let said = expect_failure(&mut server.backup(&target, &["--no-manifest"]));
        assert!(said.contains(word), "{said}");
        assert_eq!(names_in(&folder), ["outside"], "{said}");
        assert!(names_in(&outside).is_empty());
    }
}

#[test]
fn a_directory_that_nobody_may_enter_is_removed_all_the_same() {
    let script = Script {
        files: archive(&[
            member_header(EntryType::Directory, 0, "base", "", 0),
            member_header(EntryType::Directory, 0, "backup_manifest", "", 0),
            directory("global"),
            directory("global/pg_control"),
            file("base/1", b"one"),
            file("../evil", b"evil"),
        ]),
        ..Script::honest()
    };
    assert_refused(script, &["--no-manifest"], "which is refused");
}

#[test]
fn devices_and_hard_links_are_refused() {
    for kind in [
        EntryType::Char,
        EntryType::Block,
        EntryType::Fifo,
        EntryType::Link,
        EntryType::XHeader,
        EntryType::GNUSparse,
    ] {
        for format in ["-Fp", "-Ft"] {
            let script = Script {
                files: archive(&[header(kind, "base/1", "base/2", 0)]),
                ..Script::honest()
            };
            assert_refused(script, &["--no-manifest", format], "a member of type");
        }
    }
}

#[test]
fn tablespaces_in_odd_places_are_refused() {
    for location in ["relative", "../outside", "/tmp/../tmp/pgpb-evil", ""] {
        let script = Script {
            tablespaces: vec![("16384".to_owned(), location.to_owned())],
            ..Script::honest()
        };
        assert_refused(script, &["--no-manifest"], "tablespace 16384 in");
    }
    for oid in ["0", "-1", "x/../y", "4294967296"] {
        let script = Script {
            tablespaces: vec![(oid.to_owned(), "/tmp/pgpb-evil".to_owned())],
            ..Script::honest()
        };
        assert_refused(script, &["--no-manifest"], "the server");
    }
    assert!(!Path::new("/tmp/pgpb-evil").exists());
}

#[test]
fn what_is_no_archive_is_refused() {
    let whole = Script::honest().files;
    let mut changed = whole.clone();
    changed[0] ^= 1;
    for (files, word) in [
        (b"garbage".repeat(300), "no valid header"),
        (changed, "no valid header"),
        (whole[..whole.len() - 1].to_vec(), "incomplete"),
        (whole[..700].to_vec(), "incomplete"),
        (Vec::new(), "incomplete"),
        ([&whole[..], b"more"].concat(), "goes on after its end"),
    ] {
        for format in ["-Fp", "-Ft"] {
            let script = Script {
                files: files.clone(),
                ..Script::honest()
            };
            assert_refused(script, &["--no-manifest", format], word);
            let script = Script {
                closing: files.clone(),
                ..Script::honest()
            };
            assert_refused(script, &["--no-manifest", format], word);
        }
    }
}

#[test]
fn a_manifest_that_is_too_large_is_refused() {
    let script = Script {
        closing: archive(&[
            file("global/pg_control", b"control"),
            header(EntryType::Regular, "backup_manifest", "", (1 << 30) + 1),
        ]),
        ..Script::honest()
    };
    for format in ["-Fp", "-Ft"] {
        assert_refused(script.clone(), &[format], "the manifest is too large");
    }
}

#[test]
fn a_warning_drives_no_terminal() {
    let server = StandIn::start(Script {
        warning: Some("nicht m\u{f6}glich \u{1b}[2J\u{7f}\u{85}".to_owned()),
        ..Script::honest()
    });
    for args in [&["--no-manifest"][..], &["--no-manifest", "-P"]] {
        let (_folder, target) = new_target();
        let terminal = Terminal::start(&server.backup(&target, args), (80, 24));
        let (status, _, raw) = terminal.end();
        assert_eq!(status, Some(0), "{raw}");
        assert!(raw.contains("WARNING:  nicht möglich \\033[2J"), "{raw}");
    }
    // JSON output keeps the whole message.
    let (_folder, target) = new_target();
    let args = ["--no-manifest", "--progress=json"];
    let output = run(&mut server.backup(&target, &args));
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(!said.contains('\u{7f}'), "{said}");
    let texts = said.lines().map(|line| {
        let object: serde_json::Value = serde_json::from_str(line).expect(line);
        object["text"].as_str().map(str::to_owned)
    });
    let expected = "WARNING:  nicht möglich \u{1b}[2J\u{7f}\u{85}";
    assert!(texts.flatten().any(|text| text == expected), "{said}");
}

#[test]
fn a_file_that_comes_twice_is_refused() {
    let script = Script {
        files: archive(&[file("base/1", b"one"), file("base/1", b"two")]),
        ..Script::honest()
    };
    let in_closing = Script {
        closing: archive(&[
            file("global/pg_control", b"control"),
            file("base/1", b"two"),
        ]),
        ..Script::honest()
    };
    for format in ["-Fp", "-Ft"] {
        for script in [&script, &in_closing] {
            let args = ["--no-manifest", format];
            assert_refused(
                script.clone(),
                &args,
                "backup contains file \"base/1\" twice",
            );
        }
    }
}

#[test]
fn a_backup_without_its_control_file_is_none() {
    let script = Script {
        closing: archive(&[file("backup_label", b"label")]),
        ..Script::honest()
    };
    for format in ["-Fp", "-Ft"] {
        assert_refused(script.clone(), &["--no-manifest", format], "pg_control");
    }
}

#[test]
fn a_manifest_that_does_not_fit_is_refused() {
    let control = entry("global/pg_control", 7);
    let mut wrong_sum = Script::with_manifest(&[entry("base/1", 3), control.clone()]);
    let text = b"2026-01-01";
    let place = wrong_sum
        .closing
        .windows(text.len())
        .position(|window| window == text)
        .expect("the manifest is there");
    wrong_sum.closing[place] = b'3';
    for (script, word) in [
        (wrong_sum, "manifest checksum mismatch"),
        (
            Script::with_manifest(&[entry("base/1", 4), control.clone()]),
            "has size 3",
        ),
        (
            Script::with_manifest(&[entry("base/1", 3), entry("base/2", 3), control.clone()]),
            "\"base/2\" is in the manifest and did not arrive",
        ),
        (
            Script::with_manifest(&[control]),
            "\"base/1\" was received but is not in the manifest",
        ),
        (Script::honest(), "manifest"),
    ] {
        for format in ["-Fp", "-Ft"] {
            let args = ["--manifest-checksums", "NONE", format];
            assert_refused(script.clone(), &args, word);
        }
    }
    // The manifest has no checksums, although they were requested.
    let script = Script::with_manifest(&[entry("base/1", 3), entry("global/pg_control", 7)]);
    assert_refused(script, &[], "checksum mismatch");
}

fn compressed(program: &str, bytes: &[u8]) -> Vec<u8> {
    run_with_input(command(program).arg("-c"), bytes).stdout
}

#[test]
fn what_is_not_compressed_as_asked_is_refused() {
    for (method, program) in [("gzip", "gzip"), ("lz4", "lz4"), ("zstd", "zstd")] {
        let whole = compressed(program, &Script::honest().files);
        let without_end = compressed(program, &Script::honest().files[..1024]);
        let endless = compressed(program, &[0; 1 << 24]);
        for (files, word) in [
            (Script::honest().files, "could not decompress data"),
            (Vec::new(), "end too early"),
            (whole[..whole.len() - 1].to_vec(), "end too early"),
            (
                [&whole[..], b"more and more"].concat(),
                "could not decompress data",
            ),
            (without_end, "incomplete"),
            (endless, "goes on after its end"),
        ] {
            let how = format!("server-{method}");
            for format in ["-Fp", "-Ft"] {
                let script = Script {
                    files: files.clone(),
                    ..Script::honest()
                };
                let args = ["--no-manifest", "-j1", "-Z", &how, format];
                assert_refused(script, &args, word);
            }
        }
    }
}

#[test]
fn commands_are_not_told_that_they_have_all_of_a_backup_that_is_none() {
    let (folder, _, outside) = guarded_target();
    let pipe = format!("cat >/dev/null; touch {}/%f", outside.display());
    let control = entry("global/pg_control", 7);
    for (script, word) in [
        (
            Script::with_manifest(&[entry("base/1", 4), control.clone()]),
            "has size 3",
        ),
        (
            Script::with_manifest(&[control]),
            "\"base/1\" was received but is not in the manifest",
        ),
    ] {
        let server = StandIn::start(script);
        let mut program = program();
        program.args(server.connection_args());
        let args = ["-j1", "--manifest-checksums", "NONE", "--pipe", &pipe];
        let said = expect_failure(program.args(args));
        assert!(said.contains(word), "{said}");
        assert!(names_in(&outside).is_empty());
    }
    assert_eq!(names_in(&folder), ["outside"]);
}

#[test]
fn standard_output_has_no_end_of_a_backup_that_is_none() {
    let whole = archive(&[
        directory("base/"),
        file("base/1", b"one"),
        file("global/pg_control", b"control"),
        file("backup_manifest", &manifest(&entry("base/1", 3))),
    ]);
    for (how, method, files) in [
        ("none", "cat", whole.clone()),
        ("client-gzip", "gzip", whole.clone()),
        ("server-gzip", "gzip", compressed("gzip", &whole)),
        ("server-zstd", "zstd", compressed("zstd", &whole)),
    ] {
        let server = StandIn::start(Script {
            files,
            ..Script::honest()
        });
        let mut backup = program();
        backup
            .args(server.connection_args())
            .args(["-D", "-", "-Z", how]);
        let output = run(backup.args(["--manifest-checksums", "NONE"]));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("is not in the manifest"), "{said}");
        if how == "none" {
            assert!(!output.stdout.ends_with(&[0; 1024]));
        } else {
            let opened = run_with_input(command(method).args(["-d", "-c"]), &output.stdout);
            assert!(!opened.status.success(), "{how}");
        }
    }
}

#[test]
fn an_error_drives_no_terminal_and_is_told_of_in_any_encoding() {
    for (refusal, expected) in [
        (
            &b"nicht m\xc3\xb6glich \x1b[2J"[..],
            "nicht möglich \\033[2J",
        ),
        (
            b"nicht m\xf6glich",
            "the server's message is not UTF-8 (SQLSTATE 55000)",
        ),
    ] {
        let server = StandIn::start(Script {
            refusal: Some(refusal.to_vec()),
            ..Script::honest()
        });
        let (folder, target) = new_target();
        let mut backup = program();
        backup.args(server.connection_args()).arg("-D").arg(&target);
        let said = expect_failure(&mut backup);
        assert!(said.contains(&format!("error: {expected}\n")), "{said}");
        assert!(names_in(&folder).is_empty());
    }
}

#[test]
fn what_a_command_leaves_of_a_small_file_fails_the_backup() {
    let files = [entry("base/1", 3), entry("global/pg_control", 7)];
    for (command, is_enough) in [("cat >/dev/null", true), ("head -c 1 >/dev/null", false)] {
        let server = StandIn::start(Script::with_manifest(&files));
        let pipe = format!("case %f in backup_manifest) {command};; *) cat >/dev/null;; esac");
        let mut backup = program();
        backup.args(server.connection_args());
        backup.args(["-j1", "--manifest-checksums", "NONE", "--pipe", &pipe]);
        if is_enough {
            succeed(&mut backup);
        } else {
            let said = expect_failure(&mut backup);
            assert!(said.contains("ended before it had everything"), "{said}");
        }
    }
}
