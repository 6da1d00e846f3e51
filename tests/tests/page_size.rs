//! Pages of the server's block size: 8 kB, or another one with `make test-pages`.

use std::fs::File;
use std::os::unix::fs::FileExt;

use backup_tests::page::quiet_table;
use backup_tests::server::Cluster;
use backup_tests::stepwise::Stepwise;
use postgres::Client;

fn page_size(client: &mut Client) -> u64 {
    let row = client.query_one("SELECT current_setting('block_size')::bigint", &[]);
    let size: i64 = row.expect("the size of a page").get(0);
    size.try_into().expect("a size")
}

fn count(client: &mut Client) -> i64 {
    let row = client.query_one("SELECT count(*) FROM t", &[]);
    row.expect("the table").get(0)
}

#[test]
fn a_backup_under_load_is_whole() {
    let cluster = Cluster::new();
    let mut client = cluster.connect();
    quiet_table(&mut client, "t", 200, "");
    let before = count(&mut client);
    let mut taken = Stepwise::start(&cluster, "verify_checksums => true");
    // Change pages between start and end, and let a file grow.
    cluster.execute("INSERT INTO t SELECT * FROM t; UPDATE t SET filler = md5(filler)");
    taken.send_files();
    taken.stop();
    assert_eq!(taken.notices.warnings(), [""; 0]);
    taken.backup.verify();
    let mut restored = taken.backup.restore();
    assert_eq!(count(&mut restored.connect()), 2 * before);
    restored.amcheck();
    restored.stop_and_check_checksums();
}

#[test]
fn damaged_pages_are_found_by_their_numbers() {
    let cluster = Cluster::new();
    let mut client = cluster.connect();
    let path = quiet_table(&mut client, "t", 200, "");
    let size = page_size(&mut client);
    let full_path = cluster.data_dir().join(&path);
    let pages = full_path.metadata().expect("the table's file").len() / size;
    assert!(pages > 40, "{pages}");
    let file = File::options().read(true).write(true).open(&full_path);
    let file = file.expect("the table's file");
    // The position of a page's last byte depends on the page size.
    for block in [7, 8, pages - 1] {
        let place = (block + 1) * size - 1;
        let mut byte = [0];
        file.read_exact_at(&mut byte, place).expect("a byte");
        file.write_all_at(&[!byte[0]], place).expect("a byte");
    }
    let mut taken = Stepwise::start(&cluster, "");
    let failed = taken.try_stream("send_backup_files()");
    failed
        .expect_err("a page is damaged")
        .assert("XX001", "checksum verification failure during base backup");
    let warnings = taken.notices.warnings();
    for block in [7, 8, pages - 1] {
        let begin = format!("checksum verification failed in file \"{path}\", block {block}: ");
        let told = warnings
            .iter()
            .filter(|warning| warning.starts_with(&begin));
        assert_eq!(told.count(), 1, "{begin}: {warnings:?}");
    }
    let total = format!("file \"{path}\" has a total of 3 checksum verification failures");
    assert!(warnings.contains(&total), "{warnings:?}");
}
