//! Out-of-memory errors in sessions, in cases where a user or a cluster determines how much memory
//! is needed.

use backup_tests::program::{command, succeed};
use backup_tests::server::Cluster;
use postgres::Client;

/// Limits the address space of the backend of a session.
fn limit(session: &mut Client, bytes: u64) {
    let row = session.query_one("SELECT pg_backend_pid()", &[]);
    let pid: i32 = row.expect("its process").get(0);
    succeed(
        command("prlimit")
            .arg(format!("--pid={pid}"))
            .arg(format!("--as={bytes}")),
    );
}

/// Size of the address space of a session's backend, in bytes.
fn address_space(session: &mut Client) -> u64 {
    let row = session.query_one("SELECT pg_backend_pid()", &[]);
    let pid: i32 = row.expect("its process").get(0);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kilobytes: u64 = number.and_then(|number| number.parse().ok()).expect("kB");
    kilobytes * 1024
}

/// Runs a statement under increasing memory limits until it behaves as without a limit. A lack of
/// memory must cause an ERROR, and the server must keep running.
#[track_caller]
fn assert_error(cluster: &Cluster, prepare: &str, statement: &str, step: u64, succeeds: bool) {
    let mut refused = 0;
    for steps in 0.. {
        let mut session = cluster.connect();
        session.batch_execute(prepare).expect("the preparation");
        let bytes = address_space(&mut session) + steps * step;
        limit(&mut session, bytes);
        match session.batch_execute(statement) {
            Ok(()) => {
                assert!(succeeds && refused > 0, "{refused}");
                break;
            }
            Err(error) => {
                let error = backup_tests::failure::Failure::from(error);
                let code = error.sqlstate.as_str();
                if !succeeds && code == "22023" {
                    break;
                }
                assert_eq!(code, "53200", "{steps}: {error}");
                refused += 1;
            }
        }
        assert!(steps < 400, "it needs more than {bytes} bytes");
    }
    assert!(refused > 0);
    assert!(cluster.crashes().is_empty(), "{:?}", cluster.crashes());
    cluster.execute("SELECT 1");
}

#[test]
fn a_list_of_millions_of_files_ends_no_server() {
    let cluster = Cluster::new();
    // The names do not exist. The error is about the first one, after all have been read.
    assert_error(
        &cluster,
        "SELECT start_backup(fast => true)",
        "SELECT send_backup_files(target => 'blackhole',
            files => (SELECT array_agg('no/such/file/' || n) FROM generate_series(1, 1000000) n))",
        8 << 20,
        false,
    );
}

#[test]
fn a_listing_for_which_there_is_no_memory_ends_no_server() {
    let cluster = Cluster::new();
    let tables = "DO $$ BEGIN FOR n IN 1..3000 LOOP
        EXECUTE format('CREATE TABLE t%s ()', n); END LOOP; END $$";
    cluster.execute(tables);
    assert_error(
        &cluster,
        "SELECT count(*) FROM backup_progress()",
        "SELECT count(*) FROM backup_filelist()",
        64 << 10,
        true,
    );
    assert_error(
        &cluster,
        "SELECT count(*) FROM backup_progress()",
        "SELECT start_backup(fast => true); SELECT abort_backup()",
        64 << 10,
        true,
    );
}
