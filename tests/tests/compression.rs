//! Compressed streams: each is one complete file to the programs gzip, lz4 and zstd, and contains
//! the same archive as an uncompressed stream.

use std::fs;
use std::io::Read;
use std::time::{Duration, Instant};

use backup_tests::backup::{Backup, start};
use backup_tests::failure::{Failure, expect_failure};
use backup_tests::leftover;
use backup_tests::member;
use backup_tests::page::quiet_table;
use backup_tests::program::{account, command, run_with_input, succeed};
use backup_tests::rate::assert_rate;
use backup_tests::scratch::Folder;
use backup_tests::server::Cluster;
use backup_tests::stepwise::Stepwise;
use backup_tests::stream::{Worker, copy_of, copy_out};
use backup_tests::wait::{PATIENCE, wait_for};
use backup_tests::workload::{create_table, path_of};
use postgres::Client;

const METHODS: [&str; 3] = ["gzip", "lz4", "zstd"];

const MEGABYTE: u64 = 1 << 20;

/// Output of a method's program for a stream.
#[track_caller]
fn judge(method: &str, option: &str, stream: &[u8]) -> Vec<u8> {
    let mut program = command(method);
    program.arg(option);
    let output = run_with_input(&mut program, stream);
    assert!(output.status.success(), "{}", account(&program, &output));
    output.stdout
}

/// Archive in a stream, which must consist of exactly one file of the method.
#[track_caller]
fn decompress(method: &str, stream: &[u8]) -> Vec<u8> {
    judge(method, "-t", stream);
    let archive = judge(method, "-dc", stream);
    if method == "gzip" {
        // gzip does not count members, but each ends with its own uncompressed size.
        let size = (archive.len() as u32).to_le_bytes();
        assert_eq!(stream[stream.len() - 4..], size, "the size of one member");
        return archive;
    }
    let folder = Folder::new("frames");
    let file = folder.join("stream");
    fs::write(&file, stream).expect("a file for the stream");
    let listing = succeed(command(method).args(["--list", "--"]).arg(&file));
    // The heading has seven words in both programs.
    let frames = listing.split_whitespace().nth(7);
    assert_eq!(frames, Some("1"), "{listing}");
    archive
}

/// Incompressible bytes.
fn noise(length: u64) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..length / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect()
}

fn quiet_cluster() -> Cluster {
    Cluster::builder()
        .setting("dynamic_shared_memory_type", "mmap")
        .setting("autovacuum", "off")
        .start()
}

/// Bytes that arrive of a stream that must fail.
#[track_caller]
fn failing(client: &mut Client, call: &str) -> (Vec<u8>, Failure) {
    let mut bytes = Vec::new();
    let result = match client.copy_out(&copy_of(call)) {
        Ok(mut stream) => stream.read_to_end(&mut bytes).map_err(Failure::from),
        Err(error) => Err(Failure::from(error)),
    };
    (bytes, expect_failure(call, result))
}

/// Number of workers, files sent and bytes sent, as seen by another session.
fn progress(cluster: &Cluster) -> (i32, i64, i64) {
    let query = "SELECT workers, files_sent, bytes_sent FROM backup_progress()";
    let row = cluster.connect().query_one(query, &[]).expect("a backup");
    (row.get(0), row.get(1), row.get(2))
}

#[track_caller]
fn assert_backup_by_four_workers(method: &str) {
    let cluster = quiet_cluster();
    for table in ["a", "b", "c", "d"] {
        create_table(&cluster, table, 4);
    }
    cluster.write_file("noise", &noise(2 * MEGABYTE));
    let mut taken = Stepwise::start(&cluster, "");
    let id = taken.started.id;
    let call = format!("send_backup_files({id}, compression => '{method}')");
    for worker in [(); 4].map(|()| Worker::spawn(&cluster, &copy_of(&call))) {
        taken.backup.unpack(&decompress(method, &worker.expect()));
    }
    let totals = (0, taken.started.file_count, taken.started.total_bytes);
    assert_eq!(progress(&cluster), totals);
    let closing = format!("send_stop_backup(wal => true, compression => '{method}')");
    let closing = taken.stream(&closing);
    taken.backup.unpack(&decompress(method, &closing));
    taken.backup.verify();
    let mut restored = taken.backup.restore();
    for table in ["a", "b", "c", "d"] {
        let query = format!("SELECT count(*) = 4096 AND min(length(filler)) = 900 FROM {table}");
        restored.wait_for_sql("the rows", &query);
    }
    restored.stop_and_check_checksums();
}

#[test]
fn four_workers_make_a_backup_with_gzip() {
    assert_backup_by_four_workers("gzip");
}

#[test]
fn four_workers_make_a_backup_with_lz4() {
    assert_backup_by_four_workers("lz4");
}

#[test]
fn four_workers_make_a_backup_with_zstd() {
    assert_backup_by_four_workers("zstd");
}

#[test]
fn one_statement_makes_a_compressed_backup() {
    let cluster = quiet_cluster();
    create_table(&cluster, "t", 4);
    for method in METHODS {
        let call = format!("base_backup(fast => true, wal => true, compression => '{method}')");
        let stream = copy_out(&mut cluster.connect(), &copy_of(&call));
        let backup = Backup::folder(&cluster);
        backup.unpack(&decompress(method, &stream.expect("a stream")));
        backup.verify();
        let restored = backup.restore();
        restored.wait_for_sql("the rows", "SELECT count(*) = 4096 FROM t");
    }
}

#[test]
fn every_level_holds_the_same_archive_and_high_levels_are_smaller() {
    let cluster = quiet_cluster();
    // A catalog compresses like typical user data.
    let path = path_of(&mut cluster.connect(), "pg_proc");
    let mut taken = Stepwise::start(&cluster, "");
    let call = format!("send_backup_files(files => ARRAY['{path}', 'PG_VERSION']");
    let plain = taken.stream(&format!("{call})"));
    for none in ["NULL", "'none'", "'NONE'"] {
        let stream = taken.stream(&format!("{call}, compression => {none})"));
        assert!(stream == plain, "{none}");
    }
    let mut length_of = |specification: &str| {
        let option = format!("{call}, compression => '{specification}')");
        let stream = taken.stream(&option);
        let name = specification.split(':').next().expect("a name");
        let archive = decompress(&name.to_lowercase(), &stream);
        assert!(archive == plain, "{specification} changed the archive");
        stream.len()
    };
    let gzip = [1, 2, 3, 4, 5, 6, 7, 8, 9].map(|level| length_of(&format!("gzip:{level}")));
    assert!(gzip[8] < gzip[0], "{gzip:?}");
    let lz4 = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12].map(|it| length_of(&format!("lz4:{it}")));
    assert!(lz4[11] < lz4[0], "{lz4:?}");
    let zstd = [-131_072, -5, 1, 3, 19, 22].map(|level| length_of(&format!("zstd:{level}")));
    assert!(zstd[4] < zstd[2] && zstd[2] < zstd[0], "{zstd:?}");
    for other_case in ["GZIP", "gZip:2", "LZ4", "Lz4:1", "ZSTD", "Zstd:-1"] {
        length_of(other_case);
    }
}

#[test]
fn what_nothing_compresses_survives() {
    let cluster = quiet_cluster();
    let content = noise(5 * MEGABYTE);
    cluster.write_file("noise", &content);
    let mut taken = Stepwise::start(&cluster, "");
    for specification in ["gzip", "gzip:9", "lz4", "lz4:12", "zstd", "zstd:19"] {
        let method = specification.split(':').next().expect("a name");
        let stream = taken.stream(&format!(
            "send_backup_files(files => ARRAY['noise'], compression => '{specification}')"
        ));
        assert!(stream.len() < content.len() / 100 * 101, "{specification}");
        let archive = decompress(method, &stream);
        let found = member::expect(&archive, "noise");
        assert!(found.content == content, "{specification}");
    }
}

#[test]
fn an_empty_archive_is_a_complete_file_too() {
    let cluster = quiet_cluster();
    let mut taken = Stepwise::start(&cluster, "");
    taken.send_files();
    for method in METHODS {
        for arguments in ["files => '{}', ", ""] {
            let call = format!("send_backup_files({arguments}compression => '{method}')");
            let archive = decompress(method, &taken.stream(&call));
            assert_eq!(archive, [0; 1024], "{call}");
        }
    }
}

/// Calls a function with each invalid specification. No data may leave, and the session stays in
/// sync.
#[track_caller]
fn assert_refused(client: &mut Client, arguments: &str) {
    let unknown = ["", "gzipp", " gzip", "bzip2", "zstd\t"];
    let invalid = "gzip:0 gzip:10 lz4:0 lz4:13 lz4:-1 zstd:23 zstd:-131073 gzip: gzip:x gzip:1.5 \
                   gzip:1:2 lz4:99999999999999999999 zstd:level=3 none:1 none:";
    let invalid = invalid.split(' ').chain(["gzip: 1"]);
    for specification in unknown.into_iter().chain(invalid) {
        let is_unknown = unknown.contains(&specification);
        let call = format!("{arguments}compression => '{specification}')");
        let (bytes, failure) = failing(client, &call);
        assert_eq!(bytes, [0; 0], "{call} sent something");
        let range = match specification {
            "gzip:0" | "gzip:10" => "\"gzip\" expects a compression level between 1 and 9.",
            "lz4:0" | "lz4:13" => "\"lz4\" expects a compression level between 1 and 12.",
            "zstd:23" => "\"zstd\" expects a compression level between -131072 and 22.",
            _ if is_unknown => "",
            _ => ".",
        };
        let what = match is_unknown {
            true => "unrecognized compression algorithm",
            false => "invalid compression specification",
        };
        failure.assert("22023", &format!("{what}: \"{specification}\""));
        assert!(failure.detail.ends_with(range), "{failure}");
        client.query_one("SELECT 42", &[]).expect("in step");
    }
}

#[test]
fn a_wrong_specification_changes_nothing() {
    let cluster = quiet_cluster();
    assert_refused(&mut cluster.connect(), "base_backup(fast => true, ");
    leftover::assert_none(&cluster);

    let mut taken = Stepwise::start(&cluster, "");
    assert_refused(&mut taken.leader, "send_backup_files(");
    assert_eq!(progress(&cluster), (0, 0, 0));
    taken.send_files();
    assert_refused(&mut taken.leader, "send_stop_backup(wal => true, ");
    taken.stop();
    taken.backup.verify();
}

#[test]
fn the_files_of_a_cancelled_compressed_stream_are_sent_by_another() {
    let cluster = quiet_cluster();
    cluster.write_file("noise", &noise(16 * MEGABYTE));
    for method in METHODS {
        let mut taken = Stepwise::start(&cluster, "");
        let id = taken.started.id;
        let call = format!("send_backup_files({id}, max_rate => 1024, compression => '{method}')");
        let worker = Worker::spawn(&cluster, &copy_of(&call));
        worker.wait_for_bytes(MEGABYTE);
        cluster.execute(&format!("SELECT pg_cancel_backend({})", worker.pid));
        assert_eq!(worker.expect_failure().sqlstate, "57014");
        wait_for("the worker to leave the backup", PATIENCE, || {
            progress(&cluster).0 == 0
        });
        assert_eq!(progress(&cluster), (0, 0, 0));
        let stream = taken.stream(&format!("send_backup_files(compression => '{method}')"));
        taken.backup.unpack(&decompress(method, &stream));
        taken.stop();
        taken.backup.verify();
        leftover::assert_none(&cluster);
    }
}

#[test]
fn a_compressed_stream_with_a_bad_page_fails_at_the_end_of_a_complete_file() {
    let cluster = quiet_cluster();
    let path = quiet_table(&mut cluster.connect(), "t", 9, "");
    cluster.flip_bytes(&path, 3);
    let on_disk = fs::read(cluster.data_dir().join(&path)).expect("the damaged file");
    for method in METHODS {
        let mut taken = Stepwise::start(&cluster, "");
        let call = format!("send_backup_files(compression => '{method}')");
        let (stream, failure) = failing(&mut taken.leader, &call);
        failure.assert("XX001", "checksum verification failure during base backup");
        let warnings = taken.notices.warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let archive = decompress(method, &stream);
        member::assert_ends_well(&archive);
        assert_eq!(member::expect(&archive, &path).content, on_disk, "{method}");
    }
}

#[test]
fn rates_count_compressed_bytes_and_progress_those_of_the_cluster() {
    let cluster = quiet_cluster();
    create_table(&cluster, "t", 16);
    cluster.write_file("noise", &noise(4 * MEGABYTE));
    let path = path_of(&mut cluster.connect(), "t");
    let table = fs::metadata(cluster.data_dir().join(&path)).expect("its file");
    for (whole, own) in [("1024", "NULL"), ("NULL", "1024")] {
        assert_rate(1024, || {
            let mut client = cluster.connect();
            start(&mut client, &format!("max_rate => {whole}"));
            let mut send = |file: &str| {
                let options = format!("max_rate => {own}, compression => 'zstd'");
                let call = format!("send_backup_files(files => ARRAY['{file}'], {options})");
                let begin = Instant::now();
                let stream = copy_out(&mut client, &copy_of(&call)).expect("a stream");
                (stream.len(), begin.elapsed())
            };
            // 16 seconds for the bytes of the table.
            let (length, elapsed) = send(&path);
            assert!(
                elapsed < Duration::from_secs(14),
                "{length} bytes in {elapsed:?}"
            );
            assert_eq!(progress(&cluster).2, table.len() as i64);
            let noise = send("noise");
            let abort = client.batch_execute("SELECT abort_backup()");
            abort.expect("abort_backup()");
            vec![noise]
        });
    }
}

#[test]
fn the_memory_of_a_compressing_worker_is_bounded() {
    let cluster = quiet_cluster();
    // Half of the bits are random: work for the compressor, and bytes for the client.
    let half: Vec<u8> = noise(48 * MEGABYTE).iter().map(|byte| byte & 15).collect();
    cluster.write_file("half", &half);
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    let options = "ARRAY['half'], compression => 'zstd:3'";
    let copy = copy_of(&format!("send_backup_files({id}, {options})"));
    let worker = Worker::spawn_halting(&cluster, &copy, 16 * MEGABYTE);
    worker.wait_for_bytes(16 * MEGABYTE);
    let status = fs::read_to_string(format!("/proc/{}/status", worker.pid)).expect("its status");
    let mut words = status.split_whitespace().skip_while(|it| *it != "RssAnon:");
    let own: u64 = words.nth(1).and_then(|it| it.parse().ok()).expect("kB");
    assert!(own < 64 * 1024, "{own} kB");
    let archive = judge("zstd", "-dc", &worker.expect());
    assert!(member::expect(&archive, "half").content == half);
}
