//! Which outcomes of the program fit a fault.

use super::plan::{Blow, ClientPlan};
use crate::faults::plan::Fault;

/// Words of the error about WAL that is gone. Without a slot any writer, the load included, may cause the server to
/// remove WAL during the backup.
pub const REMOVED: &str = "has already been removed";

/// What the program may do after a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// It must succeed.
    Success,
    /// It may fail with an error that has one of these words.
    Failure(&'static [&'static str]),
    /// It may fail with any error that does not blame the backup.
    AnyFailure,
}

/// Words of errors that blame the backup. A server that went away is no reason for them.
const BLAMES: &[&str] = &[
    "checksum",
    "did not arrive",
    "is in the manifest",
    "is not in the manifest",
    "has size",
    "internal error",
];

/// Words about a connection whose end the server or the network brought about.
const LOST: &[&str] = &[
    "terminating connection",
    "closed the connection",
    "connection that leads the backup was lost",
    "connection to server",
];

impl Allowed {
    /// What a plan allows. `missed` means that the fault found no target.
    pub fn by(plan: &ClientPlan, missed: bool) -> Self {
        match missed {
            true => Allowed::Success,
            false => Self::by_fault(plan),
        }
    }

    fn by_fault(plan: &ClientPlan) -> Self {
        use Allowed::{AnyFailure, Failure, Success};
        match (plan.blow, plan.strike.fault) {
            (Some(Blow::PauseProgram | Blow::BusyStore | Blow::CutStore | Blow::DeafStore), _) => {
                Success
            }
            (Some(Blow::KillProgram), _) => Failure(&[]),
            (Some(Blow::SignalProgram), _) => Failure(&["received SIG"]),
            (Some(Blow::FullTarget), _) => Failure(&["No space left on device"]),
            (Some(Blow::DenyingStore), _) => Failure(&["AccessDenied", "403"]),
            (Some(Blow::FullStore), _) => Failure(&["QuotaExceeded", "403"]),
            (
                None,
                Fault::TerminateWorker | Fault::CutWorker | Fault::TerminateWal | Fault::CutWal,
            ) => match plan.retries {
                0 => Failure(LOST),
                _ => Success,
            },
            (None, Fault::CancelWorker | Fault::CancelWal | Fault::CancelLeader) => {
                Failure(&["canceling statement due to user request"])
            }
            (None, Fault::TerminateLeader | Fault::CutLeader) => Failure(LOST),
            (None, Fault::TerminateRetention) => Failure(&["retained the WAL"]),
            (None, Fault::Unreadable) => Failure(&["ermission denied", "may not read"]),
            (None, Fault::FailingReads) => Failure(&["Input/output error"]),
            (None, Fault::Promotion) => Failure(&["promoted"]),
            (
                None,
                Fault::KillWorker
                | Fault::KillWal
                | Fault::KillLeader
                | Fault::KillRetention
                | Fault::KillServer
                | Fault::QuitServer
                | Fault::StopServer
                | Fault::FullDisk,
            ) => AnyFailure,
            (None, _) => Success,
        }
    }

    /// Whether an error of the program fits.
    pub fn admits(self, said: &str) -> bool {
        match self {
            Allowed::Success => false,
            Allowed::Failure(words) => words.iter().any(|word| said.contains(word)),
            Allowed::AnyFailure => !BLAMES.iter().any(|word| said.contains(word)),
        }
    }
}
