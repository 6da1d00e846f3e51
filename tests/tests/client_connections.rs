//! Connections of the command line program, for the leader and the workers: it connects as psql
//! does. `client_options.rs` covers cases without TLS and terminal.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use backup_tests::client::{
    Running, expect_failure, names_in, new_target, private_file, program, verify,
};
use backup_tests::encrypted::{Encrypted, PASSWORD};
use backup_tests::leftover;
use backup_tests::program::{give_to_owner, succeed};
use backup_tests::scratch::Folder;
use backup_tests::server::{Cluster, free_port};
use backup_tests::terminal::Terminal;

/// Command for a backup by two workers that prompts for nothing.
fn backup(home: &Path) -> Command {
    let mut program = program();
    program
        .args(["-c", "fast", "-N", "-j", "2"])
        .env("HOME", home);
    program
}

#[track_caller]
fn refused(folder: &Folder, string: &str) -> String {
    let target = folder.join("none");
    let said = expect_failure(backup(folder).args(["-w", "-d", string, "-D"]).arg(&target));
    assert!(!target.exists());
    said
}

#[track_caller]
fn accepted(folder: &Folder, string: &str, name: &str) -> PathBuf {
    let target = folder.join(name);
    succeed(backup(folder).args(["-w", "-d", string, "-D"]).arg(&target));
    verify(&target, &[]);
    target
}

#[test]
fn certificates_are_shown_and_checked() {
    let Some(server) = Encrypted::start() else {
        return;
    };
    let folder = Folder::new("t");
    let root = format!(
        "sslmode=verify-full sslrootcert={}",
        server.file("root.crt")
    );
    let own = server.certificate("certified");

    // Client certificate.
    accepted(
        &folder,
        &server.string("certified", &format!("{root} {own}")),
        "certified",
    );
    let said = refused(&folder, &server.string("certified", &root));
    assert!(
        said.contains("requires a valid client certificate"),
        "{said}"
    );
    let others = server.certificate("double");
    let said = refused(
        &folder,
        &server.string("certified", &format!("{root} {others}")),
    );
    assert!(said.contains("certificate authentication failed"), "{said}");

    // Client certificate and password.
    let both = format!("{root} {others} password='{PASSWORD}'");
    accepted(&folder, &server.string("double", &both), "both");
    let said = refused(
        &folder,
        &server.string("double", &format!("{root} {others}")),
    );
    assert!(said.contains("no password supplied"), "{said}");

    // Server certificate: its name and its authority.
    let by_number = server
        .string("certified", &format!("{root} {own}"))
        .replace("localhost", "127.0.0.1");
    let said = refused(&folder, &by_number);
    assert!(said.contains("does not match host name"), "{said}");
    let stranger = format!(
        "sslmode=verify-full sslrootcert={} {own}",
        server.file("stranger.crt")
    );
    let said = refused(&folder, &server.string("certified", &stranger));
    assert!(said.contains("certificate verify failed"), "{said}");
    let said = refused(
        &folder,
        &server.string("certified", &format!("sslmode=disable {own}")),
    );
    assert!(said.contains("no encryption"), "{said}");
    leftover::assert_none(&server.cluster);
}

#[test]
fn a_password_is_bound_to_its_channel() {
    let Some(server) = Encrypted::start() else {
        return;
    };
    let folder = Folder::new("t");
    let passwords = private_file(
        &folder,
        ".pgpass",
        &format!(
            "localhost:{}:*:backup:{PASSWORD}\n*:*:*:*:wrong\n",
            server.cluster.port()
        ),
    );
    let bound = "sslmode=require channel_binding=require";
    let target = accepted(&folder, &server.string("backup", bound), "bound");
    // A standby connects with the connection string that the program wrote.
    let standby = folder.join("standby");
    let string = server.string("backup", bound);
    succeed(
        backup(&folder)
            .args(["-R", "-w", "-d", &string, "-D"])
            .arg(&standby),
    );
    let settings = std::fs::read_to_string(standby.join("postgresql.auto.conf"));
    let settings = settings.expect("settings of a standby");
    for word in [
        "channel_binding=require",
        "sslmode=require",
        "host=localhost",
    ] {
        assert!(settings.contains(word), "{settings}");
    }
    assert!(target.join("backup_manifest").exists());

    // Without TLS there is nothing to bind the channel to.
    let socket = server.cluster.socket_dir().display().to_string();
    let by_socket = server.string("backup", &format!("{bound} password='{PASSWORD}'"));
    let said = refused(&folder, &by_socket.replace("localhost", &socket));
    assert!(said.contains("channel binding"), "{said}");

    // libpq ignores a password file that others can read, and says so.
    std::fs::set_permissions(
        &passwords,
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .expect("its mode");
    let said = refused(&folder, &server.string("backup", bound));
    assert!(said.contains("group or world access"), "{said}");
    assert!(said.contains("no password supplied"), "{said}");
}

#[test]
fn services_uris_and_variables_lead_to_an_encrypted_server() {
    let Some(server) = Encrypted::start() else {
        return;
    };
    let folder = Folder::new("t");
    let port = server.cluster.port();
    let root = server.file("root.crt");
    let (cert, key) = (server.file("certified.crt"), server.file("certified.key"));
    let service = format!(
        "[nightly]\nhost=localhost\nport={port}\nuser=certified\ndbname=postgres\n\
         sslmode=verify-full\nsslrootcert={root}\nsslcert={cert}\nsslkey={key}\n"
    );
    let services = private_file(&folder, "services", &service);
    let mut by_service = backup(&folder);
    by_service
        .env("PGSERVICEFILE", &services)
        .env("PGSERVICE", "nightly");
    succeed(by_service.arg("-D").arg(folder.join("service")));

    // The first of several hosts is down.
    let closed = free_port();
    let uri = format!(
        "postgresql://certified@localhost:{closed},localhost:{port}/postgres?sslmode=verify-full\
         &sslrootcert={root}&sslcert={cert}&sslkey={key}"
    );
    accepted(&folder, &uri, "uri");

    let mut by_variables = backup(&folder);
    by_variables
        .env("PGHOST", "localhost")
        .env("PGPORT", port.to_string())
        .env("PGUSER", "certified")
        .env("PGSSLMODE", "verify-full")
        .env("PGSSLROOTCERT", &root)
        .env("PGSSLCERT", &cert)
        .env("PGSSLKEY", &key);
    succeed(by_variables.arg("-D").arg(folder.join("variables")));
    assert_eq!(
        names_in(&folder),
        ["service", "services", "uri", "variables"]
    );
}

#[test]
fn the_kind_of_server_that_is_wanted_is_found() {
    let primary = Cluster::new();
    let standby = primary.standby();
    let folder = Folder::new("t");
    let socket = |cluster: &Cluster| cluster.socket_dir().display().to_string();
    let writable = "user=postgres dbname=postgres target_session_attrs=read-write";
    let only = format!(
        "host={} port={} {writable}",
        socket(&standby),
        standby.port()
    );
    let said = refused(&folder, &only);
    assert!(said.contains("session is read-only"), "{said}");
    let both = format!(
        "host={},{} port={},{} {writable}",
        socket(&standby),
        socket(&primary),
        standby.port(),
        primary.port()
    );
    let target = accepted(&folder, &both, "primary");
    let label = std::fs::read_to_string(target.join("backup_label")).expect("a label");
    assert!(label.contains("BACKUP FROM: primary"), "{label}");
    leftover::assert_none(&primary);
}

#[test]
fn a_password_is_asked_for_on_the_terminal() {
    let Some(server) = Encrypted::start() else {
        return;
    };
    let folder = Folder::new("t");
    let string = server.string("backup", "sslmode=require");
    // With -W, and because the server requires a password.
    for (name, args) in [("forced", &["-P", "-W"][..]), ("wanted", &[])] {
        let target = folder.join(name);
        let mut program = backup(&folder);
        program
            .args(args)
            .args(["-v", "-d", &string, "-D"])
            .arg(&target);
        let mut terminal = Terminal::start(&program, (100, 24));
        terminal.wait_for("prompt", |rows| {
            rows.iter().any(|row| row.starts_with("Password:"))
        });
        terminal.type_keys(&format!("{PASSWORD}\n"));
        let (status, rows, raw) = terminal.end();
        assert_eq!(status, Some(0), "{rows:?}");
        assert_eq!(raw.matches("Password:").count(), 1, "{raw}");
        assert!(!raw.contains(PASSWORD), "{raw}");
        verify(&target, &[]);
    }
    let target = folder.join("none");
    let mut program = backup(&folder);
    program.args(["-d", &string, "-D"]).arg(&target);
    let mut terminal = Terminal::start(&program, (100, 24));
    terminal.wait_for("prompt", |rows| {
        rows.iter().any(|row| row.starts_with("Password:"))
    });
    terminal.type_keys("wrong\n");
    let (status, rows, _) = terminal.end();
    assert_eq!(status, Some(1), "{rows:?}");
    assert!(
        rows.join(" ").contains("password authentication failed"),
        "{rows:?}"
    );

    // A signal ends the prompt without an answer.
    let mut terminal = Terminal::start(&program, (100, 24));
    terminal.wait_for("prompt", |rows| {
        rows.iter().any(|row| row.starts_with("Password:"))
    });
    terminal.type_keys("\u{3}");
    let (status, rows, _) = terminal.end();
    assert_ne!(status, Some(0), "{rows:?}");
    assert_eq!(names_in(&folder), ["forced", "wanted"]);
}

#[test]
fn a_signal_ends_the_wait_for_a_server_that_says_nothing() {
    let (folder, target) = new_target();
    let path = folder.join(".s.PGSQL.5432");
    let listener = UnixListener::bind(&path).expect("a socket");
    give_to_owner(&path);
    let mut program = backup(&folder);
    program
        .args(["-U", "postgres", "-h"])
        .arg(&*folder)
        .arg("-D");
    let backup = Running::start(program.arg(&target));
    let (_silent, _) = listener.accept().expect("a connection");
    // SIGINT is ignored if the tests run in the background of a shell.
    backup.signal("TERM");
    let (status, said) = backup.end();
    assert_eq!(status, None, "{said}");
    assert!(!target.exists());
}
