//! SECURITY DEFINER functions around ours, and sessions of several roles in one backup.

use backup_tests::archive;
use backup_tests::backup::{Backup, send_stop, start};
use backup_tests::failure::{Failure, expect_failure};
use backup_tests::server::Cluster;
use backup_tests::stream::{copy_of, copy_out};
use postgres::Client;

/// Schema of wrappers as shown in docs/operations.md, and two roles: `operator` may call the
/// wrappers, `worker` may send files. Neither may call any other function of the extension.
const WRAPPERS: &str = "
    CREATE SCHEMA ops;
    CREATE FUNCTION ops.start_nightly() RETURNS bigint LANGUAGE sql
        SECURITY DEFINER SET search_path = pg_catalog, pg_temp
        AS $$SELECT backup_id FROM public.start_backup('nightly', fast => true)$$;
    CREATE FUNCTION ops.files_of_nightly() RETURNS bigint LANGUAGE sql
        SECURITY DEFINER SET search_path = pg_catalog, pg_temp
        AS $$SELECT count(*) FROM public.backup_filelist()$$;
    CREATE FUNCTION ops.unsent_of_nightly() RETURNS bigint LANGUAGE sql
        SECURITY DEFINER SET search_path = pg_catalog, pg_temp
        AS $$SELECT files_total - files_sent FROM public.backup_progress()$$;
    CREATE FUNCTION ops.stop_nightly(OUT backup_label text, OUT pg_control bytea,
            OUT backup_manifest text) LANGUAGE sql
        SECURITY DEFINER SET search_path = pg_catalog, pg_temp
        AS $$SELECT backup_label, pg_control, backup_manifest FROM public.stop_backup()$$;
    CREATE FUNCTION ops.abort_nightly() RETURNS void LANGUAGE sql
        SECURITY DEFINER SET search_path = pg_catalog, pg_temp
        AS $$SELECT public.abort_backup()$$;
    CREATE FUNCTION ops.check_pages(backup_id bigint) RETURNS bigint LANGUAGE sql
        SECURITY DEFINER SET search_path = pg_catalog, pg_temp
        AS $$SELECT count(*) FROM public.send_backup_files(backup_id, target => 'blackhole')$$;
    REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ops FROM PUBLIC;
    CREATE ROLE operator LOGIN;
    GRANT USAGE ON SCHEMA ops TO operator;
    GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA ops TO operator;
    CREATE ROLE worker LOGIN;
    GRANT EXECUTE ON FUNCTION send_backup_files TO worker";

fn number(client: &mut Client, query: &str) -> i64 {
    match client.query_one(query, &[]) {
        Ok(row) => row.get(0),
        Err(error) => panic!("{query}: {}", Failure::from(error)),
    }
}

fn refusal(client: &mut Client, statement: &str) -> Failure {
    expect_failure(statement, client.batch_execute(statement))
}

#[test]
fn a_role_leads_a_backup_through_wrappers_alone() {
    let cluster = Cluster::new();
    cluster.execute(WRAPPERS);
    let backup = Backup::folder(&cluster);
    let mut leader = cluster.connect_as("operator");
    refusal(&mut leader, "SELECT start_backup(fast => true)")
        .assert("42501", "permission denied for function start_backup");

    let id = number(&mut leader, "SELECT ops.start_nightly()");
    let files = number(&mut leader, "SELECT ops.files_of_nightly()");
    assert_eq!(number(&mut leader, "SELECT ops.unsent_of_nightly()"), files);
    let mut worker = cluster.connect_as("worker");
    let stream = copy_out(&mut worker, &copy_of(&format!("send_backup_files({id})")));
    backup.unpack(&stream.expect("the stream of the worker"));
    assert_eq!(number(&mut leader, "SELECT ops.unsent_of_nightly()"), 0);

    refusal(&mut leader, "SELECT stop_backup()")
        .assert("42501", "permission denied for function stop_backup");
    let row = leader
        .query_one("SELECT * FROM ops.stop_nightly()", &[])
        .expect("ops.stop_nightly()");
    for (name, content) in [
        ("backup_label", row.get::<_, String>(0).into_bytes()),
        ("global/pg_control", row.get::<_, Vec<u8>>(1)),
        ("backup_manifest", row.get::<_, String>(2).into_bytes()),
    ] {
        std::fs::write(backup.data_dir().join(name), content).expect(name);
    }
    backup.verify_with(&["-n"]);
}

#[test]
fn wrappers_abort_a_backup_and_check_pages() {
    let cluster = Cluster::new();
    cluster.execute(WRAPPERS);
    let mut leader = cluster.connect_as("operator");
    let id = number(&mut leader, "SELECT ops.start_nightly()");
    let mut other = cluster.connect_as("operator");
    let check = format!("SELECT ops.check_pages({id})");
    assert_eq!(number(&mut other, &check), 0);
    for statement in ["SELECT ops.abort_nightly()", "SELECT ops.stop_nightly()"] {
        refusal(&mut other, statement).assert("55000", "backup is not in progress");
    }
    leader
        .batch_execute("SELECT ops.abort_nightly()")
        .expect("ops.abort_nightly()");
    let message = format!("backup {id} does not exist");
    refusal(&mut other, &check).assert("42704", &message);
}

/// The function directly below a COPY must be ours: a wrapper could add rows to the stream.
#[test]
fn a_stream_does_not_leave_through_a_wrapper() {
    const CALLS: [(&str, &str); 3] = [
        ("send_backup_files", ""),
        ("send_stop_backup", "allow_incomplete => true"),
        ("base_backup", "fast => true"),
    ];
    let cluster = Cluster::new();
    cluster.execute(
        "CREATE SCHEMA ops; CREATE ROLE operator LOGIN; GRANT USAGE ON SCHEMA ops TO operator",
    );
    for (name, arguments) in CALLS {
        for wrapper in [name.to_owned(), format!("wrap_{name}")] {
            cluster.execute(&format!(
                "CREATE FUNCTION ops.{wrapper}() RETURNS SETOF bytea LANGUAGE plpgsql
                     SECURITY DEFINER SET search_path = pg_catalog, pg_temp
                     AS $$BEGIN
                         RETURN NEXT 'one row more'::bytea;
                         RETURN QUERY SELECT public.{name}({arguments});
                     END$$"
            ));
        }
    }
    let mut leader = cluster.connect_as("operator");
    for (name, _) in CALLS {
        for call in [
            format!("ops.{name}()"),
            format!("ops.wrap_{name}()"),
            format!("{name}()"),
        ] {
            let statement = copy_of(&call);
            // The last call finds the wrapper through the search path.
            leader
                .batch_execute("SET search_path = ops, public")
                .expect("SET");
            let failure = expect_failure(&statement, copy_out(&mut leader, &statement));
            failure.assert(
                "0A000",
                &format!("{name}() can only be used in COPY (SELECT ...) TO STDOUT"),
            );
            assert_eq!(
                failure.detail, "The query of the COPY is not one call of this function alone.",
                "{statement}"
            );
        }
    }
    // A wrapper is also refused within the arguments of a correctly placed call.
    let statement = copy_of(
        "public.send_backup_files(files => ARRAY(
             SELECT encode(part, 'escape') FROM ops.wrap_base_backup() AS part))",
    );
    let failure = expect_failure(&statement, copy_out(&mut cluster.connect(), &statement));
    failure.assert(
        "0A000",
        "base_backup() can only be used in COPY (SELECT ...) TO STDOUT",
    );
    refusal(&mut cluster.connect(), "SELECT abort_backup()")
        .assert("55000", "backup is not in progress");
}

/// EXECUTE protects a backup. Its ID does not: pg_locks shows it to everyone.
#[test]
fn the_number_of_a_backup_opens_nothing() {
    let cluster = Cluster::new();
    cluster.execute("CREATE ROLE nobody LOGIN");
    let mut leader = cluster.connect();
    let id = start(&mut leader, "").id;

    let mut session = cluster.connect_as("nobody");
    let seen = number(
        &mut session,
        "SELECT (objid::bigint << 32) | classid::bigint FROM pg_locks
         WHERE locktype = 'advisory' AND objsubid > 2",
    );
    assert_eq!(seen, id);
    for statement in [
        format!("SELECT * FROM backup_filelist({seen})"),
        format!("SELECT * FROM backup_tablespaces({seen})"),
        format!("SELECT send_backup_files({seen}, target => 'blackhole')"),
        "SELECT * FROM backup_progress()".to_owned(),
    ] {
        let failure = refusal(&mut session, &statement);
        assert_eq!(failure.sqlstate, "42501", "{statement}: {failure}");
    }
    let copy = copy_of(&format!("send_backup_files({seen})"));
    expect_failure(&copy, copy_out(&mut session, &copy))
        .assert("42501", "permission denied for function send_backup_files");
}

#[test]
fn a_worker_of_another_role_serves_a_backup_and_cannot_end_it() {
    let cluster = Cluster::new();
    cluster.execute(
        "CREATE TABLE secret AS SELECT 'found ' || 'it' AS a;
         REVOKE ALL ON secret FROM PUBLIC;
         CREATE ROLE leader LOGIN; CREATE ROLE worker LOGIN; CREATE ROLE rival LOGIN;
         GRANT EXECUTE ON FUNCTION start_backup, send_stop_backup TO leader;
         GRANT EXECUTE ON FUNCTION send_backup_files TO worker;
         GRANT EXECUTE ON FUNCTION stop_backup, send_stop_backup, abort_backup TO rival",
    );
    cluster.execute("CHECKPOINT");
    let path: String = cluster
        .connect()
        .query_one("SELECT pg_relation_filepath('secret')", &[])
        .expect("pg_relation_filepath")
        .get(0);
    let backup = Backup::folder(&cluster);
    let mut leader = cluster.connect_as("leader");
    let id = start(&mut leader, "").id;

    // Another session with EXECUTE on all functions that end a backup has no backup to end.
    let mut rival = cluster.connect_as("rival");
    for statement in [
        "SELECT stop_backup(allow_incomplete => true)",
        "SELECT abort_backup()",
    ] {
        refusal(&mut rival, statement).assert("55000", "backup is not in progress");
    }
    let copy = copy_of("send_stop_backup(allow_incomplete => true)");
    expect_failure(&copy, copy_out(&mut rival, &copy)).assert("55000", "backup is not in progress");
    let copy = copy_of(&format!("send_backup_files({id})"));
    expect_failure(&copy, copy_out(&mut rival, &copy))
        .assert("42501", "permission denied for function send_backup_files");

    let mut worker = cluster.connect_as("worker");
    refusal(&mut worker, "SELECT * FROM secret")
        .assert("42501", "permission denied for table secret");
    let stream = copy_out(&mut worker, &copy).expect("the stream of the worker");
    let page = archive::content(&stream, &path);
    assert!(
        page.windows(8).any(|bytes| bytes == b"found it"),
        "a worker receives what its role cannot select"
    );
    backup.unpack(&stream);
    for name in [
        "stop_backup",
        "send_stop_backup",
        "abort_backup",
        "backup_progress",
    ] {
        refusal(&mut worker, &format!("SELECT {name}()"))
            .assert("42501", &format!("permission denied for function {name}"));
    }
    backup.unpack(&send_stop(&mut leader));
    backup.verify();
}
