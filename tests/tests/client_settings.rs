//! Settings that a role or a database has for its ordinary work.

use backup_tests::client::{Running, backup_of, expect_failure, new_target, program, verify};
use backup_tests::leftover;
use backup_tests::page::corrupt_cluster;
use backup_tests::program::{major_version, succeed};
use backup_tests::server::Cluster;

/// Settings of versions 15 to 18 that an ordinary role may have and that end sessions, block
/// statements or change their meaning. Each has the first version that knows it.
///
/// Reviewed and left out, because they have no such effect on a backup: superuser-only settings
/// (logging, `temp_file_limit`, `deadlock_timeout`), `vacuum_*`, memory, planner costs and methods,
/// `synchronous_commit` (nothing is committed), output formats of values that are never requested,
/// and `tcp_*` and `client_connection_check_interval`, which concern the network.
const HOSTILE: &[(u32, &str, &str)] = &[
    (15, "statement_timeout", "1s"),
    (15, "lock_timeout", "1ms"),
    (15, "idle_session_timeout", "1s"),
    (15, "idle_in_transaction_session_timeout", "1s"),
    (17, "transaction_timeout", "1s"),
    (15, "exit_on_error", "on"),
    (15, "default_transaction_isolation", "serializable"),
    (15, "default_transaction_read_only", "on"),
    (15, "default_transaction_deferrable", "on"),
    (15, "search_path", "nowhere"),
    (15, "standard_conforming_strings", "off"),
    (15, "backslash_quote", "off"),
    (15, "array_nulls", "off"),
    (15, "quote_all_identifiers", "on"),
    (15, "row_security", "off"),
    (15, "client_min_messages", "error"),
    (15, "client_encoding", "latin1"),
    (15, "bytea_output", "escape"),
    (15, "extra_float_digits", "-15"),
    (15, "datestyle", "sql, dmy"),
    (15, "jit_above_cost", "0"),
    (15, "jit", "on"),
    (17, "restrict_nonsystem_relation_kind", "view,foreign-table"),
];

/// Time limits that a role may have. The program's sessions disable them, or they concern the
/// network or the replication protocol.
const TIMEOUTS: [&str; 9] = [
    "idle_in_transaction_session_timeout",
    "idle_session_timeout",
    "lock_timeout",
    "statement_timeout",
    "tcp_user_timeout",
    "transaction_timeout",
    "wal_receiver_timeout",
    "wal_sender_shutdown_timeout",
    "wal_sender_timeout",
];

/// Gives the roles all of these settings in one database.
fn hostile(cluster: &Cluster) {
    let mut client = cluster.connect();
    for (since, name, value) in HOSTILE {
        // From 19 on it cannot be off.
        let is_there = *name != "standard_conforming_strings" || major_version() < 19;
        if *since <= major_version() && is_there {
            client
                .batch_execute(&format!("ALTER DATABASE postgres SET {name} = '{value}'"))
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

#[test]
fn settings_of_a_database_end_and_hold_up_no_backup() {
    let cluster = Cluster::new();
    // A deferrable transaction waits for this serializable transaction, which writes.
    cluster.execute("CREATE TABLE t (a int)");
    let mut other = cluster.connect();
    other
        .batch_execute("BEGIN ISOLATION LEVEL SERIALIZABLE; INSERT INTO t VALUES (1)")
        .expect("a transaction");
    hostile(&cluster);
    let (_folder, target) = new_target();
    let mut backup = backup_of(&cluster);
    // The cluster has more than 22 MB, so the backup outlasts each of the limits.
    backup.args(["-j", "2", "-r", "8M", "-D"]).arg(&target);
    let (status, said) = Running::start(&mut backup).end();
    assert_eq!(status, Some(0), "{said}");
    verify(&target, &[]);
    let mut check = program();
    check.args(["check", "-c", "fast", "-r", "8M"]);
    succeed(check.args(cluster.connection_args("postgres")));
    other.batch_execute("ROLLBACK").expect("ROLLBACK");
    other
        .batch_execute("ALTER DATABASE postgres RESET ALL")
        .expect("RESET ALL");
    leftover::assert_none(&cluster);
}

/// An error sent by the server is not mistaken for a lost connection.
#[test]
fn an_error_is_told_where_errors_end_sessions() {
    let cluster = corrupt_cluster();
    hostile(&cluster);
    let (_folder, target) = new_target();
    let said = expect_failure(backup_of(&cluster).arg("-D").arg(&target));
    assert!(said.contains("checksum verification failure"), "{said}");
    assert!(!said.contains("lost its connection"), "{said}");
}

/// This test fails on a version that adds another time limit.
#[test]
fn every_time_limit_of_the_server_is_known() {
    let cluster = Cluster::new();
    let rows = cluster.connect().query(
        "SELECT name FROM pg_settings WHERE context = 'user' AND name ~ 'timeout'",
        &[],
    );
    for row in rows.expect("settings") {
        let name: String = row.get(0);
        assert!(TIMEOUTS.contains(&name.as_str()), "{name}");
    }
}
