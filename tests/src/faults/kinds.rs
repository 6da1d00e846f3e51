//! Kinds of runs: of SQL statements, or of the program. Each has plans of its own, with seeds of its own. The name
//! of a run is its seed, after `program-` for a run of the program.

use super::client;
use super::client::plan::ClientPlan;
use super::plan::{Ground, Plan};
use super::run;
use super::site::Site;

/// One of so many runs is of SQL statements.
const RUNS_OF_SQL: u64 = 3;

/// Plan of a run of any kind.
#[derive(Clone, Copy, Debug)]
pub enum AnyPlan {
    Sql(Plan),
    Client(ClientPlan),
}

impl AnyPlan {
    /// Plan of the run with this number in a sequence of runs.
    pub fn of(number: u64) -> Self {
        match number % RUNS_OF_SQL {
            0 => AnyPlan::Sql(Plan::of(number)),
            _ => AnyPlan::Client(ClientPlan::of(number)),
        }
    }

    /// Plan of the run with this name.
    pub fn named(name: &str) -> Option<Self> {
        match name.strip_prefix(client::run::NAME) {
            Some(seed) => Some(AnyPlan::Client(ClientPlan::of(seed.parse().ok()?))),
            None => Some(AnyPlan::Sql(Plan::of(name.parse().ok()?))),
        }
    }

    pub fn name(&self) -> String {
        match self {
            AnyPlan::Sql(plan) => plan.seed.to_string(),
            AnyPlan::Client(plan) => format!("{}{}", client::run::NAME, plan.seed()),
        }
    }

    pub fn ground(&self) -> Ground {
        match self {
            AnyPlan::Sql(plan) => plan.ground,
            AnyPlan::Client(plan) => plan.strike.ground,
        }
    }

    /// Name of what strikes.
    pub fn fault(&self) -> String {
        match self {
            AnyPlan::Sql(plan) => format!("{:?}", plan.fault),
            AnyPlan::Client(plan) => plan.fault(),
        }
    }

    /// Name of the kind of backup.
    pub fn kind(&self) -> String {
        match self {
            AnyPlan::Sql(plan) if plan.one_statement => "SQL, one statement".to_owned(),
            AnyPlan::Sql(plan) if plan.streams_wal => "SQL, WAL streamed".to_owned(),
            AnyPlan::Sql(_) => "SQL".to_owned(),
            AnyPlan::Client(plan) => plan.name_of_kind(),
        }
    }

    /// Runs the plan and checks that the outcome is valid. Returns a summary in one line.
    #[track_caller]
    pub fn run(&self, site: &mut Site) -> String {
        match self {
            AnyPlan::Sql(plan) => run::run(site, plan),
            AnyPlan::Client(plan) => client::run::run(site, plan),
        }
    }
}
