//! One run, from its seed to the check of its outcome.

use std::fmt::{Debug, Display};
use std::time::Duration;

use super::course;
use super::injection::Injection;
use super::judgement;
use super::plan::{Fault, Plan, Stage};
use super::site::Site;

/// Runs a plan and checks that the outcome is valid. Returns a summary in one line.
#[track_caller]
pub fn run(site: &mut Site, plan: &Plan) -> String {
    let _told = TellOnPanic(plan, plan.seed.to_string());
    let before = judgement::Before::look(site);
    let injection = Injection::new(site, plan);
    let course = std::thread::scope(|scope| {
        if plan.stage == Stage::Moment {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(plan.delay));
                injection.strike();
            });
        }
        course::take(site, plan, &injection)
    });
    injection.heal();
    site.release_archive();
    let missed = injection.has_missed();
    let ends_server = matches!(
        plan.fault,
        Fault::KillServer | Fault::QuitServer | Fault::StopServer
    ) && injection.has_struck();
    drop(injection);
    site.revive(ends_server);
    let outcome = judgement::judge(site, plan, before, course, missed);
    if plan.fault == Fault::Promotion && !missed {
        site.renew_standby();
    }
    format!("{plan}: {outcome}{}", if missed { " (missed)" } else { "" })
}

/// Says on a failure how to repeat a run: its plan, and its name.
pub(super) struct TellOnPanic<'a, P: Display + Debug>(pub &'a P, pub String);

impl<P: Display + Debug> Drop for TellOnPanic<'_, P> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(plan, name) = self;
            eprintln!("FAILED: {plan}\n{plan:?}\nto run it again: make soak SEED={name}");
        }
    }
}
