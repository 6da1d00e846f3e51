//! Stores that cannot be reached, refuse, fail now and then, fill up or stall. A backup is complete or leaves
//! nothing, on the store and on the server.

use backup_tests::client::{Running, expect_failure, names_in, new_target};
use backup_tests::object_store::{Act, Fault, Kind};
use backup_tests::program::succeed;
use backup_tests::repository::{Access, Origin, Repository};
use backup_tests::server::{Cluster, free_port};
use backup_tests::wait::{PATIENCE, wait_for};

/// Checks that no backup runs on the server.
#[track_caller]
fn assert_no_backup_runs(cluster: &Cluster) {
    cluster.wait_for_sql(
        "the end of the backup on the server",
        "SELECT NOT EXISTS (SELECT FROM backup_progress())
             AND NOT EXISTS (SELECT FROM pg_stat_progress_basebackup)
             AND NOT EXISTS (SELECT FROM pg_replication_slots)",
    );
}

#[test]
fn a_store_that_refuses_is_named_with_what_can_be_done() {
    let cluster = Cluster::new();
    let repository = Repository::new();
    let (folder, target) = new_target();
    let access = || -> Access { (*repository).clone() };
    let nobody = format!("http://127.0.0.1:{}", free_port());
    for (access, words) in [
        (
            access().with("AWS_SECRET_ACCESS_KEY", "another"),
            &["HINT:  Check the credentials"][..],
        ),
        (
            Access::new("s3://missing/in/side", repository.server.environment()),
            &["HINT:  Check that the bucket or container exists"],
        ),
        (access().with("AWS_ENDPOINT", &nobody), &[&nobody]),
        (access().without("AWS_ALLOW_HTTP"), &["allow_http"]),
    ] {
        let wrong = [
            access.backup(&cluster, "b", &["-j", "2"]),
            access.list(&[]),
            access.verify("b", &[]),
            access.restore("b", &target, &[]),
            access.expire(&["--keep", "1"]),
        ];
        for mut command in wrong {
            let said = expect_failure(&mut command);
            let place = access.url().trim_end_matches("/in/side");
            assert!(said.contains(place), "{command:?}: {said}");
            for word in words {
                assert!(said.contains(word), "{word} {command:?}: {said}");
            }
        }
    }
    assert_no_backup_runs(&cluster);
    repository.assert_empty();
    assert!(names_in(&folder).is_empty());
}

#[test]
fn requests_that_are_refused_for_a_time_are_repeated() {
    let origin = Origin::new();
    let repository = Repository::new();
    let server = &repository.server;
    server.switch_on(&Fault::new(Act::SlowDown).every(3));
    repository.take(&origin.cluster, "b", &["-j", "2"]);
    succeed(&mut repository.verify("b", &[]));
    let places = origin.restore(&repository, "b", &["-j", "2"]);
    assert!(server.requests().faulted() > 10);
    server.heal();
    assert_eq!(server.open_uploads(), 0);
    repository.unpack(&origin.cluster, "b");
    origin.assert_starts(places);
}

#[test]
fn connections_that_close_in_the_middle_of_a_body_are_replaced() {
    let origin = Origin::new();
    let repository = Repository::new();
    let server = &repository.server;
    let bodies = [Kind::Part, Kind::Get];
    server.switch_on(&Fault::new(Act::Cut).on(&bodies).every(3));
    repository.take(&origin.cluster, "b", &["-j", "2"]);
    let cut = |kind: Kind| {
        let requests = server.requests();
        let cut = requests
            .iter()
            .filter(|request| request.faulted && request.kind == kind);
        cut.count()
    };
    assert!(cut(Kind::Part) > 0);
    succeed(&mut repository.verify("b", &[]));
    origin.assert_restored(&repository, "b", &["-j", "2"]);
    assert!(cut(Kind::Get) > 0);
    assert_eq!(server.open_uploads(), 0);
    server.heal();
    repository.unpack(&origin.cluster, "b");
}

#[test]
fn an_answer_that_is_lost_does_not_lose_the_backup() {
    let origin = Origin::new();
    let repository = Repository::new();
    let server = &repository.server;
    let kinds = [Kind::Part, Kind::Complete, Kind::Put];
    server.switch_on(&Fault::new(Act::Lose).on(&kinds).every(4));
    repository.take(&origin.cluster, "b", &["-j", "2"]);
    assert!(server.requests().faulted() > 1);
    server.heal();
    assert_eq!(server.open_uploads(), 0);
    succeed(&mut repository.verify("b", &[]));
}

#[test]
fn of_a_backup_into_a_store_that_fills_up_nothing_is_left() {
    let origin = Origin::new();
    let repository = Repository::new();
    let server = &repository.server;
    for (bytes, status, code) in [
        (12_000_000, 403, "QuotaExceeded"),
        (12_000_000, 507, "InsufficientStorage"),
        (0, 403, "QuotaExceeded"),
    ] {
        server.limit(bytes, status, code);
        let said = expect_failure(&mut repository.backup(&origin.cluster, "b", &["-j", "2"]));
        let written = server.requests().bytes_put();
        assert!(said.contains("could not write"), "{said}");
        assert!(said.contains(&repository.url_of("b")), "{said}");
        assert!(said.contains(code), "{said}");
        assert!(bytes == 0 || written >= bytes / 2, "{written}");
        server.heal();
        server.forget_requests();
        repository.assert_empty();
        assert_no_backup_runs(&origin.cluster);
    }
    // There is room again.
    repository.take(&origin.cluster, "b", &["-j", "2"]);
    succeed(&mut repository.verify("b", &[]));
}

#[test]
fn no_clean_leaves_what_is_there_and_no_backup() {
    let origin = Origin::new();
    let repository = Repository::new();
    repository.server.limit(12_000_000, 403, "QuotaExceeded");
    let args = ["-j", "2", "--no-clean"];
    let said = expect_failure(&mut repository.backup(&origin.cluster, "b", &args));
    assert!(said.contains("is not removed at user's request"), "{said}");
    repository.server.heal();
    assert_eq!(
        repository.states(),
        [("b".to_owned(), "unfinished".to_owned())]
    );
    assert_eq!(repository.server.open_uploads(), 0);
}

/// Interrupts a backup once the store stalls with a request and has the `.upload` objects of so many uploads, and
/// stalls with more from then on.
#[track_caller]
fn assert_interrupted(first: &Fault, uploads: usize, then: &Fault) {
    let cluster = Cluster::new();
    let repository = Repository::new();
    let server = &repository.server;
    server.switch_on(first);
    let running = Running::start(&mut repository.backup(&cluster, "b", &["-j", "2"]));
    wait_for("a request that stalls", PATIENCE, || {
        server.requests().faulted() > 0
    });
    wait_for("the objects of the uploads", PATIENCE, || {
        let files = repository.files("b");
        let marks = files.iter().filter(|(name, _)| name.ends_with(".upload"));
        marks.count() >= uploads
    });
    server.switch_on(then);
    running.signal("INT");
    let (status, said) = running.end();
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("received SIGINT"), "{said}");
    assert_no_backup_runs(&cluster);
    // What the store did not let go of is no backup, and can be removed.
    server.heal();
    for (_, state) in repository.states() {
        assert_eq!(state, "unfinished");
    }
    succeed(&mut repository.expire(&["--keep", "1", "--unfinished", "0s"]));
    repository.assert_empty();
}

#[test]
fn an_interruption_does_not_wait_for_parts_that_stall() {
    for act in [Act::Stall, Act::Hang] {
        let parts = Fault::new(act).on(&[Kind::Part]);
        assert_interrupted(&parts, 0, &parts);
    }
}

#[test]
fn an_interruption_does_not_wait_for_a_store_that_stalls() {
    // Nobody would know of an upload whose object the store does not take any more: docs/repository.md.
    let parts = Fault::new(Act::Stall).on(&[Kind::Part]);
    assert_interrupted(&parts, 2, &Fault::new(Act::Stall));
}

#[test]
fn an_interruption_does_not_wait_for_the_description() {
    let description = Fault::new(Act::Stall).on(&[Kind::Put]);
    assert_interrupted(&description, 0, &description);
}

#[test]
fn an_upload_whose_first_answer_comes_after_an_interruption_is_aborted() {
    let cluster = Cluster::new();
    let repository = Repository::new();
    let server = &repository.server;
    server.switch_on(&Fault::new(Act::Hold).on(&[Kind::Begin]).first(1));
    // Slow enough for the other worker to be busy until the end.
    let args = ["-j", "2", "-r", "4M"];
    let running = Running::start(&mut repository.backup(&cluster, "b", &args));
    wait_for("an upload whose begin is not answered", PATIENCE, || {
        server.open_uploads() > 0
    });
    let mut observer = cluster.connect();
    running.signal("TERM");
    // The program waits three seconds for its threads, of which one waits for the store.
    wait_for("the end of the backup on the server", PATIENCE, || {
        let rows = observer.query("SELECT FROM backup_progress()", &[]);
        rows.expect("backup_progress()").is_empty()
    });
    server.heal();
    let (status, said) = running.end();
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("received SIGTERM"), "{said}");
    assert_eq!(server.open_uploads(), 0);
    repository.assert_empty();
    assert_no_backup_runs(&cluster);
}

#[test]
fn an_interruption_of_a_restore_does_not_wait_for_a_store_that_stalls() {
    let origin = Origin::new();
    let repository = Repository::new();
    repository.take(&origin.cluster, "b", &["-j", "2"]);
    let server = &repository.server;
    let (folder, target) = new_target();
    for command in [
        repository.restore("b", &target, &["-j", "2", &origin.mapping(&folder)]),
        repository.verify("b", &["-j", "2"]),
    ] {
        server.forget_requests();
        server.switch_on(&Fault::new(Act::Hang).on(&[Kind::Get]).of("*.tar"));
        let mut command = command;
        let running = Running::start(&mut command);
        wait_for("an answer that hangs", PATIENCE, || {
            server.requests().faulted() > 0
        });
        running.signal("TERM");
        let (status, said) = running.end();
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("received SIGTERM"), "{said}");
        assert!(names_in(&folder).is_empty(), "{said}");
        server.heal();
    }
    succeed(&mut repository.verify("b", &[]));
}
