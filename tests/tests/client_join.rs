//! Programs on other hosts join a backup to a repository: `join`. Here they are processes beside the one that
//! leads, whose first archive the store refuses until the others have done their part.

use std::process::Command;

use backup_tests::client::{Running, expect_failure, private_file};
use backup_tests::object_store::{Act, Fault, Kind};
use backup_tests::planted;
use backup_tests::program::succeed;
use backup_tests::repository::{Access, Origin, Repository};
use backup_tests::scratch::Folder;
use backup_tests::server::Cluster;
use backup_tests::wait::{PATIENCE, wait_for};

const RECIPIENT: &str = "age1t8f7r0qqn4qc6qpc592lk7xncv8jlt36k00va9cr9awk8ajq5dlqtsp28m";
const IDENTITY: &str = "AGE-SECRET-KEY-1J82M2AMN830SLPPZQ5PC6LLZGJYF8H2QUFQJR2X92G7086AXCJ9QM7KCC9";
const OTHER_RECIPIENT: &str = "age1jnm6d6jvaask6rnwrexz0typd639kgjkz03fflnrx4hx7th4wansf8jl2k";

/// Has the program that leads end its first stream, and wait for the store.
fn hold_leader(repository: &Repository) {
    let first = Fault::new(Act::SlowDown)
        .on(&[Kind::Put])
        .of("*/base.0.tar*");
    repository.server.switch_on(&first);
}

/// Starts a backup with one worker, and returns its number once it runs.
#[track_caller]
fn lead(access: &Access, cluster: &Cluster, args: &[&str]) -> (Running, String) {
    lead_as("postgres", access, cluster, args)
}

/// The same as another role.
#[track_caller]
fn lead_as(role: &str, access: &Access, cluster: &Cluster, args: &[&str]) -> (Running, String) {
    let few = ["-j", "1", "--stream-size", "1MB"];
    let mut command = access.backup_as(role, cluster, "b", &few);
    let leader = Running::start(command.args(args));
    cluster.wait_for_sql(
        "a file that was sent",
        "SELECT coalesce(max(bytes_sent), 0) > 0 FROM backup_progress()",
    );
    let mut client = cluster.connect();
    let row = client.query_one("SELECT backup_id FROM backup_progress()", &[]);
    let number: i64 = row.expect("a backup").get(0);
    (leader, number.to_string())
}

/// Command of a program that joins with two workers.
fn join(access: &Access, cluster: &Cluster, number: &str, args: &[&str]) -> Command {
    let mut join = access.program();
    join.arg("join").args(cluster.connection_args("postgres"));
    join.args(["-j", "2", "--stream-size", "1MB", "-D", access.url()]);
    join.args(["--backup-id", number]).args(args);
    join
}

/// Numbers of the workers of the archives.
fn workers(repository: &Repository) -> Vec<u32> {
    let archives = repository.archives("b");
    let mut workers: Vec<_> = archives
        .iter()
        .filter(|(name, _)| name.starts_with("base."))
        .filter_map(|(name, _)| name.split('.').nth(1)?.parse().ok())
        .collect();
    workers.sort_unstable();
    workers.dedup();
    workers
}

/// Nothing is left of the programs that took the backup together.
#[track_caller]
fn assert_tidy(repository: &Repository) {
    for (name, _) in repository.files("b") {
        let is_left = name.ends_with(".upload") || name.starts_with("host.") || name == "join.json";
        assert!(!is_left, "{name}");
    }
    assert_eq!(repository.server.open_uploads(), 0);
}

#[track_caller]
fn assert_ended(running: Running) -> String {
    let (status, said) = running.end();
    assert_eq!(status, Some(0), "{said}");
    said
}

#[test]
fn workers_of_other_hosts_serve_the_same_backup() {
    let origin = Origin::new();
    let repository = Repository::new();
    hold_leader(&repository);
    let (leader, number) = lead(&repository, &origin.cluster, &["-v"]);
    let hosts: Vec<_> = [&[][..], &["-Z", "zstd", "--name", "b"]]
        .into_iter()
        .map(|args| {
            let mut join = join(&repository, &origin.cluster, &number, args);
            Running::start(&mut join)
        })
        .collect();
    for host in hosts {
        assert_ended(host);
    }
    repository.server.heal();
    let said = assert_ended(leader);
    assert!(said.contains(&format!("--backup-id {number}")), "{said}");
    assert_eq!(said.matches("has ended").count(), 2, "{said}");
    let workers = workers(&repository);
    assert!(workers.iter().any(|&worker| worker >= 1024), "{workers:?}");
    assert_tidy(&repository);
    succeed(&mut repository.verify("b", &[]));
    origin.assert_restored(&repository, "b", &["-j", "2"]);
}

#[test]
fn what_a_lost_host_has_not_stored_is_received_anew() {
    let origin = Origin::new();
    let repository = Repository::new();
    hold_leader(&repository);
    let (leader, number) = lead(&repository, &origin.cluster, &[]);
    // The server takes the streams of these archives for received.
    let second = Fault::new(Act::SlowDown)
        .on(&[Kind::Put])
        .of("*/base.*.1.tar");
    repository.server.switch_on(&second);
    let host = Running::start(&mut join(&repository, &origin.cluster, &number, &[]));
    wait_for("an archive that is refused", PATIENCE, || {
        let requests = repository.server.requests();
        let mut refused = requests.iter().filter(|request| request.faulted);
        refused.any(|request| request.key.ends_with(".1.tar"))
    });
    host.signal("KILL");
    assert_eq!(host.end().0, None);
    repository.server.heal();
    let said = assert_ended(leader);
    assert!(
        said.contains("was lost, and its files are received anew"),
        "{said}"
    );
    assert_tidy(&repository);
    succeed(&mut repository.verify("b", &[]));
    origin.assert_restored(&repository, "b", &["-j", "2"]);
}

/// Has a host join, and stops its program while the server sends files to its workers. Its connections stay open.
#[track_caller]
fn stop_a_host(repository: &Repository, cluster: &Cluster, number: &str) -> Running {
    // Otherwise all would be in buffers before the program stops.
    let parts = Fault::new(Act::Stall).on(&[Kind::Part]);
    repository.server.switch_on(&parts);
    // The database of the leader is another one.
    let args = ["--timeout", "3", "--heartbeat", "1", "-d", "dbname=second"];
    let host = Running::start(&mut join(repository, cluster, number, &args));
    cluster.wait_for_sql(
        "two workers of the host to which nothing can be sent",
        "SELECT count(*) = 2 FROM pg_stat_activity JOIN pg_locks USING (pid)
         WHERE locktype = 'advisory' AND pg_locks.mode = 'ShareLock' AND wait_event = 'ClientWrite'",
    );
    host.signal("STOP");
    repository.server.heal();
    host
}

/// Lets the program of a stopped host go on, which fails.
#[track_caller]
fn assert_excluded(host: Running) {
    host.signal("CONT");
    let (status, said) = host.end();
    assert_eq!(status, Some(1), "{said}");
}

#[test]
fn a_host_that_stands_still_is_lost() {
    let origin = Origin::new();
    planted::relations(&origin.cluster, 1, 4, 32 << 20);
    origin
        .cluster
        .execute("CREATE DATABASE second TEMPLATE postgres");
    let repository = Repository::new();
    hold_leader(&repository);
    let (leader, number) = lead(&repository, &origin.cluster, &[]);
    let host = stop_a_host(&repository, &origin.cluster, &number);
    let said = assert_ended(leader);
    assert!(
        said.contains("was lost, and its files are received anew"),
        "{said}"
    );
    assert_excluded(host);
    assert_tidy(&repository);
    succeed(&mut repository.verify("b", &[]));
    origin.assert_restored(&repository, "b", &["-j", "2"]);
}

#[test]
fn a_host_that_stands_still_and_cannot_be_ended_is_named() {
    let cluster = Cluster::new();
    planted::relations(&cluster, 1, 4, 32 << 20);
    cluster.execute("CREATE DATABASE second TEMPLATE postgres");
    cluster.execute(
        "CREATE ROLE backup LOGIN;
         GRANT EXECUTE ON FUNCTION start_backup, backup_tablespaces, backup_filelist,
             send_backup_files, send_wal, send_stop_backup, abort_backup TO backup",
    );
    let repository = Repository::new();
    hold_leader(&repository);
    let args = ["--timeout", "5", "--heartbeat", "1"];
    let (leader, number) = lead_as("backup", &repository, &cluster, &args);
    let host = stop_a_host(&repository, &cluster, &number);
    let (status, said) = leader.end();
    assert_eq!(status, Some(1), "{said}");
    for word in [
        "could not end the sessions of host \"",
        "have not ended within 5 s",
        "They keep files of the backup: process ",
        "HINT:  End the program on that host",
    ] {
        assert!(said.contains(word), "{word}: {said}");
    }
    assert_excluded(host);
    repository.assert_empty();
}

#[test]
fn a_host_encrypts_for_those_of_the_program_that_leads() {
    let origin = Origin::new();
    let repository = Repository::new();
    let folder = Folder::new("k");
    let passphrase = private_file(&folder, "passphrase", "correct horse\n");
    let passphrase = format!("passphrase:{}", passphrase.display());
    let identity = private_file(&folder, "identity", IDENTITY);
    let identity = identity.to_str().expect("text");
    for (to, identity) in [(RECIPIENT, identity), (&passphrase, &passphrase)] {
        hold_leader(&repository);
        let (leader, number) = lead(&repository, &origin.cluster, &["--encrypt-to", to]);
        for (args, word) in [
            (&[][..], "the backup is encrypted"),
            (
                &["--encrypt-to", OTHER_RECIPIENT],
                "the backup is encrypted for others",
            ),
        ] {
            let mut join = join(&repository, &origin.cluster, &number, args);
            let said = expect_failure(&mut join);
            assert!(said.contains(word) && said.contains("HINT"), "{said}");
        }
        succeed(&mut join(
            &repository,
            &origin.cluster,
            &number,
            &["--encrypt-to", to],
        ));
        repository.server.heal();
        assert_ended(leader);
        let workers = workers(&repository);
        assert!(workers.iter().any(|&worker| worker >= 1024), "{workers:?}");
        succeed(&mut repository.verify("b", &["--identity", identity]));
        origin.assert_restored(&repository, "b", &["--identity", identity]);
        succeed(&mut repository.expire(&["--keep", "1", "--identity", identity]));
        for (file, _) in repository.files("b") {
            repository.server.remove(&repository.key("b", &file));
        }
    }
}

#[test]
fn hosts_join_a_backup_to_a_directory_that_they_share() {
    let origin = Origin::new();
    let folder = Folder::new("j");
    let access = Access::directory(&folder);
    let (leader, number) = lead(&access, &origin.cluster, &["-r", "5M"]);
    succeed(&mut join(&access, &origin.cluster, &number, &[]));
    assert_ended(leader);
    succeed(&mut access.verify("b", &[]));
    origin.assert_restored(&access, "b", &["-j", "2"]);
}

#[test]
fn who_joins_no_backup_is_told_so() {
    let origin = Origin::new();
    let repository = Repository::new();
    let mut unknown = join(&repository, &origin.cluster, "12345", &[]);
    let said = expect_failure(&mut unknown);
    assert!(said.contains("backup"), "{said}");
    hold_leader(&repository);
    let (leader, number) = lead(&repository, &origin.cluster, &[]);
    // Another repository.
    let folder = Folder::new("j");
    let other = Access::directory(&folder);
    let said = expect_failure(&mut join(&other, &origin.cluster, &number, &[]));
    let word = format!("no backup with ID {number} runs in");
    assert!(said.contains(&word) && said.contains("HINT"), "{said}");
    let mut misnamed = join(&repository, &origin.cluster, &number, &["--name", "x"]);
    let said = expect_failure(&mut misnamed);
    assert!(said.contains(&word), "{said}");
    repository.server.heal();
    assert_ended(leader);
    succeed(&mut repository.verify("b", &[]));
}
