//! Checks the outcome for a backup and its server.

use std::fs;

use super::course::Course;
use super::injection::open_wal;
use super::plan::{Fault, Ground, Plan};
use super::session::Session;
use super::site::Site;
use crate::backup::{Backup, spawn_workers, start, try_send_stop};
use crate::failure::Failure;
use crate::leftover;
use crate::server::Cluster;
use crate::workload::assert_balanced;

/// SQLSTATEs from a server that is shutting down, down or starting. Its last message can be lost.
pub(super) const GONE: &[&str] = &["57P01", "57P02", "57P03", "08006"];
/// SQLSTATEs of workers whose backup has ended or does not exist.
pub(super) const ENDED: &[&str] = &["55000", "42704"];

/// State before a run.
pub struct Before {
    /// Directory into which the streams are unpacked.
    folder: Backup,
    acknowledged: i64,
    crashes: usize,
}

impl Before {
    #[track_caller]
    pub fn look(site: &Site) -> Self {
        Before {
            folder: Backup::folder(&site.cluster),
            acknowledged: site.load.acknowledged(),
            crashes: site.cluster.crashes().len(),
        }
    }
}

/// Requires one of the two valid outcomes and describes it. `missed` means that the fault found no
/// target.
#[track_caller]
pub fn judge(site: &mut Site, plan: &Plan, before: Before, course: Course, missed: bool) -> String {
    let mut told = Vec::new();
    judge_errors(plan, &course, missed, &mut told);
    let failed = course.archives.is_none();
    let crashes_before = before.crashes;
    if let Some(archives) = &course.archives {
        let rows = judge_backup(site, plan, before, archives);
        told.insert(0, format!("restored with {rows} transactions"));
    }
    judge_sessions(site, course);
    judge_server(site);
    judge_crashes(site, plan, crashes_before, missed);
    if failed {
        take_the_next(&site.cluster);
        leftover::assert_none(&site.cluster);
    }
    told.join("; ")
}

/// Checks that nothing of a backup is left on the server.
#[track_caller]
pub(super) fn judge_server(site: &Site) {
    open_wal(&site.cluster.data_dir());
    leftover::assert_none(&site.cluster);
    if !site.is_standby() {
        leftover::assert_none_counted(&site.cluster);
    }
}

/// Checks that the fault explains all crashes after the first `before` ones.
#[track_caller]
pub(super) fn judge_crashes(site: &Site, plan: &Plan, before: usize, missed: bool) {
    let log = site.cluster.log();
    for crash in &site.cluster.crashes()[before..] {
        assert!(
            !missed && may_crash(plan, crash, &log),
            "the server crashed: {crash}"
        );
    }
}

/// Takes another backup. The stop does not wait for the archive: after a crash the archiver may not
/// run yet.
#[track_caller]
fn take_the_next(cluster: &Cluster) {
    let backup = Backup::folder(cluster);
    let mut leader = cluster.connect();
    let started = start(&mut leader, "retain_wal => true");
    for worker in spawn_workers(cluster, started.id, 2) {
        backup.unpack(&worker.expect());
    }
    match try_send_stop(&mut leader, "wal => true, wait => false") {
        Ok(closing) => backup.unpack(&closing),
        Err(failure) => panic!("the stop of the next backup: {failure}"),
    }
    backup.verify();
}

fn judge_errors(plan: &Plan, course: &Course, missed: bool, told: &mut Vec<String>) {
    let (leader, worker) = if missed {
        Default::default()
    } else {
        expected(plan)
    };
    for failure in &course.worker_failures {
        assert!(
            worker.contains(&&*failure.sqlstate),
            "a worker failed: {failure}"
        );
        told.push(format!("worker {}", failure.sqlstate));
    }
    let allowed = expected_of_wal(plan);
    for failure in &course.wal_failures {
        let is_told = allowed.contains(&&*failure.sqlstate);
        let also = missed || leader.contains(&&*failure.sqlstate);
        assert!(is_told || also, "the WAL stream failed: {failure}");
        told.push(format!("WAL stream {}", failure.sqlstate));
    }
    if let Some(failure) = &course.first_stop {
        let expected = is_incomplete(failure) && !course.worker_failures.is_empty();
        assert!(
            expected || leader.contains(&&*failure.sqlstate),
            "the first stop failed: {failure}"
        );
        told.push(format!("first stop {}", failure.sqlstate));
    }
    if let Some((step, failure)) = &course.leader_failure {
        let gave_up =
            is_incomplete(failure) && !course.worker_failures.is_empty() && !plan.tries_again;
        assert!(
            gave_up || leader.contains(&&*failure.sqlstate),
            "the leader failed ({step}): {failure}"
        );
        told.push(format!("{step} {}", failure.sqlstate));
    }
}

fn is_incomplete(failure: &Failure) -> bool {
    failure.sqlstate == "55000" && failure.message.starts_with("backup is incomplete")
}

/// Allowed SQLSTATEs of the leader and of the workers. The leader may also report "backup is
/// incomplete" after a worker failed.
fn expected(plan: &Plan) -> (Vec<&'static str>, Vec<&'static str>) {
    let (leader, worker): (Vec<&[&str]>, Vec<&[&str]>) = match plan.fault {
        Fault::Nothing
        | Fault::PauseWorker
        | Fault::PauseLeader
        | Fault::PauseRetention
        | Fault::StallWorker
        | Fault::StallLeader
        | Fault::CancelWal
        | Fault::TerminateWal
        | Fault::PauseWal
        | Fault::CutWal
        | Fault::StallWal
        | Fault::Churn
        | Fault::WalPressure => (vec![], vec![]),
        Fault::CancelWorker | Fault::TimeOutWorker => (vec![], vec![&["57014"]]),
        Fault::TerminateWorker => (vec![], vec![&["57P01", "08006"]]),
        Fault::CutWorker => (vec![], vec![&["08006"]]),
        Fault::LockTimeOutWorker => (vec![], vec![&["55P03"]]),
        Fault::CancelLeader => (vec![&["57014"]], vec![]),
        Fault::TimeOutLeader => (vec![&["57014"]], vec![]),
        Fault::LockTimeOutLeader => (vec![&["55P03"]], vec![]),
        Fault::TerminateLeader => (vec![&["57P01", "08006"]], vec![ENDED]),
        Fault::CutLeader => (vec![&["08006"]], vec![ENDED]),
        Fault::IdleTimeOutLeader => (vec![&["57P05", "08006"]], vec![ENDED]),
        Fault::KillWorker
        | Fault::KillLeader
        | Fault::KillRetention
        | Fault::KillWal
        | Fault::KillServer
        | Fault::QuitServer
        | Fault::StopServer => (vec![GONE], vec![GONE, ENDED]),
        Fault::TerminateRetention => (vec![&["58P01"]], vec![]),
        Fault::FullDisk => (
            vec![GONE, &["53100", "58030", "55000"]],
            vec![GONE, ENDED, &["53100"]],
        ),
        Fault::Unreadable => (vec![&["42501"]], vec![&["42501"]]),
        Fault::FailingReads => (vec![&["58030"]], vec![&["58030"]]),
        Fault::Promotion => (vec![&["55000"]], vec![&["55000"]]),
    };
    let (mut leader, worker) = (leader.concat(), worker.concat());
    if !plan.retain_wal {
        // Any writer, the load included, may cause the server to remove WAL during the backup.
        leader.push("58P01");
    }
    if plan.one_statement {
        // The session is both leader and worker.
        return ([leader, worker].concat(), Vec::new());
    }
    (leader, worker)
}

/// Allowed SQLSTATEs of the WAL stream, besides those of the leader. It sees the end of the backup.
fn expected_of_wal(plan: &Plan) -> Vec<&'static str> {
    let own: &[&str] = match plan.fault {
        Fault::CancelWal => &["57014"],
        Fault::TerminateWal => &["57P01", "08006"],
        Fault::CutWal => &["08006"],
        _ => &[],
    };
    [own, ENDED].concat()
}

/// Whether the fault explains a crash reported in a line of the server's log.
fn may_crash(plan: &Plan, line: &str, log: &str) -> bool {
    match plan.fault {
        _ if line.contains("archive command") => true,
        Fault::KillWorker
        | Fault::KillLeader
        | Fault::KillRetention
        | Fault::KillWal
        | Fault::KillServer => line.contains("was terminated by signal 9"),
        // A server that cannot write WAL panics.
        Fault::FullDisk => {
            line.contains("No space left on device")
                || line.contains("signal 6")
                || is_without_statistics(line, log)
        }
        _ => false,
    }
}

/// Whether it is a fault of PostgreSQL itself (seen in 17.11): a session that finds no room for its entry of the
/// statistics while it begins, and so was never one of ours, locks that entry at its exit (pgstat_lock_entry()).
fn is_without_statistics(line: &str, log: &str) -> bool {
    let Some((_, rest)) = line.split_once("server process (PID ") else {
        return false;
    };
    let Some((process, how)) = rest.split_once(')') else {
        return false;
    };
    let refused = format!("[{process}] [unknown] FATAL:  could not resize shared memory segment");
    how.contains("signal 11") && log.contains(&refused)
}

/// Verifies and restores the backup. Returns the number of transactions in it.
#[track_caller]
fn judge_backup(site: &Site, plan: &Plan, before: Before, archives: &[Vec<u8>]) -> i64 {
    let folder = before.folder;
    folder.unpack_parts(archives);
    folder.verify();
    judge_restored(site, plan, before.acknowledged, folder.into_cluster())
}

/// Starts a server on a restored backup and checks its sums. `acknowledged` is the number of transactions that
/// the backup must have. Returns the number that it has.
#[track_caller]
pub(super) fn judge_restored(
    site: &Site,
    plan: &Plan,
    acknowledged: i64,
    mut restored: Cluster,
) -> i64 {
    let attempted = site.load.attempted();
    // The end of this server may be that of a command for its archive, which it reports as a crash.
    restored.append_to_conf("archive_mode = off\n");
    if plan.ground == Ground::Standby {
        let _ = fs::remove_file(restored.data_dir().join("standby.signal"));
    }
    restored.start();
    let rows = assert_balanced(&mut restored.connect());
    assert!(rows <= attempted, "{rows} of {attempted} transactions");
    // A standby may lag behind.
    if plan.ground != Ground::Standby {
        assert!(
            rows >= acknowledged,
            "{rows} of at least {acknowledged} transactions"
        );
    }
    if plan.thorough {
        restored.amcheck();
        restored.stop_and_check_checksums();
    }
    rows
}

/// Checks that sessions that survived an error have no files open, and that the leader's session
/// can start another backup.
#[track_caller]
fn judge_sessions(site: &Site, course: Course) {
    for mut session in course.workers {
        if session.client.batch_execute("SELECT 1").is_ok() {
            assert_nothing_open(site, &session);
        }
    }
    let Some(mut leader) = course.leader else {
        return;
    };
    if leader.client.batch_execute("SELECT 1").is_err() {
        return;
    }
    assert_nothing_open(site, &leader);
    let again = "SELECT start_backup('again', fast => true); SELECT abort_backup()";
    if let Err(error) = leader.client.batch_execute(again) {
        panic!("the session cannot lead again: {}", Failure::from(error));
    }
}

/// Checks that a session holds no cluster files open, other than the catalogs and the WAL segment
/// that any backend may keep open.
#[track_caller]
fn assert_nothing_open(site: &Site, session: &Session) {
    const FIRST_USER_OID: u32 = 16384;
    let Ok(root) = fs::canonicalize(site.dir()) else {
        return;
    };
    let descriptors = fs::read_dir(format!("/proc/{}/fd", session.pid));
    for descriptor in descriptors.into_iter().flatten().flatten() {
        let Ok(path) = fs::read_link(descriptor.path()) else {
            continue;
        };
        let Ok(path) = path.strip_prefix(&root) else {
            continue;
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let number = name.split(['.', '_']).next().unwrap_or_default();
        let is_of_server = path == std::path::Path::new("log")
            || path.starts_with("data/pg_wal")
            || number.parse::<u32>().is_ok_and(|oid| oid < FIRST_USER_OID);
        assert!(is_of_server, "a session still has {path:?} open");
    }
}
