//! Clusters with very many files and with very large files: the listing, the queue, the progress,
//! the manifest, and the memory of the processes that hold them.
//!
//! `BACKUP_TESTS_FILES=1000000` makes the first test use a million files instead of a hundred
//! thousand.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use backup_tests::backup::{Backup, start};
use backup_tests::leftover;
use backup_tests::planted::{self, SEGMENT};
use backup_tests::program::{account, command, run_with_input};
use backup_tests::server::Cluster;
use backup_tests::session::backend_pid;
use backup_tests::stream::{Worker, copy_of};
use backup_tests::wait::{PATIENCE, wait_for};
use postgres::Client;
use tar::Header;

const MEGABYTE: u64 = 1 << 20;

/// OID of database `postgres` in every cluster.
const DATABASE: u32 = 5;

fn cluster() -> Cluster {
    Cluster::builder()
        .setting("dynamic_shared_memory_type", "mmap")
        .setting("autovacuum", "off")
        .start()
}

/// Runs a query that returns one number.
#[track_caller]
fn number(client: &mut Client, query: &str) -> i64 {
    match client.query_one(query, &[]) {
        Ok(row) => row.get(0),
        Err(error) => panic!("{query}: {error}"),
    }
}

/// Private memory of a process, in bytes.
#[track_caller]
fn own_memory(pid: i32) -> u64 {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).expect("the status of a process");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|rest| rest.trim().strip_suffix(" kB"));
    kilobytes
        .and_then(|text| text.parse::<u64>().ok())
        .expect("RssAnon")
        * 1024
}

/// Entries and bytes of the backup, and entries and bytes sent.
fn progress(client: &mut Client) -> [i64; 4] {
    let row = client
        .query_one(
            "SELECT files_total, bytes_total, files_sent, bytes_sent FROM backup_progress()",
            &[],
        )
        .expect("backup_progress()");
    std::array::from_fn(|column| row.get(column))
}

/// Size of the largest shared memory segment, for a cluster that keeps them in its data directory.
#[track_caller]
fn largest_segment(cluster: &Cluster) -> u64 {
    fs::read_dir(cluster.data_dir().join("pg_dynshmem"))
        .expect("pg_dynshmem")
        .map(|entry| {
            entry
                .and_then(|entry| entry.metadata())
                .map_or(0, |metadata| metadata.len())
        })
        .max()
        .unwrap_or(0)
}

/// Prints a value for manual runs: `cargo test … -- --nocapture`.
fn tell(what: &str, value: impl std::fmt::Display) {
    println!("{what}: {value}");
}

#[test]
fn a_hundred_thousand_files_are_listed_sent_and_verified_in_bounded_memory() {
    const DATABASES: u32 = 4;
    const FIRST_DATABASE: u32 = 4_000_000;
    let files: u32 = std::env::var("BACKUP_TESTS_FILES").map_or(100_000, |text| {
        text.parse().expect("BACKUP_TESTS_FILES is a number")
    });
    let cluster = cluster();
    let mut leader = cluster.connect();
    let own = number(&mut leader, "SELECT count(*) FROM backup_filelist()");
    for place in 0..DATABASES {
        planted::database(&cluster, FIRST_DATABASE + place, files / DATABASES);
    }
    let expected = own + i64::from(files / DATABASES * DATABASES + DATABASES);

    let begin = Instant::now();
    assert_eq!(
        number(&mut leader, "SELECT count(*) FROM backup_filelist()"),
        expected
    );
    tell(
        "seconds of backup_filelist()",
        begin.elapsed().as_secs_f64(),
    );
    let begin = Instant::now();
    let started = start(&mut leader, "");
    assert_eq!(started.file_count, expected);
    tell("seconds of start_backup()", begin.elapsed().as_secs_f64());
    let total = [started.file_count, started.total_bytes];
    assert_eq!(progress(&mut leader), [total[0], total[1], 0, 0]);
    let paths = number(
        &mut leader,
        "SELECT sum(octet_length(path))::bigint FROM backup_filelist()",
    );
    let segment = largest_segment(&cluster);
    tell("bytes of the shared segment", segment);
    assert!(
        segment <= (100 * expected + paths) as u64 + MEGABYTE,
        "{segment}"
    );

    // Send everything to the blackhole first, then to clients.
    let mut session = cluster.connect();
    let pid = backend_pid(&mut session);
    let idle = own_memory(pid);
    let call = format!(
        "SELECT send_backup_files({}, target => 'blackhole')",
        started.id
    );
    session.batch_execute(&call).expect("the blackhole");
    assert_bounded(
        "a worker into the blackhole",
        own_memory(pid),
        idle,
        16 * MEGABYTE,
    );
    assert_eq!(
        progress(&mut leader),
        [total[0], total[1], total[0], total[1]]
    );

    let copy = copy_of(&format!("send_backup_files({})", started.id));
    let begin = Instant::now();
    let sessions = [
        cluster.connect_with_notices(),
        cluster.connect_with_notices(),
    ];
    let workers = sessions.map(|(mut client, notices)| {
        let idle = own_memory(backend_pid(&mut client));
        (Worker::take_over(client, notices, &copy, u64::MAX), idle)
    });
    let mut most = [0; 2];
    wait_for("the streams", PATIENCE * 10, || {
        for ((worker, idle), most) in workers.iter().zip(&mut most) {
            if !worker.is_finished() {
                *most = own_memory(worker.pid).saturating_sub(*idle).max(*most);
            }
        }
        workers.iter().all(|(worker, _)| worker.is_finished())
    });
    for growth in most {
        assert_bounded("a worker", growth, 0, 16 * MEGABYTE);
    }
    let streams = workers.map(|(worker, _)| worker.expect());
    tell("seconds of two streams", begin.elapsed().as_secs_f64());
    assert_eq!(
        progress(&mut leader),
        [total[0], total[1], total[0], total[1]]
    );

    // Halt the closing tar in the middle of the manifest, which the leader does not keep in memory.
    let pid = backend_pid(&mut leader);
    let before = own_memory(pid);
    let begin = Instant::now();
    let copy = copy_of("send_stop_backup()");
    let notices = backup_tests::notices::Notices::default();
    let stopping = Worker::take_over(leader, notices, &copy, MEGABYTE);
    stopping.wait_for_bytes(MEGABYTE);
    let held = own_memory(pid);
    let closing = stopping.expect();
    tell("seconds of the stop", begin.elapsed().as_secs_f64());
    tell("bytes of the closing tar", closing.len());
    tell("bytes of the leader before the stop", before);
    assert_bounded(
        "the leader that stops",
        held,
        before,
        4 * expected as u64 + 4 * MEGABYTE,
    );
    leftover::assert_none(&cluster);

    // The files of one directory are enough for pg_verifybackup. Unpacking all would take long.
    let backup = Backup::folder(&cluster);
    let left_out: Vec<_> = (1..DATABASES)
        .map(|place| format!("base/{}", FIRST_DATABASE + place))
        .collect();
    for stream in streams.iter().chain([&closing]) {
        let mut tar = command("tar");
        tar.args(["--extract", "--file=-", "--no-same-owner", "--directory"])
            .arg(backup.data_dir())
            .args(left_out.iter().map(|path| format!("--exclude={path}")));
        let output = run_with_input(&mut tar, stream);
        assert!(output.status.success(), "{}", account(&tar, &output));
    }
    let manifest =
        fs::read_to_string(backup.data_dir().join("backup_manifest")).expect("the manifest");
    let listed = manifest.matches("{ \"Path\": \"base/400000").count();
    assert_eq!(listed, (files / DATABASES * DATABASES) as usize);
    let mut verify = vec!["-n"];
    verify.extend(left_out.iter().flat_map(|path| ["-i", path.as_str()]));
    backup.verify_with(&verify);
}

#[track_caller]
fn assert_bounded(who: &str, now: u64, before: u64, limit: u64) {
    let growth = now.saturating_sub(before);
    tell(&format!("bytes by which {who} has grown"), growth);
    assert!(growth <= limit, "{who} has grown by {growth} bytes");
}

/// Header of the first member of a long stream. The client is then killed.
#[track_caller]
fn first_header(cluster: &Cluster, call: &str) -> Header {
    let mut psql = cluster
        .psql_command(&["-c", &copy_of(call)])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("psql");
    let mut header = Header::new_old();
    psql.stdout
        .take()
        .expect("the output of psql")
        .read_exact(header.as_mut_bytes())
        .expect("a header");
    psql.kill().expect("could not kill psql");
    psql.wait().expect("psql");
    cluster.wait_for_sql(
        "its worker to leave",
        "SELECT workers = 0 FROM backup_progress()",
    );
    header
}

#[track_caller]
fn assert_file(header: &Header, path: &str, size: u64) {
    assert_eq!(header.path().expect("a name"), Path::new(path));
    assert_eq!(header.size().expect("a size"), size, "{path}");
    assert!(header.entry_type().is_file(), "{path}");
}

#[test]
fn a_terabyte_is_listed_counted_and_sent() {
    const RELATIONS: u32 = 4;
    const SEGMENTS: u32 = 275;
    let cluster = cluster();
    let mut leader = cluster.connect();
    let own = number(
        &mut leader,
        "SELECT sum(size)::bigint FROM backup_filelist()",
    );
    let relations: Vec<_> = (0..RELATIONS)
        .map(|relation| planted::segments(&cluster, DATABASE, relation, SEGMENTS))
        .collect();
    let planted = i64::from(RELATIONS * SEGMENTS) * SEGMENT as i64;
    assert!(planted > 1 << 40);
    let near = |size: i64| (planted + own - (own / 10)..planted + own + own / 10).contains(&size);
    let listed = number(
        &mut leader,
        "SELECT sum(size)::bigint FROM backup_filelist()",
    );
    assert!(near(listed), "{listed}");

    let started = start(&mut leader, "");
    let total = started.total_bytes;
    assert!(near(total), "{total}");
    let sizes = number(
        &mut leader,
        "SELECT sum(size)::bigint FROM backup_tablespaces()",
    );
    assert_eq!(sizes, total);
    assert_eq!(progress(&mut leader), [started.file_count, total, 0, 0]);

    // A worker that takes from the queue counts the bytes it has sent, and uncounts them on
    // failure.
    let call = format!("send_backup_files({}, max_rate => 16384)", started.id);
    let worker = Worker::spawn(&cluster, &copy_of(&call));
    worker.wait_for_bytes(4 * MEGABYTE);
    let [_, _, _, sent] = progress(&mut leader);
    assert!((MEGABYTE as i64..SEGMENT as i64).contains(&sent), "{sent}");
    assert_eq!(
        number(
            &mut leader,
            "SELECT backup_total FROM pg_stat_progress_basebackup"
        ),
        total
    );
    cluster.execute(&format!("SELECT pg_cancel_backend({})", worker.pid));
    assert_eq!(worker.expect_failure().sqlstate, "57014");
    wait_for("the count to be taken off", PATIENCE, || {
        progress(&mut leader) == [started.file_count, total, 0, 0]
    });

    for (relation, segment) in [(0, 0), (0, 1), (1, 9), (2, 99), (3, 274)] {
        let path = &relations[relation][segment];
        let call = format!("send_backup_files({}, ARRAY['{path}'])", started.id);
        assert_file(&first_header(&cluster, &call), path, SEGMENT);
    }

    // GNU tar reads two whole segments.
    let whole = &relations[3][SEGMENTS as usize - 2..];
    let list = whole.join("','");
    let call = format!("send_backup_files({}, ARRAY['{list}'])", started.id);
    let mut psql = cluster
        .psql_command(&["-c", &copy_of(&call)])
        .stdout(Stdio::piped())
        .spawn()
        .expect("psql");
    let mut tar = command("tar");
    tar.args(["--list", "--verbose", "--blocking-factor=512", "--file=-"])
        .stdin(psql.stdout.take().expect("the output of psql"));
    let output = tar.output().expect("tar");
    assert!(psql.wait().expect("psql").success());
    assert!(output.status.success(), "{}", account(&tar, &output));
    let said = String::from_utf8_lossy(&output.stdout);
    for (line, path) in said.lines().zip(whole) {
        assert!(
            line.contains(&format!(" {SEGMENT} ")) && line.ends_with(path),
            "{said}"
        );
    }
    assert_eq!(said.lines().count(), whole.len());
    assert_eq!(progress(&mut leader)[2..], [2, 2 * SEGMENT as i64]);

    // Files named for the blackhole are only read; they do not count as sent.
    let list = relations[0][..3].join("','");
    let call = format!("SELECT send_backup_files(files => ARRAY['{list}'], target => 'blackhole')");
    leader.batch_execute(&call).expect("the blackhole");
    assert_eq!(progress(&mut leader)[2..], [2, 2 * SEGMENT as i64]);
    leader
        .batch_execute("SELECT abort_backup()")
        .expect("abort_backup()");
    leftover::assert_none(&cluster);
}

/// The size field of a header has room for 8 GB in octal digits.
#[test]
fn a_file_of_nine_gigabytes_is_announced_as_such() {
    const NAME: &str = "big.dat";
    const SIZE: u64 = 9 << 30;
    let cluster = cluster();
    planted::sparse_file(&cluster, NAME, SIZE);
    let mut leader = cluster.connect();
    let started = start(&mut leader, "");
    assert!(started.total_bytes > SIZE as i64);
    let call = format!("send_backup_files({}, ARRAY['{NAME}'])", started.id);
    let header = first_header(&cluster, &call);
    assert_file(&header, NAME, SIZE);
    assert_eq!(header.as_old().size[0], 0x80, "a number in base 256");

    // GNU tar lists the member before it notices the truncation.
    let mut tar = command("tar");
    tar.args(["--list", "--verbose", "--file=-"]);
    let said = run_with_input(&mut tar, header.as_bytes());
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains(&format!(" {SIZE} ")), "{said}");
    leader
        .batch_execute("SELECT abort_backup()")
        .expect("abort_backup()");
    leftover::assert_none(&cluster);
}
