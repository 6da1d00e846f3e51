//! Damaged pages are found, counted and reported, and the rest of the file is still sent.

use std::io::Read;

use backup_tests::failure::Failure;
use backup_tests::leftover;
use backup_tests::member;
use backup_tests::page::{
    PAGE_SIZE, flip_bytes, mark_new, parse_lsn, quiet_table, read_page, set_lsn, with_checksum,
};
use backup_tests::server::Cluster;
use backup_tests::stepwise::Stepwise;
use backup_tests::stream::copy_of;

const FAILED: &str = "checksum verification failure during base backup";

/// Runs a stream that must fail with bad pages. Returns the bytes sent before the error.
#[track_caller]
fn failing_stream(taken: &mut Stepwise, call: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = match taken.leader.copy_out(copy_of(call).as_str()) {
        Ok(mut stream) => stream.read_to_end(&mut bytes).map_err(Failure::from),
        Err(error) => Err(Failure::from(error)),
    };
    match read {
        Ok(_) => panic!("{call} found nothing: {:?}", taken.notices.warnings()),
        Err(failure) => failure.assert("XX001", FAILED),
    }
    bytes
}

/// Checks the warning for one bad page. Block numbers are those of core.
#[track_caller]
fn assert_mismatch(warning: &str, file: &str, block: u32) {
    let begin = format!("checksum verification failed in file \"{file}\", block {block}: ");
    let rest = warning
        .strip_prefix(&begin)
        .unwrap_or_else(|| panic!("{warning:?} does not begin with {begin:?}"));
    let sums = rest
        .strip_prefix("calculated ")
        .and_then(|rest| rest.split_once(" but expected "));
    let (calculated, expected) = sums.unwrap_or_else(|| panic!("{warning}"));
    for sum in [calculated, expected] {
        assert_eq!(sum, sum.to_uppercase(), "{warning}");
        u16::from_str_radix(sum, 16).unwrap_or_else(|_| panic!("{warning}"));
    }
    assert_ne!(calculated, expected, "{warning}");
}

/// Failures in the server's own statistics, by database; 0 stands for the shared relations.
#[track_caller]
fn assert_counted(cluster: &Cluster, database: &str, count: i64) {
    cluster.wait_for_sql(
        &format!("{count} checksum failures in pg_stat_database"),
        &format!(
            "SELECT checksum_failures = {count} AND checksum_last_failure IS NOT NULL
             FROM pg_stat_database WHERE coalesce(datname, '') = '{database}'"
        ),
    );
}

/// Failures that `backup_progress` counts for the only running backup.
fn failures_of_backup(cluster: &Cluster) -> i64 {
    cluster
        .connect()
        .query_one("SELECT checksum_failures FROM backup_progress()", &[])
        .expect("one backup")
        .get(0)
}

/// Stops a backup with bad pages. The stop must be refused, and the backup must end.
#[track_caller]
fn assert_refused(cluster: &Cluster, taken: &mut Stepwise, stop: &str) {
    let refused = if stop.starts_with("send") {
        taken.try_stream(stop).map(|_| ())
    } else {
        let statement = format!("SELECT * FROM {stop}");
        let rows = taken.leader.query(&statement, &[]);
        rows.map(|_| ()).map_err(Failure::from)
    };
    let failure = refused.expect_err("the backup was accepted");
    failure.assert("XX001", FAILED);
    let again = taken.leader.execute("SELECT abort_backup()", &[]);
    Failure::from(again.expect_err("the backup goes on"))
        .assert("55000", "backup is not in progress");
    leftover::assert_none(cluster);
}

#[test]
fn one_bad_page_is_reported_with_its_block_and_all_bytes_are_sent() {
    let cluster = Cluster::new();
    let path = quiet_table(&mut cluster.connect(), "t", 9, "");
    cluster.flip_bytes(&path, 3);

    let mut taken = Stepwise::start(&cluster, "");
    let stream = failing_stream(&mut taken, "send_backup_files()");
    let warnings = taken.notices.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_mismatch(&warnings[0], &path, 3);
    assert_eq!(failures_of_backup(&cluster), 1);
    assert_counted(&cluster, "postgres", 1);

    member::assert_ends_well(&stream);
    let on_disk = std::fs::read(cluster.data_dir().join(&path)).expect("the damaged file");
    assert_eq!(member::expect(&stream, &path).content, on_disk);
    assert_refused(&cluster, &mut taken, "send_stop_backup(wal => true)");
}

#[test]
fn seven_bad_pages_in_two_files_are_counted_exactly() {
    let cluster = Cluster::new();
    cluster.create_tablespace("elsewhere");
    let mut client = cluster.connect();
    let one = quiet_table(&mut client, "one", 9, "");
    let six = quiet_table(&mut client, "six", 9, "TABLESPACE elsewhere");
    cluster.flip_bytes(&one, 0);
    for block in [0, 2, 3, 4, 7, 8] {
        cluster.flip_bytes(&six, block);
    }

    let mut taken = Stepwise::start(&cluster, "");
    failing_stream(&mut taken, "send_backup_files()");
    let warnings = taken.notices.warnings();
    let of = |file: &str| -> Vec<&String> {
        let named = format!("\"{file}\"");
        warnings.iter().filter(|it| it.contains(&named)).collect()
    };
    // A single failure produces no total.
    assert_eq!(of(&one).len(), 1, "{warnings:?}");
    assert_mismatch(of(&one)[0], &one, 0);
    assert_eq!(of(&six).len(), 7, "{warnings:?}");
    for (warning, block) in of(&six).iter().zip([0, 2, 3, 4, 7]) {
        assert_mismatch(warning, &six, block);
    }
    assert_eq!(
        *of(&six)[5],
        format!("further checksum verification failures in file \"{six}\" will not be reported")
    );
    assert_eq!(
        *of(&six)[6],
        format!("file \"{six}\" has a total of 6 checksum verification failures")
    );
    assert_eq!(failures_of_backup(&cluster), 7);
    assert_counted(&cluster, "postgres", 7);
    assert_refused(&cluster, &mut taken, "stop_backup()");
}

#[test]
fn shared_relations_are_checked_and_counted_for_no_database() {
    let cluster = Cluster::new();
    let mut page = vec![0; PAGE_SIZE];
    page[4000] = 1;
    cluster.write_file("global/99999", &page);
    let mut taken = Stepwise::start(&cluster, "");
    failing_stream(&mut taken, "send_backup_files()");
    assert_counted(&cluster, "", 1);
}

#[test]
fn an_lsn_beyond_the_insert_position_is_no_excuse() {
    let cluster = Cluster::new();
    let mut client = cluster.connect();
    let path = quiet_table(&mut client, "t", 5, "");
    let mut taken = Stepwise::start(&cluster, "");
    let insert: String = client
        .query_one("SELECT pg_current_wal_insert_lsn()::text", &[])
        .expect("the insert position")
        .get(0);
    let beyond = parse_lsn(&insert) + (1 << 30);
    cluster.change_page(&path, 2, |page| set_lsn(page, beyond));
    failing_stream(&mut taken, "send_backup_files()");
    let warnings = taken.notices.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_mismatch(&warnings[0], &path, 2);
}

#[test]
fn a_page_changed_since_the_start_is_excused() {
    let cluster = Cluster::new();
    let path = quiet_table(&mut cluster.connect(), "t", 5, "");
    let mut taken = Stepwise::start(&cluster, "");
    // Write WAL, so that the LSN of the changed page lies between the start LSN and the insert LSN.
    cluster.execute("CREATE TABLE later AS SELECT generate_series(1, 1000)");
    let since = parse_lsn(&taken.started.start_lsn) + 8;
    cluster.change_page(&path, 2, |page| {
        flip_bytes(page);
        set_lsn(page, since);
    });
    taken.send_files();
    taken.stop();
    assert_eq!(taken.notices.warnings(), [""; 0]);
}

#[test]
fn start_wal_location_moves_the_position_from_which_pages_are_excused() {
    let cluster = Cluster::new();
    let path = quiet_table(&mut cluster.connect(), "t", 5, "");
    cluster.flip_bytes(&path, 1);
    let mut taken = Stepwise::start(&cluster, "");
    let one_file = format!("send_backup_files(files => ARRAY['{path}']");
    // Every page is newer than this LSN, so none is verified.
    let early = format!("{one_file}, start_wal_location => '0/1')");
    taken.stream(&early);
    assert_eq!(taken.notices.warnings(), [""; 0]);
    failing_stream(&mut taken, &format!("{one_file})"));

    // A page that was exempt is verified if the given LSN is after its own.
    cluster.execute("CREATE TABLE later AS SELECT generate_series(1, 1000)");
    let since = parse_lsn(&taken.started.start_lsn) + 8;
    cluster.change_page(&path, 1, |page| set_lsn(page, since));
    taken.stream(&format!("{one_file})"));
    let late = format!("{one_file}, start_wal_location => pg_current_wal_insert_lsn())");
    failing_stream(&mut taken, &late);
}

#[test]
fn a_new_page_must_be_all_zeros() {
    let cluster = Cluster::new();
    let path = quiet_table(&mut cluster.connect(), "t", 5, "");
    cluster.change_page(&path, 1, |page| page.fill(0));
    cluster.change_page(&path, 3, mark_new);
    let mut taken = Stepwise::start(&cluster, "");
    failing_stream(&mut taken, "send_backup_files()");
    assert_eq!(
        taken.notices.warnings(),
        [format!(
            "checksum verification failed in file \"{path}\", block 3: \
             page is marked new but is not all zeros"
        )]
    );
    assert_eq!(failures_of_backup(&cluster), 1);
}

#[test]
fn one_statement_sends_all_files_before_it_fails() {
    let cluster = Cluster::new();
    let path = quiet_table(&mut cluster.connect(), "t", 9, "");
    cluster.flip_bytes(&path, 3);
    cluster.flip_bytes(&path, 4);
    let mut session = Stepwise::start(&cluster, "");
    session
        .leader
        .batch_execute("SELECT abort_backup()")
        .expect("abort_backup()");
    let stream = failing_stream(&mut session, "base_backup(fast => true)");
    member::assert_ends_well(&stream);
    member::expect(&stream, &path);
    // The stream cannot be mistaken for a backup.
    assert_eq!(member::find(&stream, "global/pg_control"), None);
    let warnings = session.notices.warnings();
    let total = "2 total checksum verification failures";
    assert_eq!(warnings.last().map(String::as_str), Some(total));
    leftover::assert_none(&cluster);
}

#[test]
fn sending_a_bad_page_again_unverified_does_not_make_it_good() {
    let cluster = Cluster::new();
    let path = quiet_table(&mut cluster.connect(), "t", 5, "");
    cluster.flip_bytes(&path, 1);
    let mut taken = Stepwise::start(&cluster, "");
    failing_stream(&mut taken, "send_backup_files()");
    taken.stream(&format!(
        "send_backup_files(files => ARRAY['{path}'], verify_checksums => false)"
    ));
    assert_eq!(failures_of_backup(&cluster), 1);
    assert_refused(&cluster, &mut taken, "stop_backup()");
}

#[test]
fn verification_can_be_off_for_the_backup_or_for_a_stream() {
    let cluster = Cluster::new();
    let path = quiet_table(&mut cluster.connect(), "t", 5, "");
    cluster.flip_bytes(&path, 1);

    let mut taken = Stepwise::start(&cluster, "verify_checksums => false");
    taken.send_files();
    assert_eq!(taken.notices.warnings(), [""; 0]);
    taken.stop();
    taken.backup.verify();

    let mut taken = Stepwise::start(&cluster, "verify_checksums => true");
    taken.stream("send_backup_files(verify_checksums => false)");
    taken.stop();
    assert_eq!(taken.notices.warnings(), [""; 0]);

    let mut taken = Stepwise::start(&cluster, "verify_checksums => false");
    failing_stream(&mut taken, "send_backup_files(verify_checksums => true)");
    assert_refused(&cluster, &mut taken, "stop_backup()");
}

#[test]
fn a_cluster_without_checksums_has_nothing_to_verify() {
    let cluster = Cluster::builder().without_checksums().start();
    let path = quiet_table(&mut cluster.connect(), "t", 5, "");
    cluster.flip_bytes(&path, 1);
    let mut taken = Stepwise::start(&cluster, "verify_checksums => true");
    taken.stream("send_backup_files(verify_checksums => true)");
    taken.stop();
    assert_eq!(taken.notices.warnings(), [""; 0]);
}

#[test]
fn blocks_of_a_later_segment_are_verified_with_their_number_in_the_relation() {
    const BLOCKS_OF_A_SEGMENT: u32 = 131_072;
    let cluster = Cluster::new();
    if !cluster.has_module("pageinspect") {
        return;
    }
    let mut client = cluster.connect();
    client
        .batch_execute("CREATE EXTENSION pageinspect")
        .expect("CREATE EXTENSION pageinspect");
    let path = quiet_table(&mut client, "t", 5, "");
    let page = read_page(&cluster.data_dir().join(&path), 1);
    // Blocks 0 and 2 have checksums for their position in the relation, block 1 only for its
    // position in the file.
    let mut segment = with_checksum(&mut client, page.clone(), BLOCKS_OF_A_SEGMENT);
    segment.extend(with_checksum(&mut client, page.clone(), 1));
    segment.extend(with_checksum(&mut client, page, BLOCKS_OF_A_SEGMENT + 2));
    let later = format!("{path}.1");
    cluster.write_file(&later, &segment);

    let mut taken = Stepwise::start(&cluster, "");
    failing_stream(&mut taken, "send_backup_files()");
    let warnings = taken.notices.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_mismatch(&warnings[0], &later, 1);
}

/// PostgreSQL 16 and later create pg_filenode.map.tmp for a moment, and a crash leaves it behind.
/// Core of version 17 sends such files as they are; in earlier versions they make a backup fail.
#[test]
fn names_that_are_no_relation_s_fail_no_backup() {
    let cluster = Cluster::new();
    let mut client = cluster.connect();
    let path = quiet_table(&mut client, "t", 2, "");
    let directory = path.rsplit_once('/').expect("a directory").0;
    let names = [
        format!("{directory}/pg_filenode.map.tmp"),
        "global/pg_filenode.map.tmp".to_owned(),
        format!("{path}.0"),
        format!("{path}.abc"),
        format!("{path}.99999999999999999999"),
        "base/notes.txt".to_owned(),
    ];
    let content = [7; 2 * PAGE_SIZE];
    for name in &names {
        cluster.write_file(name, &content);
    }
    let mut taken = Stepwise::start(&cluster, "");
    // The file existed only for a moment.
    std::fs::remove_file(cluster.data_dir().join(&names[0])).expect("could not remove a file");
    let stream = taken.send_files();
    assert_eq!(taken.notices.warnings(), [""; 0]);
    assert_eq!(member::find(&stream, &names[0]), None);
    for name in &names[1..] {
        assert_eq!(member::expect(&stream, name).content, content, "{name}");
    }
    taken.stop();
    taken.backup.verify();
    let restored = taken.backup.restore();
    restored.amcheck();

    // A file with a segment number is a relation's, and is verified as before.
    cluster.write_file(&format!("{path}.1"), &content);
    let mut taken = Stepwise::start(&cluster, "");
    failing_stream(&mut taken, "send_backup_files()");
}

#[test]
fn a_file_that_ends_in_the_middle_of_a_page_is_sent_with_a_warning() {
    let cluster = Cluster::new();
    let path = quiet_table(&mut cluster.connect(), "t", 3, "");
    let planted = format!("{path}_vm.1");
    let mut content = vec![0; PAGE_SIZE];
    content.extend([7; 100]);
    cluster.write_file(&planted, &content);
    let mut taken = Stepwise::start(&cluster, "");
    let stream = taken.send_files();
    let warnings = taken.notices.warnings();
    let begin = format!("could not verify checksum in file \"{planted}\", block ");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with(&begin), "{warnings:?}");
    assert_eq!(member::expect(&stream, &planted).content, content);
    taken.stop();
    taken.backup.verify();
}
