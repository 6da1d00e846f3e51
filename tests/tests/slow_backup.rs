//! A backup so slow that its source takes checkpoints, recycles WAL and switches timelines
//! meanwhile. Either it restores, or the error names the missing segment.

use std::fs;

use backup_tests::builder::Builder;
use backup_tests::failure::Failure;
use backup_tests::leftover;
use backup_tests::replication::catch_up;
use backup_tests::server::{Cluster, Shutdown};
use backup_tests::stepwise::Stepwise;
use backup_tests::wal::{exists, forgetful};

/// Number of parts in which the files are sent.
const PARTS: usize = 4;

/// Rows added per round.
const ROWS: i64 = 2000;

fn quiet() -> Builder {
    forgetful().setting("autovacuum", "off")
}

fn make_tables(cluster: &Cluster) {
    cluster.execute(
        "CREATE TABLE grown (round int, filler text);
         CREATE TABLE changed AS SELECT i, -1 AS round, repeat('x', 500) AS filler
             FROM generate_series(1, 4000) AS i;
         CREATE INDEX ON changed (i)",
    );
}

/// Writes several times the WAL that the cluster keeps, to every table, and makes the cluster
/// remove old WAL.
fn write_hard(cluster: &Cluster, round: usize) {
    for statement in [
        format!(
            "INSERT INTO grown SELECT {round}, repeat('y', 900) FROM generate_series(1, {ROWS})"
        ),
        format!("UPDATE changed SET round = {round}"),
        "VACUUM changed".to_owned(),
        "CHECKPOINT".to_owned(),
        "SELECT pg_switch_wal()".to_owned(),
        "CHECKPOINT".to_owned(),
    ] {
        cluster.execute(&statement);
    }
}

/// First segment that a backup needs, from its label.
#[track_caller]
fn first_segment(taken: &Stepwise) -> String {
    let label = &taken.started.backup_label;
    let (_, rest) = label.split_once("(file ").expect("a label with a file");
    rest[..24].to_owned()
}

/// Sends the files in parts, and calls `between` before each.
#[track_caller]
fn send_slowly(taken: &mut Stepwise, mut between: impl FnMut(usize)) {
    let entries = taken.listing();
    let files: Vec<_> = entries.iter().map(|entry| entry.path.clone()).collect();
    for (round, part) in files.chunks(files.len().div_ceil(PARTS)).enumerate() {
        between(round);
        let call = format!("send_backup_files(files => '{{{}}}')", part.join(","));
        let stream = taken.stream(&call);
        taken.backup.unpack(&stream);
    }
    between(PARTS);
}

/// Checks that the rows of all rounds exist exactly once.
#[track_caller]
fn assert_all_rounds(restored: &mut Cluster) {
    let rounds = PARTS as i64 + 1;
    let mut client = restored.connect();
    for (query, expected) in [
        (
            "SELECT count(*) FROM grown WHERE filler = repeat('y', 900)",
            rounds * ROWS,
        ),
        ("SELECT count(DISTINCT round) FROM grown", rounds),
        (
            "SELECT sum(round)::bigint FROM changed",
            4000 * (rounds - 1),
        ),
    ] {
        let row = client.query_one(query, &[]);
        assert_eq!(row.expect(query).get::<_, i64>(0), expected, "{query}");
    }
    drop(client);
    restored.amcheck();
    restored.stop_and_check_checksums();
}

/// Checks that the stop fails because the first segment is missing, and that the backup ends.
#[track_caller]
fn assert_names_what_is_gone(cluster: &Cluster, mut taken: Stepwise, first: &str) {
    assert!(!exists(cluster, first), "{first} is still there");
    let stopped = taken.try_stream("send_stop_backup(wal => true)");
    let failure: Failure = stopped.expect_err("a backup whose WAL is gone");
    let gone = format!("requested WAL segment {first} has already been removed");
    assert_eq!(failure.message, gone, "{failure}");
    leftover::assert_none(cluster);
}

#[test]
fn a_slow_backup_that_retains_its_wal_is_restored() {
    let cluster = quiet().start();
    make_tables(&cluster);
    let mut taken = Stepwise::start(&cluster, "retain_wal => true");
    let first = first_segment(&taken);
    send_slowly(&mut taken, |round| write_hard(&cluster, round));
    assert!(exists(&cluster, &first), "{first} is gone");
    taken.stop();
    taken.backup.verify();
    assert_all_rounds(&mut taken.backup.restore());
}

#[test]
fn a_slow_backup_that_does_not_retain_its_wal_names_what_is_gone() {
    let cluster = quiet().start();
    make_tables(&cluster);
    let mut taken = Stepwise::start(&cluster, "");
    let first = first_segment(&taken);
    send_slowly(&mut taken, |round| write_hard(&cluster, round));
    assert_names_what_is_gone(&cluster, taken, &first);
}

/// Standby of a standby. Its source is promoted in the middle of the backup.
struct Cascade {
    first: Option<Cluster>,
    second: Cluster,
    third: Cluster,
}

impl Cascade {
    fn start() -> Self {
        let first = quiet().start();
        make_tables(&first);
        let second = first.standby();
        let third = second.standby();
        // An upstream server keeps the WAL that its standby may still request.
        for followed in [&first, &second] {
            followed.execute("ALTER SYSTEM SET wal_keep_size = '256MB'");
            followed.execute("SELECT pg_reload_conf()");
        }
        catch_up(&first, &third);
        Cascade {
            first: Some(first),
            second,
            third,
        }
    }

    /// Writes one round at the head of the cascade, which changes midway.
    fn round(&mut self, round: usize) {
        if round == PARTS / 2
            && let Some(mut first) = self.first.take()
        {
            catch_up(&first, &self.second);
            first.stop(Shutdown::Fast);
            self.second.execute("SELECT pg_promote()");
        }
        let primary = self.first.as_ref().unwrap_or(&self.second);
        write_hard(primary, round);
        catch_up(primary, &self.third);
        // A restartpoint, at which a standby removes WAL.
        self.third.execute("CHECKPOINT");
    }
}

#[test]
fn a_slow_backup_of_a_standby_whose_timeline_changes_is_restored() {
    let mut cascade = Cascade::start();
    let mut taken = Stepwise::start(&cascade.third, "retain_wal => true");
    let first = first_segment(&taken);
    send_slowly(&mut taken, |round| cascade.round(round));
    assert!(exists(&cascade.third, &first), "{first} is gone");
    taken.stop();
    taken.backup.verify();
    let mut restored = taken.backup.into_cluster();
    fs::remove_file(restored.data_dir().join("standby.signal")).expect("standby.signal");
    restored.start();
    assert_all_rounds(&mut restored);
}

#[test]
fn a_slow_backup_of_a_standby_whose_timeline_changes_names_what_is_gone() {
    let mut cascade = Cascade::start();
    let mut taken = Stepwise::start(&cascade.third, "");
    let first = first_segment(&taken);
    send_slowly(&mut taken, |round| cascade.round(round));
    assert_names_what_is_gone(&cascade.third, taken, &first);
}
