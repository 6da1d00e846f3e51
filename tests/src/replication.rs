//! Standbys: what makes one of a data directory, and waiting until it has what its primary has.

use crate::server::Cluster;

/// Waits until a standby has replayed all that its primary has written by now. The primary may be a
/// standby itself.
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

/// Makes a stopped cluster a standby of another.
#[track_caller]
pub fn follow(cluster: &Cluster, primary: &Cluster) {
    cluster.append_to_conf(&format!(
        "primary_conninfo = '{}'\n",
        primary.connection_string()
    ));
    cluster.write_file("standby.signal", b"");
}
