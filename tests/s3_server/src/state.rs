//! What connections and commands share: the faults that are switched on, and the requests so far.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::request::Parts;
use serde::Deserialize;

use crate::entry::{Entry, Kind};
use crate::fault::{Act, Fault};

/// Polling interval of a wait.
const LOOK: Duration = Duration::from_millis(10);

/// State of the server: without faults at first.
#[derive(Default)]
pub struct State {
    changing: Mutex<Changing>,
}

#[derive(Default)]
struct Changing {
    faults: Vec<Fault>,
    capacity: Option<Capacity>,
    log: Vec<Arc<Entry>>,
}

/// Bytes that can still be written, and the answer to a request that would write more.
#[derive(Debug, Deserialize)]
pub struct Capacity {
    bytes: u64,
    status: u16,
    code: String,
}

impl State {
    fn changing(&self) -> MutexGuard<'_, Changing> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a request with a body of `length` bytes, and decides what is done with it. Each fault counts it
    /// if it matches; the first that applies prevails.
    pub fn arrived(&self, request: &Parts, length: u64) -> (Arc<Entry>, Act) {
        let entry = Arc::new(Entry::new(request));
        let mut changing = self.changing();
        changing.log.push(Arc::clone(&entry));
        let acts: Vec<_> = changing
            .faults
            .iter_mut()
            .filter_map(|fault| fault.applies(&entry))
            .collect();
        let act = match acts.into_iter().next() {
            Some(act) => act,
            None if matches!(entry.kind, Kind::Put | Kind::Part) => changing.reserve(length),
            None => Act::Answer,
        };
        entry.fail(&act);
        (entry, act)
    }

    /// Switches a fault on.
    pub fn add(&self, fault: Fault) {
        self.changing().faults.push(fault);
    }

    /// Limits what can be written from now on.
    pub fn limit(&self, capacity: Capacity) {
        self.changing().capacity = Some(capacity);
    }

    /// Switches all faults off.
    pub fn clear(&self) {
        let mut changing = self.changing();
        changing.faults.clear();
        changing.capacity = None;
    }

    /// Waits until all faults are off.
    pub async fn healed(&self) {
        while !self.changing().faults.is_empty() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The requests so far.
    pub fn log(&self) -> Vec<Arc<Entry>> {
        self.changing().log.clone()
    }

    /// Forgets the requests so far.
    pub fn reset(&self) {
        self.changing().log.clear();
    }
}

impl Changing {
    fn reserve(&mut self, length: u64) -> Act {
        let Some(capacity) = &mut self.capacity else {
            return Act::Answer;
        };
        match capacity.bytes.checked_sub(length) {
            Some(rest) => {
                capacity.bytes = rest;
                Act::Answer
            }
            None => Act::Status(capacity.status, capacity.code.clone()),
        }
    }
}
