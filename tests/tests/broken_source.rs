//! Sources that temporarily cannot be backed up: a damaged or missing `pg_control`, WAL segments of
//! another size or removed in mid-stream, an unreadable directory. The backup ends with an error
//! that names the file. After a repair the next backup succeeds.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use backup_tests::backup::{Backup, start, try_send_stop, try_start};
use backup_tests::builder::Builder;
use backup_tests::failure::{Failure, expect_failure};
use backup_tests::leftover;
use backup_tests::member;
use backup_tests::program::{give_to_owner, make_dir};
use backup_tests::server::Cluster;
use backup_tests::stepwise::Stepwise;
use backup_tests::stream::{Worker, copy_of, copy_out};
use backup_tests::wal::{exists, segment_of, switch_wal, write_much, write_until_gone};
use postgres::Client;

const MEGABYTE: u64 = 1 << 20;

const PG_CONTROL: &str = "global/pg_control";

fn builder() -> Builder {
    Cluster::builder().setting("dynamic_shared_memory_type", "mmap")
}

/// Backup that only needs to be stopped.
#[track_caller]
fn ready_to_stop(cluster: &Cluster) -> Client {
    let mut taken = Stepwise::start(cluster, "retain_wal => true");
    taken.send_files();
    taken.leader
}

/// Errors of both functions that stop a backup, each with a backup of its own. Checks that the
/// backups have ended.
#[track_caller]
fn failed_stops(cluster: &Cluster, break_it: impl Fn(), mend: impl Fn()) -> Vec<Failure> {
    type Stop = fn(&mut Client) -> Result<(), Failure>;
    let stops: [(&str, Stop); 2] = [
        ("stop_backup()", |leader| {
            let stopped = leader.query("SELECT * FROM stop_backup()", &[]);
            stopped.map(|_| ()).map_err(Failure::from)
        }),
        ("send_stop_backup()", |leader| {
            try_send_stop(leader, "wal => true").map(|_| ())
        }),
    ];
    let failures = stops.map(|(what, stop)| {
        let mut leader = ready_to_stop(cluster);
        break_it();
        let failure = expect_failure(what, stop(&mut leader));
        leftover::assert_none(cluster);
        mend();
        // The session can start another backup, which shows no trace of the fault.
        let whole = copy_of("base_backup(fast => true, wal => true)");
        let stream = copy_out(&mut leader, &whole).expect("base_backup()");
        let backup = Backup::folder(cluster);
        backup.unpack(&stream);
        backup.verify();
        failure
    });
    failures.into()
}

#[test]
fn a_damaged_pg_control_fails_the_stop() {
    let cluster = builder().start();
    let flip = || cluster.change_page(PG_CONTROL, 0, |bytes| bytes[100] ^= 1);
    for failure in failed_stops(&cluster, flip, flip) {
        failure.assert(
            "XX001",
            "incorrect checksum in control file \"global/pg_control\"",
        );
    }
}

#[test]
fn a_torn_pg_control_fails_the_stop() {
    let cluster = builder().start();
    let path = cluster.data_dir().join(PG_CONTROL);
    let whole = std::cell::RefCell::new(Vec::new());
    let tear = || {
        whole.replace(fs::read(&path).expect("pg_control"));
        fs::write(&path, &whole.borrow()[..200]).expect("pg_control to write");
    };
    let mend = || fs::write(&path, &*whole.borrow()).expect("pg_control to write");
    for failure in failed_stops(&cluster, tear, mend) {
        failure.assert(
            "XX001",
            "incorrect checksum in control file \"global/pg_control\"",
        );
        assert_eq!(failure.detail, "200 of 8192 bytes were read.");
    }
}

#[test]
fn a_missing_pg_control_fails_the_stop() {
    let cluster = builder().start();
    let path = cluster.data_dir().join(PG_CONTROL);
    let aside = cluster.data_dir().join("global/pg_control.aside");
    let take_away = || fs::rename(&path, &aside).expect("pg_control to rename");
    let put_back = || fs::rename(&aside, &path).expect("pg_control to rename");
    for failure in failed_stops(&cluster, take_away, put_back) {
        failure.assert(
            "58P01",
            "could not open file \"global/pg_control\": No such file or directory",
        );
    }
}

#[test]
fn a_directory_that_may_not_be_read_fails_the_start() {
    let cluster = builder().start();
    let closed = cluster.data_dir().join("base/closed");
    make_dir(&closed);
    let set_mode = |mode| fs::set_permissions(&closed, Permissions::from_mode(mode)).expect("mode");
    set_mode(0o000);
    let mut leader = cluster.connect();
    let message = "could not open directory \"base/closed\": Permission denied";
    let started = try_start(&mut leader, "retain_wal => true");
    expect_failure("a start", started).assert("42501", message);
    leftover::assert_none(&cluster);
    let whole = copy_of("base_backup(fast => true, retain_wal => true)");
    expect_failure(&whole, copy_out(&mut leader, &whole)).assert("42501", message);
    leftover::assert_none(&cluster);
    set_mode(0o700);
    start(&mut leader, "");
}

#[test]
fn a_file_that_may_not_be_read_fails_the_start() {
    let cluster = builder().start();
    let (_, location) = cluster.create_tablespace("outside");
    let version = fs::read_dir(&location).expect("a tablespace").next();
    let version = version.expect("a directory").expect("its name");
    let inside = version.path().join("closed");
    for path in [
        cluster.data_dir().join("closed"),
        cluster.data_dir().join("base/1/closed"),
        inside,
    ] {
        fs::write(&path, "1").expect("a file");
        give_to_owner(&path);
        let set_mode =
            |mode| fs::set_permissions(&path, Permissions::from_mode(mode)).expect("mode");
        set_mode(0o044);
        let mut leader = cluster.connect();
        let started = try_start(&mut leader, "retain_wal => true");
        let failure = expect_failure("a start", started);
        assert_eq!(failure.sqlstate, "42501", "{failure}");
        let tail = path.strip_prefix(cluster.data_dir());
        let tail = tail.map_or_else(|_| "/closed".to_owned(), |path| path.display().to_string());
        assert!(
            failure.message.starts_with("could not open file \""),
            "{failure}"
        );
        let end = format!("{tail}\": Permission denied");
        assert!(failure.message.ends_with(&end), "{failure}");
        assert!(failure.detail.contains("mode 0044"), "{failure}");
        leftover::assert_none(&cluster);
        let whole = copy_of("base_backup(fast => true, retain_wal => true)");
        let failure = expect_failure(&whole, copy_out(&mut leader, &whole));
        assert!(failure.message.ends_with(&end), "{failure}");
        leftover::assert_none(&cluster);
        // With the setting the file is an error of its stream.
        let list = "SET pg_parallel_backup.list_unreadable_files = on";
        leader.batch_execute(list).expect("SET");
        start(&mut leader, "");
        let sent = copy_out(&mut leader, &copy_of("send_backup_files()"));
        let failure = expect_failure("a stream", sent);
        assert!(failure.message.ends_with(&end), "{failure}");
        set_mode(0o600);
        start(&mut cluster.connect(), "");
        fs::remove_file(&path).expect("remove the file");
    }
}

#[test]
fn a_file_of_another_owner_that_may_be_read_is_sent() {
    let cluster = builder().start();
    let path = cluster.data_dir().join("of_another");
    fs::write(&path, "1").expect("a file");
    let owner = fs::metadata(&path).expect("the file").uid();
    let server = fs::metadata(cluster.data_dir()).expect("a directory");
    if owner == server.uid() {
        eprintln!("skipped: only root can make files of another owner");
        return;
    }
    let set_mode = |mode| fs::set_permissions(&path, Permissions::from_mode(mode)).expect("mode");
    let sent = |client: &mut Client| copy_out(client, &copy_of("base_backup(fast => true)"));
    set_mode(0o604);
    let stream = sent(&mut cluster.connect()).expect("readable for others");
    member::expect(&stream, "of_another");
    set_mode(0o600);
    expect_failure("a file of root", sent(&mut cluster.connect())).assert(
        "42501",
        "could not open file \"of_another\": Permission denied",
    );
    set_mode(0o640);
    chown(&path, None, Some(server.gid())).expect("chown");
    let stream = sent(&mut cluster.connect()).expect("readable for the group");
    member::expect(&stream, "of_another");
}

/// Cluster with small segments, some of them needed by a backup that is about to stop. Returns the
/// first of these.
#[track_caller]
fn with_segments(cluster: &Cluster, options: &str, count: u32) -> (Stepwise, String) {
    let mut taken = Stepwise::start(cluster, options);
    taken.send_files();
    let mut client = cluster.connect();
    let first = segment_of(&mut client, &taken.started.start_lsn);
    for _ in 0..count {
        switch_wal(&mut client);
    }
    (taken, first)
}

#[test]
fn a_segment_of_another_size_fails_the_stop() {
    let cluster = builder().initdb_arg("--wal-segsize=1").start();
    for size in [MEGABYTE / 2, 0, MEGABYTE + 1] {
        let (mut taken, first) = with_segments(&cluster, "", 1);
        let path = cluster.data_dir().join("pg_wal").join(&first);
        let whole = fs::read(&path).expect("the segment");
        let file = File::options().write(true).open(&path);
        file.and_then(|file| file.set_len(size))
            .expect("a segment to resize");
        let failure = taken
            .try_stream("send_stop_backup(wal => true)")
            .expect_err("a backup with a segment of another size");
        failure.assert("XX001", &format!("unexpected WAL file size \"{first}\""));
        leftover::assert_none(&cluster);
        fs::write(&path, whole).expect("the segment to write");
        start(&mut taken.leader, "");
    }
}

/// Cluster that keeps its WAL until `forget` is called.
fn keeping() -> Cluster {
    builder()
        .initdb_arg("--wal-segsize=1")
        .setting("min_wal_size", "2MB")
        .setting("max_wal_size", "1GB")
        .start()
}

fn forget(cluster: &Cluster) {
    cluster.execute("ALTER SYSTEM SET max_wal_size = '2MB'");
    cluster.execute("SELECT pg_reload_conf()");
}

#[test]
fn a_segment_that_vanishes_while_the_closing_tar_is_sent_is_named() {
    let cluster = keeping();
    let (taken, _) = with_segments(&cluster, "", 12);
    let last = {
        let row = cluster.connect().query_one(
            "SELECT pg_walfile_name(pg_current_wal_insert_lsn() - 1)",
            &[],
        );
        row.expect("pg_walfile_name()").get::<_, String>(0)
    };
    let stop = copy_of("send_stop_backup(wal => true)");
    let stopping = Worker::take_over(taken.leader, taken.notices, &stop, MEGABYTE / 2);
    stopping.wait_for_bytes(MEGABYTE / 2);
    forget(&cluster);
    write_until_gone(&cluster, &last);
    let failure = stopping.expect_failure();
    let (head, tail) = ("requested WAL segment ", " has already been removed");
    let named = failure.message.strip_prefix(head);
    let named = named.and_then(|rest| rest.strip_suffix(tail));
    // Which segment is reached first depends on how much is already in transit.
    assert!(
        named.is_some_and(|named| named.len() == 24 && *named <= *last),
        "{failure}"
    );
    leftover::assert_none(&cluster);
    start(&mut cluster.connect(), "");
}

#[test]
fn retained_segments_stay_until_the_closing_tar_is_sent() {
    let cluster = keeping();
    let (taken, first) = with_segments(&cluster, "retain_wal => true", 12);
    let stop = copy_of("send_stop_backup(wal => true)");
    let stopping = Worker::take_over(taken.leader, taken.notices, &stop, MEGABYTE / 2);
    stopping.wait_for_bytes(MEGABYTE / 2);
    forget(&cluster);
    write_much(&cluster);
    assert!(exists(&cluster, &first), "{first} is gone");
    let closing = stopping.expect();
    member::expect(&closing, &format!("pg_wal/{first}"));
    taken.backup.unpack(&closing);
    taken.backup.verify();
    leftover::assert_none(&cluster);
    write_until_gone(&cluster, &first);
}
