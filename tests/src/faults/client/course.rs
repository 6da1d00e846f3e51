//! Course of one backup of the program under a fault.

use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use postgres::Client;

use super::plan::{Blow, ClientPlan, Kind};
use super::run::Task;
use crate::client::{Running, program};
use crate::faults::injection::{Aim, Injection};
use crate::faults::layer::Layer;
use crate::faults::plan::{Fault, Ground, Stage};
use crate::faults::proxy::Proxy;
use crate::faults::site::Site;
use crate::object_store::{Act, Fault as StoreFault, Kind as Request};
use crate::repository::Access;
use crate::scratch::Folder;

/// Pause between two looks at a backup.
const LOOK: Duration = Duration::from_millis(15);

/// Rate of a backup that a fault must hit midway.
const RATE: &str = "32M";

/// Place of a backup.
pub enum Place {
    /// Directory `backup` of a folder, beside the tablespaces.
    Folder(Folder),
    /// Name in a repository.
    Repository(Access, String),
}

/// Result of a run of the program.
pub struct Course {
    /// Exit status, unless a signal ended the program.
    pub status: Option<i32>,
    pub said: String,
    /// Whether the fault found no target.
    pub missed: bool,
}

/// Command that takes a backup according to a plan. `host` has the socket.
#[track_caller]
pub fn command(site: &Site, plan: &ClientPlan, host: &Path, task: &Task) -> Command {
    let mut backup = match &task.place {
        Place::Folder(_) => program(),
        Place::Repository(access, _) => access.program(),
    };
    backup.arg("-h").arg(host);
    backup.args(["-p", &site.cluster.port().to_string(), "-U", "postgres"]);
    backup.args(["-N", "-j", &plan.jobs.to_string()]);
    backup.args(["-X", if plan.streams_wal { "stream" } else { "fetch" }]);
    backup.args(["--manifest-checksums", plan.strike.algorithm]);
    if plan.compression != "none" {
        backup.args(["-Z", plan.compression]);
    }
    if !plan.has_slot {
        backup.arg("--no-slot");
    }
    if let Some(size) = plan.stream_size {
        backup.args(["--stream-size", size]);
    }
    if let Some(earlier) = &task.earlier {
        backup.args(["-i", earlier]);
    }
    match &task.place {
        Place::Folder(folder) => {
            backup.arg("-D").arg(folder.join("backup"));
            match plan.kind {
                Kind::Tar => backup.arg("-Ft"),
                _ => backup.args(task.mappings(folder)),
            };
        }
        Place::Repository(access, name) => {
            backup.args(["-D", access.url(), "--name", name]);
        }
    }
    backup
}

/// Runs the program while the fault strikes.
#[track_caller]
pub fn take(site: &Site, plan: &ClientPlan, task: &Task) -> Course {
    let strike = &plan.strike;
    let proxy = Proxy::before(&site.cluster).expect("a proxy");
    let injection = Injection::new(site, strike);
    let layer = Layer::new();
    let mut backup = command(site, plan, proxy.dir(), task);
    let checkpoint = match strike.stage {
        Stage::Checkpoint => "spread",
        _ => "fast",
    };
    backup.args(["-c", checkpoint]);
    backup.args(["--retries", &plan.retries.to_string()]);
    if plan.is_slow {
        backup.args(["-r", RATE]);
    }
    if plan.blow == Some(Blow::FullTarget) {
        layer.below_program(&mut backup);
    }
    if let Some(store) = site.stock.store() {
        store.server.forget_requests();
    }
    let mut strikes = Strikes {
        site,
        plan,
        proxy: &proxy,
        injection: &injection,
        layer: &layer,
        place: &task.place,
        has_struck: false,
    };
    if strike.stage == Stage::BeforeStart {
        strikes.strike(None);
    }
    let begun = Instant::now();
    let mut running = Running::start(&mut backup);
    let mut client = None;
    while !strikes.has_struck && !running.has_ended() {
        let is_reached = match strike.stage {
            Stage::Moment => begun.elapsed() >= Duration::from_millis(strike.delay),
            stage => strikes.is_reached(stage, &mut client),
        };
        if is_reached {
            strikes.strike(Some(&running));
            if strike.stage == Stage::Checkpoint {
                // An immediate checkpoint speeds up the one in progress.
                site.try_execute(&["CHECKPOINT"]);
            }
        } else {
            sleep(LOOK);
        }
    }
    let missed = strikes.has_missed();
    let (status, said) = running.end();
    injection.heal();
    layer.pass();
    let mut was_in_vain = false;
    if let Some(store) = site.stock.store() {
        let is_of_store = matches!(
            plan.blow,
            Some(Blow::BusyStore | Blow::CutStore | Blow::DeafStore | Blow::DenyingStore)
        );
        was_in_vain = is_of_store && store.server.requests().faulted() == 0;
        store.server.heal();
    }
    Course {
        status,
        said,
        missed: missed || was_in_vain,
    }
}

/// What is needed for the fault to strike.
struct Strikes<'a> {
    site: &'a Site,
    plan: &'a ClientPlan,
    proxy: &'a Proxy,
    injection: &'a Injection<'a>,
    layer: &'a Layer,
    place: &'a Place,
    has_struck: bool,
}

/// State of a backup that runs, and the processes of its sessions.
struct Seen {
    bytes: i64,
    waits_for_checkpoint: bool,
    leader: Option<i32>,
    worker: Option<i32>,
    wal: Option<i32>,
}

impl Strikes<'_> {
    /// Whether the backup has reached a stage.
    fn is_reached(&self, stage: Stage, client: &mut Option<Client>) -> bool {
        let Some(seen) = self.look(client) else {
            return false;
        };
        if stage == Stage::Checkpoint {
            return seen.waits_for_checkpoint;
        }
        let has_target = match self.plan.strike.fault {
            fault if fault.is_of_worker() => seen.worker.is_some(),
            fault if fault.is_of_wal() => seen.wal.is_some(),
            _ => true,
        };
        has_target && seen.bytes > 0 && seen.bytes as u64 >= self.plan.strike.bytes
    }

    /// Looks at the backup in a session of its own. There is none to see if the server is down.
    fn look(&self, client: &mut Option<Client>) -> Option<Seen> {
        if client.as_ref().is_none_or(Client::is_closed) {
            *client = self.site.try_connect().ok();
        }
        let row = client.as_mut()?.query_one(
            "SELECT coalesce(max(bytes_sent), 0), max(leader_pid),
                 coalesce(bool_or(phase = 'waiting for checkpoint to finish'), false),
                 (SELECT min(pid) FROM pg_stat_activity
                  WHERE state = 'active' AND query LIKE 'COPY%send_backup_files(%'),
                 (SELECT min(pid) FROM pg_stat_activity
                  WHERE state = 'active' AND query LIKE 'COPY%send_wal(%')
             FROM backup_progress()",
            &[],
        );
        let row = row.ok()?;
        Some(Seen {
            bytes: row.get(0),
            leader: row.get(1),
            waits_for_checkpoint: row.get(2),
            worker: row.get(3),
            wal: row.get(4),
        })
    }

    /// Makes the fault strike. A transient one is over on return.
    fn strike(&mut self, running: Option<&Running>) {
        self.has_struck = true;
        if let Some(seen) = running.and_then(|_| self.look(&mut None)) {
            let aim = |pid: Option<i32>| -> Option<Aim> {
                let pid = pid?;
                let line = self.proxy.line(pid)?;
                Some(Aim { pid, line })
            };
            let known = self.injection;
            if let Some(aim) = aim(seen.leader) {
                known.set_leader(aim);
            }
            if let Some(aim) = aim(seen.worker) {
                known.set_worker(aim);
            }
            if let Some(aim) = aim(seen.wal) {
                known.set_wal(aim);
            }
        }
        match self.plan.blow {
            Some(blow) => self.blow(blow, running),
            None => self.injection.strike(),
        }
    }

    fn blow(&self, blow: Blow, running: Option<&Running>) {
        let signal = |name: &str| {
            if let Some(running) = running {
                running.signal(name);
            }
        };
        let store = |fault: StoreFault| {
            if let Some(store) = self.site.stock.store() {
                store.server.switch_on(&fault);
            }
        };
        let duration = self.plan.strike.duration;
        let count = 1 + duration % 3;
        match blow {
            Blow::KillProgram => signal("KILL"),
            Blow::SignalProgram => signal(match duration % 2 {
                0 => "INT",
                _ => "TERM",
            }),
            Blow::PauseProgram => {
                signal("STOP");
                sleep(Duration::from_millis(duration));
                signal("CONT");
            }
            Blow::FullTarget => {
                let place = match self.place {
                    Place::Folder(folder) => folder.to_path_buf(),
                    Place::Repository(..) => self.site.stock.directory().unwrap_or_default(),
                };
                self.layer.fail_writes(&place);
            }
            Blow::BusyStore => {
                store(
                    StoreFault::new(Act::SlowDown)
                        .on(&Request::WRITING)
                        .first(count),
                );
            }
            Blow::CutStore => {
                let bodies = [Request::Part, Request::Put];
                store(StoreFault::new(Act::Cut).on(&bodies).first(count));
            }
            Blow::DeafStore => {
                let kinds = [Request::Part, Request::Complete, Request::Put];
                store(StoreFault::new(Act::Lose).on(&kinds).first(count));
            }
            Blow::DenyingStore => store(StoreFault::new(Act::AccessDenied).on(&Request::WRITING)),
            Blow::FullStore => {
                if let Some(store) = self.site.stock.store() {
                    let bytes = self.plan.strike.bytes % (1 << 20);
                    store.server.limit(bytes, 403, "QuotaExceeded");
                }
            }
        }
    }

    fn has_missed(&self) -> bool {
        match self.plan.blow {
            Some(_) => !self.has_struck,
            None => self.injection.has_missed(),
        }
    }
}

/// Whether a strike ends the server, which then has to be started again.
pub fn ends_server(plan: &ClientPlan) -> bool {
    matches!(
        plan.strike.fault,
        Fault::KillServer | Fault::QuitServer | Fault::StopServer
    )
}

/// Whether a strike promotes the standby.
pub fn promotes(plan: &ClientPlan) -> bool {
    plan.strike.fault == Fault::Promotion && plan.strike.ground == Ground::Standby
}
