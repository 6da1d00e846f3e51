//! One run of the program, from its plan to the check of its outcome.

use std::path::Path;

use super::course::{self, Place, ends_server, promotes};
use super::judgement;
use super::plan::ClientPlan;
use super::stock;
use crate::faults::run::TellOnPanic;
use crate::faults::site::Site;
use crate::program::succeed;
use crate::scratch::{self, Folder};

/// What the names of runs begin with.
pub const NAME: &str = "program-";

/// Backup to take.
pub struct Task {
    pub place: Place,
    /// What an incremental backup comes after: a manifest, or a backup in a repository.
    pub earlier: Option<String>,
    /// OIDs and locations of the tablespaces at the beginning.
    tablespaces: Vec<(u32, String)>,
}

impl Task {
    /// Makes room for a backup, and takes the one before an incremental one if there is none. `letter` begins its
    /// name.
    #[track_caller]
    pub fn prepare(site: &mut Site, plan: &ClientPlan, letter: &str) -> Self {
        let mut task = Self::full(site, plan, letter);
        if !plan.incremental {
            return task;
        }
        let full = ClientPlan {
            incremental: false,
            ..*plan
        };
        task.earlier = Some(match &task.place {
            Place::Folder(_) => {
                if site.stock.chain.is_empty() {
                    let first = Self::full(site, &full, "f");
                    take_quietly(site, &full, &first);
                    if let Place::Folder(folder) = first.place {
                        site.stock.chain.push(folder);
                    }
                }
                let last = site.stock.chain.last().expect("a backup");
                last.join("backup/backup_manifest").display().to_string()
            }
            Place::Repository(access, _) => match site.stock.parent(access) {
                Some(parent) => access.url_of(&parent),
                None => {
                    let first = Self::full(site, &full, "f");
                    take_quietly(site, &full, &first);
                    stock::expire(&site.stock, access, &full);
                    first.url()
                }
            },
        });
        task
    }

    #[track_caller]
    fn full(site: &mut Site, plan: &ClientPlan, letter: &str) -> Self {
        let place = match site.stock.access(plan) {
            None => Place::Folder(Folder::new("t")),
            Some(access) => Place::Repository(
                access,
                format!("{letter}{}-{}", plan.seed(), scratch::number()),
            ),
        };
        let rows = site.cluster.connect().query(
            "SELECT oid, pg_tablespace_location(oid) FROM pg_tablespace
             WHERE pg_tablespace_location(oid) LIKE '/%'",
            &[],
        );
        let rows = rows.expect("the tablespaces");
        Self {
            place,
            earlier: None,
            tablespaces: rows.iter().map(|row| (row.get(0), row.get(1))).collect(),
        }
    }

    /// URL of a backup in a repository.
    fn url(&self) -> String {
        match &self.place {
            Place::Folder(_) => String::new(),
            Place::Repository(access, name) => access.url_of(name),
        }
    }

    /// Options that move the tablespaces into a folder.
    pub fn mappings(&self, folder: &Path) -> Vec<String> {
        let spaces = self.tablespaces.iter();
        spaces
            .map(|(oid, location)| {
                let new = folder.join(format!("space{oid}"));
                format!("-T{location}={}", new.display())
            })
            .collect()
    }
}

/// Runs a plan and checks that the outcome is valid. Returns a summary in one line.
#[track_caller]
pub fn run(site: &mut Site, plan: &ClientPlan) -> String {
    let _told = TellOnPanic(plan, format!("{NAME}{}", plan.seed()));
    let task = Task::prepare(site, plan, "b");
    let before = judgement::Before::look(site, plan);
    let course = course::take(site, plan, &task);
    site.revive(ends_server(plan) && !course.missed);
    let missed = course.missed;
    let outcome = judgement::judge(site, plan, &before, task, &course);
    if promotes(plan) && !missed {
        site.renew_standby();
    }
    format!("{plan}: {outcome}{}", if missed { " (missed)" } else { "" })
}

/// Takes a backup without a fault. It must succeed.
#[track_caller]
pub fn take_quietly(site: &Site, plan: &ClientPlan, task: &Task) {
    let mut backup = course::command(site, plan, site.cluster.socket_dir(), task);
    succeed(backup.args(["-c", "fast"]));
}
