//! Snapshot of a backup for display.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::rate::Rate;
use super::{Activity, Counters, Expected, Phase, State, Worker, lock};

/// Snapshot of a backup.
#[derive(Clone, Debug)]
pub struct View {
    /// What it does.
    pub phase: Phase,
    /// Since the beginning.
    pub elapsed: Duration,
    /// Bytes received.
    pub bytes: u64,
    /// Files, directories and links received.
    pub files: u64,
    /// Expected total, if known; never less than what was received.
    pub expected: Option<Expected>,
    /// Bytes per second: over the last seconds, and over the whole backup at its end.
    pub rate: f64,
    /// Whether the server still archives the WAL, before it sends the last files.
    pub waits_for_archive: bool,
    /// The workers, by their numbers.
    pub workers: Vec<WorkerView>,
    /// The WAL stream, if there is one.
    pub wal: Option<WorkerView>,
}

/// Snapshot of a worker.
#[derive(Clone, Debug)]
pub struct WorkerView {
    /// What it does.
    pub doing: Activity,
    /// Bytes received over its connections.
    pub bytes: u64,
    /// Bytes per second.
    pub rate: f64,
}

/// State between snapshots.
#[derive(Debug, Default)]
pub struct Observer {
    whole: Rate,
    workers: Vec<Rate>,
    wal: Rate,
    /// Time of the first file.
    copying: Option<Duration>,
}

impl View {
    /// Percentage of the expected bytes.
    pub fn percent(&self) -> Option<f64> {
        let bytes = self.expected?.bytes;
        Some(if bytes == 0 {
            100.0
        } else {
            self.bytes as f64 * 100.0 / bytes as f64
        })
    }

    /// Estimated time left at the current rate.
    pub fn left(&self) -> Option<Duration> {
        let bytes = self.expected?.bytes.saturating_sub(self.bytes);
        if self.phase != Phase::Copying || bytes == 0 || self.rate < 1.0 {
            return None;
        }
        Duration::try_from_secs_f64(bytes as f64 / self.rate).ok()
    }
}

impl WorkerView {
    fn of(worker: &Worker, rate: &mut Rate, elapsed: Duration) -> Self {
        let bytes = worker.counter.bytes();
        rate.observe(elapsed, bytes);
        Self {
            doing: lock(&worker.doing).clone(),
            bytes,
            rate: rate.per_second(),
        }
    }
}

impl Observer {
    /// Takes a snapshot of the counters.
    pub fn look(&mut self, counters: &Counters, elapsed: Duration) -> View {
        let State {
            phase,
            expected,
            archives,
            streams_wal,
        } = *lock(&counters.state);
        let mut bytes = counters.leader.bytes.load(Ordering::Relaxed);
        let waits_for_archive = archives && phase == Phase::Ending && bytes == 0;
        let mut files = counters.leader.files.load(Ordering::Relaxed);
        self.workers.resize(counters.workers.len(), Rate::default());
        let mut workers = Vec::new();
        for (worker, rate) in counters.workers.iter().zip(&mut self.workers) {
            let seen = WorkerView::of(worker, rate, elapsed);
            bytes += seen.bytes;
            files += worker.counter.files.load(Ordering::Relaxed);
            workers.push(seen);
        }
        let wal = streams_wal.then(|| WorkerView::of(&counters.wal, &mut self.wal, elapsed));
        // Of the whole nothing is known before it has begun to arrive.
        if bytes > 0 || phase > Phase::Starting {
            self.copying.get_or_insert(elapsed);
            self.whole.observe(elapsed, bytes);
        }
        View {
            phase,
            elapsed,
            bytes,
            files,
            expected: expected.map(|expected| Expected {
                bytes: expected.bytes.max(bytes),
                files: expected.files.max(files),
            }),
            rate: if phase < Phase::Done {
                self.whole.per_second()
            } else {
                self.mean(bytes, elapsed)
            },
            waits_for_archive,
            workers,
            wal,
        }
    }

    fn mean(&self, bytes: u64, elapsed: Duration) -> f64 {
        // A short one may have ended before anybody looked.
        let since = match elapsed.saturating_sub(self.copying.unwrap_or_default()) {
            Duration::ZERO => elapsed,
            since => since,
        };
        if since.is_zero() {
            0.0
        } else {
            bytes as f64 / since.as_secs_f64()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Tally;
    use super::*;

    #[test]
    fn a_backup_is_the_sum_of_its_workers() {
        let counters = Counters::new(2);
        let mut observer = Observer::default();
        let view = observer.look(&counters, Duration::ZERO);
        assert_eq!((view.bytes, view.percent(), view.left()), (0, None, None));

        counters.expect(Expected {
            bytes: 1000,
            files: 3,
        });
        counters.enter(Phase::Copying);
        observer.look(&counters, Duration::from_secs(100));
        let mut kept = Tally::new(&counters.workers()[0].counter);
        kept.add_bytes(100);
        kept.add_file();
        kept.keep();
        let mut lost = Tally::new(&counters.workers()[1].counter);
        lost.add_bytes(150);
        let view = observer.look(&counters, Duration::from_secs(101));
        assert_eq!((view.bytes, view.files), (250, 1));
        assert_eq!(view.percent(), Some(25.0));
        assert_eq!(view.left(), Some(Duration::from_secs(3)));
        assert_eq!(view.workers[1].bytes, 150);

        drop((kept, lost));
        let view = observer.look(&counters, Duration::from_secs(102));
        assert_eq!((view.bytes, view.files), (100, 1));
    }

    #[test]
    fn wal_is_no_part_of_the_whole() {
        let counters = Counters::new(1);
        let mut observer = Observer::default();
        assert!(observer.look(&counters, Duration::ZERO).wal.is_none());
        counters.expect_wal_stream();
        counters.enter(Phase::Copying);
        let mut tally = Tally::new(&counters.wal().counter);
        tally.add_bytes(100);
        tally.add_file();
        let view = observer.look(&counters, Duration::from_secs(1));
        assert_eq!((view.bytes, view.files), (0, 0));
        assert_eq!(view.wal.map(|wal| wal.bytes), Some(100));
    }

    #[test]
    fn the_end_waits_for_the_archive_until_files_come() {
        for archives in [false, true] {
            let counters = Counters::new(0);
            if archives {
                counters.expect_archiving();
            }
            let mut observer = Observer::default();
            let mut waits = || observer.look(&counters, Duration::ZERO).waits_for_archive;
            counters.enter(Phase::Copying);
            assert!(!waits());
            counters.enter(Phase::Ending);
            assert_eq!(waits(), archives);
            let mut tally = Tally::new(counters.leader());
            tally.add_bytes(1);
            assert!(!waits());
            tally.keep();
        }
    }

    #[test]
    fn what_comes_at_the_end_is_more_than_was_expected() {
        let counters = Counters::new(0);
        counters.expect(Expected { bytes: 0, files: 1 });
        counters.enter(Phase::Copying);
        let mut observer = Observer::default();
        observer.look(&counters, Duration::ZERO);
        let mut tally = Tally::new(counters.leader());
        tally.add_bytes(500);
        counters.enter(Phase::Done);
        let view = observer.look(&counters, Duration::from_secs(5));
        assert_eq!(view.percent(), Some(100.0));
        assert_eq!(view.expected.map(|expected| expected.bytes), Some(500));
        assert_eq!(view.rate, 100.0);
    }
}
