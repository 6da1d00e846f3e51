//! How far a backup has come: the numbers that all threads keep, and how they are shown.

mod json;
mod line;
mod rate;
mod text;
mod units;
mod view;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

pub use line::Line;

/// What a backup does, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The server makes a checkpoint and lists the files.
    #[default]
    Starting,
    /// Files arrive.
    Copying,
    /// The server ends the backup, and sends what is left: the WAL and the manifest.
    Ending,
    /// What was written is compared with the manifest.
    Comparing,
    /// Everything is on its way to the disk.
    Syncing,
    /// The backup is complete.
    Done,
    /// There will be none.
    Failed,
}

/// What a worker does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    /// Opens its connection.
    #[default]
    Connecting,
    /// Waits for what the server has for it.
    Waiting,
    /// Receives a file.
    Receiving(String),
    /// Has lost its connection, and soon opens another.
    Lost,
    /// Has nothing left to do.
    Ended,
}

/// Numbers that all threads keep.
#[derive(Debug, Default)]
pub struct Counters {
    state: Mutex<State>,
    leader: Counter,
    workers: Vec<Worker>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    phase: Phase,
    expected: Option<Expected>,
    archives: bool,
}

/// What the files of a backup come to. Those that are sent at its end are not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Bytes.
    pub bytes: u64,
    /// Files, directories and links.
    pub files: u64,
}

/// What has arrived by one connection.
#[derive(Debug, Default)]
pub struct Counter {
    bytes: AtomicU64,
    files: AtomicU64,
}

/// A worker, as others see it.
#[derive(Debug, Default)]
pub struct Worker {
    /// What has arrived by its connections.
    pub counter: Counter,
    doing: Mutex<Activity>,
}

/// What one stream adds to a counter. It is taken off again, unless the stream ends well.
#[derive(Debug)]
pub struct Tally<'a> {
    counter: &'a Counter,
    bytes: u64,
    files: u64,
}

impl Counters {
    /// For a number of workers.
    pub fn new(workers: usize) -> Self {
        Self {
            workers: (0..workers).map(|_| Worker::default()).collect(),
            ..Self::default()
        }
    }

    /// A phase begins. None follows the last ones, whatever a thread that was left behind says.
    pub fn enter(&self, phase: Phase) {
        let mut state = lock(&self.state);
        state.phase = state.phase.max(phase);
    }

    /// It is known how much there is to come.
    pub fn expect(&self, expected: Expected) {
        lock(&self.state).expected = Some(expected);
    }

    /// At the end of the backup the server archives the WAL, before it sends the last files.
    pub fn expect_archiving(&self) {
        lock(&self.state).archives = true;
    }

    /// Of the connection that leads.
    pub fn leader(&self) -> &Counter {
        &self.leader
    }

    /// All workers, by their numbers.
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }
}

impl Worker {
    /// It begins to do something else.
    pub fn begins(&self, doing: Activity) {
        *lock(&self.doing) = doing;
    }
}

impl<'a> Tally<'a> {
    /// Begins.
    pub fn new(counter: &'a Counter) -> Self {
        Self {
            counter,
            bytes: 0,
            files: 0,
        }
    }

    /// So many bytes of a file have come.
    pub fn add_bytes(&mut self, count: u64) {
        self.bytes += count;
        self.counter.bytes.fetch_add(count, Ordering::Relaxed);
    }

    /// A file, directory or link is there.
    pub fn add_file(&mut self) {
        self.files += 1;
        self.counter.files.fetch_add(1, Ordering::Relaxed);
    }

    /// The stream has ended well.
    pub fn keep(&mut self) {
        (self.bytes, self.files) = (0, 0);
    }
}

impl Drop for Tally<'_> {
    fn drop(&mut self) {
        let Counter { bytes, files } = self.counter;
        bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        files.fetch_sub(self.files, Ordering::Relaxed);
    }
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}
