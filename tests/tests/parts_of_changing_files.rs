//! Large files that are cut off to nothing or removed while workers share their parts.

use backup_tests::backup::start;
use backup_tests::backup::{Backup, send_stop};
use backup_tests::parts::{
    IN_FIRST_PART, assert_zeros, cluster_with_large_table, copy_in_parts, halt_in_parts, offsets,
    split, verified,
};
use backup_tests::program::make_dir;
use backup_tests::server::Cluster;
use backup_tests::stream::{copy_of, copy_out};
use backup_tests::workload::path_of;

/// The other parts are zeros, whether the file is empty by then or gone. The WAL brings what came afterwards.
#[test]
fn a_table_that_is_truncated_between_its_parts_has_its_new_rows() {
    for checkpoint in [false, true] {
        let (cluster, path) = cluster_with_large_table();
        let mut leader = cluster.connect();
        let id = start(&mut leader, "").id;
        let first = halt_in_parts(&cluster, id, IN_FIRST_PART);
        cluster.execute("TRUNCATE large; INSERT INTO large SELECT generate_series(1, 10), 'new'");
        if checkpoint {
            cluster.execute("CHECKPOINT");
        }
        let old = std::fs::metadata(cluster.data_dir().join(&path));
        assert_eq!(old.ok().map(|old| old.len()), (!checkpoint).then_some(0));
        let second = copy_out(&mut cluster.connect(), &copy_in_parts(id)).expect("a stream");
        let (parts, _) = split(&second);
        assert_eq!(parts.len(), 4);
        for part in &parts {
            assert_zeros(&part.content, part.offset);
        }
        let backup = verified(&cluster, &mut leader, &[first.expect(), second]);
        let mut restored = backup.restore();
        restored.wait_for_sql(
            "the new rows",
            "SELECT count(*) = 10 AND bool_and(filler = 'new') FROM large",
        );
        restored.execute("CHECKPOINT");
        assert!(!restored.data_dir().join(&path).exists());
        restored.stop_and_check_checksums();
    }
}

/// Its directory is gone, too. The WAL removes what has arrived.
#[test]
fn a_database_that_is_dropped_between_parts_is_gone_after_recovery() {
    let cluster = Cluster::builder().setting("autovacuum", "off").start();
    cluster.execute("CREATE DATABASE other");
    let mut other = cluster.connect_to("other");
    other
        .batch_execute(
            "CREATE TABLE large AS
                 SELECT i, repeat('x', 900) AS filler FROM generate_series(1, 70 * 1024) AS i;
             CHECKPOINT",
        )
        .expect("a table");
    let path = path_of(&mut other, "large");
    drop(other);
    let (directory, _) = path.rsplit_once('/').expect("a directory");
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    // DROP DATABASE waits for sessions that wait for their clients, so this one has ended its stream.
    let limited = copy_of(&format!(
        "send_backup_files({id}, parts => true, max_bytes => 1)"
    ));
    let first = copy_out(&mut cluster.connect(), &limited).expect("a stream");
    assert_eq!(offsets(&split(&first).0, &path), [0]);
    cluster.execute("DROP DATABASE other WITH (FORCE)");
    assert!(!cluster.data_dir().join(directory).exists());
    let second = copy_out(&mut cluster.connect(), &copy_in_parts(id)).expect("a stream");
    let (parts, _) = split(&second);
    assert_eq!(offsets(&parts, &path).len(), 4);
    for part in &parts {
        assert_zeros(&part.content, part.offset);
    }
    let backup = Backup::folder(&cluster);
    // Nobody sends a directory that is gone.
    make_dir(&backup.data_dir().join("base"));
    make_dir(&backup.data_dir().join(directory));
    backup.unpack_parts(&[first, second]);
    backup.unpack(&send_stop(&mut leader));
    backup.verify();
    let mut restored = backup.restore();
    restored.wait_for_sql(
        "the database to be gone",
        "SELECT NOT EXISTS (SELECT FROM pg_database WHERE datname = 'other')",
    );
    assert!(!restored.data_dir().join(directory).exists());
    restored.stop_and_check_checksums();
}
