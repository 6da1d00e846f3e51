//! A repository whose files a hostile store, or an accident, has changed: archives, descriptions and manifests.
//! Nothing is written outside the target, no target is left, and `verify` fails too.

use std::fs::File;
use std::path::Path;

use backup_tests::client::{expect_failure, names_in, new_target};
use backup_tests::crafted::{directory, edit, file, link};
use backup_tests::memory::measure;
use backup_tests::program::{make_dir, succeed};
use backup_tests::repository::{Access, Origin, Repository};
use backup_tests::scratch::Folder;
use serde_json::{Value, json};

/// Backup by so many workers without compression, to be changed.
fn sample(jobs: &str) -> (Origin, Repository) {
    let origin = Origin::new();
    let repository = Repository::new();
    repository.take(&origin.cluster, "b", &["-j", jobs]);
    (origin, repository)
}

const ARCHIVE: &str = "base.0.tar";
const INDEX: &str = "base.0.tar.index";

/// Changes an archive, and checks that nothing comes of the backup, with its index and without it.
#[track_caller]
fn assert_archive_refused(sample: &(Origin, Repository), content: &[u8], words: [&str; 2]) {
    let (origin, repository) = sample;
    let [archive, index] = [ARCHIVE, INDEX].map(|file| repository.read("b", file));
    repository.write("b", ARCHIVE, content);
    let (folder, target) = new_target();
    make_dir(&folder.join("outside"));
    for (word, has_index) in words.into_iter().zip([true, false]) {
        if !has_index {
            repository.server.remove(&repository.key("b", INDEX));
        }
        let mapping = origin.mapping(&folder);
        let said = expect_failure(&mut repository.restore("b", &target, &[&mapping]));
        assert!(said.contains(word), "{word}: {said}");
        assert_eq!(names_in(&folder), ["outside"], "{said}");
        assert!(names_in(&folder.join("outside")).is_empty(), "{said}");
        expect_failure(&mut repository.verify("b", &[]));
    }
    repository.write("b", ARCHIVE, &archive);
    repository.write("b", INDEX, &index);
}

#[test]
fn members_that_lead_outside_are_refused() {
    let sample = sample("1");
    let folder = Folder::new("edit");
    let path = folder.join(ARCHIVE);
    for name in [
        "../outside/evil",
        "base/../../outside/evil",
        "/tmp/pgpb-evil",
        "..",
    ] {
        std::fs::write(&path, sample.1.read("b", ARCHIVE)).expect("write");
        edit(&path, None, Some((name, b"evil")));
        let content = std::fs::read(&path).expect("the archive");
        // By its index the archive ends before that member.
        assert_archive_refused(
            &sample,
            &content,
            ["archive \"base.0.tar\"", "which is refused"],
        );
    }
    assert!(!Path::new("/tmp/pgpb-evil").exists());
    let whole = sample.1.read("b", ARCHIVE);
    for evil in [
        [link("base", "../outside"), file("base/evil", b"evil")].concat(),
        [directory("../outside/evil")].concat(),
        file("../outside/evil", b"evil"),
    ] {
        let content = [&evil, &whole[..]].concat();
        assert_archive_refused(&sample, &content, ["archive \"base.0.tar\"", "refused"]);
    }
    succeed(&mut sample.1.verify("b", &[]));
}

#[test]
fn archives_that_are_damaged_are_refused() {
    let sample = sample("1");
    let whole = sample.1.read("b", ARCHIVE);
    let place = whole.windows(9).position(|bytes| bytes == b"xxxxxxxxx");
    let place = place.expect("rows of the table");
    let mut changed = whole.clone();
    changed[place] ^= 1;
    assert_archive_refused(&sample, &changed, ["checksum mismatch"; 2]);
    let incomplete = "the archive is incomplete";
    for length in [whole.len() - 1024, whole.len() / 2, 100, 0] {
        let words = ["archive \"base.0.tar\"", incomplete];
        assert_archive_refused(&sample, &whole[..length], words);
    }
    let longer = [&whole[..], b"more"].concat();
    let goes_on = "the archive goes on after its end";
    assert_archive_refused(&sample, &longer, ["archive \"base.0.tar\"", goes_on]);
    let garbage = b"garbage".repeat(whole.len() / 7);
    assert_archive_refused(&sample, &garbage, ["no valid header"; 2]);
}

#[test]
fn a_compressed_archive_that_is_damaged_is_refused() {
    let origin = Origin::new();
    let repository = Repository::new();
    for (compression, archive) in [
        ("gzip:1", "base.0.tar.gz"),
        ("zstd", "base.0.tar.zst"),
        ("lz4", "base.0.tar.lz4"),
    ] {
        repository.take(&origin.cluster, "b", &["-j", "1", "-Z", compression]);
        let whole = repository.read("b", archive);
        let mut changed = whole.clone();
        changed[whole.len() / 2] ^= 16;
        let place = format!("archive \"{archive}\"");
        for (content, word) in [
            // Where the compression has no checksum, the manifest's shows it.
            (&changed[..], "\""),
            (&whole[..whole.len() - 1], &place),
            (&whole[..whole.len() / 2], &place),
            (&[&whole[..], b"more"].concat(), &place),
            (&[&whole[..], &whole[..]].concat(), &place),
        ] {
            repository.write("b", archive, content);
            origin.assert_not_restored(&repository, "b", &[], word);
            origin.assert_not_verified(&repository, "b", word);
        }
        for (file, _) in repository.files("b") {
            repository.server.remove(&repository.key("b", &file));
        }
    }
}

#[test]
fn files_of_another_backup_are_refused() {
    let (origin, repository) = sample("2");
    origin.cluster.execute("UPDATE t SET filler = 'y'");
    origin.cluster.execute("CHECKPOINT");
    repository.take(&origin.cluster, "other", &["-j", "2"]);
    for files in [
        &[ARCHIVE, INDEX][..],
        &["base.1.tar", "base.1.tar.index"],
        &["base.2.tar", "base.2.tar.index"],
        &["backup_manifest"],
        &[
            "base.0.tar",
            "base.0.tar.index",
            "base.1.tar",
            "base.1.tar.index",
        ],
    ] {
        repository.copy("b", "mixed");
        for file in files {
            repository.write("mixed", file, &repository.read("other", file));
        }
        origin.assert_not_restored(&repository, "mixed", &[], "\"");
        origin.assert_not_verified(&repository, "mixed", "\"");
    }
    // What tells of the archives, and not of their content, is of no use to anybody.
    succeed(&mut repository.verify("other", &[]));
}

/// Change of a description.
type Change = fn(&mut Value);

/// Change of a description, and a word of the refusal.
type Case = (Box<dyn Fn(&mut Value)>, &'static str);

#[test]
fn a_description_that_lies_is_refused() {
    let (origin, repository) = sample("1");
    let whole = repository.read("b", "backup.json");
    let named =
        |name: &'static str| move |info: &mut Value| info["archives"][0]["name"] = json!(name);
    let cases: [Case; 10] = [
        (Box::new(named("base.7.tar")), "archive \"base.7.tar\""),
        (Box::new(named("../c/base.0.tar")), "is no archive"),
        (Box::new(named("/etc/passwd")), "is no archive"),
        (Box::new(named("backup_manifest")), "is no archive"),
        (
            Box::new(named("base.0.tar.zst")),
            "archive \"base.0.tar.zst\"",
        ),
        (Box::new(named("base.1.tar")), "base"),
        (
            Box::new(|info| info["format"] = json!(2)),
            "has format 2, and this program knows format 1",
        ),
        (Box::new(|info| info["archives"] = json!([])), ""),
        (
            Box::new(|info| {
                info["archives"].as_array_mut().expect("archives").remove(0);
            }),
            "is in the manifest and",
        ),
        (
            Box::new(|info| info["archives"] = json!("x")),
            "backup.json",
        ),
    ];
    for (change, word) in cases {
        repository.forge_info("b", change);
        origin.assert_not_restored(&repository, "b", &[], word);
        expect_failure(&mut repository.verify("b", &[]));
        repository.write("b", "backup.json", &whole);
    }
    for content in [&b""[..], b"{", b"null", b"[]", &whole[..whole.len() / 2]] {
        repository.write("b", "backup.json", content);
        origin.assert_not_restored(&repository, "b", &[], "backup.json");
        origin.assert_not_verified(&repository, "b", "backup.json");
        let rows = repository.listed(&[]);
        assert_eq!(rows[0]["state"], "unreadable", "{rows:?}");
        let reason = rows[0]["reason"].as_str().expect("a reason");
        assert!(reason.contains("backup.json"), "{reason}");
    }
}

#[test]
fn a_description_that_says_that_a_backup_is_incremental_is_not_believed() {
    let (origin, repository) = sample("1");
    let change: Change = |info| {
        info["kind"] = json!("incremental");
        info["parent"] = json!("b");
        info["parent_start_lsn"] = info["start_lsn"].clone();
    };
    repository.forge_info("b", change);
    // It needs one that is not there, and itself is none.
    origin.assert_not_restored(&repository, "b", &[], "is not in the repository");
    repository.copy("b", "c");
    origin.assert_not_restored(&repository, "b", &[], "go in a circle");
    let rows = repository.listed(&[]);
    assert!(
        rows.iter().all(|row| row["chain_complete"] == false),
        "{rows:?}"
    );
    expect_failure(&mut repository.expire(&["--keep", "1", "--unfinished", "0s", "-x"]));
    succeed(&mut repository.expire(&["--keep", "1", "--unfinished", "0s"]));
    assert_eq!(repository.states().len(), 2);
}

#[test]
fn a_manifest_that_lies_is_refused() {
    let (origin, repository) = sample("1");
    let whole = repository.read("b", "backup_manifest");
    let mut changed = whole.clone();
    let place = whole.len() / 2;
    changed[place] ^= 1;
    for content in [&b""[..], &whole[..whole.len() / 2], b"{}", &changed] {
        repository.write("b", "backup_manifest", content);
        origin.assert_not_restored(&repository, "b", &[], "manifest");
        origin.assert_not_verified(&repository, "b", "manifest");
    }
    repository
        .server
        .remove(&repository.key("b", "backup_manifest"));
    origin.assert_not_restored(&repository, "b", &[], "is not complete: it has no manifest");
    origin.assert_not_verified(&repository, "b", "backup_manifest");
}

#[test]
fn files_that_are_too_large_are_refused() {
    let origin = Origin::new();
    let folder = Folder::new("repository");
    let access = Access::directory(&folder);
    for file in ["backup_manifest", "backup.json"] {
        access.take(&origin.cluster, file, &["-j", "1"]);
        let path = folder.join(file).join(file);
        let large = File::options().write(true).open(&path);
        let set = large.and_then(|large| large.set_len(10 << 30));
        set.unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let places = Folder::new("r");
        let mut restore = access.restore(file, &places.join("data"), &[]);
        let said = expect_failure(restore.arg(origin.mapping(&places)));
        assert!(said.contains(file) || said.contains("manifest"), "{said}");
        assert!(names_in(&places).is_empty(), "{said}");
        let said = expect_failure(&mut access.verify(file, &[]));
        assert!(said.contains(file) || said.contains("manifest"), "{said}");
        let rows = access.listed(&[]);
        let row = rows.iter().find(|row| row["name"] == file);
        let state = if file == "backup.json" {
            "unreadable"
        } else {
            "complete"
        };
        assert_eq!(row.expect("the backup")["state"], state, "{rows:?}");
    }
}

/// Files, and sizes that are too large for them.
const TOO_LARGE: [(&str, u64); 2] = [("backup_manifest", 10 << 30), ("backup.json", 65 << 20)];
/// Peak memory of a program that meets such a file.
const AT_MOST_KB: u64 = 64 * 1024;
/// Bytes of it that are read before it is refused.
const AT_MOST_READ: u64 = 4 << 20;

#[test]
fn of_files_in_a_store_that_are_too_large_little_is_read() {
    let origin = Origin::new();
    let repository = Repository::new();
    for (file, size) in TOO_LARGE {
        repository.take(&origin.cluster, file, &["-j", "1"]);
        let key = repository.key(file, file);
        repository.server.set_length(&key, size);
        let (folder, target) = new_target();
        let mapping = origin.mapping(&folder);
        for command in [
            repository.restore(file, &target, &[&mapping]),
            repository.verify(file, &[]),
        ] {
            repository.server.forget_requests();
            let refused = measure(&command);
            assert_eq!(refused.status, 1, "{refused:?}");
            let word = file.trim_start_matches("backup_");
            assert!(refused.said.contains(word), "{refused:?}");
            assert!(refused.peak_kb < AT_MOST_KB, "{refused:?}");
            let read = repository.server.requests().bytes_got_of(&key);
            assert!(read < AT_MOST_READ, "{read}: {refused:?}");
            assert!(names_in(&folder).is_empty(), "{refused:?}");
        }
    }
    // Without a description the list reads the manifest.
    let info = repository.key("backup_manifest", "backup.json");
    repository.server.remove(&info);
    repository.server.forget_requests();
    let states = repository.states();
    assert!(
        states.iter().all(|(_, state)| state == "unreadable"),
        "{states:?}"
    );
    assert!(repository.server.requests().bytes_got() < 2 * AT_MOST_READ);
}
