//! Streams under TLS, and by socket: the program carries them without libpq, and is as strict as that.

use std::path::PathBuf;
use std::process::Command;

use backup_tests::client::{
    Running, expect_failure, program, terminate_a_worker, verify, wait_for_streams,
};
use backup_tests::encrypted::{Encrypted, PASSWORD};
use backup_tests::gateway::Gateway;
use backup_tests::leftover;
use backup_tests::page::quiet_table;
use backup_tests::program::{account, run};
use backup_tests::scratch::Folder;

/// What the program says of streams without libpq.
const NATIVE: &str = "connections carry streams without libpq";

/// Command for a backup by two workers.
fn backup(folder: &Folder, string: &str, name: &str) -> (Command, PathBuf) {
    let target = folder.join(name);
    let mut program = program();
    program
        .args([
            "-c", "fast", "-N", "-j", "2", "-w", "-v", "-d", string, "-D",
        ])
        .arg(&target)
        .env("HOME", folder.join("nobody"));
    (program, target)
}

/// Takes a backup, and returns what was said.
#[track_caller]
fn taken(folder: &Folder, string: &str, name: &str) -> String {
    let (mut program, target) = backup(folder, string, name);
    let output = run(&mut program);
    assert!(output.status.success(), "{}", account(&program, &output));
    verify(&target, &[]);
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Lets roles in by other methods than those of [`Encrypted`].
fn let_in(server: &Encrypted, method: &str) {
    let lines = format!(
        "local all postgres trust\nlocal all all scram-sha-256\nhostssl all all 127.0.0.1/32 {method}\n"
    );
    server.cluster.write_file("pg_hba.conf", lines.as_bytes());
    server.cluster.execute("SELECT pg_reload_conf()");
    server.cluster.wait_for_sql(
        "the new rules",
        &format!(
            "SELECT count(*) = 1 FROM pg_hba_file_rules WHERE type = 'hostssl' AND auth_method = '{method}'"
        ),
    );
}

#[test]
fn every_authentication_works_without_libpq() {
    let Some(server) = Encrypted::start() else {
        return;
    };
    let folder = Folder::new("t");
    let root = format!(
        "sslmode=verify-full sslrootcert={}",
        server.file("root.crt")
    );
    let (certified, double) = (
        server.certificate("certified"),
        server.certificate("double"),
    );
    for (name, role, more) in [
        ("certificate", "certified", format!("{root} {certified}")),
        (
            "both",
            "double",
            format!("{root} {double} password='{PASSWORD}'"),
        ),
        (
            "scram",
            "backup",
            format!("sslmode=require password='{PASSWORD}'"),
        ),
        (
            "bound",
            "backup",
            format!("{root} channel_binding=require password='{PASSWORD}'"),
        ),
        (
            "unbound",
            "backup",
            format!("{root} channel_binding=disable password='{PASSWORD}'"),
        ),
    ] {
        let said = taken(&folder, &server.string(role, &more), name);
        assert!(said.contains(NATIVE), "{name}: {said}");
    }
    server.cluster.execute(&format!(
        "SET password_encryption = md5; ALTER ROLE backup PASSWORD '{PASSWORD}'"
    ));
    for (method, more) in [
        ("md5", format!("password='{PASSWORD}'")),
        ("password", format!("password='{PASSWORD}'")),
        ("trust", String::new()),
    ] {
        let_in(&server, method);
        let string = server.string("backup", &format!("{root} {more}"));
        let said = taken(&folder, &string, method);
        assert!(said.contains(NATIVE), "{method}: {said}");
    }
    leftover::assert_none(&server.cluster);
}

#[test]
fn what_is_not_handled_goes_through_libpq() {
    let Some(server) = Encrypted::start() else {
        return;
    };
    let folder = Folder::new("t");
    let more = format!("sslmode=require ssl_min_protocol_version=TLSv1 password='{PASSWORD}'");
    let said = taken(&folder, &server.string("backup", &more), "old");
    assert!(!said.contains(NATIVE), "{said}");
    let socket = server.cluster.socket_dir().display();
    let port = server.cluster.port();
    let local = format!("host={socket} port={port} user=postgres dbname=postgres");
    let older = format!("{local} ssl_min_protocol_version=TLSv1");
    let said = taken(&folder, &older, "local-old");
    assert!(!said.contains(NATIVE), "{said}");
    // Without TLS too.
    let said = taken(&folder, &local, "local");
    assert!(said.contains(NATIVE), "{said}");
}

/// A server that only looks like that of the first connection has the same role and password.
#[test]
fn another_server_behind_the_same_address_is_refused() {
    let (Some(server), Some(impostor)) = (Encrypted::start(), Encrypted::start()) else {
        return;
    };
    let folder = Folder::new("t");
    for mode in ["verify-ca", "verify-full"] {
        let gateway = Gateway::changing(&server.cluster, &impostor.cluster);
        let string = format!(
            "host=localhost port={} dbname=postgres user=backup password='{PASSWORD}'
             sslmode={mode} sslrootcert={}",
            gateway.port(),
            server.file("root.crt")
        );
        let (mut program, target) = backup(&folder, &string, mode);
        let said = expect_failure(&mut program);
        assert!(said.contains("SSL error"), "{mode}: {said}");
        // Once without libpq, and once with it.
        assert!(gateway.connections() >= 3, "{}", gateway.connections());
        assert!(!target.exists());
    }
    leftover::assert_none(&server.cluster);
}

#[test]
fn a_damaged_page_is_told_once() {
    let Some(server) = Encrypted::start() else {
        return;
    };
    let path = quiet_table(&mut server.cluster.connect(), "damaged", 20, "");
    server.cluster.flip_bytes(&path, 7);
    let folder = Folder::new("t");
    let more = format!("sslmode=require password='{PASSWORD}'");
    let (mut program, _) = backup(&folder, &server.string("backup", &more), "damaged");
    let said = expect_failure(&mut program);
    assert!(said.contains(NATIVE), "{said}");
    let warning = format!("checksum verification failed in file \"{path}\", block 7");
    let told = said.matches(&warning).count();
    assert_eq!(told, 1, "{said}");
    leftover::assert_none(&server.cluster);
}

#[test]
fn a_lost_connection_is_replaced_by_another_of_its_kind() {
    let Some(server) = Encrypted::start() else {
        return;
    };
    quiet_table(&mut server.cluster.connect(), "large", 2000, "");
    let folder = Folder::new("t");
    let more = format!("sslmode=require password='{PASSWORD}'");
    let (mut program, target) = backup(&folder, &server.string("backup", &more), "lost");
    let running = Running::start(program.args(["-r", "8M"]));
    wait_for_streams(&server.cluster);
    terminate_a_worker(&server.cluster);
    let (status, said) = running.end();
    assert_eq!(status, Some(0), "{said}");
    assert!(
        said.contains("lost its connection and gets another"),
        "{said}"
    );
    assert!(said.contains("terminating connection"), "{said}");
    verify(&target, &[]);
    leftover::assert_none(&server.cluster);
}

#[test]
fn a_signal_ends_a_stream_without_libpq() {
    let Some(server) = Encrypted::start() else {
        return;
    };
    let folder = Folder::new("t");
    let more = format!("sslmode=require password='{PASSWORD}'");
    let (mut program, target) = backup(&folder, &server.string("backup", &more), "stopped");
    let running = Running::start(program.args(["-r", "100"]));
    wait_for_streams(&server.cluster);
    running.signal("INT");
    let (status, said) = running.end();
    assert_ne!(status, Some(0), "{said}");
    assert!(!target.exists(), "{said}");
    leftover::assert_none(&server.cluster);
}
