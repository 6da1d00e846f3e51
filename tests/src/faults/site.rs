//! Server for a series of runs, with the load that writes to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use postgres::{Client, NoTls};

use super::client::stock::Stock;
use super::layer::Layer;
use super::load::Load;
use super::plan::Ground;
use crate::failure::Failure;
use crate::page::quiet_table;
use crate::program::major_version;
use crate::server::Cluster;
use crate::wait::{PATIENCE, wait_for};
use crate::workload::{Pgbench, create_table};

/// Large enough for the cluster and its WAL.
const DISK_MEGABYTES: u32 = 400;

/// Cluster files that faults target, relative to the data directory.
pub struct Places {
    /// Table of 40 MB that nothing reads or writes. The program receives it in parts.
    pub table: String,
    /// Table of 4 MB in a tablespace. Same as `table` if there is no tablespace.
    pub table_elsewhere: String,
    /// Directory of a database without sessions.
    pub directory: String,
}

/// Server under load, with operations on it.
pub struct Site {
    // Dropped first: the load must end before the servers.
    pub load: Load,
    pub cluster: Cluster,
    primary: Option<Cluster>,
    pub ground: Ground,
    pub layer: Layer,
    pub places: Places,
    /// Backups that earlier runs have left for later ones.
    pub stock: Stock,
    /// While this file exists, no WAL is archived.
    gate: PathBuf,
}

impl Site {
    /// Creates the server, fills it, and starts the load.
    pub fn new(ground: Ground) -> Self {
        let layer = Layer::new();
        let gate = crate::scratch::dir().join(format!("gate{}", crate::scratch::number()));
        let mut builder = layer.below(Cluster::builder());
        if ground == Ground::SmallDisk {
            builder = builder.disk(DISK_MEGABYTES);
        }
        if ground != Ground::Standby {
            // A running backup forces full-page writes. With the setting off, full pages reveal a
            // running backup.
            builder = builder.setting("full_page_writes", "off");
        }
        if major_version() >= 17 {
            // Incremental backups need it.
            builder = builder.setting("summarize_wal", "on");
        }
        let cluster = builder
            .initdb_arg("--wal-segsize=4")
            .setting("dynamic_shared_memory_type", "mmap")
            .setting("min_wal_size", "16MB")
            .setting("max_wal_size", "64MB")
            .setting("checkpoint_timeout", "1h")
            .setting("allow_in_place_tablespaces", "on")
            .setting("archive_mode", "on")
            .setting(
                "archive_command",
                &format!("while test -e {}; do sleep 0.05; done", gate.display()),
            )
            .start();
        cluster.may_crash();
        let places = fill(&cluster, ground);
        let load = Load::start(&cluster.config("postgres"));
        let (cluster, primary) = match ground {
            Ground::Standby => (cluster.standby(), Some(cluster)),
            _ => (cluster, None),
        };
        cluster.may_crash();
        Site {
            load,
            cluster,
            primary,
            ground,
            layer,
            places,
            stock: Stock::default(),
            gate,
        }
    }

    /// Opens a session that bypasses the proxies.
    pub fn try_connect(&self) -> Result<Client, Failure> {
        let mut config = self.cluster.config("postgres");
        Ok(config
            .connect_timeout(Duration::from_secs(20))
            .connect(NoTls)?)
    }

    /// Runs statements one by one in a session that bypasses the proxies. Ignores errors.
    pub fn try_execute(&self, statements: &[&str]) {
        if let Ok(mut client) = self.try_connect() {
            for statement in statements {
                let _ = client.batch_execute(statement);
            }
        }
    }

    /// Blocks WAL archiving.
    pub fn hold_archive(&self) {
        std::fs::write(&self.gate, "").expect("could not close the archive");
    }

    /// Resumes WAL archiving.
    pub fn release_archive(&self) {
        let _ = std::fs::remove_file(&self.gate);
    }

    /// Waits until WAL is being archived. After a crash the server starts its archiver only after
    /// some seconds, and only when something wakes it up.
    pub fn wait_for_archiver(&self) {
        let Ok(mut client) = self.try_connect() else {
            return;
        };
        wait_for("the archiver", PATIENCE, || {
            let archiver = "SELECT FROM pg_stat_activity WHERE backend_type = 'archiver'";
            match client.query_opt(archiver, &[]) {
                Ok(None) => {
                    let _ = client.batch_execute("SELECT pg_reload_conf(), pg_sleep(0.3)");
                    false
                }
                _ => true,
            }
        });
    }

    /// Path of a file of [`Places`].
    pub fn path(&self, place: &str) -> PathBuf {
        self.cluster.data_dir().join(place)
    }

    /// Fills the disk of the server, or makes its writes fail as on a full disk.
    pub fn fill_disk(&self) {
        match self.cluster.disk() {
            Some(disk) => disk.fill(),
            None => self.layer.fail_writes(&self.real_data_dir()),
        }
    }

    /// Undoes [`Site::fill_disk`].
    pub fn free_disk(&self) {
        match self.cluster.disk() {
            Some(disk) => disk.free(),
            None => self.layer.pass(),
        }
    }

    /// Canonical path of the data directory.
    pub fn real_data_dir(&self) -> PathBuf {
        let dir = self.cluster.data_dir();
        std::fs::canonicalize(&dir).unwrap_or(dir)
    }

    /// Brings the server back to accepting connections, whatever its state. `ends` means that the
    /// server was told to shut down.
    #[track_caller]
    pub fn revive(&mut self, ends: bool) {
        if ends {
            wait_for("the server to end", PATIENCE, || self.cluster.has_ended());
        }
        wait_for("the server to be up again", PATIENCE * 2, || {
            // Processes of a killed server may still hold its shared memory.
            let is_up = !self.cluster.has_ended() || self.cluster.try_start().is_ok();
            is_up && self.try_connect().is_ok()
        });
    }

    /// Replaces a promoted standby with a new one.
    pub fn renew_standby(&mut self) {
        if let Some(primary) = &self.primary {
            self.cluster = primary.standby();
            self.cluster.may_crash();
        }
    }

    /// Whether the server is a standby.
    pub fn is_standby(&self) -> bool {
        self.primary.is_some()
    }

    /// Directory of the server, beside the data directory.
    pub fn dir(&self) -> &Path {
        self.cluster.socket_dir()
    }
}

fn fill(cluster: &Cluster, ground: Ground) -> Places {
    let mut client = cluster.connect();
    if cluster.has_module("pg_walinspect") {
        client
            .batch_execute("CREATE EXTENSION pg_walinspect")
            .expect("pg_walinspect");
    }
    client
        .batch_execute("CREATE DATABASE spare")
        .expect("CREATE DATABASE");
    client
        .batch_execute("CREATE TABLE probe AS SELECT 0 AS a")
        .expect("CREATE TABLE");
    Pgbench::fill(cluster, 1);
    create_table(cluster, "big", 40);
    let table = crate::workload::path_of(&mut client, "big");
    let table_elsewhere = if ground == Ground::Standby {
        // A standby on the same machine would use the same tablespace location.
        table.clone()
    } else {
        cluster.create_tablespace("elsewhere");
        quiet_table(&mut client, "far", 512, "TABLESPACE elsewhere")
    };
    let spare: u32 = client
        .query_one("SELECT oid FROM pg_database WHERE datname = 'spare'", &[])
        .expect("pg_database")
        .get(0);
    Places {
        table,
        table_elsewhere,
        directory: format!("base/{spare}"),
    }
}
