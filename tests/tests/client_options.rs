//! Command line options of the program: which ones it refuses before it touches anything, and how
//! it connects.

use std::fs;
use std::path::Path;

use backup_tests::client::{
    backup_of, expect_failure, names_in, new_target, private_file, program, restore_of, verify,
};
use backup_tests::page::corrupt_cluster;
use backup_tests::program::{command, succeed};
use backup_tests::scratch::Folder;
use backup_tests::server::Cluster;

#[test]
fn wrong_values_are_refused_before_anything_happens() {
    let (folder, target) = new_target();
    for (args, word) in [
        (&["-j", "0"][..], "jobs"),
        (&["-j", "many"], "many"),
        (&["-j", "-1"], "-1"),
        (&["-F", "zip"], "zip"),
        (&["-X", "log"], "log"),
        (&["-c", "slow"], "slow"),
        (&["-r", "1"], "out of range"),
        (&["-r", "2G"], "not a valid value"),
        (&["-r", "1025M"], "out of range"),
        (&["-r", "0"], "greater than zero"),
        (&["-T", "/a"], "must be \"OLDDIR=NEWDIR\""),
        (&["-T", "a=/b"], "not an absolute path"),
        (&["-T", "/a=b"], "not an absolute path"),
        (&["-T", "/a=/b=/c"], "multiple \"=\" signs"),
        (&["-T", "/a=/b", "-T", "/a=/c"], "mapped twice"),
        (&["-Ft", "-T", "/a=/b"], "plain format"),
        (&["-Ft", "--waldir", "/w"], "plain format"),
        (&["--waldir", "w"], "absolute path"),
        (&["-Ft", "-R"], "plain format"),
        (&["-C"], "--create-slot needs a slot"),
        (&["-X", "fetch", "-S", "slot"], "WAL streaming"),
        (&["-D", "-", "-X", "stream"], "to stdout"),
        (&["-S", "Slot"], "not valid"),
        (&["-D", "-", "-Fp"], "standard output"),
        (&["-D", "-", "-j", "2"], "one job"),
        (&["-D", "-", "-R"], "plain format"),
        (&["--sync-method", "hope"], "hope"),
        (&["--retries", "x"], "x"),
        (&["--manifest-checksums", "MD5"], "MD5"),
        (
            &["--no-manifest", "--manifest-checksums", "SHA256"],
            "cannot be used with",
        ),
        (
            &["--no-manifest", "--manifest-force-encode"],
            "cannot be used with",
        ),
        (&["-w", "-W"], "cannot be used with"),
        (&["--unknown"], "--unknown"),
        (&["surplus"], "surplus"),
    ] {
        // Nothing listens there.
        let mut program = program();
        program.args(["-h", "/nowhere", "-D"]).arg(&target);
        let said = expect_failure(program.args(args));
        assert!(said.contains(word), "{args:?}: {said}");
        assert!(!said.contains("/nowhere"), "{args:?}: {said}");
    }
    let said = expect_failure(&mut program());
    assert!(said.contains("--pgdata"), "{said}");
    assert!(names_in(&folder).is_empty());
}

#[test]
fn wrong_values_of_a_restore_are_refused_before_anything_happens() {
    let (folder, target) = new_target();
    for (args, word) in [
        (&["-j", "0"][..], "number of jobs"),
        (&["-j", "1001"], "number of jobs"),
        (&["-T", "/a"], "must be \"OLDDIR=NEWDIR\""),
        (&["-T", "/a=/b", "-T", "/a=/c"], "mapped twice"),
        (&["--waldir", "w"], "absolute path"),
        (&["--sync-method", "hope"], "hope"),
        (&["-h", "db1"], "unexpected argument"),
    ] {
        let said = expect_failure(restore_of(Path::new("/nowhere"), &target, &[]).args(args));
        assert!(said.contains(word), "{args:?}: {said}");
        assert!(!said.contains("/nowhere"), "{args:?}: {said}");
    }
    let said = expect_failure(program().args(["restore", "/nowhere"]));
    assert!(said.contains("--pgdata"), "{said}");
    assert!(names_in(&folder).is_empty());
}

#[test]
fn wrong_values_of_a_combination_are_refused_before_anything_happens() {
    let (folder, target) = new_target();
    for (args, word) in [
        (&["-j", "0"][..], "number of jobs"),
        (&["-T", "/a"], "must be \"OLDDIR=NEWDIR\""),
        (&["-T", "a=/b"], "not an absolute path"),
        (
            &["--manifest-checksums", "md5"],
            "unrecognized checksum algorithm: \"md5\"",
        ),
        (&["--sync-method", "hope"], "hope"),
        (&["-D", "dir"], "unexpected argument"),
    ] {
        let mut combine = program();
        combine.args(["combine", "/nowhere", "-o"]).arg(&target);
        let said = expect_failure(combine.args(args));
        assert!(said.contains(word), "{args:?}: {said}");
        assert!(!said.contains("/nowhere"), "{args:?}: {said}");
    }
    let said = expect_failure(program().args(["combine", "/nowhere"]));
    assert!(said.contains("--output"), "{said}");
    let said = expect_failure(program().args(["combine", "-o"]).arg(&target));
    assert!(said.contains("DIRECTORY"), "{said}");
    assert!(names_in(&folder).is_empty());
}

#[test]
fn damaged_pages_fail_a_backup_unless_nobody_is_to_look() {
    let cluster = corrupt_cluster();
    let (folder, target) = new_target();
    let said = expect_failure(backup_of(&cluster).arg("-D").arg(&target));
    assert!(said.contains("checksum verification failure"), "{said}");
    assert!(names_in(&folder).is_empty());
    let mut backup = backup_of(&cluster);
    succeed(backup.args(["--no-verify-checksums", "-D"]).arg(&target));
    verify(&target, &[]);
}

#[test]
fn version_and_help_go_to_standard_output() {
    for option in ["-V", "--version"] {
        let said = succeed(program().arg(option));
        assert!(said.starts_with("pg_parallel_backup 0."), "{said}");
    }
    for option in ["-?", "--help"] {
        let said = succeed(program().arg(option));
        for word in [
            "-D, --pgdata",
            "-j, --jobs",
            "-T, --tablespace-mapping",
            "--waldir",
        ] {
            assert!(said.contains(word), "{said}");
        }
    }
}

#[test]
fn the_last_of_two_values_counts() {
    let cluster = Cluster::new();
    let (folder, target) = new_target();
    succeed(
        program()
            .args(cluster.connection_args("nobody"))
            .args(["-U", "postgres", "-c", "spread", "-c", "fast", "-N"])
            .args(["-F", "t", "-F", "p", "-D", "/nowhere/at/all", "-D"])
            .arg(&target),
    );
    assert_eq!(names_in(&folder), ["backup"]);
}

#[test]
fn a_server_that_is_not_there_is_an_error() {
    let (folder, target) = new_target();
    let said = expect_failure(program().args(["-h", "/nowhere", "-D"]).arg(&target));
    assert!(said.contains("/nowhere"), "{said}");
    assert!(names_in(&folder).is_empty());
}

#[test]
fn a_database_without_the_extension_is_named() {
    let cluster = Cluster::new();
    let (folder, target) = new_target();
    let said = expect_failure(
        program()
            .args(cluster.connection_args("postgres"))
            .args(["-d", "template1", "-D"])
            .arg(&target),
    );
    assert!(
        said.contains("database \"template1\" does not have the extension"),
        "{said}"
    );
    assert!(names_in(&folder).is_empty());
}

#[test]
fn the_extension_is_found_in_its_schema_and_a_plain_role_is_enough() {
    let cluster = Cluster::builder().without_extension().start();
    cluster.execute(
        "CREATE SCHEMA \"odd Schema\"; CREATE EXTENSION pg_parallel_backup SCHEMA \"odd Schema\";
         CREATE ROLE backup LOGIN; GRANT USAGE ON SCHEMA \"odd Schema\" TO backup;",
    );
    let (_folder, target) = new_target();
    let backup = |target: &Path| {
        let mut program = program();
        program
            .args(cluster.connection_args("backup"))
            .args(["-c", "fast", "-N", "-D"])
            .arg(target);
        program
    };
    let said = expect_failure(&mut backup(&target));
    assert!(said.contains("permission denied for function"), "{said}");
    cluster.execute(
        "SET search_path = \"odd Schema\"; GRANT EXECUTE ON FUNCTION start_backup,
             backup_tablespaces, send_backup_files, send_wal, send_stop_backup,
             abort_backup TO backup",
    );
    succeed(&mut backup(&target));
    verify(&target, &[]);
}

#[test]
fn a_manifest_can_have_all_names_encoded() {
    let cluster = Cluster::new();
    for format in ["-Fp", "-Ft"] {
        let (_folder, target) = new_target();
        let mut backup = backup_of(&cluster);
        backup.args(["--manifest-force-encode", format, "-D"]);
        succeed(backup.arg(&target));
        if format == "-Fp" {
            verify(&target, &[]);
        }
        let text = fs::read_to_string(target.join("backup_manifest")).expect("a manifest");
        assert!(text.contains("\"Encoded-Path\": \""), "{text}");
        assert!(!text.contains("\"Path\""), "{text}");
    }
}

#[test]
fn without_j_there_are_as_many_connections_as_the_server_has_processors() {
    let cluster = Cluster::new();
    let pid = cluster.pid().to_string();
    let allowed = succeed(command("taskset").args(["-c", "-p", &pid]));
    let (_, allowed) = allowed.rsplit_once(": ").expect("a list of processors");
    let first: String = allowed.chars().take_while(char::is_ascii_digit).collect();
    // The server's processes are now limited to one processor. The program may use more.
    succeed(command("taskset").args(["-c", "-p", &first, &pid]));
    let (_folder, target) = new_target();
    succeed(backup_of(&cluster).args(["-Ft", "-D"]).arg(&target));
    assert_eq!(
        names_in(&target),
        ["backup_manifest", "base.tar", "pg_wal.tar"]
    );
}

/// Cluster that requires a password from role `backup`, and a directory for client files.
fn cluster_with_password() -> (Cluster, Folder) {
    let cluster = Cluster::new();
    cluster.execute("CREATE ROLE backup LOGIN SUPERUSER PASSWORD 'a\\b: c'");
    cluster.write_file(
        "pg_hba.conf",
        b"local all backup scram-sha-256\nlocal all all trust\n",
    );
    cluster.execute("SELECT pg_reload_conf()");
    cluster.wait_for_sql(
        "the new pg_hba.conf",
        "SELECT count(*) = 2 FROM pg_hba_file_rules WHERE error IS NULL",
    );
    (cluster, Folder::new("t"))
}

#[test]
fn passwords_come_from_where_psql_finds_them() {
    let (cluster, folder) = cluster_with_password();
    let password = r"a\b: c";
    let address = || {
        let mut program = program();
        program
            .args(["-c", "fast", "-N", "-X", "none", "-j", "2", "-w"])
            .env("HOME", &*folder);
        program
    };
    let here = cluster.connection_args("backup");
    let socket = cluster.socket_dir().display().to_string();
    let port = cluster.port();

    let said = expect_failure(address().args(&here).arg("-D").arg(folder.join("none")));
    assert!(said.contains("no password supplied"), "{said}");
    let mut wrong = address();
    wrong.args(&here).env("PGPASSWORD", "wrong");
    let said = expect_failure(wrong.arg("-D").arg(folder.join("none")));
    assert!(said.contains("password authentication failed"), "{said}");
    assert!(names_in(&folder).is_empty());

    let mut by_variable = address();
    by_variable.args(&here).env("PGPASSWORD", password);
    succeed(by_variable.arg("-D").arg(folder.join("variable")));

    let passfile = private_file(&folder, "passwords", "*:*:*:backup:a\\\\b\\: c\n");
    let mut by_file = address();
    by_file.args(&here).env("PGPASSFILE", &passfile);
    succeed(by_file.arg("-D").arg(folder.join("file")));

    let service = format!(
        "[nightly]\nhost={socket}\nport={port}\nuser=backup\ndbname=postgres\npassword={password}\n"
    );
    let services = private_file(&folder, "services", &service);
    let mut by_service = address();
    by_service.env("PGSERVICEFILE", &services);
    succeed(
        by_service
            .args(["-d", "service=nightly", "-D"])
            .arg(folder.join("service")),
    );

    let uri = format!(
        "postgresql://backup:a%5Cb%3A%20c@/postgres?host={}&port={port}",
        socket.replace('/', "%2F")
    );
    succeed(address().args(["-d", &uri, "-D"]).arg(folder.join("uri")));

    // The first host is down, and options override the connection string.
    let string =
        format!("host=/nowhere,{socket} port={port},{port} user=nobody password='a\\\\b: c'");
    let mut by_string = address();
    by_string.args(["-d", &string, "-U", "backup", "-D"]);
    succeed(by_string.arg(folder.join("string")));

    let mut by_variables = address();
    by_variables
        .env("PGHOST", &socket)
        .env("PGPORT", port.to_string())
        .env("PGUSER", "backup")
        .env("PGDATABASE", "postgres")
        .env("PGPASSWORD", password);
    succeed(by_variables.arg("-D").arg(folder.join("variables")));

    let made = names_in(&folder);
    assert_eq!(made.len(), 8, "{made:?}");
    verify(&folder.join("string"), &["-n"]);
}
