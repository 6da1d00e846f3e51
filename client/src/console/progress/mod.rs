//! Progress of a backup: counters that all threads update, and their display.

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
pub use units::size;

/// Phases of a backup, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The server performs a checkpoint and lists the files.
    #[default]
    Starting,
    /// Files are received.
    Copying,
    /// The server stops the backup and sends WAL and manifest.
    Ending,
    /// Received files are compared with the manifest.
    Comparing,
    /// Files are synchronized to disk.
    Syncing,
    /// The backup is complete.
    Done,
    /// The backup failed.
    Failed,
}

/// What a worker does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    /// Opens its connection.
    #[default]
    Connecting,
    /// Waits for the server.
    Waiting,
    /// Receives a file.
    Receiving(String),
    /// Lost its connection and will open another.
    Lost,
    /// Has nothing left to do.
    Ended,
}

/// Counters shared by all threads.
#[derive(Debug, Default)]
pub struct Counters {
    state: Mutex<State>,
    leader: Counter,
    workers: Vec<Worker>,
    wal: Worker,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    phase: Phase,
    expected: Option<Expected>,
    archives: bool,
    streams_wal: bool,
}

/// Expected totals of a backup, without the files sent at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Bytes.
    pub bytes: u64,
    /// Files, directories and links.
    pub files: u64,
}

/// Counter of one connection.
#[derive(Debug, Default)]
pub struct Counter {
    bytes: AtomicU64,
    files: AtomicU64,
}

impl Counter {
    /// Bytes that have arrived.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// Worker, as seen by other threads.
#[derive(Debug, Default)]
pub struct Worker {
    /// Counter of its connections.
    pub counter: Counter,
    doing: Mutex<Activity>,
}

/// Contribution of one stream to a counter, subtracted again unless the stream ends well.
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

    /// Sets the expected totals.
    pub fn expect(&self, expected: Expected) {
        lock(&self.state).expected = Some(expected);
    }

    /// At the end of the backup the server archives the WAL, before it sends the last files.
    pub fn expect_archiving(&self) {
        lock(&self.state).archives = true;
    }

    /// WAL comes over a connection of its own. It does not count in the bytes of the backup.
    pub fn expect_wal_stream(&self) {
        lock(&self.state).streams_wal = true;
    }

    /// The WAL stream.
    pub fn wal(&self) -> &Worker {
        &self.wal
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
    /// Sets the current activity.
    pub fn begins(&self, doing: Activity) {
        *lock(&self.doing) = doing;
    }
}

impl<'a> Tally<'a> {
    /// Creates it.
    pub fn new(counter: &'a Counter) -> Self {
        Self {
            counter,
            bytes: 0,
            files: 0,
        }
    }

    /// Adds received bytes.
    pub fn add_bytes(&mut self, count: u64) {
        self.bytes += count;
        self.counter.bytes.fetch_add(count, Ordering::Relaxed);
    }

    /// Adds a complete file, directory or link.
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
