//! Extension versions: the members of the extension, and an upgrade path from every released
//! version.

use backup_tests::backup::{Backup, send_stop, spawn_workers, start};
use backup_tests::server::Cluster;
use backup_tests::stream::{copy_of, copy_out};
use postgres::Client;

const CHANGELOG: &str = include_str!("../../CHANGELOG.md");

/// Every member of the extension, with arguments and result for functions. A change here needs an
/// upgrade step in `sql/`.
const MEMBERS: [&str; 11] = [
    "function abort_backup() -> void",
    "function backup_filelist(backup_id bigint DEFAULT NULL::bigint, tablespace oid DEFAULT NULL::oid) \
     -> TABLE(path text, type \"char\", size bigint, mtime timestamp with time zone)",
    "function backup_progress() \
     -> TABLE(backup_id bigint, leader_pid integer, label text, phase text, \
     started_at timestamp with time zone, workers integer, files_total bigint, files_sent bigint, \
     bytes_total bigint, bytes_sent bigint, checksum_failures bigint, wal_segments_sent bigint, wal_sent_lsn pg_lsn)",
    "function backup_tablespaces(backup_id bigint DEFAULT NULL::bigint) \
     -> TABLE(spcoid oid, spclocation text, size bigint)",
    "function base_backup(label text DEFAULT 'pg_parallel_backup'::text, fast boolean DEFAULT false, \
     tablespace_map boolean DEFAULT true, max_rate integer DEFAULT NULL::integer, \
     verify_checksums boolean DEFAULT true, manifest_checksums text DEFAULT 'CRC32C'::text, \
     retain_wal boolean DEFAULT false, wal boolean DEFAULT false, wait boolean DEFAULT true, \
     allow_incomplete boolean DEFAULT false, compression text DEFAULT NULL::text, \
     incremental boolean DEFAULT false) \
     -> SETOF bytea",
    "function send_backup_files(backup_id bigint DEFAULT NULL::bigint, files text[] DEFAULT NULL::text[], \
     tablespace oid DEFAULT NULL::oid, max_rate integer DEFAULT NULL::integer, \
     verify_checksums boolean DEFAULT NULL::boolean, start_wal_location pg_lsn DEFAULT NULL::pg_lsn, \
     compression text DEFAULT NULL::text, target text DEFAULT 'client'::text, \
     max_bytes bigint DEFAULT NULL::bigint, parts boolean DEFAULT false) \
     -> SETOF bytea",
    "function send_stop_backup(wal boolean DEFAULT false, wait boolean DEFAULT true, \
     allow_incomplete boolean DEFAULT false, compression text DEFAULT NULL::text) \
     -> SETOF bytea",
    "function send_wal(backup_id bigint DEFAULT NULL::bigint, from_lsn pg_lsn DEFAULT NULL::pg_lsn, \
     wait interval DEFAULT '00:00:10'::interval, compression text DEFAULT NULL::text) \
     -> SETOF bytea",
    "function start_backup(label text DEFAULT 'pg_parallel_backup'::text, fast boolean DEFAULT false, \
     tablespace_map boolean DEFAULT true, max_rate integer DEFAULT NULL::integer, \
     verify_checksums boolean DEFAULT true, manifest_checksums text DEFAULT 'CRC32C'::text, \
     retain_wal boolean DEFAULT false, incremental boolean DEFAULT false) \
     -> TABLE(backup_id bigint, start_lsn pg_lsn, timeline integer, backup_label text, \
     tablespace_map text, file_count bigint, total_bytes bigint)",
    "function stop_backup(wait boolean DEFAULT true, allow_incomplete boolean DEFAULT false) \
     -> TABLE(stop_lsn pg_lsn, timeline integer, backup_label text, tablespace_map text, \
     pg_control bytea, backup_manifest text)",
    "function upload_manifest(part bytea) -> void",
];

const MEMBERS_OF_EXTENSION: &str = "
    FROM pg_depend LEFT JOIN pg_proc ON classid = 'pg_proc'::regclass AND pg_proc.oid = objid
    WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass
      AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_parallel_backup')";

/// Versions in the changelog, newest first, and whether each has been released.
fn versions() -> Vec<(&'static str, bool)> {
    let versions: Vec<_> = CHANGELOG
        .lines()
        .filter_map(|line| line.strip_prefix("## "))
        .filter_map(|heading| heading.split_once(' '))
        .map(|(version, date)| (version, date != "(unreleased)"))
        .collect();
    assert_eq!(versions.last(), Some(&("0.1.0", true)));
    versions
}

fn current_version() -> &'static str {
    versions()[0].0
}

fn earlier_versions() -> Vec<&'static str> {
    let earlier: Vec<_> = versions()[1..]
        .iter()
        .map(|(version, _)| *version)
        .collect();
    assert!(!earlier.is_empty());
    earlier
}

/// Session in a new database with that version of the extension, or with the default version.
fn database_with(cluster: &Cluster, name: &str, version: Option<&str>) -> Client {
    cluster.execute(&format!("CREATE DATABASE {name}"));
    let mut client = cluster.connect_to(name);
    let version = version.map_or(String::new(), |version| format!("VERSION '{version}'"));
    run(
        &mut client,
        &format!("CREATE EXTENSION pg_parallel_backup {version}"),
    );
    client
}

#[track_caller]
fn run(client: &mut Client, statement: &str) {
    client
        .batch_execute(statement)
        .unwrap_or_else(|error| panic!("{statement}: {error:?}"));
}

#[track_caller]
fn texts(client: &mut Client, query: &str) -> Vec<String> {
    client
        .query(query, &[])
        .unwrap_or_else(|error| panic!("{query}: {error:?}"))
        .iter()
        .map(|row| row.get(0))
        .collect()
}

fn installed_version(client: &mut Client) -> String {
    texts(
        client,
        "SELECT extversion FROM pg_extension WHERE extname = 'pg_parallel_backup'",
    )
    .concat()
}

/// Catalog definitions of the extension and its members, without OIDs.
fn definitions(client: &mut Client) -> Vec<String> {
    let mut lines = texts(
        client,
        &format!(
            "SELECT concat_ws(E'\\n', pg_describe_object(classid, objid, objsubid),
                 CASE WHEN pg_proc.oid IS NOT NULL THEN pg_get_functiondef(pg_proc.oid) END,
                 'owner ' || proowner::regrole, 'privileges ' || proacl::text,
                 'comment ' || obj_description(objid, classid::regclass::name))
             {MEMBERS_OF_EXTENSION}
             ORDER BY 1"
        ),
    );
    lines.extend(texts(
        client,
        "SELECT to_jsonb(pg_extension)::text FROM (SELECT extname, extowner::regrole,
             extnamespace::regnamespace, extrelocatable, extversion, extconfig, extcondition
             FROM pg_extension WHERE extname = 'pg_parallel_backup') AS pg_extension",
    ));
    lines
}

#[test]
fn the_members_are_those_of_the_list() {
    let cluster = Cluster::new();
    let members = texts(
        &mut cluster.connect(),
        &format!(
            "SELECT CASE WHEN pg_proc.oid IS NULL THEN pg_describe_object(classid, objid, objsubid)
                 ELSE format('function %s(%s) -> %s', proname, pg_get_function_arguments(pg_proc.oid),
                     pg_get_function_result(pg_proc.oid)) END
             {MEMBERS_OF_EXTENSION}
             ORDER BY proname"
        ),
    );
    assert_eq!(members, MEMBERS);
}

#[test]
fn create_extension_installs_the_newest_version_of_the_changelog() {
    let cluster = Cluster::new();
    assert_eq!(installed_version(&mut cluster.connect()), current_version());
}

#[test]
fn every_released_version_leads_to_the_current_one() {
    let cluster = Cluster::new();
    let mut client = cluster.connect();
    let available = texts(
        &mut client,
        "SELECT version FROM pg_available_extension_versions WHERE name = 'pg_parallel_backup'",
    );
    for (version, _) in versions() {
        assert!(
            available.iter().any(|name| name == version),
            "{version} is not among {available:?}"
        );
    }
    let current = current_version();
    let without_path = texts(
        &mut client,
        &format!(
            "SELECT source FROM pg_extension_update_paths('pg_parallel_backup')
             WHERE target = '{current}' AND source <> target AND path IS NULL"
        ),
    );
    assert_eq!(without_path, [""; 0]);
}

#[test]
fn an_upgraded_extension_is_what_a_new_one_is() {
    let cluster = Cluster::builder().without_extension().start();
    cluster.execute("CREATE ROLE backup LOGIN");
    let grant = "GRANT EXECUTE ON FUNCTION start_backup, send_backup_files, base_backup, backup_progress TO backup";
    let mut fresh = database_with(&cluster, "fresh", None);
    run(&mut fresh, grant);
    // Who could send files can send WAL after an upgrade.
    run(
        &mut fresh,
        "GRANT EXECUTE ON FUNCTION send_wal, upload_manifest TO backup",
    );
    let expected = definitions(&mut fresh);
    assert_eq!(expected.len(), MEMBERS.len() + 1);

    for (number, version) in earlier_versions().into_iter().enumerate() {
        let mut client = database_with(&cluster, &format!("from{number}"), Some(version));
        assert_eq!(installed_version(&mut client), version);
        // Privileges granted before the upgrade must be kept.
        run(&mut client, grant);
        run(&mut client, "ALTER EXTENSION pg_parallel_backup UPDATE");
        assert_eq!(definitions(&mut client), expected, "from {version}");
    }
}

/// The library is replaced first. The extension may keep its old version on a server for long.
#[test]
fn the_functions_of_every_released_version_take_a_backup_with_this_library() {
    for version in earlier_versions() {
        let cluster = Cluster::builder().without_extension().start();
        cluster.execute(&format!(
            "CREATE EXTENSION pg_parallel_backup VERSION '{version}'"
        ));
        Backup::take(&cluster, 2).verify();
        let in_one_statement = Backup::folder(&cluster);
        let copy = copy_of("base_backup(fast => true, wal => true)");
        let stream = copy_out(&mut cluster.connect(), &copy);
        in_one_statement.unpack(&stream.expect("a backup in one statement"));
        in_one_statement.verify();

        // An upgrade does not disturb a running backup.
        let mut leader = cluster.connect();
        let backup = Backup::folder(&cluster);
        let id = start(&mut leader, "").id;
        let shown = texts(
            &mut cluster.connect(),
            "SELECT phase FROM backup_progress()",
        );
        assert_eq!(shown, ["streaming database files"]);
        cluster.execute("ALTER EXTENSION pg_parallel_backup UPDATE");
        for worker in spawn_workers(&cluster, id, 2) {
            backup.unpack(&worker.expect());
        }
        backup.unpack(&send_stop(&mut leader));
        backup.verify();
        assert_eq!(
            installed_version(&mut backup.restore().connect()),
            current_version(),
            "from {version}"
        );
    }
}
