//! Networks that drop connections without a word: idle ones, and those that still carry a backup.
//! The server is clean afterwards within the limit, although its side of the connection stays open.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use backup_tests::client::{Running, expect_failure, new_target, program, verify};
use backup_tests::gateway::Gateway;
use backup_tests::leftover;
use backup_tests::server::Cluster;
use backup_tests::wait::{PATIENCE, wait_for};
use backup_tests::workload::create_table;

/// Keeps a backup of the cluster's 32 MB running for about eight seconds.
const SLOWLY: [&str; 2] = ["--max-rate", "4M"];

fn cluster() -> Cluster {
    let cluster = Cluster::builder()
        .setting("autovacuum", "off")
        .over_tcp()
        .start();
    create_table(&cluster, "big", 32);
    cluster
}

/// Backup through a proxy, plain and with two workers. The first connection leads.
fn backup_through(gateway: &Gateway, target: &Path) -> Command {
    let mut backup = program();
    let port = gateway.port().to_string();
    backup
        .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &port])
        .args(["-c", "fast", "-N", "-j", "2", "-D"])
        .arg(target);
    backup
}

/// Waits until both workers of a backup receive files.
fn wait_for_workers(gateway: &Gateway) {
    wait_for("both workers to receive files", PATIENCE, || {
        (1..3).all(|number| gateway.sent_to_client(number) > 1024 * 1024)
    });
}

/// Waits until nothing of a backup is left on the server, which nobody tells of the loss.
#[track_caller]
fn assert_server_gets_clean(cluster: &Cluster) {
    cluster.wait_for_sql(
        "the server to end the backup and its workers",
        "SELECT NOT EXISTS (SELECT FROM backup_progress())
             AND NOT EXISTS (SELECT FROM pg_replication_slots)
             AND NOT EXISTS (SELECT FROM pg_stat_activity
                 WHERE application_name = 'pg_parallel_backup')",
    );
    leftover::assert_none(cluster);
}

/// Fails a backup by what a proxy does in its middle. Checks that nothing is left on either side, and
/// returns the output.
#[track_caller]
fn fails_when(cluster: &Cluster, happens: impl FnOnce(&Gateway)) -> String {
    let gateway = Gateway::start(cluster);
    let (_folder, target) = new_target();
    let mut backup = backup_through(&gateway, &target);
    backup
        .args(SLOWLY)
        .args(["--heartbeat", "1", "--timeout", "2"]);
    let running = Running::start(&mut backup);
    wait_for_workers(&gateway);
    happens(&gateway);
    let (status, said) = running.end();
    assert_eq!(status, Some(1), "{said}");
    assert!(!target.exists());
    assert_server_gets_clean(cluster);
    said
}

#[test]
fn a_heartbeat_keeps_the_leaders_connection_from_being_idle() {
    let cluster = cluster();
    let gateway = Gateway::closing_idle(&cluster, Duration::from_secs(8));
    let (_folder, target) = new_target();
    let mut backup = backup_through(&gateway, &target);
    backup.args(SLOWLY).args(["--heartbeat", "1"]);
    let (status, said) = Running::start(&mut backup).end();
    assert_eq!((status, said.as_str()), (Some(0), ""));
    verify(&target, &[]);

    let (_folder, target) = new_target();
    let mut backup = backup_through(&gateway, &target);
    let said = expect_failure(backup.args(SLOWLY).args(["--heartbeat", "0"]));
    assert!(
        said.contains("the connection that leads the backup was lost: server closed"),
        "{said}"
    );
    assert!(
        said.contains("HINT:  If the server still runs, a firewall"),
        "{said}"
    );
    assert!(!target.exists());
    assert_server_gets_clean(&cluster);
}

#[test]
fn a_leader_whose_connection_is_dropped_is_noticed_on_both_sides() {
    let cluster = cluster();
    let said = fails_when(&cluster, |gateway| gateway.drop_silently(0));
    assert!(
        said.contains(
            "the connection that leads the backup was lost: the server has sent nothing for "
        ),
        "{said}"
    );
    assert!(said.contains("a firewall or gateway on the way"), "{said}");
}

#[test]
fn a_worker_whose_connection_is_dropped_is_replaced() {
    let cluster = cluster();
    let gateway = Gateway::start(&cluster);
    let (_folder, target) = new_target();
    let mut backup = backup_through(&gateway, &target);
    backup.args(SLOWLY).args(["--timeout", "2"]);
    let running = Running::start(&mut backup);
    wait_for_workers(&gateway);
    gateway.drop_silently(2);
    let (status, said) = running.end();
    assert_eq!(status, Some(0), "{said}");
    assert!(
        said.contains("lost its connection and gets another: "),
        "{said}"
    );
    assert!(said.contains("the server has sent nothing for "), "{said}");
    verify(&target, &[]);
    assert_server_gets_clean(&cluster);
}

#[test]
fn a_network_that_drops_everything_ends_the_backup_on_both_sides() {
    let cluster = cluster();
    let said = fails_when(&cluster, |gateway| gateway.drop_everything());
    assert!(said.contains("the server has sent nothing for "), "{said}");
}

/// A connection that is silent because the server waits is no lost one: here the extension is looked
/// for, and another session holds a lock.
#[test]
fn silence_while_the_server_works_is_no_loss() {
    let cluster = cluster();
    let gateway = Gateway::start(&cluster);
    let mut backend = cluster.connect();
    backend
        .batch_execute("BEGIN; LOCK TABLE pg_extension IN ACCESS EXCLUSIVE MODE")
        .expect("a lock that the program waits for");
    let (_folder, target) = new_target();
    let mut backup = backup_through(&gateway, &target);
    let running = Running::start(backup.args(["--timeout", "4"]));
    // The session that looks after the silent one is the second connection.
    wait_for("another session to ask twice", PATIENCE, || {
        gateway.connections() >= 3
    });
    backend.batch_execute("COMMIT").expect("the end");
    let (status, said) = running.end();
    assert_eq!((status, said.as_str()), (Some(0), ""));
    verify(&target, &[]);
    assert_server_gets_clean(&cluster);
}
