//! Checks what the program has made, and the server.

use std::fs;
use std::path::{Path, PathBuf};

use super::course::{Course, Place};
use super::expectation::{Allowed, REMOVED};
use super::plan::{Blow, ClientPlan, Kind};
use super::run::{self, Task};
use super::stock;
use crate::client::{names_in, program, restore_of, verify};
use crate::faults::judgement::{judge_crashes, judge_restored, judge_server};
use crate::faults::site::Site;
use crate::incremental::assert_same_files;
use crate::program::{command, succeed};
use crate::scratch::Folder;
use crate::server::Cluster;
use crate::verification::ours as verify_command;

/// File that marks a directory as unfinished.
const MARK: &str = "pg_parallel_backup.unfinished";

/// State before a run.
pub struct Before {
    acknowledged: i64,
    crashes: usize,
    /// Files of the repository.
    files: Vec<(String, u64)>,
}

impl Before {
    #[track_caller]
    pub fn look(site: &Site, plan: &ClientPlan) -> Self {
        Before {
            acknowledged: site.load.acknowledged(),
            crashes: site.cluster.crashes().len(),
            files: site.stock.files(plan),
        }
    }
}

/// Requires one of the two valid outcomes and describes it.
#[track_caller]
pub fn judge(
    site: &mut Site,
    plan: &ClientPlan,
    before: &Before,
    task: Task,
    course: &Course,
) -> String {
    let Course {
        status,
        ref said,
        missed,
    } = *course;
    let is_killed = status.is_none();
    let succeeded = status == Some(0);
    judge_status(plan, course);
    let told = if succeeded {
        let rows = judge_backup(site, plan, before, task);
        format!("restored with {rows} transactions")
    } else {
        judge_remains(site, plan, before, &task, is_killed);
        last_error(said)
    };
    judge_server(site);
    judge_crashes(site, &plan.strike, before.crashes, missed);
    if !succeeded {
        take_the_next(site, plan);
        judge_server(site);
    }
    let losses = said.matches("lost its connection and gets another").count();
    match losses {
        0 => told,
        _ => format!("{told}; {losses} connections replaced"),
    }
}

/// Last error of the program, in one line.
fn last_error(said: &str) -> String {
    let error = said.rfind("error: ").map_or("killed", |at| &said[at..]);
    error.trim_end().replace('\n', " | ")
}

#[track_caller]
fn judge_status(plan: &ClientPlan, course: &Course) {
    let Course {
        status,
        said,
        missed,
    } = course;
    match status {
        Some(0) => {}
        Some(1) => {
            let allowed = Allowed::by(plan, *missed);
            assert!(said.contains("error: "), "the program failed: {said}");
            let lacks_wal = !plan.has_slot && said.contains(REMOVED);
            assert!(
                allowed.admits(said) || lacks_wal,
                "the program failed, {allowed:?}: {said}"
            );
        }
        None => {
            let is_signalled =
                matches!(plan.blow, Some(Blow::KillProgram | Blow::SignalProgram)) && !missed;
            assert!(is_signalled, "a signal ended the program: {said}");
        }
        Some(status) => panic!("the program ended with status {status}: {said}"),
    }
}

/// Verifies and restores a backup. Returns the number of transactions in it.
#[track_caller]
fn judge_backup(site: &mut Site, plan: &ClientPlan, before: &Before, task: Task) -> i64 {
    let restored = Folder::new("r");
    let data = restored.join("data");
    let moved = task.mappings(&restored);
    match &task.place {
        Place::Folder(folder) => {
            let backup = folder.join("backup");
            if plan.kind == Kind::Tar {
                succeed(&mut verify_command(&["-Ft"], &backup));
                succeed(restore_of(&backup, &data, &[]).args(moved));
            } else {
                verify(&backup, &[]);
                if plan.incremental {
                    combine(site, plan, &backup, &restored);
                }
            }
        }
        Place::Repository(access, name) => {
            succeed(&mut access.verify(name, &[]));
            succeed(access.restore(name, &data, &[]).args(moved));
        }
    }
    let acknowledged = before.acknowledged;
    let judge = |data: &Path, folder: Folder| {
        let cluster = Cluster::on(data, folder);
        judge_restored(site, &plan.strike, acknowledged, cluster)
    };
    match task.place {
        Place::Folder(folder) if plan.kind == Kind::Plain && !plan.incremental => {
            judge(&folder.join("backup"), folder)
        }
        place => {
            verify(&data, &[]);
            let rows = judge(&data, restored);
            match place {
                Place::Folder(folder) if plan.incremental => site.stock.extend_chain(folder),
                Place::Folder(_) => {}
                Place::Repository(access, _) => stock::expire(&site.stock, &access, plan),
            }
            rows
        }
    }
}

/// Puts the chain and a backup together in the directory `data` of a folder.
#[track_caller]
fn combine(site: &Site, plan: &ClientPlan, backup: &Path, folder: &Folder) {
    let ours = |command: &mut std::process::Command, name: &str| -> PathBuf {
        let data = folder.join(name);
        command.arg("--no-sync").arg("-o").arg(&data);
        let links = backup.join("pg_tblspc");
        for link in names_in(&links) {
            if let Ok(old) = fs::read_link(links.join(&link)) {
                let new = folder.join(format!("{name}-space{link}"));
                command.arg(format!("-T{}={}", old.display(), new.display()));
            }
        }
        let chain = site.stock.chain.iter();
        command.args(chain.map(|folder| folder.join("backup")));
        succeed(command.arg(backup));
        data
    };
    let data = ours(program().args(["combine", "-j", "2"]), "data");
    if plan.strike.thorough {
        let theirs = ours(&mut command("pg_combinebackup"), "theirs");
        assert_same_files(&data, &theirs);
    }
}

/// Checks what a program that failed has left of its backup. One that was killed may leave an unfinished backup,
/// or a complete one.
#[track_caller]
fn judge_remains(
    site: &mut Site,
    plan: &ClientPlan,
    before: &Before,
    task: &Task,
    is_killed: bool,
) {
    match &task.place {
        Place::Folder(folder) if !is_killed => assert_eq!(names_in(folder), [""; 0]),
        Place::Folder(folder) => {
            let backup = folder.join("backup");
            if !backup.exists() {
                return;
            }
            let names = names_in(&backup);
            // The first archive has another name until the backup is complete.
            let is_first = |name: &String| {
                let begin = ["base.tar", "base.0.tar"];
                begin.iter().any(|begin| name.starts_with(begin)) && !name.ends_with(".unfinished")
            };
            if plan.kind == Kind::Tar && names.iter().any(is_first) {
                succeed(&mut verify_command(&["-Ft", "-i", MARK], &backup));
            } else if backup.join("global/pg_control").exists() {
                verify(&backup, &["-i", MARK]);
            }
        }
        Place::Repository(..) if !is_killed => assert_eq!(site.stock.files(plan), before.files),
        Place::Repository(access, name) => {
            let states = access.states();
            let state = states.iter().find(|(found, _)| found == name);
            match state.map(|(_, state)| state.as_str()) {
                None | Some("unfinished") => {}
                Some("complete") => {
                    succeed(&mut access.verify(name, &[]));
                }
                Some(other) => panic!("{name} is {other}"),
            }
            stock::expire(&site.stock, access, plan);
            if !states.contains(&(name.clone(), "complete".to_owned())) {
                assert_eq!(site.stock.files(plan), before.files);
            }
        }
    }
}

/// Takes another backup of the same kind, without a fault.
#[track_caller]
fn take_the_next(site: &mut Site, plan: &ClientPlan) {
    let task = Task::prepare(site, plan, "n");
    run::take_quietly(site, plan, &task);
    match &task.place {
        Place::Folder(folder) if plan.kind == Kind::Tar => {
            succeed(&mut verify_command(&["-Ft"], &folder.join("backup")));
        }
        Place::Folder(folder) => verify(&folder.join("backup"), &[]),
        Place::Repository(access, name) => {
            succeed(&mut access.verify(name, &[]));
            stock::expire(&site.stock, access, plan);
        }
    }
}
