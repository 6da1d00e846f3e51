//! Failures of backups by the command line program: target, server, exit status and message.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use backup_tests::client::{
    Running, backup_of, expect_failure, ignoring, names_in, new_target, program,
    terminate_a_worker, verify, wait_for_streams,
};
use backup_tests::leftover;
use backup_tests::page::corrupt_cluster;
use backup_tests::program::{command, give_to_owner, make_dir, run, signal, succeed, words};
use backup_tests::scratch::Folder;
use backup_tests::server::{Cluster, Shutdown};
use backup_tests::wait::{PATIENCE, wait_for};

/// Backup that takes a while: the cluster has more than 22 MB.
fn slow_backup(cluster: &Cluster, target: &Path) -> Command {
    backup_with_rate(cluster, "8M", target)
}

/// Backup that something else ends long before its own end.
fn endless_backup(cluster: &Cluster, target: &Path) -> Command {
    backup_with_rate(cluster, "1M", target)
}

fn backup_with_rate(cluster: &Cluster, rate: &str, target: &Path) -> Command {
    let mut program = backup_of(cluster);
    program.args(["-j", "2", "-r", rate, "-D"]).arg(target);
    program
}

#[test]
fn a_target_that_is_not_empty_is_refused_and_kept() {
    let cluster = Cluster::new();
    let (folder, target) = new_target();
    make_dir(&target);
    fs::write(target.join("precious"), "1").expect("a file");
    for format in ["-Fp", "-Ft"] {
        let said = expect_failure(backup_of(&cluster).args([format, "-D"]).arg(&target));
        assert!(said.contains("exists but is not empty"), "{said}");
        assert_eq!(names_in(&target), ["precious"]);
    }
    let waldir = folder.join("wal");
    let said = expect_failure(
        backup_of(&cluster)
            .arg("--waldir")
            .arg(&target)
            .arg("-D")
            .arg(&waldir),
    );
    assert!(said.contains("exists but is not empty"), "{said}");
    assert_eq!(names_in(&target), ["precious"]);
    assert!(!waldir.exists());
    leftover::assert_none(&cluster);
}

#[test]
fn a_failure_removes_what_was_made_and_nothing_else() {
    let cluster = corrupt_cluster();
    let folder = Folder::new("t");
    fs::write(folder.join("precious"), "1").expect("a file");
    let found = folder.join("found");
    make_dir(&found);
    let said = expect_failure(
        backup_of(&cluster)
            .arg("--waldir")
            .arg(&found)
            .arg("-D")
            .arg(folder.join("deep/er/backup")),
    );
    assert!(said.contains("checksum"), "{said}");
    assert_eq!(names_in(&folder), ["found", "precious"]);
    assert!(names_in(&found).is_empty());
    leftover::assert_none(&cluster);
}

#[test]
fn what_is_not_cleaned_up_does_not_start() {
    let cluster = corrupt_cluster();
    let (folder, target) = new_target();
    // A single worker sends everything before it reports the page.
    let said = expect_failure(
        backup_of(&cluster)
            .args(["--no-clean", "-j", "1", "-D"])
            .arg(&target),
    );
    assert!(said.contains("is not removed"), "{said}");
    assert!(target.join("PG_VERSION").exists());
    let mut restored = Cluster::on(&target, folder);
    let log = restored.try_start().expect_err("the server started");
    assert!(log.contains("control"), "{log}");
}

#[test]
fn signals_end_a_backup() {
    let cluster = Cluster::new();
    for (name, format) in [("INT", "-Fp"), ("TERM", "-Ft"), ("HUP", "-Fp")] {
        let (folder, target) = new_target();
        let backup = Running::start(endless_backup(&cluster, &target).arg(format));
        wait_for_streams(&cluster);
        backup.signal(name);
        let (status, said) = backup.end();
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains(&format!("received SIG{name}")), "{said}");
        assert!(names_in(&folder).is_empty());
        leftover::assert_none(&cluster);
    }
}

/// `nohup` keeps a lost terminal from ending the program.
#[test]
fn a_signal_that_was_ignored_at_the_start_stays_ignored() {
    let cluster = Cluster::new();
    let (_folder, target) = new_target();
    let backup = Running::start(&mut ignoring("HUP,INT", &slow_backup(&cluster, &target)));
    wait_for_streams(&cluster);
    backup.signal("HUP");
    backup.signal("INT");
    let (status, said) = backup.end();
    assert_eq!(status, Some(0), "{said}");
    verify(&target, &[]);

    let (folder, target) = new_target();
    let backup = Running::start(&mut ignoring("HUP,INT", &endless_backup(&cluster, &target)));
    wait_for_streams(&cluster);
    backup.signal("HUP");
    backup.signal("TERM");
    let (status, said) = backup.end();
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("received SIGTERM"), "{said}");
    assert!(names_in(&folder).is_empty());
    leftover::assert_none(&cluster);
}

/// No backup has begun that needs an orderly end.
#[test]
fn a_signal_ends_the_wait_for_a_lock_before_the_backup() {
    let cluster = Cluster::new();
    for command in [&["-D"][..], &["check", "-c", "fast"]] {
        let mut locking = cluster.connect();
        let mut transaction = locking.transaction().expect("BEGIN");
        transaction
            .batch_execute("LOCK pg_extension")
            .expect("the lock");
        let (folder, target) = new_target();
        let mut program = program();
        program.args(command);
        if command[0] == "-D" {
            program.arg(&target);
        }
        program.args(cluster.connection_args("postgres"));
        let waiting = Running::start(&mut program);
        cluster.wait_for_sql(
            "the program to wait for the lock",
            "SELECT EXISTS (SELECT FROM pg_stat_activity
                WHERE application_name = 'pg_parallel_backup' AND wait_event_type = 'Lock')",
        );
        waiting.signal("TERM");
        let (status, said) = waiting.end();
        assert_eq!(status, None, "{said}");
        assert!(names_in(&folder).is_empty());
        transaction.rollback().expect("ROLLBACK");
        leftover::assert_none(&cluster);
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_checkpoint() {
    // The checkpointer sleeps after each page, so the checkpoint takes minutes.
    let cluster = Cluster::builder()
        .setting("checkpoint_timeout", "30min")
        .start();
    cluster.execute("CREATE TABLE dirty AS SELECT repeat('x', 900) FROM generate_series(1, 8000)");
    for format in [&["-Fp"][..], &["-Ft"], &["-j", "1"]] {
        let (folder, target) = new_target();
        let to_stdout = format[0] == "-j";
        let mut spread = spread_backup(&cluster);
        spread
            .args(format)
            .arg("-D")
            .arg(if to_stdout { Path::new("-") } else { &target });
        let canceled = canceled(&cluster);
        let backup = Running::start(&mut spread);
        wait_for_checkpoint(&cluster);
        backup.signal(if to_stdout { "TERM" } else { "INT" });
        let (status, said) = backup.end();
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("received SIG"), "{said}");
        assert!(names_in(&folder).is_empty());
        // The server was sent a cancel request. It did not find out by itself.
        assert_eq!(self::canceled(&cluster), canceled + 1);
        assert!(!cluster.log().contains("connection to client lost"));
    }
    // A killed program cannot send a cancel request. The server checks the connection.
    let (_folder, target) = new_target();
    let backup = Running::start(spread_backup(&cluster).arg("-D").arg(&target));
    wait_for_checkpoint(&cluster);
    backup.signal("KILL");
    assert_eq!(backup.end().0, None);
    cluster.wait_for_sql(
        "the end of the backup of a killed program",
        "SELECT NOT EXISTS (SELECT FROM backup_progress())",
    );
    assert!(!target.exists());
    cluster.execute("CHECKPOINT");
    leftover::assert_none(&cluster);
}

#[test]
fn a_signal_ends_the_wait_for_the_archive() {
    let cluster = Cluster::builder()
        .setting("archive_mode", "on")
        .setting("archive_command", "false")
        .start();
    let (folder, target) = new_target();
    let backup = Running::start(backup_of(&cluster).args(["-X", "none", "-D"]).arg(&target));
    cluster.wait_for_sql(
        "the wait for the archive",
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'BackupWaitWalArchive')",
    );
    backup.signal("INT");
    let (status, said) = backup.end();
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("received SIGINT"), "{said}");
    assert!(names_in(&folder).is_empty());
    assert_eq!(canceled(&cluster), 1);
    leftover::assert_none(&cluster);
}

/// Backup that waits for its checkpoint. The caller adds the target.
fn spread_backup(cluster: &Cluster) -> Command {
    let mut program = program();
    program.args(cluster.connection_args("postgres"));
    program
}

#[track_caller]
fn wait_for_checkpoint(cluster: &Cluster) {
    cluster.wait_for_sql(
        "the wait for a checkpoint",
        "SELECT coalesce(bool_and(phase LIKE 'waiting for checkpoint%'), false)
         FROM backup_progress()",
    );
}

/// Number of statements canceled at user request.
fn canceled(cluster: &Cluster) -> usize {
    let words = "canceling statement due to user request";
    cluster.log().matches(words).count()
}

#[test]
fn a_killed_program_leaves_nothing_on_the_server_and_nothing_that_starts() {
    let cluster = Cluster::new();
    let (folder, target) = new_target();
    let backup = Running::start(&mut endless_backup(&cluster, &target));
    wait_for_streams(&cluster);
    backup.signal("KILL");
    assert_eq!(backup.end().0, None);
    leftover::assert_none(&cluster);
    let mut restored = Cluster::on(&target, folder);
    restored.try_start().expect_err("the server started");
}

#[test]
fn a_worker_that_lost_its_connection_is_replaced() {
    let cluster = Cluster::new();
    let (folder, target) = new_target();
    let mut program = slow_backup(&cluster, &target);
    let backup = Running::start(&mut program);
    let said = backup.end_with_a_lost_worker(&cluster);
    assert_tells_of_the_loss(&said);
    verify(&target, &[]);
    let mut restored = Cluster::on(&target, folder);
    restored.start();
    restored.amcheck();
}

#[test]
fn an_archive_of_a_lost_connection_begins_anew() {
    let cluster = Cluster::new();
    let (folder, target) = new_target();
    let backup = Running::start(slow_backup(&cluster, &target).arg("-Ft"));
    backup.end_with_a_lost_worker(&cluster);
    let data = folder.join("unpacked");
    make_dir(&data);
    for name in names_in(&target) {
        if name.ends_with(".tar") {
            let into = match name == "pg_wal.tar" {
                true => data.join("pg_wal"),
                false => data.clone(),
            };
            let archive = target.join(name);
            succeed(command("tar").arg("-xf").arg(archive).arg("-C").arg(into));
        }
    }
    succeed(command("cp").arg(target.join("backup_manifest")).arg(&data));
    verify(&data, &[]);
}

#[test]
fn a_worker_is_not_replaced_more_often_than_wanted() {
    let cluster = Cluster::new();
    let (folder, target) = new_target();
    let backup = Running::start(endless_backup(&cluster, &target).args(["--retries", "0"]));
    wait_for_streams(&cluster);
    terminate_a_worker(&cluster);
    let (status, said) = backup.end();
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("error: worker "), "{said}");
    assert_tells_of_the_loss(&said);
    assert!(names_in(&folder).is_empty());
    leftover::assert_none(&cluster);
}

#[test]
fn of_several_servers_all_connections_have_the_same() {
    let mut other = Cluster::new();
    other.stop(Shutdown::Fast);
    let cluster = Cluster::new();
    let (_folder, target) = new_target();
    let of_both = |part: fn(&Cluster) -> String| [&other, &cluster].map(part).join(",");
    let address = format!(
        "host={} port={} user=postgres",
        of_both(|cluster| cluster.socket_dir().display().to_string()),
        of_both(|cluster| cluster.port().to_string()),
    );
    let mut program = program();
    program.args([
        "-d", &address, "-c", "fast", "-N", "-j", "2", "-r", "8M", "-D",
    ]);
    let backup = Running::start(program.arg(&target));
    wait_for_streams(&cluster);
    // The other server is the first host in the list. It does not know the backup.
    backup.signal("STOP");
    other.start();
    terminate_a_worker(&cluster);
    backup.signal("CONT");
    let (status, said) = backup.end();
    assert_eq!(status, Some(0), "{said}");
    let replaced = "lost its connection and gets another";
    assert!(said.contains(replaced), "{said}");
    verify(&target, &[]);
}

#[test]
fn without_its_leader_a_backup_fails() {
    let cluster = Cluster::new();
    let (folder, target) = new_target();
    let backup = Running::start(&mut endless_backup(&cluster, &target));
    wait_for_streams(&cluster);
    cluster.execute("SELECT pg_terminate_backend(leader_pid) FROM backup_progress()");
    let (status, said) = backup.end();
    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.contains("the connection that leads the backup was lost"),
        "{said}"
    );
    // The server has said why.
    assert!(
        said.contains("lost: terminating connection due to administrator command"),
        "{said}"
    );
    assert!(names_in(&folder).is_empty());
    leftover::assert_none(&cluster);
}

#[test]
fn a_connection_that_ends_without_a_word_is_named_by_one_message() {
    let cluster = Cluster::builder()
        .setting("checkpoint_timeout", "1h")
        .start();
    cluster.may_crash();
    cluster.execute("CREATE TABLE t AS SELECT repeat('x', 1000) FROM generate_series(1, 10000)");
    let (folder, target) = new_target();
    let backup = Running::start(spread_backup(&cluster).arg("-D").arg(&target));
    wait_for_checkpoint(&cluster);
    let leader = "SELECT leader_pid FROM backup_progress()";
    let leader: i32 = cluster
        .connect()
        .query_one(leader, &[])
        .expect(leader)
        .get(0);
    signal("KILL", leader);
    let (status, said) = backup.end();
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("server closed the connection"), "{said}");
    // libpq adds that when it is asked about the socket that it has closed.
    assert!(!said.contains("invalid socket"), "{said}");
    assert!(names_in(&folder).is_empty());
}

/// Checks the output of a program that lost its server. The last message may be lost with the
/// connection.
#[track_caller]
fn assert_tells_of_the_loss(said: &str) {
    assert!(
        ["terminating connection", "closed the connection"]
            .iter()
            .any(|words| said.contains(words)),
        "{said}"
    );
}

/// File system of a few megabytes, if this account may mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(folder: &Folder) -> Option<Self> {
        let path = folder.join("disk");
        make_dir(&path);
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=12m,mode=0700", "tmpfs"]);
        let output = run(mount.arg(&path));
        output.status.success().then(|| {
            give_to_owner(&path);
            Self(path)
        })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

#[test]
fn a_full_disk_is_an_error_and_empty_afterwards() {
    let cluster = Cluster::new();
    let (folder, _) = new_target();
    let Some(disk) = SmallDisk::new(&folder) else {
        println!("left out: this account cannot mount a file system");
        return;
    };
    for format in ["-Fp", "-Ft"] {
        let target = disk.0.join("backup");
        let mut backup = backup_of(&cluster);
        backup.args(["--no-space-check", format, "-D"]).arg(&target);
        let said = expect_failure(&mut backup);
        assert!(said.contains("No space left on device"), "{said}");
        assert!(said.contains("worker "), "{said}");
        assert!(names_in(&disk.0).is_empty());
    }
    leftover::assert_none(&cluster);
}

#[test]
fn nobody_who_reads_the_messages_is_no_reason_to_fail() {
    let cluster = Cluster::new();
    let (_folder, target) = new_target();
    let mut backup = backup_of(&cluster);
    backup.args(["-P", "-v", "-D"]).arg(&target);
    let mut shell = command("sh");
    shell.args(["-c", "\"$@\" 2>&1 >/dev/null | true", "sh"]);
    shell.args(words(&backup));
    succeed(&mut shell);
    wait_for("the backup to be complete", PATIENCE, || {
        target.join("global/pg_control").exists()
    });
    leftover::assert_none(&cluster);
}

#[test]
fn files_are_for_the_owner_alone() {
    let cluster = Cluster::new();
    for (format, name) in [("-Fp", "PG_VERSION"), ("-Ft", "base.tar")] {
        let (_folder, target) = new_target();
        succeed(
            backup_of(&cluster)
                .args([format, "-j", "1", "-D"])
                .arg(&target),
        );
        for (path, mode) in [(target.clone(), 0o700), (target.join(name), 0o600)] {
            let found = fs::metadata(&path).expect("a part of the backup").mode();
            assert_eq!(found & 0o777, mode, "{path:?}");
        }
    }
}
