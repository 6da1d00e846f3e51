//! `pg_parallel_backup list`: what a repository has, for people and for programs.

use backup_tests::client::{Running, backup_of, expect_failure};
use backup_tests::incremental::is_too_old;
use backup_tests::object_store::{Act, Fault, Kind};
use backup_tests::program::{command, major_version, make_dir, succeed};
use backup_tests::repository::{Access, Origin, Repository};
use backup_tests::scratch::Folder;
use backup_tests::server::Cluster;
use backup_tests::wait::{PATIENCE, wait_for};
use serde_json::Value;

const HEADINGS: [&str; 8] = [
    "NAME", "KIND", "STATE", "START", "DURATION", "SIZE", "STORED", "PARENT",
];

/// Cells of the table, without its headings. Each column begins below its heading.
#[track_caller]
fn table(access: &Access, args: &[&str]) -> Vec<Vec<String>> {
    let text = succeed(&mut access.list(args));
    let mut lines = text.lines();
    let head = lines.next().expect("headings");
    let found: Vec<_> = head.split_whitespace().collect();
    assert_eq!(found, HEADINGS, "{text}");
    let places = HEADINGS.map(|heading| head.find(heading).expect("a heading"));
    let cells = |line: &str| -> Vec<String> {
        let ends = places.iter().skip(1).copied().chain([usize::MAX]);
        let columns = places.into_iter().zip(ends);
        columns
            .map(|(start, end)| {
                let start = start.min(line.len());
                line[start..end.min(line.len())].trim().to_owned()
            })
            .collect()
    };
    lines.map(cells).collect()
}

fn row<'a>(rows: &'a [Value], name: &str) -> &'a Value {
    let found = rows.iter().find(|row| row["name"] == name);
    found.unwrap_or_else(|| panic!("{name} is not in {rows:?}"))
}

#[test]
fn a_backup_is_listed_with_its_size_and_its_start() {
    let origin = Origin::new();
    let repository = Repository::new();
    let args = ["-j", "2", "-Z", "zstd", "-l", "the label"];
    for name in ["first", "a-second"] {
        repository.take(&origin.cluster, name, &args);
    }
    let rows = repository.listed(&[]);
    // The oldest first.
    assert_eq!(rows[0]["name"], "first");
    assert_eq!(rows[1]["name"], "a-second");
    let info = repository.info("first");
    let first = &rows[0];
    for field in [
        "kind",
        "bytes",
        "stored_bytes",
        "start_lsn",
        "system_identifier",
        "label",
    ] {
        assert_eq!(first[field], info[field], "{field}");
        assert!(!first[field].is_null(), "{field}");
    }
    assert_eq!(first["state"], "complete");
    assert_eq!(first["chain_complete"], true);
    for field in ["reason", "parent"] {
        assert!(first[field].is_null(), "{field}: {first}");
    }
    let start = first["start_time"].as_str().expect("a time");
    assert_eq!(
        info["start_time"].as_str().map(|time| &time[..19]),
        Some(&start[..19])
    );
    assert!(first["duration"].as_f64() >= Some(0.0), "{first}");

    let lines = table(&repository, &[]);
    assert_eq!(lines.len(), 2);
    let cells: Vec<_> = lines[0].iter().map(String::as_str).collect();
    assert_eq!(cells[..4], ["first", "full", "complete", start]);
    assert!(cells[4].ends_with(" s"), "{cells:?}");
    for cell in &cells[5..7] {
        assert!(cell.ends_with(" MB"), "{cells:?}");
    }
    assert_eq!(cells[7], "-");
}

#[test]
fn a_backup_that_is_being_taken_is_unfinished() {
    let cluster = Cluster::new();
    let repository = Repository::new();
    let server = &repository.server;
    server.switch_on(&Fault::new(Act::Stall).on(&[Kind::Part]));
    let running = Running::start(&mut repository.backup(&cluster, "b", &["-j", "1"]));
    wait_for("a part that stalls", PATIENCE, || {
        server.requests().faulted() > 0
    });
    let rows = repository.listed(&[]);
    let found = row(&rows, "b");
    assert_eq!(found["state"], "unfinished");
    assert_eq!(found["kind"], "full");
    assert!(found["duration"].is_null(), "{found}");
    assert_eq!(found["chain_complete"], false);
    let lines = table(&repository, &[]);
    assert_eq!(
        lines[0][..3],
        ["b", "full", "unfinished"].map(str::to_owned)
    );
    running.signal("INT");
    assert_eq!(running.end().0, Some(1));
}

#[test]
fn an_empty_repository_has_no_backups() {
    let repository = Repository::new();
    assert!(table(&repository, &[]).is_empty());
    assert!(repository.listed(&[]).is_empty());
    // What is there besides is nobody's backup.
    repository.server.write("in/side/notes/x", b"x");
    repository.server.write("in/side/file", b"x");
    repository.server.write("backup.json", b"x");
    assert!(repository.listed(&[]).is_empty());
    let folder = Folder::new("repository");
    assert!(Access::directory(&folder).listed(&[]).is_empty());
    let said = expect_failure(&mut Access::directory(&folder.join("missing")).list(&[]));
    assert!(said.contains("could not read directory"), "{said}");
    assert!(said.contains("missing"), "{said}");
}

#[test]
fn a_repository_is_a_whole_bucket_or_a_part_of_one() {
    let cluster = Cluster::new();
    let repository = Repository::new();
    let (server, environment) = (&repository.server, repository.server.environment());
    let root = Access::new(&server.url(), environment.clone());
    let slash = Access::new(&format!("{}/other/", server.url()), environment);
    root.take(&cluster, "b", &["-j", "1"]);
    slash.take(&cluster, "b", &["-j", "1"]);
    for access in [&root, &slash] {
        assert_eq!(access.states(), [("b".to_owned(), "complete".to_owned())]);
    }
    succeed(&mut root.verify("b", &[]));
    let names: Vec<_> = server.objects().into_iter().map(|(name, _)| name).collect();
    for name in ["b/backup_manifest", "other/b/backup_manifest"] {
        assert!(names.iter().any(|other| other == name), "{names:?}");
    }
    assert!(repository.states().is_empty());
}

#[test]
fn directories_of_other_programs_are_listed_with_what_is_known() {
    let cluster = Cluster::new();
    let folder = Folder::new("repository");
    let access = Access::directory(&folder);
    succeed(backup_of(&cluster).arg("-D").arg(folder.join("plain")));
    let mut pg_basebackup = command("pg_basebackup");
    pg_basebackup.args(cluster.connection_args("postgres"));
    pg_basebackup.args(["-c", "fast", "--no-sync", "-Ft", "-D"]);
    succeed(pg_basebackup.arg(folder.join("tar")));
    access.take(&cluster, "ours", &["-j", "2"]);
    make_dir(&folder.join("notes"));
    // A path is as good as a URL.
    let mut list = access.program();
    let text = succeed(list.args(["list", "--json"]).arg(&*folder));
    let rows: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    assert_eq!(rows.len(), 3, "{text}");
    for name in ["plain", "tar", "ours"] {
        let found = row(&rows, name);
        assert_eq!(found["state"], "complete", "{found}");
        assert_eq!(found["kind"], "full", "{found}");
        assert!(found["bytes"].as_u64() > Some(20_000_000), "{found}");
        assert!(found["start_lsn"].is_string(), "{found}");
        // From 17 on the manifest has it.
        if major_version() >= 17 || name == "ours" {
            assert!(found["system_identifier"].is_string(), "{found}");
        }
    }
    assert!(row(&rows, "tar")["stored_bytes"].as_u64() > Some(20_000_000));
    for name in ["plain", "tar"] {
        std::fs::remove_file(folder.join(name).join("backup_manifest")).expect("a manifest");
        let rows = access.listed(&[]);
        assert_eq!(row(&rows, name)["state"], "unfinished", "{rows:?}");
    }
}

#[test]
fn a_name_drives_no_terminal() {
    let name = "x\u{1b}[2Jy\nz";
    let folder = Folder::new("repository");
    let access = Access::directory(&folder);
    make_dir(&folder.join(name));
    let description = folder.join(name).join("backup.json");
    std::fs::write(&description, b"{").expect("a description");
    let text = succeed(&mut access.list(&[]));
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert_eq!(text.lines().count(), 2, "{text:?}");
    assert!(text.contains("unreadable"), "{text:?}");
    let rows = access.listed(&[]);
    assert_eq!(rows[0]["name"], name);
    let said = expect_failure(&mut access.expire(&["--keep", "1"]));
    assert!(!said.contains('\u{1b}'), "{said:?}");

    // The library knows no such names.
    let repository = Repository::new();
    let key = format!("in/side/{name}/backup.json");
    repository.server.write(&key, b"{}");
    let said = expect_failure(&mut repository.list(&[]));
    assert!(said.contains("could not list"), "{said}");
    assert!(!said.contains('\u{1b}'), "{said:?}");
}

#[test]
fn an_incremental_backup_is_listed_with_the_one_before() {
    if is_too_old() {
        return;
    }
    let cluster = Cluster::builder().setting("summarize_wal", "on").start();
    let repository = Repository::new();
    repository.take(&cluster, "full", &["-j", "2"]);
    for (name, earlier) in [("", "full"), ("last", "full")] {
        let earlier = repository.url_of(earlier);
        repository.take(&cluster, name, &["-j", "2", "-i", &earlier]);
    }
    let rows = repository.listed(&[]);
    let names: Vec<_> = rows.iter().filter_map(|row| row["name"].as_str()).collect();
    assert!(names[1].ends_with("Z-incremental"), "{names:?}");
    for found in &rows[1..] {
        assert_eq!(found["kind"], "incremental");
        assert_eq!(found["parent"], "full");
        assert_eq!(found["chain_complete"], true);
        assert!(found["bytes"].as_u64() < rows[0]["bytes"].as_u64());
    }
    let lines = table(&repository, &[]);
    let cells: Vec<_> = lines[2].iter().map(String::as_str).collect();
    assert_eq!(cells[..3], ["last", "incremental", "complete"]);
    assert_eq!(cells[7], "full");
    repository
        .server
        .remove(&repository.key("full", "backup_manifest"));
    let lines = table(&repository, &[]);
    assert_eq!(lines[2][2], "chain broken");
    let rows = repository.listed(&[]);
    assert_eq!(row(&rows, "last")["chain_complete"], false);
    assert_eq!(row(&rows, "last")["state"], "complete");
}
