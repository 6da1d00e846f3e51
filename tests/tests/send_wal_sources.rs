//! Where streamed WAL comes from: a standby whose timeline changes, and one that reads an archive.

use std::path::Path;

use backup_tests::replication::catch_up;
use backup_tests::server::{Cluster, Shutdown};
use backup_tests::stepwise::Stepwise;
use backup_tests::stream::{copy_of, copy_out};
use backup_tests::wal::{end_of_segments, switch_wal};
use postgres::Client;

/// Streams all WAL that is complete into a backup, and confirms it.
#[track_caller]
fn stream_wal(client: &mut Client, taken: &Stepwise) -> Vec<String> {
    let id = taken.started.id;
    let mut from = "NULL".to_owned();
    let mut names = Vec::new();
    loop {
        let call = format!("send_wal({id}, {from}, wait => '0')");
        let archive =
            copy_out(client, &copy_of(&call)).unwrap_or_else(|failure| panic!("{call}: {failure}"));
        taken.backup.unpack(&archive);
        let members = backup_tests::member::members(&archive);
        names.extend(members.iter().map(|member| member.name()));
        match end_of_segments(&archive) {
            Some(end) => from = format!("'{end}'"),
            None => return names,
        }
    }
}

fn rows(cluster: &Cluster) -> i64 {
    let row = cluster.connect().query_one("SELECT count(*) FROM t", &[]);
    row.expect("the table").get(0)
}

#[track_caller]
fn restore_alone(taken: Stepwise) -> Cluster {
    let mut restored = taken.backup.into_cluster();
    let _ = std::fs::remove_file(restored.data_dir().join("standby.signal"));
    restored.write_file("postgresql.auto.conf", b"");
    restored.append_to_conf("restore_command = ''\n");
    restored.start();
    restored
}

/// The upstream server of a standby is promoted. Segments of both timelines are sent.
#[test]
fn wal_is_streamed_over_a_change_of_the_timeline() {
    // The standby without a slot may come late after the promotion.
    let mut first = Cluster::builder()
        .initdb_arg("--wal-segsize=1")
        .setting("wal_keep_size", "64MB")
        .start();
    first.execute("CREATE TABLE t AS SELECT generate_series(1, 10000) AS a");
    let second = first.standby();
    let third = second.standby();
    catch_up(&first, &third);
    let mut taken = Stepwise::start(&third, "retain_wal => true");
    let mut client = third.connect();
    first.execute("INSERT INTO t SELECT generate_series(1, 10000)");
    switch_wal(&mut first.connect());
    // The switch of the timeline is in the middle of a segment.
    first.execute("INSERT INTO t SELECT generate_series(1, 1000)");
    catch_up(&first, &second);
    catch_up(&second, &third);
    let before = stream_wal(&mut client, &taken);
    assert!(
        before
            .iter()
            .any(|name| name.starts_with("pg_wal/00000001"))
    );

    first.stop(Shutdown::Fast);
    second.execute("SELECT pg_promote()");
    second.execute("INSERT INTO t SELECT generate_series(1, 10000)");
    switch_wal(&mut second.connect());
    second.execute("CHECKPOINT");
    catch_up(&second, &third);
    third.execute("CHECKPOINT");
    let after = stream_wal(&mut client, &taken);
    assert!(after.iter().any(|name| name == "pg_wal/00000002.history"));
    assert!(
        after
            .iter()
            .any(|name| name.starts_with("pg_wal/00000002000000")),
        "{after:?}"
    );
    taken.send_files();
    taken.stop();
    taken.backup.verify();
    let restored = restore_alone(taken);
    assert_eq!(rows(&restored), 31_000);
    restored.amcheck();
}

/// Standby that has nothing but the archive of its primary.
fn reads_archive(primary: &Cluster, archive: &Path, settings: &str) -> Cluster {
    let mut standby = primary.standby_stopped();
    // No primary_conninfo.
    standby.write_file("postgresql.auto.conf", b"");
    standby.append_to_conf(&format!(
        "restore_command = 'cp {}/%f %p'
         wal_retrieve_retry_interval = '100ms'\n{settings}\n",
        archive.display()
    ));
    standby.start();
    standby
}

#[test]
fn a_standby_that_reads_an_archive_streams_what_it_has_replayed() {
    let mut primary = Cluster::builder().initdb_arg("--wal-segsize=1").create();
    let archive = primary.make_dir("archive");
    primary.append_to_conf(&format!(
        "archive_mode = on\narchive_command = 'cp %p {}/%f'\n",
        archive.display()
    ));
    primary.start();
    primary.create_extension("postgres");
    primary.execute("CREATE TABLE t AS SELECT generate_series(1, 10000) AS a");
    for settings in [
        "archive_mode = on",
        "archive_mode = always\narchive_command = 'true'",
    ] {
        let mut standby = reads_archive(&primary, &archive, settings);
        let mut on_primary = primary.connect();
        primary.execute("CHECKPOINT");
        switch_wal(&mut on_primary);
        let mut taken = Stepwise::start(&standby, "retain_wal => true");
        let expected = rows(&primary) + 20_000;
        for _ in 0..2 {
            primary.execute("INSERT INTO t SELECT generate_series(1, 10000)");
            switch_wal(&mut on_primary);
        }
        primary.execute("CHECKPOINT");
        switch_wal(&mut on_primary);
        standby.wait_for_sql(
            "the standby to replay",
            &format!("SELECT count(*) = {expected} FROM t"),
        );
        let mut client = standby.connect();
        let sent = stream_wal(&mut client, &taken);
        assert!(sent.len() >= 4, "{settings}: {sent:?}");
        taken.send_files();
        standby.execute("CHECKPOINT");
        taken.stop();
        taken.backup.verify();
        // An immediate shutdown would end a restore_command with a signal, which the log tells.
        standby.stop(Shutdown::Fast);
        let restored = restore_alone(taken);
        assert!(rows(&restored) >= expected - 10_000, "{settings}");
        restored.amcheck();
    }
    // The same holds for an archive_command.
    primary.stop(Shutdown::Fast);
}
