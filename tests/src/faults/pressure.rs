//! Continuous faults: sessions that put the server under pressure until told to stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use postgres::{Client, NoTls};

use super::plan::{Plan, Stage};
use super::random::Random;
use super::site::Site;

/// Stop flag of a session, and its thread.
pub type Begun = (Arc<AtomicBool>, JoinHandle<()>);

/// Runs `round` repeatedly until the stop flag is set.
fn repeat(site: &Site, mut round: impl FnMut(&mut Client) + Send + 'static) -> Begun {
    let stop = Arc::new(AtomicBool::new(false));
    let config = site.cluster.config("postgres");
    let thread = spawn({
        let stop = Arc::clone(&stop);
        move || {
            let Ok(mut client) = config.connect(NoTls) else {
                return;
            };
            while !stop.load(Ordering::SeqCst) && !client.is_closed() {
                round(&mut client);
                sleep(Duration::from_millis(5));
            }
        }
    });
    (stop, thread)
}

/// Switches WAL segments and requests checkpoints continuously.
pub fn switch_wal(site: &Site) -> Begun {
    repeat(site, |client| {
        for statement in [
            "UPDATE probe SET a = a + 1",
            "SELECT pg_switch_wal()",
            "UPDATE probe SET a = a + 1",
            "SELECT pg_switch_wal()",
            "CHECKPOINT",
        ] {
            let _ = client.batch_execute(statement);
        }
    })
}

/// Creates and drops tablespaces, databases and tables. All are gone when the thread ends.
pub fn churn(site: &Site, plan: &Plan) -> Begun {
    let mut random = Random::new(plan.seed);
    let mut number = 0;
    // A tablespace that exists at the start would have to be unpacked to a separate location. WAL
    // replay recreates later ones in the same location, so each gets a location used by nothing
    // else.
    let places = (plan.stage != Stage::BeforeStart).then(|| site.dir().to_owned());
    repeat(site, move |client| {
        number += 1;
        let location = match &places {
            Some(dir) if random.percent(50) => {
                let location: PathBuf = dir.join(format!("churned{}", crate::scratch::number()));
                crate::program::make_dir(&location);
                location.display().to_string()
            }
            _ => String::new(),
        };
        let strategy = random.pick(&["file_copy", "wal_log"]);
        for statement in [
            &*format!("CREATE TABLESPACE churned LOCATION '{location}'"),
            "CREATE TABLE churned_there TABLESPACE churned AS
                 SELECT i, repeat('y', 500) AS filler FROM generate_series(1, 500) AS i",
            "CREATE TABLE churned_here AS
                 SELECT i, repeat('y', 500) AS filler FROM generate_series(1, 2000) AS i",
            "CREATE INDEX ON churned_here (i)",
            &*format!("CREATE DATABASE churned STRATEGY {strategy}"),
            "TRUNCATE churned_here",
            "VACUUM FULL pgbench_branches",
            "VACUUM pgbench_history",
            "DROP TABLE churned_here, churned_there",
            "DROP DATABASE churned",
            "DROP TABLESPACE churned",
        ] {
            let _ = client.batch_execute(statement);
        }
        // An object that a round failed to drop would block the next round.
        if number % 4 == 0 {
            let _ = client.batch_execute("DROP TABLE IF EXISTS churned_here, churned_there");
        }
    })
}

/// Locks pg_proc. The lock is held on return.
pub fn lock_functions(site: &Site) -> Option<Begun> {
    let mut client = site.try_connect().ok()?;
    let stop = Arc::new(AtomicBool::new(false));
    let (locked, is_locked) = mpsc::channel();
    let thread = spawn({
        let stop = Arc::clone(&stop);
        move || {
            let got = client
                .batch_execute("BEGIN; LOCK TABLE pg_catalog.pg_proc IN ACCESS EXCLUSIVE MODE");
            let _ = locked.send(got.is_ok());
            while got.is_ok() && !stop.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(5));
            }
            let _ = client.batch_execute("ROLLBACK");
        }
    });
    is_locked.recv().ok()?.then_some((stop, thread))
}
