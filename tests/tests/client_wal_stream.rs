//! WAL that the program streams while it receives the files: the server lets go of it, and the backup has
//! all of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use backup_tests::builder::Builder;
use backup_tests::client::{
    Running, backup_of, expect_failure, names_in, new_target, restore_of, unpack, verify,
};
use backup_tests::disk::Disk;
use backup_tests::leftover;
use backup_tests::page::quiet_table;
use backup_tests::program::{account, command, make_dir, run, succeed};
use backup_tests::replication::catch_up;
use backup_tests::scratch::Folder;
use backup_tests::server::Cluster;
use backup_tests::verification::ours as verify_command;
use backup_tests::wait::{PATIENCE, wait_for};
use backup_tests::wal::{forgetful, write_much};

const MEGABYTE: i64 = 1024 * 1024;
/// The cluster's max_wal_size, and what it may exceed it by: the segments of one round, those on their way
/// and those kept for reuse.
const LIMIT: i64 = 12 * MEGABYTE;
/// Rounds of a load, and WAL of each.
const ROUNDS: i32 = 8;
const ROUND: i64 = 5 * MEGABYTE;

/// Cluster that keeps 2 MB of WAL, with the table of the load.
fn cluster() -> Cluster {
    with_load_table(forgetful())
}

fn with_load_table(builder: Builder) -> Cluster {
    let cluster = builder.start();
    cluster.execute("CREATE TABLE load (round int, filler text)");
    cluster
}

/// Rate-limited backup, which takes about 12 seconds.
fn slow_backup(cluster: &Cluster, args: &[&str], target: &Path) -> Command {
    let mut backup = backup_of(cluster);
    backup.args(["-r", "1M", "-v"]).args(args);
    backup.arg("-D").arg(target);
    backup
}

fn wait_until_copying(cluster: &Cluster) {
    cluster.wait_for_sql(
        "files to be sent",
        "SELECT coalesce(max(bytes_sent), 0) > 0 FROM backup_progress()",
    );
}

/// Writes one round of the load: rows, and 20 times max_wal_size in all rounds.
fn write_round(cluster: &Cluster, round: i32) {
    let mut client = cluster.connect();
    for _ in 0..ROUND / MEGABYTE {
        client
            .batch_execute(&format!(
                "INSERT INTO load SELECT {round}, repeat('x', 100) FROM generate_series(1, 20);
                 SELECT pg_logical_emit_message(false, '', repeat('x', 1024 * 1024))"
            ))
            .expect("a load");
    }
}

/// Bytes of pg_wal on the server.
fn wal_size(cluster: &Cluster) -> i64 {
    let row = cluster
        .connect()
        .query_one("SELECT sum(size)::bigint FROM pg_ls_waldir()", &[]);
    row.expect("pg_ls_waldir()").get(0)
}

#[track_caller]
fn assert_running(cluster: &Cluster) {
    let row = cluster.connect().query_one(
        "SELECT count(*) FROM backup_progress() WHERE phase = 'streaming database files'",
        &[],
    );
    let running: i64 = row.expect("backup_progress()").get(0);
    assert_eq!(running, 1, "the backup was too fast for the load");
}

/// Waits until the server holds no more WAL than the limit, while a backup runs.
#[track_caller]
fn wait_until_let_go(cluster: &Cluster) {
    wait_for("the server to remove WAL", PATIENCE, || {
        cluster.execute("CHECKPOINT");
        wal_size(cluster) <= LIMIT
    });
    assert_running(cluster);
}

/// Runs the load beside a backup with streamed WAL, which must succeed. Returns its output.
#[track_caller]
fn back_up_under_load(cluster: &Cluster, args: &[&str], target: &Path) -> String {
    back_up_beside(cluster, args, target, |round| write_round(cluster, round))
}

/// The same with WAL that `write` brings to the server.
#[track_caller]
fn back_up_beside(cluster: &Cluster, args: &[&str], target: &Path, write: impl Fn(i32)) -> String {
    let backup = Running::start(&mut slow_backup(cluster, args, target));
    wait_until_copying(cluster);
    for round in 0..ROUNDS {
        write(round);
        wait_until_let_go(cluster);
    }
    let (status, said) = backup.end();
    assert_eq!(status, Some(0), "{said}");
    leftover::assert_none(cluster);
    said
}

/// Starts a server on a backup, which must have all rows of the load.
#[track_caller]
fn assert_has_load(folder: Folder, data: &Path) {
    let mut restored = Cluster::on(data, folder);
    restored.start();
    restored.amcheck();
    let row = restored.connect().query_one(
        "SELECT count(*), count(DISTINCT round) FROM load WHERE filler = repeat('x', 100)",
        &[],
    );
    let row = row.expect("the load");
    let expected = i64::from(ROUNDS) * ROUND / MEGABYTE * 20;
    assert_eq!(
        (row.get::<_, i64>(0), row.get::<_, i64>(1)),
        (expected, i64::from(ROUNDS))
    );
}

fn all_names(folder: &Path) -> Vec<String> {
    let found = succeed(command("find").arg(folder).args(["-printf", "%P\n"]));
    let mut names: Vec<_> = found.lines().map(str::to_owned).collect();
    names.sort();
    names
}

fn members(archive: &Path) -> Vec<String> {
    let list = succeed(command("tar").arg("--list").arg("--file").arg(archive));
    list.lines().map(str::to_owned).collect()
}

/// PID of the session that streams WAL.
fn wal_backend(cluster: &Cluster) -> Option<i32> {
    let rows = cluster.connect().query(
        "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'COPY%send_wal(%'",
        &[],
    );
    rows.expect("pg_stat_activity")
        .first()
        .map(|row| row.get(0))
}

#[test]
fn a_server_lets_go_of_wal_during_a_plain_backup() {
    let cluster = cluster();
    let (folder, target) = new_target();
    back_up_under_load(&cluster, &["-j", "2"], &target);
    verify(&target, &[]);
    let names = all_names(&target);
    assert!(
        !names.iter().any(|name| name.ends_with(".partial")),
        "{names:?}"
    );
    // Each segment is marked as archived.
    let segments: Vec<_> = names_in(&target.join("pg_wal"))
        .into_iter()
        .filter(|name| name.len() == 24)
        .collect();
    assert!(segments.len() as i64 >= i64::from(ROUNDS) * ROUND / MEGABYTE);
    let done: Vec<_> = segments.iter().map(|name| format!("{name}.done")).collect();
    assert_eq!(names_in(&target.join("pg_wal/archive_status")), done);
    assert_has_load(folder, &target);
}

#[test]
fn a_server_keeps_all_wal_during_a_backup_that_fetches_it() {
    let cluster = cluster();
    let (folder, target) = new_target();
    let backup = Running::start(&mut slow_backup(&cluster, &["-X", "fetch"], &target));
    wait_until_copying(&cluster);
    for round in 0..ROUNDS {
        write_round(&cluster, round);
        cluster.execute("CHECKPOINT");
    }
    assert_running(&cluster);
    let size = wal_size(&cluster);
    assert!(size >= i64::from(ROUNDS) * ROUND, "{size}");
    backup.signal("INT");
    let (status, said) = backup.end();
    assert_eq!(status, Some(1), "{said}");
    leftover::assert_none(&cluster);
    assert!(names_in(&folder).is_empty());
}

/// Verifies and restores a backup in archives whose WAL is in `archive`.
#[track_caller]
fn assert_archives_are_a_backup(target: &Path, archive: &str, folder: Folder) {
    let names = names_in(target);
    assert!(names.contains(&archive.to_owned()), "{names:?}");
    succeed(&mut verify_command(&["-Ft"], target));
    let restored = folder.join("restored");
    succeed(&mut restore_of(target, &restored, &[]));
    verify(&restored, &[]);

    // Without a part of the WAL neither program is satisfied.
    let whole = fs::read(target.join(archive)).expect("an archive");
    fs::remove_file(target.join(archive)).expect("remove the archive");
    let mut without = verify_command(&["-Ft"], target);
    let output = run(&mut without);
    assert_eq!(
        output.status.code(),
        Some(1),
        "{}",
        account(&without, &output)
    );
    fs::write(target.join(archive), whole).expect("the archive again");
    assert_has_load(folder, &restored);
}

#[test]
fn wal_streams_into_an_archive_of_its_own() {
    let cluster = cluster();
    let (folder, target) = new_target();
    back_up_under_load(&cluster, &["-Ft", "-j", "2"], &target);
    let base = members(&target.join("base.0.tar"));
    let others = members(&target.join("base.1.tar"));
    let in_base: Vec<_> = base
        .iter()
        .chain(&others)
        .filter(|name| name.starts_with("pg_wal/"))
        .collect();
    // Directories alone: one more from 17 on.
    assert!(in_base.len() >= 2, "{in_base:?}");
    assert!(
        in_base.iter().all(|name| name.ends_with('/')),
        "{in_base:?}"
    );
    let mut wal = members(&target.join("pg_wal.tar"));
    let count = wal.len();
    wal.sort();
    wal.dedup();
    assert_eq!(wal.len(), count, "a file is in the archive twice");
    assert_archives_are_a_backup(&target, "pg_wal.tar", folder);
}

#[test]
fn the_archive_of_wal_is_compressed_by_gzip() {
    let cluster = cluster();
    let (folder, target) = new_target();
    back_up_under_load(&cluster, &["-Ft", "-z", "-j", "1"], &target);
    assert_eq!(
        names_in(&target),
        ["backup_manifest", "base.tar.gz", "pg_wal.tar.gz"]
    );
    assert_archives_are_a_backup(&target, "pg_wal.tar.gz", folder);
}

#[test]
fn a_command_has_the_archive_of_wal_once() {
    let cluster = Cluster::new();
    let (folder, target) = new_target();
    make_dir(&target);
    let log = folder.join("log");
    let pipe = format!(
        "echo %f >> {}; cat > {}/%f",
        log.display(),
        target.display()
    );
    succeed(backup_of(&cluster).args(["-j", "1", "-Z", "server-gzip", "--pipe", &pipe]));
    let begun = fs::read_to_string(&log).expect("the log of the commands");
    let mut begun: Vec<_> = begun.lines().collect();
    begun.sort_unstable();
    assert_eq!(begun, ["backup_manifest", "base.tar.gz", "pg_wal.tar"]);
    succeed(&mut verify_command(&["-Ft"], &target));
}

#[test]
fn a_lost_wal_stream_goes_on_where_it_was() {
    let cluster = cluster();
    let (folder, target) = new_target();
    let backup = Running::start(&mut slow_backup(&cluster, &["-j", "1"], &target));
    wait_until_copying(&cluster);
    for round in 0..ROUNDS {
        write_round(&cluster, round);
        if round % 3 == 0 {
            let mut ended = None;
            wait_for("the WAL stream", PATIENCE, || {
                ended = wal_backend(&cluster);
                ended.is_some()
            });
            let pid = ended.expect("a process");
            cluster.execute(&format!("SELECT pg_terminate_backend({pid}, 10000)"));
        }
        wait_until_let_go(&cluster);
    }
    let (status, said) = backup.end();
    assert_eq!(status, Some(0), "{said}");
    let lost = "the WAL stream lost its connection and gets another";
    assert_eq!(said.matches(lost).count(), 3, "{said}");
    verify(&target, &[]);
    leftover::assert_none(&cluster);
    assert_has_load(folder, &target);
}

#[test]
fn a_wal_stream_that_is_lost_too_often_ends_the_backup() {
    let cluster = cluster();
    let (folder, target) = new_target();
    let args = ["-j", "1", "--retries", "0"];
    let backup = Running::start(&mut slow_backup(&cluster, &args, &target));
    wait_until_copying(&cluster);
    wait_for("the WAL stream", PATIENCE, || {
        wal_backend(&cluster).is_some()
    });
    let pid = wal_backend(&cluster).expect("a process");
    cluster.execute(&format!("SELECT pg_terminate_backend({pid})"));
    let (status, said) = backup.end();
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("error: the WAL stream failed: "), "{said}");
    leftover::assert_none(&cluster);
    assert!(names_in(&folder).is_empty());
}

#[test]
fn wal_that_fills_the_disk_fails_the_backup() {
    let cluster = cluster();
    let (folder, target) = new_target();
    let mount = folder.join("wal");
    let Some(_disk) = Disk::mount(&mount, 8) else {
        return;
    };
    let waldir = mount.display().to_string();
    let args = ["-j", "1", "--waldir", &waldir];
    let backup = Running::start(&mut slow_backup(&cluster, &args, &target));
    wait_until_copying(&cluster);
    for round in 0..3 {
        write_round(&cluster, round);
    }
    let (status, said) = backup.end();
    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.contains("error: the WAL stream failed: could not write file \"pg_wal/"),
        "{said}"
    );
    assert!(said.contains("No space left on device"), "{said}");
    leftover::assert_none(&cluster);
    assert!(!target.exists());
    assert!(names_in(&mount).is_empty());
}

#[test]
fn a_standby_with_a_new_slot_follows_without_an_archive() {
    let cluster = cluster();
    let (folder, target) = new_target();
    let args = ["-R", "-C", "-S", "for_standby", "-j", "2"];
    succeed(backup_of(&cluster).args(args).arg("-D").arg(&target));
    // By now the server has removed all WAL of the backup's time that no slot holds.
    write_round(&cluster, 0);
    write_much(&cluster);
    let mut standby = Cluster::on(&target, folder);
    standby.start();
    standby.wait_for_sql(
        "the load on the standby",
        "SELECT pg_is_in_recovery() AND count(*) = 100 FROM load",
    );
    cluster.wait_for_sql(
        "the slot to be used",
        "SELECT active AND NOT temporary FROM pg_replication_slots WHERE slot_name = 'for_standby'",
    );
    assert!(!standby.log().contains("has already been removed"));
}

#[test]
fn a_stream_that_waits_for_wal_is_not_lost() {
    let cluster = Cluster::new();
    let (_folder, target) = new_target();
    // A call of send_wal() waits longer than that.
    let args = ["-j", "1", "--timeout", "4"];
    let (status, said) = Running::start(&mut slow_backup(&cluster, &args, &target)).end();
    assert_eq!(status, Some(0), "{said}");
    assert!(!said.contains("gets another"), "{said}");
}

#[test]
fn a_standby_streams_what_it_receives_and_lets_go_of_it() {
    // A standby without a slot follows only what the primary still has.
    let primary = with_load_table(forgetful().setting("wal_keep_size", "1GB"));
    let mut standby = primary.standby_stopped();
    standby.append_to_conf("wal_keep_size = 0\n");
    standby.start();
    let (folder, target) = new_target();
    // A standby removes WAL at a restart point, for which it needs a checkpoint of its primary.
    back_up_beside(&standby, &["-j", "1"], &target, |round| {
        write_round(&primary, round);
        primary.execute("CHECKPOINT");
        catch_up(&primary, &standby);
    });
    verify(&target, &[]);
    fs::remove_file(target.join("standby.signal")).expect("remove standby.signal");
    assert_has_load(folder, &target);
}

#[test]
fn files_and_archives_are_those_of_pg_basebackup() {
    let cluster = Cluster::builder().setting("autovacuum", "off").start();
    quiet_table(&mut cluster.connect(), "t", 30, "");
    cluster.execute("VACUUM (FREEZE)");
    cluster.execute("CHECKPOINT");
    let folder = Folder::new("t");
    let take = |name: &str, format: &str| -> [PathBuf; 2] {
        let [ours, theirs] = ["ours", "theirs"].map(|who| folder.join(format!("{name}-{who}")));
        let mut basebackup = command("pg_basebackup");
        basebackup
            .args(cluster.connection_args("postgres"))
            .args(["-c", "fast", "-X", "stream", "--no-sync", format, "-D"])
            .arg(&theirs);
        succeed(&mut basebackup);
        succeed(
            backup_of(&cluster)
                .args(["-j", "1", format, "-D"])
                .arg(&ours),
        );
        [ours, theirs]
    };
    /// Names with segments replaced: each backup has others.
    fn without_numbers(names: Vec<String>) -> Vec<String> {
        let mut names: Vec<_> = names
            .iter()
            .map(|name| {
                let mut parts: Vec<_> = name.split('/').collect();
                let last = parts.pop().unwrap_or_default();
                let last = match last.strip_prefix("00000001") {
                    Some(rest) if rest.len() > 16 => format!("SEGMENT{}", &rest[16..]),
                    Some(rest) if rest.len() == 16 => "SEGMENT".to_owned(),
                    _ => last.to_owned(),
                };
                [parts.join("/"), last].join("/")
            })
            .collect();
        // The last segment is incomplete in the stream of pg_basebackup, which does not mark it.
        names.retain(|name| !name.ends_with("archive_status/SEGMENT.done"));
        // Without tablespaces it is empty there.
        names.retain(|name| name != "/tablespace_map");
        names.sort();
        names.dedup();
        names
    }

    let [ours, theirs] = take("plain", "-Fp");
    assert_eq!(
        without_numbers(all_names(&ours)),
        without_numbers(all_names(&theirs))
    );
    let mut diff = command("diff");
    diff.args(["--recursive", "--exclude=pg_wal", "--exclude=pg_control"]);
    diff.args(["--exclude=backup_label", "--exclude=backup_manifest"]);
    succeed(diff.arg(&ours).arg(&theirs));

    let [ours, theirs] = take("tar", "-Ft");
    assert_eq!(names_in(&ours), names_in(&theirs));
    for archive in ["base.tar", "pg_wal.tar"] {
        let plain = |folder: &Path| {
            let names = members(&folder.join(archive));
            let names = names
                .iter()
                .map(|name| name.trim_start_matches("./").to_owned());
            without_numbers(names.collect())
        };
        assert_eq!(plain(&ours), plain(&theirs), "{archive}");
    }
    // Modes and owners do not matter to tar, but the content does.
    let unpacked = folder.join("unpacked");
    make_dir(&unpacked);
    unpack(&ours.join("pg_wal.tar"), &unpacked);
    for name in names_in(&unpacked) {
        if name.len() == 24 {
            let size = fs::metadata(unpacked.join(&name)).expect("a segment").len();
            assert_eq!(size, 16 << 20, "{name}");
        }
    }
}

#[test]
fn with_an_extension_that_streams_no_wal_it_is_fetched_at_the_end() {
    let cluster = Cluster::builder().without_extension().start();
    cluster.execute("CREATE EXTENSION pg_parallel_backup VERSION '0.2.0'");
    let lacks = "the extension on the server is too old to stream WAL";
    let hint = "HINT:  Run ALTER EXTENSION pg_parallel_backup UPDATE.";
    let (folder, target) = new_target();
    for wanted in [&["-X", "stream"][..], &["-C", "-S", "slot"]] {
        let said = expect_failure(backup_of(&cluster).args(wanted).arg("-D").arg(&target));
        assert!(said.contains(&format!("error: {lacks}\n{hint}")), "{said}");
        assert!(names_in(&folder).is_empty());
    }
    let mut backup = backup_of(&cluster);
    backup.arg("-D").arg(&target);
    let output = run(&mut backup);
    let said = account(&backup, &output);
    assert!(output.status.success(), "{said}");
    let warning = format!("warning: {lacks}, which is fetched at the end\n{hint}");
    assert!(said.contains(&warning), "{said}");
    verify(&target, &[]);
    leftover::assert_none(&cluster);
}

#[test]
fn options_of_wal_and_slots_are_checked() {
    let cluster = Cluster::builder().setting("wal_level", "logical").start();
    cluster.execute("SELECT pg_create_physical_replication_slot('physical')");
    let logical = "SELECT pg_create_logical_replication_slot('logical', 'test_decoding')";
    let has_logical = cluster.connect().batch_execute(logical).is_ok();
    let (folder, target) = new_target();
    for (args, message) in [
        (
            &["-C"][..],
            "--create-slot needs a slot to be specified using --slot",
        ),
        (
            &["-C", "--no-slot", "-S", "x"],
            "--create-slot and --no-slot are incompatible options",
        ),
        (
            &["--no-slot", "-S", "x"],
            "--no-slot cannot be used with slot name",
        ),
        (
            &["-X", "fetch", "-S", "x"],
            "replication slots can only be used with WAL streaming",
        ),
        (
            &["-X", "none", "-C", "-S", "x"],
            "replication slots can only be used with WAL streaming",
        ),
        (&["-S", "x"], "replication slot \"x\" does not exist"),
        (
            &["-C", "-S", "physical"],
            "replication slot \"physical\" already exists",
        ),
        (
            &["-S", "logical"],
            match has_logical {
                true => "cannot use a logical replication slot for physical replication",
                // Servers without contrib modules have no plugin for one.
                false => "replication slot \"logical\" does not exist",
            },
        ),
    ] {
        let said = expect_failure(backup_of(&cluster).args(args).arg("-D").arg(&target));
        assert!(said.contains(&format!("error: {message}")), "{said}");
        assert!(names_in(&folder).is_empty());
    }
    let said = expect_failure(backup_of(&cluster).args(["-X", "stream", "-D", "-"]));
    let message = "cannot stream write-ahead logs in tar mode to stdout";
    assert!(said.contains(&format!("error: {message}")), "{said}");
    // The slots of somebody else are still there.
    cluster.execute("SELECT pg_drop_replication_slot('physical')");
    if has_logical {
        cluster.execute("SELECT pg_drop_replication_slot('logical')");
    }
    leftover::assert_none(&cluster);
}

#[test]
fn a_slot_that_was_created_is_dropped_after_a_failure() {
    let cluster = cluster();
    let path = quiet_table(&mut cluster.connect(), "t", 30, "");
    cluster.flip_bytes(&path, 5);
    let (folder, target) = new_target();
    let said = expect_failure(
        backup_of(&cluster)
            .args(["-C", "-S", "new_slot", "-D"])
            .arg(&target),
    );
    assert!(said.contains("checksum"), "{said}");
    leftover::assert_none(&cluster);
    assert!(names_in(&folder).is_empty());

    // Also if the backup was cancelled, or its leader has gone.
    for ends_leader in [false, true] {
        let args = ["-C", "-S", "new_slot", "-j", "1"];
        let backup = Running::start(&mut slow_backup(&cluster, &args, &target));
        wait_until_copying(&cluster);
        cluster.wait_for_sql(
            "the slot",
            "SELECT restart_lsn IS NOT NULL FROM pg_replication_slots
             WHERE slot_name = 'new_slot' AND NOT temporary",
        );
        if ends_leader {
            cluster.execute("SELECT pg_terminate_backend(leader_pid) FROM backup_progress()");
        } else {
            backup.signal("INT");
        }
        let (status, said) = backup.end();
        assert_eq!(status, Some(1), "{said}");
        leftover::assert_none(&cluster);
        assert!(names_in(&folder).is_empty());
    }
}

#[test]
fn without_a_slot_the_server_holds_nothing() {
    let cluster = Cluster::new();
    let (_folder, target) = new_target();
    let args = ["--no-slot", "-j", "1"];
    let backup = Running::start(&mut slow_backup(&cluster, &args, &target));
    wait_until_copying(&cluster);
    let row = (cluster.connect()).query_one("SELECT count(*) FROM pg_replication_slots", &[]);
    assert_eq!(row.expect("the slots").get::<_, i64>(0), 0);
    let (status, said) = backup.end();
    assert_eq!(status, Some(0), "{said}");
    verify(&target, &[]);
}
