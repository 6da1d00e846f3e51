//! Write load that continues during backups, crashes and restarts of the server. It runs pgbench
//! transactions and counts them. Their sums must agree in every backup.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

use postgres::{Client, Config, NoTls};

use super::random::Random;

const SESSIONS: u64 = 2;

/// Pause between two transactions, so that the WAL volume of a run does not depend on the machine.
const PAUSE: Duration = Duration::from_millis(5);

#[derive(Default)]
struct Counts {
    stopped: AtomicBool,
    paused: AtomicBool,
    attempted: AtomicI64,
    acknowledged: AtomicI64,
}

/// Sessions that write until this value is dropped.
pub struct Load {
    counts: Arc<Counts>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts writing to the tables created by `Pgbench::fill`. The history table must be empty.
    pub fn start(config: &Config) -> Self {
        let counts = Arc::new(Counts::default());
        let threads = (0..SESSIONS)
            .map(|number| {
                let counts = Arc::clone(&counts);
                let config = config.clone();
                std::thread::spawn(move || write(&config, number, &counts))
            })
            .collect();
        Load { counts, threads }
    }

    /// Stops writing until it is called again with `false`. A transaction that has begun goes on.
    pub fn pause(&self, paused: bool) {
        self.counts.paused.store(paused, Ordering::SeqCst);
    }

    /// Number of acknowledged commits. Every backup that starts later contains these transactions.
    pub fn acknowledged(&self) -> i64 {
        self.counts.acknowledged.load(Ordering::SeqCst)
    }

    /// Number of transactions sent. No backup that has already ended contains more.
    pub fn attempted(&self) -> i64 {
        self.counts.attempted.load(Ordering::SeqCst)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.counts.stopped.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn write(config: &Config, number: u64, counts: &Counts) {
    let mut random = Random::new(number);
    let mut session: Option<Client> = None;
    while !counts.stopped.load(Ordering::SeqCst) {
        sleep(PAUSE);
        if counts.paused.load(Ordering::SeqCst) {
            continue;
        }
        let Some(client) = &mut session else {
            session = config.connect(NoTls).ok();
            continue;
        };
        let (account, teller) = (1 + random.below(100_000), 1 + random.below(10));
        let delta = random.below(10_001) as i64 - 5_000;
        counts.attempted.fetch_add(1, Ordering::SeqCst);
        let written = client.batch_execute(&format!(
            "BEGIN;
             UPDATE pgbench_accounts SET abalance = abalance + {delta} WHERE aid = {account};
             UPDATE pgbench_tellers SET tbalance = tbalance + {delta} WHERE tid = {teller};
             UPDATE pgbench_branches SET bbalance = bbalance + {delta} WHERE bid = 1;
             INSERT INTO pgbench_history (tid, bid, aid, delta, mtime)
                 VALUES ({teller}, 1, {account}, {delta}, now());
             COMMIT"
        ));
        match written {
            Ok(()) => {
                counts.acknowledged.fetch_add(1, Ordering::SeqCst);
            }
            Err(_) if client.is_closed() || client.batch_execute("ROLLBACK").is_err() => {
                session = None;
            }
            Err(_) => {}
        }
    }
}
