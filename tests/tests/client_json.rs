//! JSON progress of the command line program: each line of standard error is an object.

use backup_tests::client::{Running, backup_of, expect_failure, names_in, new_target, program};
use backup_tests::page::corrupt_cluster;
use backup_tests::scratch::Folder;
use backup_tests::server::Cluster;
use serde_json::Value;

/// Parses standard error. Each line must be an object.
#[track_caller]
fn objects(said: &str) -> Vec<Value> {
    let parse = |line: &str| match serde_json::from_str(line) {
        Ok(object @ Value::Object(_)) => object,
        other => panic!("{line:?}: {other:?}\n{said}"),
    };
    said.lines().map(parse).collect()
}

fn messages<'a>(objects: &'a [Value], severity: &str) -> Vec<&'a str> {
    objects
        .iter()
        .filter(|object| object["type"] == "message" && object["severity"] == severity)
        .filter_map(|object| object["text"].as_str())
        .collect()
}

#[test]
fn programs_get_an_object_a_line() {
    let cluster = Cluster::new();
    let (_folder, target) = new_target();
    let mut backup = backup_of(&cluster);
    // The server sends a notice that WAL must be copied.
    backup.args([
        "--progress=json",
        "-v",
        "-X",
        "none",
        "-j",
        "2",
        "-r",
        "8M",
        "-D",
    ]);
    let (status, said) = Running::start(backup.arg(&target)).end();
    assert_eq!(status, Some(0), "{said}");
    let objects = objects(&said);
    let progress: Vec<_> = objects
        .iter()
        .filter(|object| object["type"] == "progress")
        .collect();

    let phase = |object: &&Value| object["phase"].as_str().map(str::to_owned);
    let mut phases: Vec<_> = progress.iter().filter_map(phase).collect();
    phases.dedup();
    let order = [
        "starting",
        "copying",
        "ending",
        "comparing",
        "syncing",
        "done",
    ];
    let places: Vec<_> = phases
        .iter()
        .map(|phase| order.iter().position(|known| known == phase).expect(phase))
        .collect();
    assert!(places.is_sorted(), "{phases:?}");
    assert!(phases.contains(&"copying".to_owned()), "{phases:?}");
    assert_eq!(
        objects.last().map(|object| &object["phase"]),
        Some(&"done".into())
    );

    let mut before = 0;
    let mut received = 0;
    for object in &progress {
        let number = |key: &str| {
            object[key]
                .as_u64()
                .unwrap_or_else(|| panic!("{key}: {object}"))
        };
        let bytes = number("bytes");
        assert!(bytes >= before, "{said}");
        before = bytes;
        number("files");
        number("rate");
        assert!(object["elapsed"].as_f64().is_some(), "{object}");
        let workers = object["workers"].as_array().expect("workers");
        assert_eq!(workers.len(), 2, "{object}");
        let of_workers: u64 = workers
            .iter()
            .filter_map(|worker| worker["bytes"].as_u64())
            .sum();
        assert!(of_workers <= bytes, "{object}");
        received += workers
            .iter()
            .filter(|worker| worker["state"] == "receiving" && worker["file"].is_string())
            .count();
        if object["phase"] == "starting" {
            assert!(
                object["bytes_total"].is_null() && object["percent"].is_null(),
                "{object}"
            );
        } else {
            assert!(
                number("bytes_total") >= bytes && number("files_total") > 900,
                "{object}"
            );
            let percent = object["percent"].as_f64().expect("percent");
            assert!((0.0..=100.0).contains(&percent), "{object}");
        }
    }
    assert!(received > 0, "{said}");
    let copying = |object: &&&Value| object["phase"] == "copying" && object["eta"].is_number();
    assert!(progress.iter().any(|object| copying(&object)), "{said}");
    let last = progress.last().expect("the end");
    assert_eq!(last["percent"], 100.0, "{said}");
    assert_eq!(last["bytes"], last["bytes_total"], "{said}");
    assert!(last["files"].as_u64() > Some(900), "{said}");
    assert!(
        messages(&objects, "info")
            .iter()
            .any(|text| text.starts_with("NOTICE:  ")),
        "{said}"
    );
    assert!(
        messages(&objects, "info").contains(&"base backup completed"),
        "{said}"
    );
}

#[test]
fn programs_see_one_archive_without_its_size() {
    let cluster = Cluster::new();
    let mut backup = backup_of(&cluster);
    let (status, said) = Running::start(backup.args(["--progress=json", "-D", "-"])).end();
    assert_eq!(status, Some(0), "{said}");
    let objects = objects(&said);
    for object in &objects {
        assert_eq!(object["type"], "progress", "{said}");
        for key in ["bytes_total", "files_total", "percent", "eta"] {
            assert!(object[key].is_null(), "{key}: {said}");
        }
        assert_eq!(
            object["workers"].as_array().map(Vec::len),
            Some(0),
            "{said}"
        );
    }
    let last = objects.last().expect("an object");
    assert_eq!(last["phase"], "done", "{said}");
    assert!(last["bytes"].as_u64() > Some(20 << 20), "{said}");
    assert!(last["rate"].as_u64() > Some(0), "{said}");
}

#[test]
fn what_a_command_says_comes_before_the_end() {
    let cluster = Cluster::new();
    let folder = Folder::new("out");
    let command = format!("cat > {}/%f; printf 'no end' >&2", folder.display());
    let mut backup = backup_of(&cluster);
    backup.args(["--progress=json", "-j", "1", "-Ft", "--pipe", &command]);
    let (status, said) = Running::start(&mut backup).end();
    assert_eq!(status, Some(0), "{said}");
    let objects = objects(&said);
    let texts = messages(&objects, "info");
    assert!(texts.iter().any(|text| text.contains("no end")), "{said}");
    assert_eq!(
        objects.last().map(|object| &object["phase"]),
        Some(&"done".into()),
        "{said}"
    );
}

#[test]
fn programs_get_an_object_a_line_when_it_fails() {
    let cluster = corrupt_cluster();
    let (folder, target) = new_target();
    let mut backup = backup_of(&cluster);
    let said = expect_failure(
        backup
            .args(["--progress=json", "-j", "2", "-D"])
            .arg(&target),
    );
    let all = objects(&said);
    let failed = |object: &Value| object["type"] == "progress" && object["phase"] == "failed";
    assert_eq!(
        all.iter().filter(|object| failed(object)).count(),
        1,
        "{said}"
    );
    let last = all.last().expect("the error");
    assert_eq!(
        (&last["type"], &last["severity"]),
        (&"message".into(), &"error".into()),
        "{said}"
    );
    assert!(
        last["text"]
            .as_str()
            .is_some_and(|text| text.contains("checksum")),
        "{said}"
    );
    assert!(!messages(&all, "warning").is_empty(), "{said}");

    // Errors before the start of a backup use the format too.
    for args in [&["-h", "/nowhere"][..], &["-j", "0"], &["--unknown"]] {
        let mut program = program();
        program
            .args(["--progress=json", "-D"])
            .arg(&target)
            .args(args);
        let said = expect_failure(&mut program);
        let all = objects(&said);
        assert_eq!(messages(&all, "error").len(), 1, "{args:?}: {said}");
        assert_eq!(all.len(), 1, "{args:?}: {said}");
    }
    assert!(names_in(&folder).is_empty());
}
