//! Takes backups with injected faults, one after another, for a given number of minutes.
//!
//! usage: soak [--minutes N] [--seed N] [--first N]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use backup_tests::faults::plan::Plan;
use backup_tests::faults::run::run;
use backup_tests::faults::site::Site;

/// Number of runs on one server before a new server replaces it.
const RUNS_OF_A_SITE: u32 = 40;

fn main() -> ExitCode {
    let mut minutes = 30;
    let mut only = None;
    let mut seed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs() % 1_000_000)
        * 100_000;
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok());
        match (name.as_str(), value) {
            ("--minutes", Some(value)) => minutes = value,
            ("--seed", Some(value)) => only = Some(value),
            ("--first", Some(value)) => seed = value,
            _ => {
                eprintln!("usage: soak [--minutes N] [--seed N] [--first N]");
                return ExitCode::FAILURE;
            }
        }
    }
    let seeds: Box<dyn Iterator<Item = u64>> = match only {
        Some(seed) => Box::new(std::iter::once(seed)),
        None => Box::new(seed..),
    };
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    let mut soak = Soak::default();
    for seed in seeds.take_while(|_| Instant::now() < end) {
        soak.run(&Plan::of(seed));
    }
    soak.summarise()
}

#[derive(Default)]
struct Soak {
    sites: BTreeMap<String, (Site, u32)>,
    /// Per fault, the number of runs that ended in a backup, ended in an error, missed, and failed.
    outcomes: BTreeMap<String, [u32; 4]>,
    failed: Vec<u64>,
}

impl Soak {
    fn run(&mut self, plan: &Plan) {
        let counts = self
            .outcomes
            .entry(format!("{:?}", plan.fault))
            .or_default();
        let begun = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let name = format!("{:?}", plan.ground);
            let (mut site, runs) = self
                .sites
                .remove(&name)
                .unwrap_or_else(|| (Site::new(plan.ground), 0));
            let line = run(&mut site, plan);
            if runs + 1 < RUNS_OF_A_SITE {
                self.sites.insert(name, (site, runs + 1));
            }
            line
        }));
        match outcome {
            Ok(line) => {
                let which = if line.ends_with("(missed)") {
                    2
                } else {
                    usize::from(!line.contains("restored with"))
                };
                counts[which] += 1;
                println!("{line}, {:.1} s", begun.elapsed().as_secs_f64());
            }
            Err(_) => {
                counts[3] += 1;
                self.failed.push(plan.seed);
                println!("{plan}: FAILED, see above");
            }
        }
    }

    fn summarise(&self) -> ExitCode {
        println!(
            "\n{:24} {:>8} {:>8} {:>8} {:>8}",
            "fault", "backup", "error", "missed", "FAILED"
        );
        let mut all = 0;
        for (fault, counts) in &self.outcomes {
            let [backup, error, missed, failed] = counts;
            println!("{fault:24} {backup:>8} {error:>8} {missed:>8} {failed:>8}");
            all += counts.iter().sum::<u32>();
        }
        println!("{all} runs, {} failed", self.failed.len());
        for seed in &self.failed {
            println!("to run it again: make soak SEED={seed}");
        }
        if self.failed.is_empty() && all > 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
