//! Foreign objects with the names of ours or the server's: in the search path of a session that
//! takes a backup, and in the extension's schema before CREATE EXTENSION.

use backup_tests::backup::Backup;
use backup_tests::failure::{Failure, expect_failure};
use backup_tests::server::Cluster;
use backup_tests::stream::copy_out;
use postgres::{Client, SimpleQueryMessage};

/// Fills a schema with a trap for each of the server's functions and operators, and with types
/// named like those that our functions use.
const TRAPS: &str = r#"
    CREATE SCHEMA hostile;
    SET check_function_bodies = off;
    DO $do$
    DECLARE
        f record;
        made integer := 0;
    BEGIN
        FOR f IN
            SELECT oid, proname, pg_get_function_identity_arguments(oid) AS arguments,
                   pg_get_function_result(oid) AS result
            FROM pg_proc
            WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f'
        LOOP
            BEGIN
                EXECUTE format(
                    'CREATE FUNCTION hostile.%I(%s) RETURNS %s LANGUAGE plpgsql AS %L',
                    f.proname, f.arguments, f.result,
                    format('BEGIN RAISE ''%s has been taken over''; END', f.proname));
                made := made + 1;
            EXCEPTION WHEN OTHERS THEN
                -- Pseudo-types, which no function in PL/pgSQL has.
                NULL;
            END;
        END LOOP;
        ASSERT made > 2000, made;
        made := 0;
        FOR f IN
            SELECT oprname, oprleft, oprright, proname
            FROM pg_operator JOIN pg_proc ON pg_proc.oid = oprcode
            WHERE oprnamespace = 'pg_catalog'::regnamespace
        LOOP
            BEGIN
                EXECUTE format('CREATE OPERATOR hostile.%s (%s RIGHTARG = %s, FUNCTION = hostile.%I)',
                    f.oprname,
                    CASE WHEN f.oprleft <> 0 THEN format('LEFTARG = %s,', f.oprleft::regtype) END,
                    f.oprright::regtype, f.proname);
                made := made + 1;
            EXCEPTION WHEN OTHERS THEN
                NULL;
            END;
        END LOOP;
        ASSERT made > 500, made;
        FOREACH f.proname IN ARRAY '{bool,bytea,char,int4,int8,oid,pg_lsn,text,timestamptz}'::name[]
        LOOP
            EXECUTE format('CREATE DOMAIN hostile.%I AS pg_catalog.point', f.proname);
        END LOOP;
    END$do$;
    CREATE TABLE hostile.pg_tablespace (); CREATE TABLE hostile.pg_class ();
    CREATE TABLE hostile.pg_locks (); CREATE TABLE hostile.pg_extension ();
    GRANT USAGE ON SCHEMA hostile TO PUBLIC"#;

/// The same traps in the temporary schema, which is searched first for types and tables.
const TEMPORARY_TRAPS: &str = "
    CREATE TEMPORARY TABLE pg_tablespace (); CREATE TEMPORARY TABLE pg_class ();
    CREATE TEMPORARY TABLE pg_proc (); CREATE TEMPORARY TABLE pg_extension ();
    CREATE DOMAIN pg_temp.text AS pg_catalog.point; CREATE DOMAIN pg_temp.int8 AS pg_catalog.point;
    CREATE DOMAIN pg_temp.bytea AS pg_catalog.point";

/// Runs a statement in the simple protocol. A prepared statement would also query types and run
/// into the traps.
#[track_caller]
fn rows(client: &mut Client, statement: &str) -> Vec<Vec<String>> {
    let messages = client
        .simple_query(statement)
        .unwrap_or_else(|error| panic!("{statement}: {}", Failure::from(error)));
    messages
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(
                (0..row.len())
                    .map(|column| row.get(column).unwrap_or_default().to_owned())
                    .collect(),
            ),
            _ => None,
        })
        .collect()
}

/// Calls every function once, in the session as it is.
fn use_every_function(cluster: &Cluster, client: &mut Client) {
    let backup = Backup::folder(cluster);
    let stream = |client: &mut Client, call: &str| {
        let copy = format!("COPY (SELECT public.{call}) TO STDOUT");
        copy_out(client, &copy).unwrap_or_else(|failure| panic!("{call}: {failure}"))
    };
    rows(client, "SELECT * FROM public.backup_filelist()");
    rows(client, "SELECT * FROM public.backup_tablespaces()");
    let started = "SELECT * FROM public.start_backup('n', fast => true, retain_wal => true)";
    let id = rows(client, started)[0][0].clone();
    let listed = rows(client, "SELECT * FROM public.backup_filelist()");
    assert!(listed.len() > 500);
    rows(
        client,
        &format!("SELECT * FROM public.backup_tablespaces('{id}')"),
    );
    assert_eq!(
        rows(client, "SELECT * FROM public.backup_progress()").len(),
        1
    );
    rows(
        client,
        "SELECT * FROM public.send_backup_files(target => 'blackhole')",
    );
    backup.unpack(&stream(client, &format!("send_backup_files('{id}')")));
    let again = format!("send_backup_files('{id}', '{{PG_VERSION}}', compression => 'zstd')");
    stream(client, &again);
    backup.unpack(&stream(client, "send_stop_backup(wal => true)"));
    backup.verify();

    rows(client, "SELECT * FROM public.start_backup(fast => true)");
    rows(
        client,
        "SELECT * FROM public.stop_backup(allow_incomplete => true)",
    );
    rows(client, "SELECT * FROM public.start_backup(fast => true)");
    rows(client, "SELECT public.abort_backup()");
    stream(client, "base_backup(fast => true)");
}

#[test]
fn no_object_of_the_search_path_is_called() {
    let cluster = Cluster::new();
    cluster.execute(TRAPS);
    let mut client = cluster.connect();
    client.batch_execute(TEMPORARY_TRAPS).expect("the traps");
    rows(
        &mut client,
        "SET search_path = hostile, pg_temp, pg_catalog",
    );
    for (statement, name) in [
        ("SELECT 1 = 1", "int4eq"),
        ("SELECT lower('A')", "lower"),
        ("SELECT pg_backup_start('l', true)", "pg_backup_start"),
    ] {
        let failure = expect_failure(statement, client.simple_query(statement));
        failure.assert("P0001", &format!("{name} has been taken over"));
    }
    let statement = "SELECT 'a'::text";
    expect_failure(statement, client.simple_query(statement));
    use_every_function(&cluster, &mut client);
}

#[test]
fn no_object_of_the_search_path_is_needed() {
    let cluster = Cluster::new();
    let mut client = cluster.connect();
    rows(&mut client, "SET search_path = ''");
    use_every_function(&cluster, &mut client);
}

/// Returns the error of CREATE EXTENSION in a database. Checks that no object of the extension
/// exists afterwards.
#[track_caller]
fn refused_installation(client: &mut Client) -> Failure {
    let statement = "CREATE EXTENSION pg_parallel_backup";
    let failure = expect_failure(statement, client.batch_execute(statement));
    assert_eq!(extensions(client), ["plpgsql"]);
    failure
}

fn extensions(client: &mut Client) -> Vec<String> {
    let names = client.query("SELECT extname::text FROM pg_extension", &[]);
    let names = names.expect("pg_extension");
    names.iter().map(|row| row.get(0)).collect()
}

/// Name and arguments of every function of the extension.
fn functions(cluster: &Cluster) -> Vec<(String, String)> {
    let query = "SELECT proname::text, pg_get_function_identity_arguments(pg_proc.oid)
         FROM pg_depend JOIN pg_proc ON pg_proc.oid = objid
         WHERE classid = 'pg_proc'::regclass AND refclassid = 'pg_extension'::regclass
           AND deptype = 'e'
           AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_parallel_backup')
         ORDER BY 1";
    let rows = cluster.connect().query(query, &[]).expect("the functions");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[test]
fn a_function_that_was_there_before_is_not_adopted() {
    let cluster = Cluster::new();
    cluster.execute("CREATE DATABASE planted");
    cluster.execute("CREATE ROLE planter");
    let mut client = cluster.connect_to("planted");
    client
        .batch_execute("GRANT CREATE ON SCHEMA public TO planter")
        .expect("GRANT");
    let functions = functions(&cluster);
    assert_eq!(functions.len(), 11);
    for (name, arguments) in &functions {
        let plant = format!(
            "SET ROLE planter;
             CREATE FUNCTION public.{name}({arguments}) RETURNS text LANGUAGE sql
                 AS $$SELECT 'planted'::text$$;
             RESET ROLE"
        );
        client.batch_execute(&plant).expect("CREATE FUNCTION");
        refused_installation(&mut client).assert(
            "42723",
            &format!("function \"{name}\" already exists with same argument types"),
        );
        let query = "SELECT prosrc, proowner::regrole::text, probin IS NULL, proacl IS NULL
             FROM pg_proc WHERE proname = $1";
        let row = client.query_one(query, &[name]).expect("it is still there");
        assert_eq!(row.get::<_, &str>(0), "SELECT 'planted'::text", "{name}");
        assert_eq!(row.get::<_, &str>(1), "planter", "{name}");
        assert!(row.get::<_, bool>(2) && row.get::<_, bool>(3), "{name}");
        client
            .batch_execute(&format!("DROP FUNCTION public.{name}"))
            .expect("DROP FUNCTION");
    }
    let create = "CREATE EXTENSION pg_parallel_backup";
    client.batch_execute(create).expect(create);
}

/// Calls with omitted arguments would be ambiguous, so the extension refuses to be installed beside
/// such a function.
#[test]
fn a_function_of_the_same_name_with_other_arguments_is_refused() {
    let cluster = Cluster::new();
    cluster.execute("CREATE DATABASE planted");
    let mut client = cluster.connect_to("planted");
    client
        .batch_execute(
            "CREATE FUNCTION public.start_backup(label name) RETURNS text LANGUAGE sql
                 AS $$SELECT 'planted'::text$$",
        )
        .expect("CREATE FUNCTION");
    refused_installation(&mut client)
        .assert("42725", "function name \"start_backup\" is not unique");
    // Installing into another schema works.
    let create = "CREATE SCHEMA s; CREATE EXTENSION pg_parallel_backup SCHEMA s";
    client.batch_execute(create).expect(create);
}

#[test]
fn types_and_tables_that_were_there_before_do_not_matter() {
    let cluster = Cluster::new();
    cluster.execute("CREATE DATABASE planted");
    let mut client = cluster.connect_to("planted");
    for schema in ["public", "hostile", "pg_temp"] {
        let plant = "
            CREATE TABLE SCHEMA.start_backup (x integer);
            CREATE TYPE SCHEMA.backup_filelist AS (x integer);
            CREATE DOMAIN SCHEMA.text AS pg_catalog.point;
            CREATE DOMAIN SCHEMA.int8 AS pg_catalog.point;
            CREATE DOMAIN SCHEMA.bytea AS pg_catalog.point;
            CREATE DOMAIN SCHEMA.pg_lsn AS pg_catalog.point"
            .replace("SCHEMA", schema);
        let schema = "CREATE SCHEMA IF NOT EXISTS hostile;";
        client
            .batch_execute(&format!("{schema}{plant}"))
            .expect("the planted objects");
    }
    rows(
        &mut client,
        "SET search_path = public, hostile, pg_temp, pg_catalog",
    );
    rows(&mut client, "CREATE EXTENSION pg_parallel_backup");
    rows(&mut client, "RESET search_path; DISCARD TEMP");
    let members = "SELECT pg_describe_object(classid, objid, 0)
         FROM pg_depend WHERE deptype = 'e' AND refclassid = 'pg_extension'::regclass
           AND refobjid = (SELECT oid FROM pg_extension WHERE extname = 'pg_parallel_backup')";
    let members = rows(&mut client, members);
    assert_eq!(members.len(), 11);
    for member in members {
        let member = &member[0];
        let planted = [
            "public.text",
            "hostile.",
            "pg_temp",
            "public.int8",
            "public.bytea",
        ];
        assert!(
            member.starts_with("function ") && planted.iter().all(|part| !member.contains(part)),
            "{member}"
        );
    }
    let foreign_types =
        "SELECT count(*) FROM pg_proc, unnest(coalesce(proallargtypes, proargtypes)) AS a
         JOIN pg_type ON pg_type.oid = a
         WHERE probin LIKE '%pg_parallel_backup%' AND typnamespace <> 'pg_catalog'::regnamespace";
    assert_eq!(rows(&mut client, foreign_types), [["0"]]);
}

#[test]
fn only_a_superuser_installs_the_extension() {
    let cluster = Cluster::new();
    cluster.execute(
        "CREATE ROLE owner LOGIN CREATEDB CREATEROLE REPLICATION BYPASSRLS;
         GRANT pg_read_server_files, pg_write_server_files, pg_execute_server_program TO owner",
    );
    cluster.execute("CREATE DATABASE planted OWNER owner");
    let mut client = cluster
        .config("planted")
        .user("owner")
        .connect(postgres::NoTls)
        .expect("a session of the owner");
    refused_installation(&mut client).assert(
        "42501",
        "permission denied to create extension \"pg_parallel_backup\"",
    );
}

/// Neither membership in predefined roles nor role attributes replace EXECUTE.
#[test]
fn membership_in_the_servers_roles_opens_nothing() {
    let cluster = Cluster::new();
    cluster.execute(
        "CREATE ROLE everything LOGIN CREATEDB CREATEROLE REPLICATION BYPASSRLS;
         GRANT pg_read_all_data, pg_write_all_data, pg_read_all_settings, pg_read_all_stats,
             pg_stat_scan_tables, pg_monitor, pg_signal_backend, pg_read_server_files,
             pg_write_server_files, pg_execute_server_program, pg_checkpoint TO everything",
    );
    let mut session = cluster.connect_as("everything");
    for (name, _) in functions(&cluster) {
        let argument = if name == "upload_manifest" { "''" } else { "" };
        let statement = format!("SELECT {name}({argument})");
        expect_failure(&statement, session.batch_execute(&statement))
            .assert("42501", &format!("permission denied for function {name}"));
    }
}
