//! Backups of the program in a repository: an S3 server, stores of other makers, and a directory. What comes back
//! is the cluster, and programs of the system read each archive.

use backup_tests::client::{expect_failure, names_in, new_target, program};
use backup_tests::object_store::{Azurite, Kind, Moto, Requests, S3Server};
use backup_tests::planted;
use backup_tests::program::{run, succeed};
use backup_tests::repository::{Access, Origin, Repository};
use backup_tests::scratch::Folder;
use backup_tests::server::Cluster;

/// All methods on both sides.
const COMPRESSIONS: [&str; 7] = [
    "none",
    "client-gzip:1",
    "client-zstd",
    "client-lz4",
    "server-gzip:1",
    "server-zstd",
    "server-lz4",
];

/// Names of the objects that were written, in the order of the requests.
fn written(requests: &Requests) -> Vec<String> {
    let writing = requests
        .iter()
        .filter(|request| Kind::WRITING.contains(&request.kind));
    writing.map(|request| request.key.clone()).collect()
}

#[test]
fn four_connections_put_a_cluster_into_a_store_from_which_it_starts() {
    let origin = Origin::new();
    let repository = Repository::new();
    for compression in COMPRESSIONS {
        let name = compression.replace(':', "_");
        repository.take(&origin.cluster, &name, &["-j", "4", "-Z", compression]);
        succeed(&mut repository.verify(&name, &["-j", "2"]));
        repository.unpack(&origin.cluster, &name);
        origin.assert_restored(&repository, &name, &["-j", "4"]);
    }
    assert_eq!(repository.server.open_uploads(), 0);
}

#[test]
fn one_connection_does_as_well() {
    let origin = Origin::new();
    let repository = Repository::new();
    for compression in COMPRESSIONS {
        let name = compression.replace(':', "_");
        repository.take(&origin.cluster, &name, &["-j", "1", "-Z", compression]);
        succeed(&mut repository.verify(&name, &[]));
        repository.unpack(&origin.cluster, &name);
        origin.restore(&repository, &name, &["-j", "4"]);
    }
    origin.assert_restored(&repository, "client-zstd", &["-j", "1"]);
}

#[test]
fn each_archive_has_an_index_and_the_manifest_is_written_last() {
    let origin = Origin::new();
    let repository = Repository::new();
    repository.take(&origin.cluster, "b", &["-j", "2", "-Z", "zstd"]);
    let archives = repository.archives("b");
    let (oid, _) = origin.space;
    for part in ["base.0.tar.zst", "base.2.tar.zst", "pg_wal.tar"] {
        assert!(
            archives.iter().any(|(name, _)| name == part),
            "{archives:?}"
        );
    }
    let of_space = format!("{oid}.");
    assert!(
        archives.iter().any(|(name, _)| name.starts_with(&of_space)),
        "{archives:?}"
    );
    let mut expected: Vec<_> = archives.iter().map(|(name, _)| name.clone()).collect();
    expected.extend(archives.iter().map(|(name, _)| format!("{name}.index")));
    expected.extend(["backup.json", "backup_manifest"].map(str::to_owned));
    expected.sort();
    let files: Vec<_> = repository
        .files("b")
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(files, expected);

    let order = written(&repository.server.requests());
    assert_eq!(order.first(), Some(&repository.key("b", "backup.json")));
    let last = [order.len() - 2, order.len() - 1].map(|place| order[place].clone());
    assert_eq!(
        last,
        ["backup.json", "backup_manifest"].map(|file| repository.key("b", file))
    );
}

#[test]
fn the_description_fits_the_archives() {
    let origin = Origin::new();
    let repository = Repository::new();
    let args = ["-j", "2", "-Z", "gzip:1", "-l", "it's \"one\""];
    repository.take(&origin.cluster, "b", &args);
    let info = repository.info("b");
    let mut client = origin.cluster.connect();
    let mut ask = |query: &str| -> String { client.query_one(query, &[]).expect(query).get(0) };
    for (field, query) in [
        (
            "system_identifier",
            "SELECT system_identifier::text FROM pg_control_system()",
        ),
        (
            "server_version",
            "SELECT current_setting('server_version_num')",
        ),
        (
            "timeline",
            "SELECT timeline_id::text FROM pg_control_checkpoint()",
        ),
    ] {
        let found = info[field].to_string();
        assert_eq!(found.trim_matches('"'), ask(query), "{field}");
    }
    for (field, query) in [
        (
            "databases",
            "SELECT json_agg(json_build_object('oid', oid::bigint, 'name', datname) ORDER BY oid)::text FROM pg_database",
        ),
        (
            "tablespaces",
            "SELECT json_agg(json_build_object('oid', oid::bigint, 'name', spcname))::text FROM pg_tablespace WHERE spcname = 'outside'",
        ),
    ] {
        let expected: serde_json::Value = serde_json::from_str(&ask(query)).expect("JSON");
        assert_eq!(info[field], expected, "{field}");
    }
    for (field, expected) in [
        ("name", "b"),
        ("kind", "full"),
        ("label", "it's \"one\""),
        ("checksums", "CRC32C"),
        ("compression", "gzip:1"),
    ] {
        assert_eq!(info[field], expected, "{field}");
    }
    assert!(info["parent"].is_null() && info["parent_start_lsn"].is_null());
    let label = String::from_utf8(repository.read("b", "backup_manifest")).expect("text");
    for field in ["start_lsn", "stop_lsn"] {
        let lsn = info[field].as_str().expect("an LSN");
        assert!(label.contains(&format!("\"{lsn}\"")), "{field} {lsn}");
    }
    assert!(info["start_time"].as_str() < info["stop_time"].as_str());

    let number = |value: &serde_json::Value| value.as_u64().expect("a number");
    let archives = info["archives"].as_array().expect("archives");
    let described: Vec<_> = archives
        .iter()
        .map(|archive| {
            let name = archive["name"].as_str().expect("a name").to_owned();
            (name, number(&archive["stored_bytes"]))
        })
        .collect();
    assert_eq!(described, repository.archives("b"));
    let stored: u64 = described.iter().map(|(_, size)| size).sum();
    assert_eq!(number(&info["stored_bytes"]), stored);
    let manifest: serde_json::Value =
        serde_json::from_slice(&repository.read("b", "backup_manifest")).expect("a manifest");
    let files = manifest["Files"].as_array().expect("files");
    let bytes: u64 = files.iter().map(|file| number(&file["Size"])).sum();
    assert_eq!(number(&info["files"]), files.len() as u64);
    assert_eq!(number(&info["bytes"]), bytes);
    let plain: u64 = archives
        .iter()
        .map(|archive| number(&archive["bytes"]))
        .sum();
    assert!(plain > bytes && stored < plain, "{info}");
}

#[test]
fn each_byte_of_an_archive_is_read_once() {
    let origin = Origin::new();
    // So much that an archive is read in several parts.
    planted::relations(&origin.cluster, 1, 10, 20 << 20);
    let repository = Repository::new();
    for compression in ["none", "zstd"] {
        repository.take(
            &origin.cluster,
            compression,
            &["-j", "1", "-Z", compression],
        );
        repository.server.forget_requests();
        succeed(&mut repository.verify(compression, &["-j", "3"]));
        let requests = repository.server.requests();
        for (archive, size) in repository.archives(compression) {
            let got = requests.bytes_got_of(&repository.key(compression, &archive));
            assert_eq!(got, size, "{archive}");
        }
        assert_eq!(requests.count(Kind::Put), 0);
    }
}

#[test]
fn the_name_is_the_start_and_the_kind_unless_it_is_given() {
    let cluster = Cluster::new();
    let repository = Repository::new();
    repository.take(&cluster, "", &["-j", "1"]);
    let (name, state) = repository.states().pop().expect("a backup");
    assert_eq!(state, "complete");
    let form: String = name
        .chars()
        .map(|letter| if letter.is_ascii_digit() { '9' } else { letter })
        .collect();
    assert_eq!(form, "99999999T999999Z-full");
    let start = repository.info(&name)["start_time"].to_string();
    let start: String = start.chars().filter(char::is_ascii_digit).collect();
    let digits: String = name.chars().filter(char::is_ascii_digit).collect();
    // The name is chosen before the backup starts.
    assert!(digits.as_str() <= &start[..14], "{name} {start}");
    assert_eq!(digits[..4], start[..4], "{name} {start}");
}

#[test]
fn a_name_that_is_taken_is_refused_and_nothing_of_it_changes() {
    let cluster = Cluster::new();
    let repository = Repository::new();
    repository.take(&cluster, "b", &["-j", "1"]);
    let content = |name: &str| -> Vec<_> {
        let files = repository.files(name).into_iter();
        files
            .map(|(file, _)| (repository.read(name, &file), file))
            .collect()
    };
    let before = content("b");
    let said = expect_failure(&mut repository.backup(&cluster, "b", &["-j", "1"]));
    assert!(said.contains(&repository.url_of("b")), "{said}");
    assert!(said.contains("exists already"), "{said}");
    assert!(said.contains("HINT:  Choose another name"), "{said}");
    assert!(content("b") == before);
    // One that is unfinished is as good as any other.
    repository.write("c", "backup.json", b"{}");
    let said = expect_failure(&mut repository.backup(&cluster, "c", &["-j", "1"]));
    assert!(said.contains("exists already"), "{said}");
    assert_eq!(repository.files("c"), [("backup.json".to_owned(), 2)]);

    let folder = Folder::new("repository");
    let directory = Access::directory(&folder);
    directory.take(&cluster, "b", &["-j", "1"]);
    let before = names_in(&folder.join("b"));
    let said = expect_failure(&mut directory.backup(&cluster, "b", &["-j", "1"]));
    assert!(said.contains("exists but is not empty"), "{said}");
    assert_eq!(names_in(&folder.join("b")), before);
}

#[test]
fn what_is_no_name_and_what_does_not_fit_a_repository_is_refused() {
    let cluster = Cluster::new();
    let repository = Repository::new();
    let long = "x".repeat(201);
    for name in [
        "..", ".", "a/b", "../b", ".hidden", "a b", "ä", "x\ny", &long,
    ] {
        let said = expect_failure(&mut repository.backup(&cluster, name, &[]));
        assert!(said.contains("is not valid"), "{name}: {said}");
        assert!(said.contains("HINT:  Names consist of"), "{name}: {said}");
    }
    for (args, word) in [
        (&["-Fp"][..], "only tar format"),
        (&["--no-manifest"], "needs its manifest"),
        (&["--store-option", "endpoint"], "not of the form KEY=VALUE"),
        (
            &["--store-option", "endpiont=x"],
            "unrecognized store option \"endpiont\"",
        ),
        (&["--encrypt-to", "age1nobody"], "is no recipient of age"),
    ] {
        let said = expect_failure(&mut repository.backup(&cluster, "b", args));
        assert!(said.contains(word), "{word}: {said}");
    }
    repository.assert_empty();
    let (folder, target) = new_target();
    let plain = |target: &std::ffi::OsStr, args: &[&str]| {
        let mut backup = program();
        backup.args(cluster.connection_args("postgres"));
        backup.arg("-D").arg(target).args(args);
        expect_failure(&mut backup)
    };
    let said = plain(target.as_os_str(), &["--name", "b"]);
    assert!(said.contains("are for backups in a repository"), "{said}");
    for (url, word) in [
        ("ftp://bucket/x", "unknown scheme"),
        ("file://x", "absolute path"),
        ("s3:///x", "is not of the form"),
    ] {
        let said = plain(url.as_ref(), &["--name", "b"]);
        assert!(said.contains(word), "{url}: {said}");
    }
    assert!(names_in(&folder).is_empty());
}

/// Backup, list, verification, restore and removal in a store of another maker.
fn require_all_of(access: &Access) {
    let origin = Origin::new();
    for name in ["first", "second"] {
        access.take(&origin.cluster, name, &["-j", "4", "-Z", "zstd"]);
        succeed(&mut access.verify(name, &["-j", "2"]));
    }
    let said = expect_failure(&mut access.backup(&origin.cluster, "second", &[]));
    assert!(said.contains("second\" exists"), "{said}");
    let complete = |name: &str| (name.to_owned(), "complete".to_owned());
    assert_eq!(access.states(), ["first", "second"].map(complete));
    succeed(&mut access.expire(&["--keep", "1"]));
    assert_eq!(access.states(), [complete("second")]);
    origin.assert_restored(access, "second", &["-j", "4"]);
}

#[test]
fn moto_keeps_backups() {
    if let Some(server) = Moto::start() {
        require_all_of(&Access::moto(&server));
    }
}

#[test]
fn the_client_of_google_keeps_backups() {
    let server = S3Server::start();
    require_all_of(&Access::google(&server));
    assert_eq!(server.open_uploads(), 0);
}

#[test]
fn azurite_keeps_backups() {
    if let Some(server) = Azurite::start() {
        require_all_of(&Access::azurite(&server));
    }
}

#[test]
fn a_directory_keeps_backups() {
    let folder = Folder::new("repository");
    // It need not exist.
    require_all_of(&Access::directory(&folder.join("deep/er")));
    assert_eq!(names_in(&folder.join("deep/er")), ["second"]);
}

#[test]
fn results_are_there_for_programs() {
    let origin = Origin::new();
    let repository = Repository::new();
    repository.take(&origin.cluster, "b", &["-j", "2"]);
    let json = |command: &mut std::process::Command| -> serde_json::Value {
        let output = run(command);
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    let verified = json(&mut repository.verify("b", &["--json"]));
    assert_eq!(verified["verified"], true);
    assert_eq!(verified["findings"].as_array().map(Vec::len), Some(0));
    let (folder, target) = new_target();
    let mapping = origin.mapping(&folder);
    let restored = json(&mut repository.restore("b", &target, &["--json", &mapping]));
    assert_eq!(restored["restored"], true);
    assert_eq!(restored["directory"], target.to_str().expect("text"));
    let archive = repository.key("b", "base.0.tar");
    let mut content = repository.read("b", "base.0.tar");
    let place = content.len() / 2;
    content[place] ^= 1;
    repository.server.write(&archive, &content);
    let verified = json(&mut repository.verify("b", &["--json"]));
    assert_eq!(verified["verified"], false);
    let finding = verified["findings"][0].as_str().expect("a finding");
    assert!(finding.contains("base.0.tar"), "{finding}");
}
