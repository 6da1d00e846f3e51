//! Backups by the command line program that pipe archives to commands.

use std::fs;
use std::path::Path;

use backup_tests::client::{
    Running, backup_of, expect_failure, names_in, new_target, program, unpack_all,
};
use backup_tests::leftover;
use backup_tests::page::quiet_table;
use backup_tests::program::{make_dir, run, signal, succeed};
use backup_tests::scratch::Folder;
use backup_tests::server::Cluster;
use backup_tests::standin::{Script, StandIn};
use backup_tests::terminal::Terminal;
use backup_tests::wait::{PATIENCE, wait_for};

/// Directory for the output of commands.
fn folder() -> Folder {
    let folder = Folder::new("p");
    make_dir(&folder.join("out"));
    folder
}

/// Replaces `DIR` in a command by a directory.
fn in_folder(command: &str, folder: &Path) -> String {
    command.replace("DIR", &folder.display().to_string())
}

#[track_caller]
fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

/// Waits until the process with the PID in this file has exited.
#[track_caller]
fn wait_for_end(file: &Path) {
    let pid = read(file);
    wait_for("the end of the command", PATIENCE, || {
        !Path::new("/proc").join(pid.trim()).exists()
    });
}

#[test]
fn wrong_values_are_refused_before_anything_happens() {
    let (folder, target) = new_target();
    let target = target.display().to_string();
    for (args, word) in [
        (&["--pipe", "cat >%d"][..], "unexpected placeholder \"%d\""),
        (&["--pipe", "cat >%f %"], "ends unexpectedly"),
        (&["--pipe", "cat >x"], "must contain the file's name"),
        (&["--pipe", "cat >%f", "-D", &target], "cannot be used with"),
        (&["--pipe", "cat >%f", "-Fp"], "only tar format"),
        (&["--pipe", "cat >%f", "-R"], "plain format"),
        (&["--pipe", "cat >%f", "-T", "/a=/b"], "plain format"),
        (&["--pipe", "cat >%f", "--waldir", "/w"], "plain format"),
    ] {
        // Nothing listens there.
        let said = expect_failure(program().args(["-h", "/nowhere"]).args(args));
        assert!(said.contains(word), "{args:?}: {said}");
        assert!(!said.contains("/nowhere"), "{args:?}: {said}");
    }
    assert!(names_in(&folder).is_empty());
}

#[test]
fn each_archive_goes_through_a_command_and_the_manifest_is_the_last() {
    let cluster = Cluster::new();
    cluster.create_tablespace("outside");
    quiet_table(&mut cluster.connect(), "t", 300, "TABLESPACE outside");
    let folder = folder();
    let out = folder.join("out");
    // Only complete files get their final names.
    let command = "if [ %f = backup_manifest ]; then ls DIR/out >DIR/before; cat >DIR/out/%f; else
         zstd -q -o DIR/out/%f.part && mv DIR/out/%f.part DIR/out/%f.zst; fi; : '100%%'";
    let pipe = in_folder(command, &folder);
    succeed(backup_of(&cluster).args(["-j", "2", "--pipe", &pipe]));
    let before = read(&folder.join("before"));
    let mut names = names_in(&out);
    names.retain(|name| name != "backup_manifest");
    assert_eq!(before.lines().collect::<Vec<_>>(), names);
    assert!(names.contains(&"base.0.tar.zst".to_owned()), "{names:?}");
    let restored = unpack_all(&cluster, &out).restore();
    let row = restored.connect().query_one("SELECT count(*) FROM t", &[]);
    assert_eq!(row.expect("the table").get::<_, i64>(0), 2100);
    leftover::assert_none(&cluster);
}

#[test]
fn commands_get_compressed_archives_by_their_names() {
    let cluster = Cluster::new();
    for how in ["gzip", "server-zstd"] {
        let folder = folder();
        let out = folder.join("out");
        let pipe = in_folder("cat >DIR/%f", &out);
        succeed(backup_of(&cluster).args(["-Ft", "-j", "2", "-Z", how, "--pipe", &pipe]));
        drop(unpack_all(&cluster, &out));
    }
}

#[test]
fn a_command_that_fails_fails_the_backup() {
    let cluster = Cluster::new();
    for (command, status) in [
        ("exit 3", "exit code 3"),
        ("cat >/dev/null; exit 4", "exit code 4"),
        ("kill -KILL $$", "signal 9"),
        ("head -c 5000000 >/dev/null; kill -TERM $$", "signal 15"),
        ("head -c 1000 >/dev/null", "exit code 0"),
        ("exec <&-; exec sleep 1000", "closed its input too early"),
        ("exec /nowhere/program", "command not found"),
    ] {
        let folder = folder();
        // The other commands get no end of file, so they do not take their input for complete.
        let pipe = format!(
            "case %f in base.1.tar) {command};; *) cat >/dev/null; touch {}/%f;; esac",
            folder.join("out").display()
        );
        let said = expect_failure(backup_of(&cluster).args(["-j2", "-r16M", "--pipe", &pipe]));
        assert!(
            said.contains("worker 1 failed: command \"case base.1.tar in"),
            "{said}"
        );
        assert!(said.contains(" for file \"base.1.tar\" "), "{said}");
        assert!(said.contains(status), "{command}: {said}");
        assert!(names_in(&folder.join("out")).is_empty(), "{command}");
        leftover::assert_none(&cluster);
    }
}

#[test]
fn the_command_for_the_manifest_counts_as_well() {
    let cluster = Cluster::new();
    for (command, status) in [("exit 3", "exit code 3"), ("true", "exit code 0")] {
        let pipe = format!("case %f in backup_manifest) {command};; *) cat >/dev/null;; esac");
        let said = expect_failure(backup_of(&cluster).args(["-j1", "--pipe", &pipe]));
        assert!(said.contains("for file \"backup_manifest\""), "{said}");
        assert!(said.contains(status), "{said}");
        leftover::assert_none(&cluster);
    }
}

#[test]
fn a_damaged_cluster_gives_no_command_the_end_of_its_archive() {
    let cluster = Cluster::new();
    let path = quiet_table(&mut cluster.connect(), "t", 30, "");
    cluster.flip_bytes(&path, 5);
    let folder = folder();
    let pipe = in_folder("cat >/dev/null; touch DIR/out/%f", &folder);
    let said = expect_failure(backup_of(&cluster).args(["-j1", "--pipe", &pipe]));
    assert!(said.contains("checksum"), "{said}");
    assert!(names_in(&folder.join("out")).is_empty());
}

#[test]
fn a_signal_ends_a_backup_whose_commands_do_not_read() {
    let cluster = Cluster::new();
    let folder = folder();
    let out = folder.join("out");
    // A child of the command's shell that would write after end of file.
    let pipe = in_folder(
        "sleep 1000 2>/dev/null & echo $! >DIR/%f.new; mv DIR/%f.new DIR/%f.pid; wait; cat >DIR/%f",
        &out,
    );
    let backup = Running::start(backup_of(&cluster).args(["-j2", "--pipe", &pipe]));
    wait_for("two commands", PATIENCE, || {
        let names = names_in(&out);
        names.iter().filter(|name| name.ends_with(".pid")).count() == 2
    });
    let names = names_in(&out);
    // More data has been sent than a pipe holds.
    cluster.wait_for_sql(
        "a full pipe",
        "SELECT min(bytes_sent) > 1000000 FROM backup_progress()",
    );
    backup.signal("INT");
    let (status, said) = backup.end();
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("received SIGINT"), "{said}");
    assert!(!said.contains("gave no answer"), "{said}");
    assert_eq!(names_in(&out), names);
    for name in names {
        wait_for_end(&out.join(name));
    }
    leftover::assert_none(&cluster);
}

#[test]
fn the_end_of_the_program_is_not_the_end_of_an_archive() {
    let cluster = Cluster::new();
    let folder = folder();
    let out = folder.join("out");
    let command = "echo $$ >DIR/new; mv DIR/new DIR/pid; cat >/dev/null; touch DIR/out/%f";
    let pipe = in_folder(command, &folder);
    let mut program = backup_of(&cluster);
    let backup = Running::start(program.args(["-j1", "-r8M", "--pipe", &pipe]));
    let pid = folder.join("pid");
    wait_for("the command", PATIENCE, || pid.exists());
    // A thread that waits for its server cannot watch its command.
    let row = cluster.connect().query_one(
        "SELECT pid FROM pg_stat_progress_basebackup
         WHERE phase <> 'transferring wal files' AND pid NOT IN (SELECT leader_pid FROM backup_progress())",
        &[],
    );
    let worker = row.expect("a worker").get(0);
    signal("STOP", worker);
    backup.signal("TERM");
    let (status, said) = backup.end();
    signal("CONT", worker);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("received SIGTERM"), "{said}");
    wait_for_end(&pid);
    assert!(names_in(&out).is_empty());
    leftover::assert_none(&cluster);
}

#[test]
fn the_command_of_a_lost_connection_is_killed_and_run_anew() {
    let cluster = Cluster::new();
    let folder = folder();
    let out = folder.join("out");
    let command = "echo begun >>DIR/%f.log; cat >DIR/out/%f; echo whole >>DIR/%f.log";
    let pipe = in_folder(command, &folder);
    let backup = Running::start(backup_of(&cluster).args(["-j2", "-r8M", "--pipe", &pipe]));
    let logs = [0, 1].map(|worker| folder.join(format!("base.{worker}.tar.log")));
    wait_for("two commands that have begun", PATIENCE, || {
        logs.iter()
            .all(|log| fs::read(log).is_ok_and(|log| log == b"begun\n"))
    });
    backup.end_with_a_lost_worker(&cluster);
    let mut logs = logs.map(|log| read(&log));
    logs.sort();
    assert_eq!(logs, ["begun\nbegun\nwhole\n", "begun\nwhole\n"]);
    drop(unpack_all(&cluster, &out));
}

#[test]
fn a_command_draws_on_the_terminal_as_it_likes() {
    let server = StandIn::start(Script::honest());
    let mut backup = program();
    backup.args(server.connection_args());
    let pipe = "printf '1%%%%\\r2%%%%' >&2; cat >/dev/null # %f";
    backup.args(["-j1", "-X", "fetch", "--no-manifest", "--pipe", pipe]);
    let (status, _, raw) = Terminal::start(&backup, (80, 24)).end();
    assert_eq!(status, Some(0), "{raw}");
    assert!(raw.contains("1%\r2%"), "{raw:?}");
}

/// The command is not in the foreground process group, so the terminal stops it.
#[test]
fn a_command_that_reads_from_the_terminal_is_an_error() {
    let server = StandIn::start(Script::honest());
    // One command reads before its input, the other after it.
    for pipe in [
        "read x </dev/tty; cat >/dev/null # %f",
        "cat >/dev/null; read x </dev/tty # %f",
    ] {
        let mut backup = program();
        backup.args(server.connection_args());
        backup.args(["-j1", "-X", "fetch", "--no-manifest", "--pipe", pipe]);
        let (status, rows, raw) = Terminal::start(&backup, (200, 24)).end();
        assert_eq!(status, Some(1), "{raw}");
        let said = rows.join("\n");
        assert!(said.contains("was stopped by signal"), "{said}");
        assert!(
            said.contains(&format!("command \"{}\"", pipe.replace("%f", "base.tar"))),
            "{said}"
        );
    }
}

#[test]
fn without_a_file_no_command_is_run() {
    let cluster = Cluster::new();
    // The tablespace is empty and is requested nevertheless.
    cluster.create_tablespace("outside");
    let folder = folder();
    let out = folder.join("out");
    let pipe = in_folder("touch DIR/%f; cat >DIR/%f", &out);
    succeed(backup_of(&cluster).args(["-j4", "--no-manifest", "--pipe", &pipe]));
    let names = names_in(&out);
    assert!(names.contains(&"base.0.tar".to_owned()), "{names:?}");
    for name in names {
        let list = run(backup_tests::program::command("tar")
            .arg("-tf")
            .arg(out.join(&name)));
        assert!(list.status.success() && !list.stdout.is_empty(), "{name}");
    }
}

/// The whole pipeline of a command ends without the end of its input.
#[test]
fn a_killed_program_leaves_no_command_that_takes_its_archive_for_whole() {
    let cluster = Cluster::new();
    let folder = folder();
    let command = "echo $$ >DIR/%f.pid; cat | (cat >DIR/out/%f.part; touch DIR/out/%f.read) &&
         mv DIR/out/%f.part DIR/out/%f";
    let pipe = in_folder(command, &folder);
    let mut backup = backup_of(&cluster);
    backup.args(["-r", "8M", "-j", "2", "--pipe", &pipe]);
    let running = Running::start(&mut backup);
    let pids = [0, 1].map(|worker| folder.join(format!("base.{worker}.tar.pid")));
    wait_for("two commands with bytes", PATIENCE, || {
        let parts = [0, 1].map(|worker| folder.join(format!("out/base.{worker}.tar.part")));
        let length = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
        parts.iter().all(|part| length(part) > 0) && pids.iter().all(|pid| length(pid) > 0)
    });
    let groups = pids.each_ref().map(|file| group_of(read(file).trim()));
    running.signal("KILL");
    assert_eq!(running.end().0, None);
    for group in groups {
        wait_for("the end of the group", PATIENCE, || members_of(&group) == 0);
    }
    let mut names = names_in(&folder.join("out"));
    names.retain(|name| !name.ends_with(".part"));
    assert!(names.is_empty(), "{names:?}");
    leftover::assert_none(&cluster);
}

/// Process group of a process, by proc(5).
#[track_caller]
fn group_of(pid: &str) -> String {
    field(pid, 2).expect("a process that runs")
}

/// A field after the name of the program.
fn field(pid: &str, number: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(number).map(str::to_owned)
}

/// Number of processes of a group that have not ended.
fn members_of(group: &str) -> usize {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let names = processes.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        .filter(|pid| {
            field(pid, 2).as_deref() == Some(group) && field(pid, 0).as_deref() != Some("Z")
        })
        .count()
}
