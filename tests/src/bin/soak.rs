//! Takes backups with injected faults, one after another, for a given number of minutes.
//!
//! usage: soak [--minutes N] [--seed NAME] [--first N]
//!
//! A run of SQL statements has its seed as its name, and one of the program `program-` before it.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use backup_tests::faults::kinds::AnyPlan;
use backup_tests::faults::site::Site;

/// Number of runs on one server before a new server replaces it.
const RUNS_OF_A_SITE: u32 = 40;

fn main() -> ExitCode {
    let mut minutes = 30;
    let mut only = None;
    let mut first = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs() % 1_000_000)
        * 100_000;
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().unwrap_or_default();
        match (&*name, value.parse(), AnyPlan::named(&value)) {
            ("--minutes", Ok(value), _) => minutes = value,
            ("--seed", _, Some(plan)) => only = Some(plan),
            ("--first", Ok(value), _) => first = value,
            _ => {
                eprintln!("usage: soak [--minutes N] [--seed NAME] [--first N]");
                return ExitCode::FAILURE;
            }
        }
    }
    let plans: Box<dyn Iterator<Item = AnyPlan>> = match only {
        Some(plan) => Box::new(std::iter::once(plan)),
        None => Box::new((first..).map(AnyPlan::of)),
    };
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let mut soak = Soak::default();
    for plan in plans.take_while(|_| Instant::now() < end) {
        soak.run(&plan);
    }
    soak.summarise()
}

/// Numbers of runs that ended in a backup, ended in an error, missed, and failed.
type Outcomes = BTreeMap<String, [u32; 4]>;

#[derive(Default)]
struct Soak {
    sites: BTreeMap<String, (Site, u32)>,
    faults: Outcomes,
    kinds: Outcomes,
    /// Names of the runs that failed.
    failed: Vec<String>,
}

impl Soak {
    fn run(&mut self, plan: &AnyPlan) {
        let begun = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let name = format!("{:?}", plan.ground());
            let (mut site, runs) = self
                .sites
                .remove(&name)
                .unwrap_or_else(|| (Site::new(plan.ground()), 0));
            site.load.pause(false);
            let line = plan.run(&mut site);
            // Others need the processors meanwhile.
            site.load.pause(true);
            if runs + 1 < RUNS_OF_A_SITE {
                self.sites.insert(name, (site, runs + 1));
            }
            line
        }));
        let which = match outcome {
            Ok(line) => {
                println!("{line}, {:.1} s", begun.elapsed().as_secs_f64());
                if line.ends_with("(missed)") {
                    2
                } else {
                    usize::from(!line.contains("restored with"))
                }
            }
            Err(_) => {
                self.failed.push(plan.name());
                println!("seed {}: FAILED, see above", plan.name());
                3
            }
        };
        self.faults.entry(plan.fault()).or_default()[which] += 1;
        self.kinds.entry(plan.kind()).or_default()[which] += 1;
    }

    fn summarise(&self) -> ExitCode {
        let mut all = 0;
        for (what, outcomes) in [("fault", &self.faults), ("kind", &self.kinds)] {
            println!(
                "\n{what:32} {:>8} {:>8} {:>8} {:>8}",
                "backup", "error", "missed", "FAILED"
            );
            all = 0;
            for (name, counts) in outcomes {
                let [backup, error, missed, failed] = counts;
                println!("{name:32} {backup:>8} {error:>8} {missed:>8} {failed:>8}");
                all += counts.iter().sum::<u32>();
            }
        }
        println!("\n{all} runs, {} failed", self.failed.len());
        for name in &self.failed {
            println!("to run it again: make soak SEED={name}");
        }
        if self.failed.is_empty() && all > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
