//! Backups under load with injected faults, by plans derived from numbers: the short form of `make
//! soak`. Each run ends with a backup that verifies, restores and balances, or with an error that
//! fits the fault and a server without leftovers.

use backup_tests::faults::client;
use backup_tests::faults::client::plan::{Blow, ClientPlan, Kind};
use backup_tests::faults::plan::{Fault, Ground, Plan, Stage};
use backup_tests::faults::run::run;
use backup_tests::faults::site::Site;
use backup_tests::incremental::is_too_old;

/// Runs each fault at this many of its stages, on one server. The choice of stages differs between
/// faults.
#[track_caller]
fn strike(ground: Ground, stages: usize, faults: &[Fault]) {
    let mut site = Site::new(ground);
    for (number, fault) in faults.iter().enumerate() {
        let all = fault.stages();
        let count = stages.min(all.len());
        for step in 0..count {
            let stage = all[(number + step * all.len() / count) % all.len()];
            println!("{}", run(&mut site, &Plan::first(*fault, stage)));
        }
    }
}

#[test]
fn a_backup_survives_what_strikes_a_worker() {
    use Fault::*;
    let faults = [
        Nothing,
        CancelWorker,
        TerminateWorker,
        PauseWorker,
        CutWorker,
        StallWorker,
        TimeOutWorker,
        LockTimeOutWorker,
    ];
    strike(Ground::Primary, 1, &faults);
}

#[test]
fn a_backup_survives_what_strikes_its_wal_stream() {
    use Fault::*;
    let faults = [CancelWal, TerminateWal, PauseWal, CutWal, StallWal];
    strike(Ground::Primary, 2, &faults);
}

#[test]
fn what_strikes_the_leader_ends_the_backup_and_leaves_nothing() {
    use Fault::*;
    let faults = [
        CancelLeader,
        TerminateLeader,
        PauseLeader,
        CutLeader,
        StallLeader,
        TimeOutLeader,
        LockTimeOutLeader,
        IdleTimeOutLeader,
        TerminateRetention,
        PauseRetention,
    ];
    strike(Ground::Primary, 2, &faults);
}

#[test]
fn a_crash_of_the_server_leaves_nothing_of_a_backup() {
    use Fault::*;
    let faults = [
        KillWorker,
        KillLeader,
        KillRetention,
        KillWal,
        KillServer,
        QuitServer,
        StopServer,
    ];
    strike(Ground::Primary, 2, &faults);
}

#[test]
fn files_that_cannot_be_read_fail_a_backup_that_can_go_on() {
    strike(
        Ground::Primary,
        4,
        &[Fault::Unreadable, Fault::FailingReads],
    );
}

#[test]
fn a_full_disk_fails_a_backup_or_the_server_and_leaves_nothing() {
    strike(Ground::SmallDisk, 5, &[Fault::FullDisk]);
}

#[test]
fn a_backup_is_never_one_of_a_promoted_standby() {
    strike(Ground::Standby, 3, &[Fault::Promotion]);
}

/// A worker begins while the promotion is under way. The session that promotes must not hold up the replay.
#[test]
fn a_worker_that_begins_during_a_promotion_is_no_recovery_conflict() {
    let mut site = Site::new(Ground::Standby);
    println!("{}", run(&mut site, &Plan::of(1_500_000_286)));
}

#[test]
fn a_backup_holds_whatever_comes_and_goes_meanwhile() {
    strike(Ground::Primary, 2, &[Fault::WalPressure, Fault::Churn]);
}

#[test]
fn a_backup_in_one_statement_ends_with_what_strikes_it() {
    use Fault::*;
    let faults = [
        CancelLeader,
        TerminateLeader,
        KillRetention,
        CutLeader,
        Unreadable,
        FailingReads,
        StopServer,
        TimeOutLeader,
    ];
    let mut site = Site::new(Ground::Primary);
    for (number, fault) in faults.into_iter().enumerate() {
        let plans: Vec<Plan> = fault
            .stages()
            .iter()
            .filter_map(|stage| Plan::first_in_one_statement(fault, *stage))
            .collect();
        println!("{}", run(&mut site, &plans[number % plans.len()]));
    }
}

/// Runs of the program on one server: the first plans that strike with these faults or blows, at these kinds of
/// backups in turn.
#[track_caller]
fn strike_program(kinds: &[Kind], strikes: &[(Option<Fault>, Option<Blow>)]) {
    let mut site = Site::new(Ground::Primary);
    for (number, (fault, blow)) in strikes.iter().enumerate() {
        let plan = ClientPlan::first_from(0, |plan| {
            plan.strike.ground == Ground::Primary
                && plan.strike.fault == fault.unwrap_or(Fault::Nothing)
                && plan.blow == *blow
                && plan.kind == kinds[number % kinds.len()]
                && plan.strike.stage != Stage::Moment
        });
        println!("{}", client::run::run(&mut site, &plan));
    }
}

fn faults<const N: usize>(faults: [Fault; N]) -> [(Option<Fault>, Option<Blow>); N] {
    faults.map(|fault| (Some(fault), None))
}

fn blows<const N: usize>(blows: [Blow; N]) -> [(Option<Fault>, Option<Blow>); N] {
    blows.map(|blow| (None, Some(blow)))
}

const KINDS: [Kind; 4] = [Kind::Plain, Kind::Tar, Kind::Directory, Kind::Store];

#[test]
fn a_backup_of_the_program_survives_what_strikes_its_connections() {
    use Fault::*;
    let strikes = [
        TerminateWorker,
        CutWorker,
        StallLeader,
        CutWal,
        PauseWorker,
        TerminateWal,
        WalPressure,
        Churn,
    ];
    strike_program(&KINDS, &faults(strikes));
}

#[test]
fn what_ends_a_backup_of_the_program_leaves_nothing() {
    use Fault::*;
    let strikes = [
        CancelWorker,
        CutLeader,
        TerminateLeader,
        CancelLeader,
        Unreadable,
        FailingReads,
        TerminateRetention,
        CancelWal,
    ];
    strike_program(&KINDS, &faults(strikes));
}

#[test]
fn a_crash_of_the_server_leaves_nothing_of_the_program() {
    use Fault::*;
    strike_program(
        &KINDS,
        &faults([KillWorker, KillServer, StopServer, KillWal]),
    );
}

#[test]
fn a_program_that_is_killed_leaves_no_backup_that_counts() {
    let kill = blows([Blow::KillProgram; 4]);
    strike_program(&KINDS, &kill);
    let signal = blows([Blow::SignalProgram, Blow::PauseProgram]);
    strike_program(&[Kind::Directory, Kind::Store], &signal);
}

#[test]
fn a_place_that_takes_no_more_has_nothing_of_the_backup() {
    let kinds = [Kind::Plain, Kind::Tar, Kind::Directory];
    strike_program(&kinds, &blows([Blow::FullTarget; 3]));
    let store = [
        Blow::DenyingStore,
        Blow::FullStore,
        Blow::BusyStore,
        Blow::CutStore,
        Blow::DeafStore,
    ];
    strike_program(&[Kind::Store], &blows(store));
}

#[test]
fn incremental_backups_of_the_program_continue_after_a_fault() {
    if is_too_old() {
        return;
    }
    let mut site = Site::new(Ground::Primary);
    for (kind, fault) in [
        (Kind::Plain, Fault::Nothing),
        (Kind::Plain, Fault::KillServer),
        (Kind::Plain, Fault::CutWorker),
        (Kind::Directory, Fault::CancelLeader),
        (Kind::Directory, Fault::Churn),
        (Kind::Store, Fault::TerminateWal),
    ] {
        let plan = ClientPlan::first_from(0, |plan| {
            plan.incremental
                && plan.kind == kind
                && plan.strike.fault == fault
                && plan.blow.is_none()
                && plan.strike.stage != Stage::Moment
        });
        println!("{}", client::run::run(&mut site, &plan));
    }
}
