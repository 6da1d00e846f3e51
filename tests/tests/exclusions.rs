//! Files that a base backup excludes, in the data directory and in another tablespace. Each of them
//! is planted with a mark, and the bytes of the streams are searched for the mark.

use std::path::Path;

use backup_tests::backup::Backup;
use backup_tests::failure::Failure;
use backup_tests::member::{self, Member};
use backup_tests::page::quiet_table;
use backup_tests::program::{command, major_version, make_dir, succeed};
use backup_tests::server::{Cluster, Shutdown};
use backup_tests::stepwise::Stepwise;

/// Content of every planted file that must be excluded.
const MARK: &str = "DONOTCOPY";
/// Content of every planted file that only resembles an excluded one.
const WANTED: &str = "PLEASECOPY";

const EMPTIED: [&str; 7] = [
    "pg_dynshmem",
    "pg_notify",
    "pg_replslot",
    "pg_serial",
    "pg_snapshots",
    "pg_stat_tmp",
    "pg_subtrans",
];

/// Directory of database `postgres` in the tablespace of a relation.
fn database_dir(relation_path: &str) -> &str {
    let (dir, _) = relation_path
        .rsplit_once('/')
        .expect("the path of a relation has a directory");
    dir
}

/// Everything that one backup sent.
struct Sent {
    listing: Vec<String>,
    members: Vec<String>,
    streams: Vec<u8>,
}

/// Plants files with the mark and takes a backup.
#[track_caller]
fn send_with(cluster: &Cluster, planted: &[String]) -> Sent {
    for path in planted {
        cluster.write_file(path, MARK.as_bytes());
    }
    let mut taken = Stepwise::start(cluster, "");
    let listing = taken.listing().into_iter().map(|entry| entry.path);
    let listing = listing.collect();
    let mut streams = taken.send_files();
    let mut members = member::members(&streams);
    let closing = taken.stop();
    members.extend(member::members(&closing));
    streams.extend(closing);
    taken.backup.verify();
    Sent {
        listing,
        members: members.iter().map(Member::name).collect(),
        streams,
    }
}

impl Sent {
    #[track_caller]
    fn assert_without(&self, planted: &[String]) {
        for path in planted {
            assert!(!self.listing.contains(path), "{path} is in the listing");
            assert!(!self.members.contains(path), "{path} is in a stream");
        }
        assert!(
            !member::contains(&self.streams, MARK),
            "the content of an excluded file left the server"
        );
    }

    #[track_caller]
    fn assert_with(&self, path: &str) {
        for (place, names) in [("listing", &self.listing), ("streams", &self.members)] {
            let found = names.iter().filter(|name| *name == path).count();
            assert_eq!(found, 1, "{path} in the {place}");
        }
    }
}

fn below(dir: &str, names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("{dir}/{name}")).collect()
}

#[test]
fn files_that_the_server_makes_anew_stay_behind() {
    let cluster = Cluster::new();
    let table = quiet_table(&mut cluster.connect(), "t", 1, "");
    make_dir(&cluster.data_dir().join("base/pgsql_tmp"));
    let mut planted: Vec<String> = [
        "postgresql.auto.conf.tmp",
        "current_logfiles.tmp",
        "backup_label",
        "tablespace_map",
        "backup_manifest",
        "postmaster.opts",
        ".DS_Store",
        "global/pg_internal.init.123",
        "global/.DS_Store",
        "base/pgsql_tmp/pgsql_tmp4711.0",
        "pgsql_tmp_of_nobody",
    ]
    .map(str::to_owned)
    .into();
    planted.extend(below(
        database_dir(&table),
        &["pg_internal.init.77", "pgsql_tmp4711.1", "backup_label"],
    ));
    let wanted = [
        "backup_label.old",
        "my_backup_manifest",
        "xpgsql_tmp",
        "pg_logical/internal.init",
        "postmaster.pid.bak",
    ];
    for path in wanted {
        cluster.write_file(path, WANTED.as_bytes());
    }

    let sent = send_with(&cluster, &planted);
    for path in ["backup_label", "backup_manifest"] {
        // The backup's own files of these names do arrive.
        assert!(!sent.listing.iter().any(|listed| listed == path), "{path}");
        planted.retain(|planted| planted != path);
    }
    planted.push("postmaster.pid".to_owned());
    sent.assert_without(&planted);
    for path in wanted {
        sent.assert_with(path);
    }
    assert!(member::contains(&sent.streams, WANTED));
}

#[test]
fn relation_files_of_sessions_stay_behind() {
    let cluster = Cluster::new();
    let (oid, _) = cluster.create_tablespace("elsewhere");
    let mut client = cluster.connect();
    let here = quiet_table(&mut client, "here", 1, "");
    let there = quiet_table(&mut client, "there", 1, "TABLESPACE elsewhere");
    assert!(there.starts_with(&format!("pg_tblspc/{oid}/")), "{there}");

    let names = [
        "t999_999",
        "t9999_999.1",
        "t999_9999_vm",
        "t99999_99999_vm.1",
        "pgsql_tmp4711.0",
        ".DS_Store",
        "pg_internal.init.1",
    ];
    let mut planted = below(database_dir(&here), &names);
    planted.extend(below(database_dir(&there), &names));
    // Outside a database directory, files with these names are not relations.
    cluster.write_file("pg_logical/t999_999", WANTED.as_bytes());
    // These names are not relations even in a database directory. The files hold whole pages,
    // because pages there are verified.
    let no_relations = ["t999", "t_999", "t999_999x", "xt999_999"];
    for dir in [&here, &there].map(|path| database_dir(path)) {
        for name in no_relations {
            cluster.write_file(&format!("{dir}/{name}"), &[0; 8192]);
        }
    }

    let sent = send_with(&cluster, &planted);
    sent.assert_without(&planted);
    sent.assert_with("pg_logical/t999_999");
    for dir in [&here, &there].map(|path| database_dir(path)) {
        for path in below(dir, &no_relations) {
            sent.assert_with(&path);
        }
    }
}

#[test]
fn only_the_version_directory_of_a_tablespace_belongs_to_the_server() {
    let cluster = Cluster::new();
    let (oid, location) = cluster.create_tablespace("shared");
    quiet_table(&mut cluster.connect(), "t", 1, "TABLESPACE shared");
    make_dir(&location.join("PG_9.6_201608131"));
    let planted = below(
        &format!("pg_tblspc/{oid}"),
        &["PG_9.6_201608131/PG_VERSION", "beside"],
    );
    let sent = send_with(&cluster, &planted);
    sent.assert_without(&planted);
    for names in [&sent.listing, &sent.members] {
        assert!(
            !names.iter().any(|path| path.contains("PG_9.6")),
            "the folder of another server was sent"
        );
    }
}

#[test]
fn emptied_directories_arrive_empty() {
    let cluster = Cluster::new();
    let mut planted: Vec<_> = EMPTIED.iter().map(|dir| format!("{dir}/planted")).collect();
    planted.push("pg_wal/planted".to_owned());
    planted.push("pg_wal/archive_status/planted.ready".to_owned());
    let mut dirs = EMPTIED.to_vec();
    dirs.extend(["pg_wal", "pg_wal/archive_status"]);
    if major_version() >= 17 {
        planted.push("pg_wal/summaries/planted.summary".to_owned());
        dirs.push("pg_wal/summaries");
    }
    let sent = send_with(&cluster, &planted);
    sent.assert_without(&planted);
    for dir in dirs {
        sent.assert_with(dir);
    }
}

#[test]
fn links_in_emptied_places_arrive_as_directories() {
    let mut cluster = Cluster::new();
    cluster.stop(Shutdown::Fast);
    for name in ["pg_replslot", "pg_stat_tmp", "pg_wal"] {
        let inside = cluster.data_dir().join(name);
        let outside = cluster.socket_dir().join(name);
        succeed(command("mv").arg("-T").arg(&inside).arg(&outside));
        succeed(command("ln").arg("-s").arg(&outside).arg(&inside));
    }
    cluster.start();
    let mut taken = Stepwise::start(&cluster, "");
    let stream = taken.send_files();
    taken.stop();
    for name in ["pg_replslot", "pg_stat_tmp", "pg_wal"] {
        assert_eq!(member::expect(&stream, name).kind, 'd', "{name}");
        assert!(!is_link(&taken.backup.data_dir().join(name)), "{name}");
    }
    member::expect(&stream, "pg_wal/archive_status");
    taken.backup.verify();
    taken.backup.restore();
}

#[test]
fn other_links_and_special_files_are_skipped_with_a_warning() {
    let cluster = Cluster::new();
    let outside = cluster.make_dir("outside");
    std::fs::write(outside.join("secret"), MARK).expect("could not write outside");
    let (_, location) = cluster.create_tablespace("elsewhere");
    let path = quiet_table(&mut cluster.connect(), "t", 1, "TABLESPACE elsewhere");
    assert!(location.exists());
    let in_tablespace = format!("{}/link", database_dir(&path));
    for (name, target) in [
        ("link_to_dir", &outside),
        ("link", &outside.join("secret")),
        (&in_tablespace, &outside),
    ] {
        let link = cluster.data_dir().join(name);
        succeed(command("ln").arg("-s").arg(target).arg(link));
    }
    succeed(command("mkfifo").arg(cluster.data_dir().join("global/fifo")));

    let mut taken = Stepwise::start(&cluster, "");
    let stream = taken.send_files();
    taken.stop();
    let warnings = taken.notices.warnings();
    for name in ["link_to_dir", "link", "global/fifo", &in_tablespace] {
        let matching = warnings
            .iter()
            .filter(|warning| **warning == format!("skipping special file \"{name}\""))
            .count();
        assert_eq!(matching, 1, "{name}: {warnings:?}");
    }
    assert!(!member::contains(&stream, MARK));
    assert_eq!(member::find(&stream, "link_to_dir"), None);
    taken.backup.verify();
}

#[test]
fn an_in_place_tablespace_is_sent_in_place() {
    let cluster = Cluster::builder()
        .setting("allow_in_place_tablespaces", "on")
        .start();
    let mut client = cluster.connect();
    client
        .batch_execute("CREATE TABLESPACE in_place LOCATION ''")
        .expect("CREATE TABLESPACE");
    let path = quiet_table(&mut client, "t", 3, "TABLESPACE in_place");

    let mut taken = Stepwise::start(&cluster, "");
    assert_eq!(taken.started.tablespace_map, "");
    let stream = taken.send_files();
    taken.stop();
    assert_eq!(member::expect(&stream, &path).content.len(), 3 * 8192);
    taken.backup.verify();
    let restored = taken.backup.restore();
    let row = restored.connect().query_one("SELECT count(*) FROM t", &[]);
    assert_eq!(row.expect("the table").get::<_, i64>(0), 21);
}

#[test]
fn members_are_private_to_the_owner() {
    let cluster = Cluster::new();
    assert_modes(&cluster, 0o700, 0o600);
}

#[test]
fn members_are_readable_by_the_group_where_the_cluster_is() {
    let cluster = Cluster::builder()
        .initdb_arg("--allow-group-access")
        .start();
    assert_modes(&cluster, 0o750, 0o640);
}

fn assert_modes(cluster: &Cluster, dirs: u32, files: u32) {
    cluster.create_tablespace("elsewhere");
    quiet_table(&mut cluster.connect(), "t", 1, "TABLESPACE elsewhere");
    let mut taken = Stepwise::start(cluster, "");
    let mut members = member::members(&taken.send_files());
    members.extend(member::members(&taken.stop()));
    let (dir_members, file_members): (Vec<Member>, Vec<Member>) =
        members.into_iter().partition(|member| member.kind == 'd');
    assert!(dir_members.len() > 20 && file_members.len() > 500);
    for member in &dir_members {
        assert_eq!(member.mode, dirs, "{} is {:o}", member.name(), member.mode);
    }
    for member in &file_members {
        assert_eq!(member.mode, files, "{} is {:o}", member.name(), member.mode);
    }
}

#[test]
fn unlogged_relations_arrive_empty() {
    let cluster = Cluster::new();
    cluster.create_tablespace("elsewhere");
    let mut client = cluster.connect();
    let mut forks = Vec::new();
    for (name, clause) in [("here", ""), ("there", "TABLESPACE elsewhere")] {
        client
            .batch_execute(&format!(
                "CREATE UNLOGGED TABLE {name} (a int) {clause};
                 CREATE INDEX {name}_index ON {name} (a) {clause};
                 INSERT INTO {name} SELECT generate_series(1, 1000);
                 CREATE TABLE {name}_logged {clause} AS SELECT 1 AS a"
            ))
            .expect("the tables");
        client
            .batch_execute(&format!("VACUUM {name}"))
            .expect("VACUUM");
        for relation in [name.to_owned(), format!("{name}_index")] {
            let path: String = client
                .query_one(
                    "SELECT pg_relation_filepath($1::text::regclass)",
                    &[&relation],
                )
                .expect("the path of a relation")
                .get(0);
            forks.push(path);
        }
    }
    client.batch_execute("CHECKPOINT").expect("CHECKPOINT");
    for suffix in ["", "_fsm", "_vm", "_init"] {
        let path = cluster.data_dir().join(format!("{}{suffix}", forks[0]));
        assert!(path.exists(), "the table has no {path:?}");
    }
    // Later segments belong to the relation too.
    for path in &forks {
        cluster.write_file(&format!("{path}.1"), &[0; 8192]);
        cluster.write_file(&format!("{path}_fsm.2"), &[0; 8192]);
    }

    let mut taken = Stepwise::start(&cluster, "");
    let listing: Vec<_> = taken
        .listing()
        .into_iter()
        .map(|entry| entry.path)
        .collect();
    for path in &forks {
        let mut found = listing.iter().filter(|listed| listed.starts_with(path));
        assert_eq!(found.next(), Some(&format!("{path}_init")));
        assert_eq!(found.next(), None);
    }
    taken.send_files();
    taken.stop();
    let restored = restore(taken.backup);
    let row = restored.connect().query_one(
        "SELECT (SELECT count(*) FROM here), (SELECT count(*) FROM there),
                (SELECT count(*) FROM here_logged), (SELECT count(*) FROM there_logged)",
        &[],
    );
    let row = row.map_err(Failure::from).expect("the tables");
    let counts: [i64; 4] = std::array::from_fn(|column| row.get(column));
    assert_eq!(counts, [0, 0, 1, 1]);
}

fn restore(backup: Backup) -> Cluster {
    backup.verify();
    backup.restore()
}

fn is_link(path: &Path) -> bool {
    path.symlink_metadata()
        .unwrap_or_else(|error| panic!("could not stat {path:?}: {error}"))
        .is_symlink()
}
