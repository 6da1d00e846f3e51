//! Tablespaces that are created, moved into and dropped during a backup.

use std::path::{Path, PathBuf};

use backup_tests::server::{Cluster, Shutdown};
use backup_tests::stepwise::Stepwise;
use backup_tests::stream::{Worker, copy_of};
use backup_tests::workload::create_table;

const MEGABYTE: u64 = 1 << 20;

/// Creates a table of 1000 rows in a tablespace. The next checkpoint writes it to disk.
fn fill(cluster: &Cluster, tablespace: &str) {
    cluster.execute(&format!(
        "CREATE TABLE of_{tablespace} TABLESPACE {tablespace} AS
             SELECT generate_series(1, 1000) AS a;
         CREATE INDEX ON of_{tablespace} (a) TABLESPACE {tablespace}"
    ));
}

fn make(cluster: &Cluster, tablespace: &str) -> PathBuf {
    let (_, location) = cluster.create_tablespace(tablespace);
    fill(cluster, tablespace);
    location
}

/// Drops a tablespace and its table. The checkpoint closes files that the drop leaves open.
fn drop_with_table(cluster: &Cluster, tablespace: &str) {
    cluster.execute(&format!("DROP TABLE of_{tablespace}"));
    cluster.execute(&format!("DROP TABLESPACE {tablespace}"));
}

fn is_empty(dir: &Path) -> bool {
    dir.read_dir().expect("a folder").next().is_none()
}

#[test]
fn tablespaces_made_and_dropped_during_the_backup_are_restored_as_they_are_at_its_end() {
    let mut cluster = Cluster::builder().setting("autovacuum", "off").start();
    let stays = make(&cluster, "stays");
    let goes_early = make(&cluster, "goes_early");
    let goes_late = make(&cluster, "goes_late");
    cluster.execute("CREATE TABLE moved AS SELECT generate_series(1, 5000) AS a");
    // The first file that a worker takes.
    create_table(&cluster, "big", 8);
    cluster.execute("ALTER TABLE big SET TABLESPACE goes_late");
    cluster.execute("CHECKPOINT");

    let mut taken = Stepwise::start(&cluster, "retain_wal => true");
    drop_with_table(&cluster, "goes_early");
    make(&cluster, "comes_early");
    let copy = copy_of(&format!("send_backup_files({})", taken.started.id));
    let mut worker = Worker::spawn_halting(&cluster, &copy, MEGABYTE);
    worker.wait_for_bytes(MEGABYTE);
    worker.wait_for_full_socket(&cluster);
    // The worker has a file of this tablespace open.
    cluster.execute("DROP TABLE big; DROP TABLE of_goes_late");
    let mut client = cluster.connect();
    let dropping = std::thread::spawn(move || client.batch_execute("DROP TABLESPACE goes_late"));
    // A process that waits for its client does not respond to the barrier, in an ordinary COPY
    // either.
    cluster.wait_for_sql(
        "DROP TABLESPACE to wait for the worker",
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'ProcSignalBarrier')",
    );
    worker.resume();
    let dropped = dropping.join().expect("the thread that drops");
    dropped.expect("DROP TABLESPACE");
    make(&cluster, "comes_and_goes");
    cluster.execute("ALTER TABLE moved SET TABLESPACE comes_early");
    cluster.execute("CHECKPOINT");
    taken.backup.unpack(&worker.expect());
    drop_with_table(&cluster, "comes_and_goes");
    make(&cluster, "comes_late");
    cluster.execute("INSERT INTO of_stays SELECT generate_series(1001, 2000)");
    taken.stop();
    taken.backup.verify();
    for gone in [&goes_early, &goes_late] {
        assert!(is_empty(gone), "{gone:?}");
    }

    // The restored server creates new tablespaces at the locations of the source.
    cluster.stop(Shutdown::Fast);
    let mut restored = taken.backup.restore();
    let mut client = restored.connect();
    let rows = client.query(
        "SELECT spcname::text FROM pg_tablespace WHERE spcname !~ '^pg_' ORDER BY 1",
        &[],
    );
    let names: Vec<String> = rows
        .expect("pg_tablespace")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(names, ["comes_early", "comes_late", "stays"]);
    for (table, count) in [
        ("of_stays", 2000),
        ("of_comes_early", 1000),
        ("of_comes_late", 1000),
        ("moved", 5000),
    ] {
        let row = client.query_one(&format!("SELECT count(*) FROM {table}"), &[]);
        assert_eq!(row.expect("the table").get::<_, i64>(0), count, "{table}");
    }
    drop(client);
    // The tablespace that existed before is at its new location.
    assert!(!is_empty(&stays));
    restored.amcheck();
    restored.stop_and_check_checksums();
    let links = restored.data_dir().join("pg_tblspc");
    assert_eq!(links.read_dir().expect("pg_tblspc").count(), 3);
}
