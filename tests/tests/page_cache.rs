//! A backup leaves the operating system's page cache as it was.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use backup_tests::backup::start;
use backup_tests::builder::Builder;
use backup_tests::faults::layer::Layer;
use backup_tests::program::{command, succeed};
use backup_tests::scratch::stay_on_disk;
use backup_tests::server::Cluster;
use backup_tests::workload::create_table;
use postgres::Client;

/// Number of bytes of a file in the page cache, from fincore of util-linux.
fn cached_bytes(path: &Path) -> u64 {
    let mut fincore = command("fincore");
    fincore.args(["--bytes", "--noheadings", "--output", "RES"]);
    let bytes = succeed(fincore.arg(path));
    bytes.trim().parse().expect("a number of bytes")
}

/// Writes a file to disk and drops it from the page cache.
fn evict(path: &Path) {
    let mut dd = command("dd");
    dd.arg(format!("of={}", path.display()));
    succeed(dd.args(["oflag=nocache", "conv=notrunc,fdatasync", "count=0"]));
}

/// Reads all files of a backup with a given number.
type Read = fn(&mut Client, i64);

fn read_into_the_blackhole(leader: &mut Client, id: i64) {
    let blackhole = format!("SELECT send_backup_files({id}, target => 'blackhole')");
    leader.batch_execute(&blackhole).expect("the blackhole");
}

fn read_in_parts(leader: &mut Client, id: i64) {
    let copy = format!("COPY (SELECT send_backup_files({id}, parts => true)) TO STDOUT");
    let mut stream = leader.copy_out(&copy).expect("a stream");
    io::copy(&mut stream, &mut io::sink()).expect("all of it");
}

#[test]
fn a_stream_leaves_in_the_page_cache_what_was_there() {
    leaves_the_page_cache_as_it_was(Cluster::builder(), read_into_the_blackhole);
}

#[test]
fn parts_of_files_leave_it_too() {
    leaves_the_page_cache_as_it_was(Cluster::builder(), read_in_parts);
}

/// Linux before 6.5 has no cachestat().
#[test]
fn so_it_is_on_an_older_kernel() {
    const CACHESTAT: u32 = 451;
    for read in [read_into_the_blackhole as Read, read_in_parts] {
        let kernel = Layer::new();
        kernel.lack_call(CACHESTAT);
        leaves_the_page_cache_as_it_was(kernel.below(Cluster::builder()), read);
    }
}

#[track_caller]
fn leaves_the_page_cache_as_it_was(builder: Builder, read: Read) {
    stay_on_disk();
    let cluster = builder.setting("autovacuum", "off").start();
    let tables = ["cold", "half", "scattered", "warm"];
    let [cold, half, scattered, warm] = tables.map(|table| {
        create_table(&cluster, table, 40);
        let query = format!("SELECT pg_relation_filepath('{table}')");
        let row = cluster.connect().query_one(&query, &[]);
        let path: String = row.expect("the file of a table").get(0);
        cluster.data_dir().join(path)
    });
    cluster.execute("CHECKPOINT");
    evict(&cold);
    evict(&half);
    evict(&scattered);
    if cached_bytes(&cold) > 0 {
        eprintln!("not tested: the file system keeps its files in memory");
        return;
    }
    // Read a part in the middle, as a query would.
    let mut dd = command("dd");
    dd.arg(format!("if={}", half.display()));
    succeed(dd.args(["of=/dev/null", "bs=1M", "skip=20", "count=4", "status=none"]));
    let before = cached_bytes(&half);
    assert!(before >= 4 << 20, "{before}");
    // Read single pages, none of them the first of its part.
    let file = File::open(&scattered).expect("the file of a table");
    let megabytes = [0, 5, 10, 15, 20, 25, 30, 35];
    for megabyte in megabytes {
        let offset = (megabyte << 20) + (512 << 10);
        file.read_exact_at(&mut [0; 4096], offset).expect("a page");
    }
    let size = cached_bytes(&warm);
    assert!(size >= 40 << 20, "{size}");

    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    read(&mut leader, id);

    // The system may take some pages for something else meanwhile.
    let few = 1 << 20;
    let kept = cached_bytes(&warm);
    assert!(kept >= size - few, "{kept} of {size}");
    assert_eq!(cached_bytes(&cold), 0);
    // The system's readahead counts as used and may arrive later.
    let after = cached_bytes(&half);
    assert!(after >= before - few, "{before} {after}");
    assert!(after <= size - (16 << 20), "{after} of {size}");
    // Parts are kept or dropped as a whole.
    let after = cached_bytes(&scattered);
    let whole_parts = (megabytes.len() as u64) << 20;
    assert!(after >= whole_parts - few, "{after}");
    assert!(after <= size - (16 << 20), "{after} of {size}");
}
