//! A program that is killed while it writes to a repository leaves what is no backup, and `expire` removes all of
//! it. A backup of another program is left alone.

use backup_tests::client::{Running, expect_failure, names_in, new_target};
use backup_tests::object_store::{Act, Fault, Kind, S3Server};
use backup_tests::program::succeed;
use backup_tests::repository::{Origin, Repository};
use backup_tests::server::Cluster;
use backup_tests::wait::{PATIENCE, wait_for};

/// Waits for a request that stalls, and then until the server is at rest: it answers no other request either.
#[track_caller]
fn freeze(server: &S3Server) {
    wait_for("a request that stalls", PATIENCE, || {
        server.requests().faulted() > 0
    });
    server.switch_on(&Fault::new(Act::Stall));
    wait_for("the answers to the requests before", PATIENCE, || {
        let requests = server.requests();
        let mut answered = requests.iter().filter(|request| !request.faulted);
        answered.all(|request| request.status.is_some())
    });
}

/// Kills a backup at the request that a fault stalls. There is a complete backup beside it.
#[track_caller]
fn assert_removable(origin: &Origin, fault: &Fault, expected: &[&str]) {
    let repository = Repository::new();
    let server = &repository.server;
    repository.take(&origin.cluster, "whole", &["-j", "2"]);
    let whole = server.objects();
    server.forget_requests();
    server.switch_on(fault);
    let running = Running::start(&mut repository.backup(&origin.cluster, "b", &["-j", "2"]));
    freeze(server);
    running.signal("KILL");
    assert_eq!(running.end().0, None);
    server.heal();

    let files: Vec<_> = repository
        .files("b")
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    for file in expected {
        let is_it = |name: &String| match file.strip_prefix('*') {
            Some(end) => name.ends_with(end),
            None => name == file,
        };
        assert!(files.iter().any(is_it), "{file}: {files:?}");
    }
    let mut states = repository.states();
    states.retain(|(name, _)| name != "whole");
    let unfinished = ("b".to_owned(), "unfinished".to_owned());
    assert!(states == [unfinished] || states.is_empty(), "{states:?}");
    assert_eq!(states.is_empty(), expected.is_empty());
    let (folder, target) = new_target();
    for mut command in [
        repository.verify("b", &[]),
        repository.restore("b", &target, &[&origin.mapping(&folder)]),
    ] {
        let said = expect_failure(&mut command);
        assert!(said.contains(&repository.url_of("b")), "{said}");
        assert!(names_in(&folder).is_empty(), "{said}");
    }
    // Nobody knows that it is not running.
    succeed(&mut repository.expire(&["--keep", "1"]));
    assert_eq!(repository.files("b").len(), files.len());
    succeed(&mut repository.expire(&["--keep", "1", "--unfinished", "0s"]));
    assert_eq!(server.objects(), whole);
    // Before its mark is there, an upload has no parts.
    assert_eq!(server.open_uploads_with_parts(), 0);
    succeed(&mut repository.verify("whole", &[]));
    origin.cluster.wait_for_sql(
        "the end of the backup on the server",
        "SELECT NOT EXISTS (SELECT FROM backup_progress())",
    );
}

#[test]
fn a_program_that_is_killed_at_the_beginning_leaves_nothing() {
    let description = Fault::new(Act::Stall)
        .on(&[Kind::Put])
        .of("*/b/backup.json");
    assert_removable(&Origin::new(), &description, &[]);
}

#[test]
fn a_program_that_is_killed_before_its_first_upload_leaves_what_can_be_removed() {
    let begin = Fault::new(Act::Stall).on(&[Kind::Begin]);
    assert_removable(&Origin::new(), &begin, &["backup.json"]);
}

#[test]
fn parts_of_a_program_that_is_killed_are_removed() {
    let origin = Origin::new();
    for number in [1, 3] {
        let part = Fault::new(Act::Stall).on(&[Kind::Part]).from(number);
        assert_removable(&origin, &part, &["backup.json", "*.tar.upload"]);
    }
    let complete = Fault::new(Act::Stall)
        .on(&[Kind::Complete])
        .of("*/base.0.tar");
    assert_removable(&origin, &complete, &["backup.json", "base.0.tar.upload"]);
}

#[test]
fn archives_of_a_program_that_is_killed_are_removed() {
    let origin = Origin::new();
    for (key, expected) in [
        ("*/base.0.tar.index", &["backup.json", "base.0.tar"][..]),
        (
            "*/pg_wal.tar.index",
            &["base.0.tar", "base.0.tar.index", "pg_wal.tar"],
        ),
        (
            "*/b/backup_manifest",
            &["pg_wal.tar.index", "base.2.tar.index"],
        ),
    ] {
        let fault = Fault::new(Act::Stall).on(&[Kind::Put]).of(key);
        assert_removable(&origin, &fault, expected);
    }
    // The description is written again before the manifest.
    let again = Fault::new(Act::Stall)
        .on(&[Kind::Put])
        .of("*/b/backup.json")
        .from(2);
    assert_removable(&origin, &again, &["pg_wal.tar.index", "base.2.tar.index"]);
}

#[test]
fn marks_of_uploads_that_have_ended_are_in_nobodys_way() {
    let origin = Origin::new();
    let mark = Fault::new(Act::Stall).on(&[Kind::Delete, Kind::DeleteMany]);
    assert_removable(&origin, &mark, &["backup.json", "*.tar", "*.tar.upload"]);
}

#[test]
fn a_removal_that_is_killed_can_be_repeated() {
    let cluster = Cluster::new();
    let repository = Repository::new();
    let server = &repository.server;
    for name in ["a", "b"] {
        repository.take(&cluster, name, &["-j", "2"]);
    }
    let kinds = [Kind::Delete, Kind::DeleteMany];
    for (number, left) in [(1, "complete"), (2, "unfinished")] {
        server.forget_requests();
        server.switch_on(&Fault::new(Act::Stall).on(&kinds).from(number));
        let mut expire = repository.expire(&["--keep", "1", "--unfinished", "0s"]);
        let running = Running::start(&mut expire);
        freeze(server);
        running.signal("KILL");
        running.end();
        server.heal();
        let states = repository.states();
        assert!(
            states.contains(&("a".to_owned(), left.to_owned())),
            "{states:?}"
        );
    }
    succeed(&mut repository.expire(&["--keep", "1", "--unfinished", "0s"]));
    assert!(repository.files("a").is_empty());
    succeed(&mut repository.verify("b", &[]));
}

#[test]
fn a_backup_of_another_program_is_left_alone() {
    // A spread checkpoint takes minutes, unless somebody else wants it at once.
    let cluster = Cluster::builder()
        .setting("checkpoint_timeout", "1h")
        .start();
    cluster.execute("CREATE TABLE t AS SELECT repeat('x', 1000) FROM generate_series(1, 10000)");
    let repository = Repository::new();
    let args = ["-j", "2", "-c", "spread"];
    let running = Running::start(&mut repository.backup(&cluster, "b", &args));
    cluster.wait_for_sql(
        "the checkpoint of the backup",
        "SELECT EXISTS (SELECT FROM pg_stat_activity
                        WHERE query ~ 'start_backup' AND wait_event ~ '^Checkpoint'
                            AND pid <> pg_backend_pid())",
    );
    // The name was free when the backup began.
    assert_eq!(repository.server.requests().count(Kind::Put), 0);
    let files = ["backup.json", "base.0.tar", "base.0.tar.index"];
    for file in files {
        repository.write("b", file, b"of another program");
    }
    cluster.execute("CHECKPOINT");
    let (status, said) = running.end();
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("another program takes a backup to"), "{said}");
    assert!(said.contains("HINT:  Choose another name"), "{said}");
    let left: Vec<_> = repository
        .files("b")
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(left, files);
}
