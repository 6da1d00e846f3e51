//! What keeps a backup by the program from starting: privileges, limits of connections, free space.
//! The program names it before anything is copied, and leaves nothing.

use std::process::Command;

use backup_tests::client::{backup_of, expect_failure, names_in, new_target, program, verify};
use backup_tests::disk::Disk;
use backup_tests::leftover;
use backup_tests::program::{account, run, succeed};
use backup_tests::server::Cluster;

/// Backup by two workers as a role.
fn backup_as(cluster: &Cluster, role: &str) -> Command {
    let mut program = program();
    program
        .args(cluster.connection_args(role))
        .args(["-c", "fast", "-N", "-j", "2"]);
    program
}

#[track_caller]
fn assert_not_started(cluster: &Cluster) {
    let log = cluster.log();
    assert!(!log.contains("STATEMENT"), "{log}");
    leftover::assert_none(cluster);
}

#[test]
fn a_missing_privilege_is_named_with_its_grant_before_the_start() {
    let cluster = Cluster::new();
    cluster.execute("CREATE ROLE \"Back up\" LOGIN");
    let grant = |functions: &str| {
        cluster.execute(&format!(
            "GRANT EXECUTE ON FUNCTION {functions} TO \"Back up\""
        ));
    };
    grant("start_backup, backup_tablespaces, send_backup_files");
    let (folder, target) = new_target();
    let backup = || {
        let mut backup = backup_as(&cluster, "Back up");
        backup.arg("-D").arg(&target);
        backup
    };
    let said = expect_failure(&mut backup());
    for part in [
        "permission denied for function send_stop_backup\n",
        "DETAIL:  Role \"Back up\" lacks EXECUTE on send_stop_backup, abort_backup, send_wal.\n",
        "HINT:  As a superuser run in database postgres: GRANT EXECUTE ON FUNCTION \
         public.send_stop_backup, public.abort_backup, public.send_wal TO \"Back up\";\n",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(names_in(&folder).is_empty());
    assert_not_started(&cluster);
    // The statement of the HINT is one that works.
    let hint = said.lines().find(|line| line.contains("HINT:"));
    let (_, statement) = hint
        .and_then(|hint| hint.split_once("postgres: "))
        .expect("a GRANT");
    cluster.execute(statement);
    let mut backup = backup();
    let output = run(&mut backup);
    let said = account(&backup, &output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("lacks EXECUTE on backup_filelist"), "{said}");
    verify(&target, &[]);

    let whole = || {
        let mut whole = backup_as(&cluster, "Back up");
        whole.args(["-j", "1", "-D", "-"]);
        whole
    };
    let said = expect_failure(&mut whole());
    assert!(said.contains("lacks EXECUTE on base_backup"), "{said}");
    grant("base_backup");
    let output = run(&mut whole());
    assert!(output.status.success(), "{}", account(&whole(), &output));
}

#[test]
fn a_limit_of_connections_without_room_for_the_workers_is_named_before_the_start() {
    let cluster = Cluster::builder().setting("max_connections", "8").start();
    cluster.execute("CREATE ROLE backup LOGIN; CREATE ROLE other LOGIN");
    cluster.execute(
        "GRANT EXECUTE ON FUNCTION start_backup, backup_tablespaces, backup_filelist,
             send_backup_files, send_wal, send_stop_backup, abort_backup TO backup",
    );
    let (folder, target) = new_target();
    let refused = |jobs: &str, parts: &[&str]| {
        let mut backup = backup_as(&cluster, "backup");
        let said = expect_failure(backup.args(["-j", jobs, "-D"]).arg(&target));
        for part in parts {
            assert!(said.contains(part), "{part}: {said}");
        }
        let wanted = jobs.parse::<usize>().expect("a number") + 2;
        let wanted = format!(
            "{wanted} connections are wanted: one leads the backup, one is for WAL, and {jobs} are"
        );
        assert!(said.contains(&wanted), "{said}");
        assert!(said.contains("-j"), "{said}");
        assert!(!said.contains("gets another"), "{said}");
        assert!(names_in(&folder).is_empty());
        assert!(!cluster.log().contains("start_backup"), "{}", cluster.log());
        // Its connections count until they are gone.
        cluster.wait_for_sql(
            "the end of the sessions of the program",
            "SELECT NOT EXISTS (SELECT FROM pg_stat_activity
                                WHERE application_name = 'pg_parallel_backup')",
        );
    };
    let few = "the server allows too few connections";
    refused("4", &[few, "max_connections is 8, of which 3 are reserved"]);
    cluster.execute("ALTER ROLE backup CONNECTION LIMIT 3");
    refused("2", &[few, "CONNECTION LIMIT of role backup is 3."]);
    cluster.execute("ALTER ROLE backup CONNECTION LIMIT 4");
    // One of the four is taken, and then two.
    let taken = cluster.connect_as("backup");
    let failed = [
        "too many connections for role \"backup\"",
        "CONNECTION LIMIT of role backup is 4; max_connections is 8",
    ];
    refused("2", &["could not open the connection for WAL"]);
    let also_taken = cluster.connect_as("backup");
    refused("2", &["could not open the connection of worker 1"]);
    refused("2", &failed);
    drop((taken, also_taken));
    cluster.execute("ALTER DATABASE postgres CONNECTION LIMIT 2");
    refused("2", &["CONNECTION LIMIT of database postgres is 2"]);
    cluster.execute("ALTER DATABASE postgres CONNECTION LIMIT -1");
    leftover::assert_none(&cluster);
    succeed(backup_as(&cluster, "backup").arg("-D").arg(&target));
}

#[test]
fn a_superuser_has_no_limit_but_max_connections() {
    let cluster = Cluster::builder().setting("max_connections", "8").start();
    cluster.execute("ALTER DATABASE postgres CONNECTION LIMIT 1");
    let (_folder, target) = new_target();
    let backup = |jobs: &str| {
        let mut backup = backup_of(&cluster);
        backup.args(["-j", jobs, "-D"]).arg(&target);
        backup
    };
    let said = expect_failure(&mut backup("7"));
    assert!(said.contains("max_connections is 8."), "{said}");
    // Its connections count until they are gone.
    cluster.wait_for_sql(
        "the end of all other sessions",
        "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'client backend'",
    );
    succeed(&mut backup("6"));
    verify(&target, &[]);
}

#[test]
fn a_backup_that_does_not_fit_is_refused_with_both_numbers() {
    let cluster = Cluster::new();
    let (_, location) = cluster.create_tablespace("outside");
    cluster.execute(
        "CREATE TABLE t TABLESPACE outside AS SELECT repeat('x', 1000) FROM generate_series(1, 9000)",
    );
    let location = location.display();
    let (folder, target) = new_target();
    let small = folder.join("small");
    let Some(disk) = Disk::mount(&small, 8) else {
        eprintln!("skipped: no file system can be mounted");
        return;
    };
    let elsewhere = format!("{location}={}", folder.join("ts").display());
    let onto_it = format!("{location}={}", small.join("ts").display());
    let on_it = small.join("backup").display().to_string();
    let beside = target.display().to_string();
    let waldir = small.join("wal").display().to_string();
    let cases: [(&[&str], &str); 4] = [
        (&["-D", &on_it, "-T", &elsewhere], "the data directory"),
        (&["-D", &beside, "-T", &onto_it], "tablespace"),
        (
            &["-D", &beside, "-T", &elsewhere, "--waldir", &waldir],
            "WAL",
        ),
        (&["-D", &on_it, "-Ft"], "the archives"),
    ];
    for (args, what) in cases {
        let said = expect_failure(backup_of(&cluster).args(["-j", "2"]).args(args));
        assert!(said.contains("not enough space for the backup"), "{said}");
        assert!(said.contains(" are needed, 8.0 MB are free"), "{said}");
        assert!(said.contains(&format!(" for {what}")), "{said}");
        assert!(said.contains("--no-space-check"), "{said}");
        assert_eq!(names_in(&folder), ["small"]);
        assert!(names_in(&small).is_empty());
        leftover::assert_none(&cluster);
    }
    // It goes on without the check, and fails where the disk is full.
    let said = expect_failure(backup_of(&cluster).args(["--no-space-check", "-Ft", "-D", &on_it]));
    assert!(said.contains("No space left on device"), "{said}");
    // Nobody knows beforehand what compression leaves.
    let compressed = ["-Ft", "-X", "fetch", "-Z", "zstd", "-D", &on_it, "-j", "2"];
    succeed(backup_of(&cluster).args(compressed));
    drop(disk);
}

#[test]
fn what_goes_to_one_file_system_is_added_up() {
    let cluster = Cluster::new();
    let (_, location) = cluster.create_tablespace("outside");
    cluster.execute(
        "CREATE TABLE t TABLESPACE outside AS SELECT repeat('x', 1000) FROM generate_series(1, 30000)",
    );
    let location = location.display();
    let (folder, _) = new_target();
    let small = folder.join("small");
    // Each of data directory, WAL and tablespace fits, and no two of them.
    let Some(disk) = Disk::mount(&small, 60) else {
        eprintln!("skipped: no file system can be mounted");
        return;
    };
    let onto_it = format!("{location}={}", small.join("ts").display());
    let on_it = small.join("backup").display().to_string();
    let backup = |args: &[&str]| {
        let mut backup = backup_of(&cluster);
        backup.args(["-j", "2", "-T", &onto_it]).args(args);
        backup
    };
    let said = expect_failure(&mut backup(&["-D", &on_it]));
    assert!(said.contains("60.0 MB are free"), "{said}");
    assert!(said.contains(" for the data directory in "), "{said}");
    assert!(said.contains(" for WAL in "), "{said}");
    assert!(names_in(&small).is_empty());
    let beside = folder.join("backup").display().to_string();
    succeed(&mut backup(&["-D", &beside]));
    drop(disk);
}
