//! Turns a data directory into a standby, and waits until a standby has caught up with its primary.

use crate::server::Cluster;

/// Waits until a standby has replayed everything that its primary has written by now. The primary
/// may itself be a standby.
#[track_caller]
pub fn catch_up(primary: &Cluster, standby: &Cluster) {
    let row = primary.connect().query_one(
        "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()
                     ELSE pg_current_wal_flush_lsn() END::text",
        &[],
    );
    let lsn: String = row.expect("the end of the WAL").get(0);
    standby.wait_for_sql(
        "the standby to catch up",
        &format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'"),
    );
}

/// Turns a stopped cluster into a standby of another.
#[track_caller]
pub fn follow(cluster: &Cluster, primary: &Cluster) {
    cluster.append_to_conf(&format!(
        "primary_conninfo = '{}'\n",
        primary.connection_string()
    ));
    cluster.write_file("standby.signal", b"");
}
