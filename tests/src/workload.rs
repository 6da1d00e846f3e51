//! pgbench: transactions that run during a backup, and the sums that must agree afterwards.

use std::process::{Child, Stdio};

use postgres::Client;

use crate::program::{command, succeed};
use crate::server::Cluster;
use crate::wait::{PATIENCE, wait_for};

/// Creates a table of about this many megabytes, uncompressed and on disk.
#[track_caller]
pub fn create_table(cluster: &Cluster, name: &str, megabytes: u32) {
    let rows = megabytes * 8 * 128;
    cluster.execute(&format!(
        "CREATE TABLE {name} AS
             SELECT i, repeat('x', 900) AS filler FROM generate_series(1, {rows}) AS i"
    ));
    cluster.execute("CHECKPOINT");
}

/// Path of a table's file, relative to the data directory.
#[track_caller]
pub fn path_of(client: &mut Client, table: &str) -> String {
    client
        .query_one("SELECT pg_relation_filepath($1::text::regclass)", &[&table])
        .expect("the path of a table")
        .get(0)
}

/// pgbench process that runs until stopped.
pub struct Pgbench(Child);

impl Pgbench {
    /// Fills the four tables of pgbench in database `postgres`, with 15 MB per unit of `scale`.
    #[track_caller]
    pub fn fill(cluster: &Cluster, scale: u32) {
        succeed(
            command("pgbench")
                .args(cluster.connection_args("postgres"))
                .args(["-i", "-q", "-s", &scale.to_string(), "postgres"]),
        );
    }

    /// Starts the transactions and waits for the first. The rate is limited, so that the WAL volume
    /// of a test does not depend on the speed of the machine.
    #[track_caller]
    pub fn run(cluster: &Cluster, per_second: u32) -> Self {
        let mut client = cluster.connect();
        let mut written = || -> i64 {
            client
                .query_one("SELECT count(*) FROM pgbench_history", &[])
                .expect("pgbench_history")
                .get(0)
        };
        let before = written();
        let pgbench = command("pgbench")
            .args(cluster.connection_args("postgres"))
            .args(["-n", "-c", "2", "-T", "3600", "-R", &per_second.to_string()])
            .arg("postgres")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("could not run pgbench");
        let pgbench = Pgbench(pgbench);
        wait_for("pgbench to write", PATIENCE, || written() > before);
        pgbench
    }

    /// Stops pgbench. Transactions in progress are rolled back.
    pub fn stop(self) {}
}

impl Drop for Pgbench {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Checks that the balances of accounts, tellers and branches agree with the history. Returns the
/// number of transactions in the history.
#[track_caller]
pub fn assert_balanced(client: &mut Client) -> i64 {
    let row = client
        .query_one(
            "SELECT (SELECT sum(abalance)::bigint FROM pgbench_accounts),
                    (SELECT sum(tbalance)::bigint FROM pgbench_tellers),
                    (SELECT sum(bbalance)::bigint FROM pgbench_branches),
                    (SELECT coalesce(sum(delta), 0)::bigint FROM pgbench_history),
                    (SELECT count(*) FROM pgbench_history)",
            &[],
        )
        .expect("the sums of pgbench");
    let sums: [i64; 4] = std::array::from_fn(|column| row.get(column));
    assert!(
        sums.iter().all(|sum| *sum == sums[0]),
        "accounts, tellers, branches and history do not agree: {sums:?}"
    );
    row.get(4)
}
