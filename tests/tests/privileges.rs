//! Privileges: only superusers may call the functions until EXECUTE is granted, and EXECUTE is then
//! sufficient.

use backup_tests::backup::{Backup, send_stop, spawn_workers, start};
use backup_tests::failure::{Failure, expect_failure};
use backup_tests::server::Cluster;
use backup_tests::stream::{copy_of, copy_out};
use postgres::Client;

/// Every function with a call of it.
const CALLS: [(&str, &str); 11] = [
    ("abort_backup", "SELECT abort_backup()"),
    ("backup_filelist", "SELECT * FROM backup_filelist()"),
    ("backup_progress", "SELECT * FROM backup_progress()"),
    ("backup_tablespaces", "SELECT * FROM backup_tablespaces()"),
    (
        "base_backup",
        "COPY (SELECT base_backup(fast => true)) TO STDOUT",
    ),
    (
        "send_backup_files",
        "COPY (SELECT send_backup_files()) TO STDOUT",
    ),
    (
        "send_stop_backup",
        "COPY (SELECT send_stop_backup()) TO STDOUT",
    ),
    ("send_wal", "COPY (SELECT send_wal()) TO STDOUT"),
    ("start_backup", "SELECT * FROM start_backup(fast => true)"),
    ("stop_backup", "SELECT * FROM stop_backup()"),
    ("upload_manifest", "SELECT upload_manifest('')"),
];

fn call(client: &mut Client, statement: &str) -> Result<(), Failure> {
    if statement.starts_with("COPY") {
        copy_out(client, statement).map(|_| ())
    } else {
        client
            .query(statement, &[])
            .map(|_| ())
            .map_err(Failure::from)
    }
}

#[test]
fn the_list_of_functions_is_complete() {
    let cluster = Cluster::new();
    let functions: Vec<String> = cluster
        .connect()
        .query(
            "SELECT proname::text
             FROM pg_depend JOIN pg_proc ON pg_proc.oid = objid
             WHERE refclassid = 'pg_extension'::regclass AND classid = 'pg_proc'::regclass
               AND deptype = 'e'
               AND refobjid = (SELECT oid FROM pg_extension
                               WHERE extname = 'pg_parallel_backup')
             ORDER BY proname",
            &[],
        )
        .expect("the members of the extension")
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(functions, CALLS.map(|(name, _)| name));
}

#[test]
fn no_function_is_open_to_everybody() {
    let cluster = Cluster::new();
    cluster.execute("CREATE ROLE nobody LOGIN; CREATE ROLE replicator LOGIN REPLICATION");
    for role in ["nobody", "replicator"] {
        let mut session = cluster.connect_as(role);
        for (name, statement) in CALLS {
            expect_failure(statement, call(&mut session, statement))
                .assert("42501", &format!("permission denied for function {name}"));
        }
    }
}

#[test]
fn each_grant_opens_its_own_function() {
    let cluster = Cluster::new();
    for (name, _) in CALLS {
        cluster.execute(&format!(
            "CREATE ROLE may_{name} LOGIN; GRANT EXECUTE ON FUNCTION {name} TO may_{name}"
        ));
        let mut session = cluster.connect_as(&format!("may_{name}"));
        for (other, statement) in CALLS {
            let result = call(&mut session, statement);
            let denied = matches!(&result, Err(failure) if failure.sqlstate == "42501");
            assert_eq!(
                denied,
                other != name,
                "{name} granted, {statement}: {result:?}"
            );
        }
    }
}

/// Cluster with a role that has EXECUTE on everything and no other privilege, and a table of
/// another role.
fn cluster_with_backup_role() -> Cluster {
    let cluster = Cluster::new();
    cluster.create_tablespace("elsewhere");
    cluster.execute(
        "CREATE TABLE t TABLESPACE elsewhere AS SELECT generate_series(1, 1000) AS a;
         REVOKE ALL ON t FROM PUBLIC;
         CREATE ROLE backup LOGIN",
    );
    for (name, _) in CALLS {
        cluster.execute(&format!("GRANT EXECUTE ON FUNCTION {name} TO backup"));
    }
    cluster
}

#[test]
fn a_role_with_execute_takes_a_whole_backup() {
    let cluster = cluster_with_backup_role();
    let backup = Backup::folder(&cluster);
    let mut leader = cluster.connect_as("backup");
    let id = start(&mut leader, "retain_wal => true").id;
    let mut worker = cluster.connect_as("backup");
    for statement in [
        format!("SELECT * FROM backup_tablespaces({id})"),
        format!("SELECT * FROM backup_filelist({id})"),
        "SELECT * FROM backup_progress()".to_owned(),
    ] {
        let rows = worker.query(&statement, &[]);
        assert!(
            !rows.expect("rows for the backup role").is_empty(),
            "{statement}"
        );
    }
    let copy = copy_of(&format!("send_backup_files({id})"));
    backup.unpack(&copy_out(&mut worker, &copy).expect("the stream of the backup role"));
    backup.unpack(&send_stop(&mut leader));
    backup.verify();
    let restored = backup.restore();
    restored.wait_for_sql("the rows", "SELECT count(*) = 1000 FROM t");
}

#[test]
fn a_role_with_execute_takes_a_backup_in_one_statement() {
    let cluster = cluster_with_backup_role();
    let backup = Backup::folder(&cluster);
    let mut session = cluster.connect_as("backup");
    let copy = copy_of("base_backup(fast => true, wal => true)");
    backup.unpack(&copy_out(&mut session, &copy).expect("the stream of the backup role"));
    backup.verify();
}

#[test]
fn the_other_ends_of_a_backup_are_open_to_the_role_too() {
    let cluster = cluster_with_backup_role();
    let mut leader = cluster.connect_as("backup");
    start(&mut leader, "");
    leader
        .query("SELECT abort_backup()", &[])
        .expect("abort_backup()");
    start(&mut leader, "");
    leader
        .query("SELECT * FROM stop_backup(allow_incomplete => true)", &[])
        .expect("stop_backup()");
}

/// A backup must not depend on objects that other roles put into the search path.
#[test]
fn a_hostile_search_path_changes_nothing() {
    let cluster = Cluster::new();
    cluster.execute(
        "CREATE SCHEMA hostile;
         CREATE FUNCTION hostile.pg_backup_start(text, boolean) RETURNS pg_lsn LANGUAGE plpgsql
             AS $$BEGIN RAISE 'taken over'; END$$;
         CREATE FUNCTION hostile.int4eq(int, int) RETURNS boolean LANGUAGE plpgsql
             AS $$BEGIN RAISE 'taken over'; END$$;
         CREATE OPERATOR hostile.= (leftarg = int, rightarg = int, function = hostile.int4eq);
         CREATE TABLE hostile.pg_tablespace (); CREATE TABLE hostile.pg_class ()",
    );
    let mut leader = cluster.connect();
    leader
        .batch_execute("SET search_path = hostile, pg_catalog, public")
        .expect("SET");
    let backup = Backup::folder(&cluster);
    let id = start(&mut leader, "").id;
    for worker in spawn_workers(&cluster, id, 1) {
        backup.unpack(&worker.expect());
    }
    backup.unpack(&send_stop(&mut leader));
    backup.verify();
}
