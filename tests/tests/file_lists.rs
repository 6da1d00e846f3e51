//! Explicit lists of files, and single tablespaces: what is sent, in which order and under which
//! name, and what is refused before any byte is sent.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::Ordering;

use backup_tests::archive::{content, members, unpack};
use backup_tests::backup::{Backup, send_stop, start};
use backup_tests::failure::{Failure, expect_failure};
use backup_tests::program::{give_to_owner, major_version};
use backup_tests::server::Cluster;
use backup_tests::stream::{Worker, copy_of, copy_out};
use backup_tests::workload::{create_table, path_of};
use postgres::Client;

fn array_of(files: &[&str]) -> String {
    let quoted: Vec<String> = files
        .iter()
        .map(|file| format!("'{}'", file.replace('\'', "''")))
        .collect();
    format!("ARRAY[{}]::text[]", quoted.join(", "))
}

fn copy_of_files(files: &[&str]) -> String {
    copy_of(&format!("send_backup_files(files => {})", array_of(files)))
}

#[track_caller]
fn send(client: &mut Client, call: &str) -> Vec<u8> {
    match copy_out(client, &copy_of(call)) {
        Ok(archive) => archive,
        Err(failure) => panic!("{call}: {failure}"),
    }
}

#[track_caller]
fn send_files(client: &mut Client, files: &[&str]) -> Vec<u8> {
    send(
        client,
        &format!("send_backup_files(files => {})", array_of(files)),
    )
}

/// Error for a list that must be refused before any byte is sent.
#[track_caller]
fn refusal(cluster: &Cluster, id: i64, files: &[&str]) -> Failure {
    let call = format!("send_backup_files({id}, {})", array_of(files));
    let worker = Worker::spawn(cluster, &copy_of(&call));
    let notices = worker.notices.clone();
    let received = worker.received_counter();
    let failure = worker.expect_failure();
    assert_eq!(
        received.load(Ordering::Relaxed),
        0,
        "bytes left before {failure}"
    );
    assert_eq!(notices.warnings(), Vec::<String>::new());
    failure
}

#[test]
fn members_come_in_the_order_of_the_list() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    start(&mut leader, "");
    for list in [
        [
            "pg_hba.conf",
            "PG_VERSION",
            "base/1/PG_VERSION",
            "global/pg_filenode.map",
        ],
        [
            "global/pg_filenode.map",
            "base/1/PG_VERSION",
            "PG_VERSION",
            "pg_hba.conf",
        ],
    ] {
        assert_eq!(members(&send_files(&mut leader, &list)), list);
    }
}

#[test]
fn a_file_is_sent_as_often_as_it_is_named() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    start(&mut leader, "");
    let list = ["PG_VERSION", "pg_ident.conf", "PG_VERSION", "PG_VERSION"];
    let archive = send_files(&mut leader, &list);
    assert_eq!(members(&archive), list);
    let version = format!("{}\n", major_version());
    assert_eq!(
        content(&archive, "PG_VERSION"),
        version.repeat(3).as_bytes()
    );
    // A later stream sends it again, although it already counts as sent.
    let again = send_files(&mut leader, &["PG_VERSION"]);
    assert_eq!(content(&again, "PG_VERSION"), version.as_bytes());
}

#[test]
fn a_listed_file_is_not_sent_again_by_the_queue() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    let started = start(&mut leader, "");
    let backup = Backup::folder(&cluster);
    let first = send_files(&mut leader, &["PG_VERSION", "pg_hba.conf"]);
    backup.unpack(&first);
    let rest = send(&mut leader, "send_backup_files()");
    backup.unpack(&rest);
    let names = members(&rest);
    assert!(
        !names
            .iter()
            .any(|name| name == "PG_VERSION" || name == "pg_hba.conf")
    );
    assert_eq!(names.len() as i64, started.file_count - 2);
    backup.unpack(&send_stop(&mut leader));
    backup.verify();
}

#[test]
fn a_leading_dot_slash_is_accepted() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    start(&mut leader, "");
    let archive = send_files(&mut leader, &["./PG_VERSION", "./base/1/PG_VERSION"]);
    assert_eq!(members(&archive), ["PG_VERSION", "base/1/PG_VERSION"]);
}

#[test]
fn a_folder_is_sent_without_its_files() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    start(&mut leader, "");
    let archive = send_files(&mut leader, &["base/1", "base"]);
    assert_eq!(members(&archive), ["base/1/", "base/"]);
}

#[test]
fn an_empty_list_is_an_empty_archive() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    start(&mut leader, "");
    assert_eq!(send_files(&mut leader, &[]), vec![0; 1024]);
}

#[test]
fn a_null_element_is_refused() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    start(&mut leader, "");
    let copy = copy_of("send_backup_files(files => ARRAY['PG_VERSION', NULL])");
    let failure = expect_failure(&copy, copy_out(&mut leader, &copy));
    assert_eq!(failure.sqlstate, "22004", "{failure}");
    assert_eq!(
        members(&send_files(&mut leader, &["PG_VERSION"])),
        ["PG_VERSION"]
    );
}

#[test]
fn a_name_outside_the_listing_is_refused_before_a_byte_has_left() {
    let cluster = Cluster::new();
    create_table(&cluster, "big", 4);
    let data = cluster.data_dir();
    // Symbolic links in the data directory at the start are not part of the backup.
    symlink("/etc/passwd", data.join("link_to_file")).expect("a link");
    symlink("/etc", data.join("link_to_folder")).expect("a link");
    symlink("../base", data.join("base/link_to_base")).expect("a link");
    let mut leader = cluster.connect();
    let big = path_of(&mut leader, "big");
    let id = start(&mut leader, "").id;
    let absolute = data.join("PG_VERSION").display().to_string();
    for name in [
        "no_such_file",
        "base/1/no_such_file",
        "PG_VERSION/",
        "PG_VERSION ",
        "pg_version",
        "base//1/PG_VERSION",
        "base/./1/PG_VERSION",
        "././PG_VERSION",
        "/PG_VERSION",
        "/etc/passwd",
        &absolute,
        "..",
        "../log",
        "./../log",
        "base/../PG_VERSION",
        "base/1/../../../log",
        "pg_tblspc/../PG_VERSION",
        "link_to_file",
        "link_to_folder/passwd",
        "base/link_to_base/1/PG_VERSION",
        "postmaster.pid",
        "postmaster.opts",
        "global/pg_control",
        "backup_label",
        "pg_wal/000000010000000000000001",
        "",
        ".",
        "%s%n",
        "a\tb\\x41",
    ] {
        let message = format!("file \"{name}\" is not part of the backup");
        // The whole list is checked first: the big file before the bad name is not sent either.
        refusal(&cluster, id, &[&big, name]).assert("22023", &message);
        refusal(&cluster, id, &[name]).assert("22023", &message);
    }
    assert_eq!(members(&send_files(&mut leader, &[&big])), [big]);
}

#[test]
fn a_refused_list_leaves_its_files_in_the_queue() {
    let cluster = Cluster::new();
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;
    refusal(&cluster, id, &["PG_VERSION", "no_such_file"]);
    let names = members(&send(&mut leader, "send_backup_files()"));
    assert!(names.iter().any(|name| name == "PG_VERSION"));
    send_stop(&mut leader);
}

#[test]
fn a_file_that_another_worker_sends_is_in_use() {
    let cluster = Cluster::new();
    create_table(&cluster, "big", 16);
    let mut leader = cluster.connect();
    let big = path_of(&mut leader, "big");
    let id = start(&mut leader, "").id;
    let copy = copy_of_files(&[&big]).replace("files =>", &format!("{id}, files =>"));
    let holder = Worker::spawn_halting(&cluster, &copy, 1 << 20);
    holder.wait_for_bytes(1 << 20);
    let failure = refusal(&cluster, id, &["PG_VERSION", &big]);
    assert_eq!(failure.sqlstate, "55006", "{failure}");
    assert!(failure.message.contains(&big), "{failure}");
    assert_eq!(members(&holder.expect()), [big.as_str()]);
    assert_eq!(members(&send_files(&mut leader, &[&big])), [big]);
}

/// Cluster with a table in a tablespace, and the tablespace's OID.
fn cluster_with_tablespace() -> (Cluster, u32) {
    let cluster = Cluster::new();
    let (oid, _) = cluster.create_tablespace("elsewhere");
    cluster
        .execute("CREATE TABLE far TABLESPACE elsewhere AS SELECT generate_series(1, 1000) AS a");
    cluster.execute("CHECKPOINT");
    (cluster, oid)
}

#[test]
fn each_tablespace_in_a_stream_of_its_own_makes_a_backup() {
    let (cluster, oid) = cluster_with_tablespace();
    let mut leader = cluster.connect();
    start(&mut leader, "");
    let base = send(&mut leader, "send_backup_files(tablespace => 0)");
    let names = members(&base);
    assert!(names.iter().any(|name| name == "PG_VERSION"));
    assert!(
        !names
            .iter()
            .any(|name| name.starts_with(&format!("pg_tblspc/{oid}"))),
        "{names:?}"
    );
    let far = send(
        &mut leader,
        &format!("send_backup_files(tablespace => {oid})"),
    );
    let names = members(&far);
    assert!(names.len() > 1);
    assert!(
        names
            .iter()
            .all(|name| name.starts_with(&format!("PG_{}_", major_version()))),
        "{names:?}"
    );

    let backup = Backup::folder(&cluster);
    backup.unpack(&base);
    let (mapped, location) = &backup.tablespaces()[0];
    assert_eq!(*mapped, oid);
    unpack(&far, location);
    // Nothing is missing, so the stop reports nothing.
    backup.unpack(&send_stop(&mut leader));
    backup.verify();
    let restored = backup.restore();
    restored.wait_for_sql("the rows", "SELECT count(*) = 1000 FROM far");
}

#[test]
fn names_in_a_tablespace_are_those_of_the_listing() {
    let (cluster, oid) = cluster_with_tablespace();
    let mut leader = cluster.connect();
    start(&mut leader, "");
    let path = path_of(&mut leader, "far");
    let relative = path
        .strip_prefix(&format!("pg_tblspc/{oid}/"))
        .expect("the table is in the tablespace");
    assert_eq!(members(&send_files(&mut leader, &[&path])), [path.as_str()]);
    let within = format!(
        "send_backup_files(files => {}, tablespace => {oid})",
        array_of(&[&path])
    );
    assert_eq!(members(&send(&mut leader, &within)), [relative]);

    for (file, tablespace) in [("PG_VERSION", oid), (path.as_str(), 0)] {
        let list = array_of(&[file]);
        let copy = copy_of(&format!(
            "send_backup_files(files => {list}, tablespace => {tablespace})"
        ));
        let failure = expect_failure(&copy, copy_out(&mut leader, &copy));
        assert_eq!(failure.sqlstate, "22023", "{copy}\n{failure}");
        assert!(failure.message.contains(file), "{copy}\n{failure}");
    }
}

#[test]
fn an_unknown_tablespace_is_refused() {
    let (cluster, oid) = cluster_with_tablespace();
    let mut leader = cluster.connect();
    start(&mut leader, "");
    // 1663 is pg_default, which is in the data directory.
    for unknown in [1, oid + 1, 4_294_967_295, 1663] {
        let copy = copy_of(&format!("send_backup_files(tablespace => {unknown}::oid)"));
        let failure = expect_failure(&copy, copy_out(&mut leader, &copy));
        assert_eq!(failure.sqlstate, "42704", "{copy}\n{failure}");
        assert!(
            failure.message.contains(&unknown.to_string()),
            "{copy}\n{failure}"
        );
    }
}

#[test]
fn tablespace_links_are_listed_when_they_do_not_travel_in_the_map() {
    let (cluster, oid) = cluster_with_tablespace();
    let link = format!("pg_tblspc/{oid}");
    let mut leader = cluster.connect();
    for (map, kinds) in [("true", vec![]), ("false", vec!["l"])] {
        start(&mut leader, &format!("tablespace_map => {map}"));
        let listed: Vec<String> = leader
            .query(
                "SELECT type::text FROM backup_filelist() WHERE path = $1",
                &[&link],
            )
            .expect("backup_filelist()")
            .iter()
            .map(|row| row.get(0))
            .collect();
        assert_eq!(listed, kinds, "tablespace_map => {map}");
        if map == "false" {
            let archive = send_files(&mut leader, &[&link]);
            let target = cluster.make_dir("unpacked");
            unpack(&archive, &target);
            assert_eq!(
                fs::read_link(target.join(&link)).expect("a link"),
                cluster.socket_dir().join("elsewhere")
            );
        }
        leader
            .batch_execute("SELECT abort_backup()")
            .expect("abort_backup()");
    }
}

#[test]
fn a_listing_is_sorted_and_agrees_with_what_is_sent() {
    let (cluster, _) = cluster_with_tablespace();
    let odd = "with space 'quote' \"double\" ünï";
    fs::write(cluster.data_dir().join(odd), "odd\n").expect("a file");
    give_to_owner(&cluster.data_dir().join(odd));
    let mut leader = cluster.connect();
    let started = start(&mut leader, "");
    let mut listed: Vec<String> = leader
        .query(
            "SELECT path || CASE type WHEN 'd' THEN '/' ELSE '' END FROM backup_filelist()",
            &[],
        )
        .expect("backup_filelist()")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(listed.len() as i64, started.file_count);
    let paths: Vec<&str> = listed
        .iter()
        .map(|path| path.trim_end_matches('/'))
        .collect();
    assert!(paths.is_sorted_by(|one, next| one.as_bytes() < next.as_bytes()));
    let mut sent = members(&send(&mut leader, "send_backup_files()"));
    listed.sort();
    sent.sort();
    assert_eq!(sent, listed);
    assert!(sent.iter().any(|name| name == odd));
}
