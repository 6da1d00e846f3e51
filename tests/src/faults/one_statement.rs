//! Course of a backup taken with the single statement `base_backup()` in one session.

use super::course::{Course, RATE, Step, at};
use super::injection::Injection;
use super::plan::{Fault, Ground, Plan, Stage};
use super::session::{Session, wait_until};
use super::site::Site;
use crate::stream::copy_of;

/// Takes the backup and appends its archive to `archives`.
pub fn run(
    course: &mut Course,
    site: &Site,
    plan: &Plan,
    injection: &Injection,
    archives: &mut Vec<Vec<u8>>,
) -> Step<()> {
    let mut session = at("connect", Session::open(site))?;
    injection.set_leader(session.aim());
    injection.set_worker(session.aim());
    if matches!(plan.fault, Fault::TimeOutWorker | Fault::TimeOutLeader) {
        at("set", session.set("statement_timeout"))?;
    }
    injection.reach(Stage::BeforeStart);

    let holds = plan.stage == Stage::Stopping && plan.ground != Ground::Standby;
    if holds {
        site.hold_archive();
    }
    let halts = plan.stage == Stage::Stream && plan.halting;
    let is_slow = matches!(plan.stage, Stage::Stream | Stage::Moment) && !plan.halting;
    let rate = if is_slow {
        format!(", max_rate => {}", RATE * 2)
    } else {
        String::new()
    };
    let copy = copy_of(&format!(
        "base_backup('fault', fast => {}, retain_wal => {}, manifest_checksums => '{}',
             wal => true, wait => {holds}{rate})",
        plan.stage != Stage::Checkpoint,
        plan.retain_wal,
        plan.algorithm,
    ));
    let pid = session.pid;
    let stream = session.stream(&copy, if halts { plan.bytes.max(1) } else { u64::MAX });
    match plan.stage {
        Stage::Checkpoint => {
            wait_until(site, "the start to wait for its checkpoint", |client| {
                let phase = "SELECT FROM backup_progress()
                             WHERE phase = 'waiting for checkpoint to finish'";
                Ok(stream.is_finished() || client.query_opt(phase, &[])?.is_some())
            });
            injection.strike();
            site.try_execute(&["CHECKPOINT"]);
        }
        Stage::Stream => {
            stream.wait_for_bytes(plan.bytes);
            injection.strike();
        }
        Stage::Stopping if holds => {
            wait_until(site, "the stop to wait for the archive", |client| {
                let waiting = "SELECT FROM pg_stat_activity
                               WHERE pid = $1 AND wait_event = 'BackupWaitWalArchive'";
                Ok(stream.is_finished() || client.query_opt(waiting, &[&pid])?.is_some())
            });
            injection.strike();
            site.release_archive();
            if !stream.is_finished() {
                site.wait_for_archiver();
            }
        }
        _ => {}
    }
    let (mut session, archive) = stream.end();
    if matches!(plan.fault, Fault::TimeOutWorker | Fault::TimeOutLeader) {
        let _ = session.client.batch_execute("RESET statement_timeout");
    }
    course.leader = Some(session);
    archives.push(at("base_backup", archive)?);
    Ok(())
}
