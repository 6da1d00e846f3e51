//! Backups under load with injected faults, by plans derived from numbers: the short form of `make
//! soak`. Each run ends with a backup that verifies, restores and balances, or with an error that
//! fits the fault and a server without leftovers.

use backup_tests::faults::plan::{Fault, Ground, Plan};
use backup_tests::faults::run::run;
use backup_tests::faults::site::Site;

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
