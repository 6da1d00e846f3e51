//! A whole backup as a client takes it: one leader, some workers, the closing tar, and all streams
//! unpacked into one folder.

use std::path::PathBuf;

use postgres::{Client, Row};

use crate::archive;
use crate::failure::Failure;
use crate::program::{self, account, command, run};
use crate::scratch::Folder;
use crate::server::Cluster;
use crate::stream::{Worker, copy_of, copy_out};

/// The row that `start_backup` returned.
#[derive(Clone, Debug)]
pub struct Started {
    /// What workers are told.
    pub id: i64,
    /// As text.
    pub start_lsn: String,
    /// The timeline at the start.
    pub timeline: i32,
    /// As it stands at the start.
    pub backup_label: String,
    /// Empty when there is nothing to map.
    pub tablespace_map: String,
    /// Entries of the listing.
    pub file_count: i64,
    /// Bytes of all files in the listing.
    pub total_bytes: i64,
}

/// Starts a backup with a fast checkpoint; `options` are further named arguments, or nothing.
pub fn try_start(leader: &mut Client, options: &str) -> Result<Started, Failure> {
    let comma = if options.is_empty() { "" } else { ", " };
    let row: Row = leader.query_one(
        &format!(
            "SELECT backup_id, start_lsn::text, timeline, backup_label, tablespace_map,
                    file_count, total_bytes
             FROM start_backup(fast => true{comma}{options})"
        ),
        &[],
    )?;
    Ok(Started {
        id: row.get(0),
        start_lsn: row.get(1),
        timeline: row.get(2),
        backup_label: row.get(3),
        tablespace_map: row.get(4),
        file_count: row.get(5),
        total_bytes: row.get(6),
    })
}

/// Starts a backup that must start.
#[track_caller]
pub fn start(leader: &mut Client, options: &str) -> Started {
    match try_start(leader, options) {
        Ok(started) => started,
        Err(failure) => panic!("start_backup({options}): {failure}"),
    }
}

/// Streams that take from the queue of a backup until it is empty, all at once.
#[track_caller]
pub fn spawn_workers(cluster: &Cluster, id: i64, count: usize) -> Vec<Worker> {
    let copy = copy_of(&format!("send_backup_files({id})"));
    (0..count).map(|_| Worker::spawn(cluster, &copy)).collect()
}

/// Stops the backup of a session and returns the closing tar.
pub fn try_send_stop(leader: &mut Client, options: &str) -> Result<Vec<u8>, Failure> {
    copy_out(leader, &copy_of(&format!("send_stop_backup({options})")))
}

/// Stops a backup that must be complete; the closing tar with its WAL.
#[track_caller]
pub fn send_stop(leader: &mut Client) -> Vec<u8> {
    match try_send_stop(leader, "wal => true") {
        Ok(bytes) => bytes,
        Err(failure) => panic!("send_stop_backup(wal => true): {failure}"),
    }
}

/// A folder into which the streams of one backup are unpacked.
#[derive(Debug)]
pub struct Backup {
    dir: Folder,
    tablespaces: Vec<(u32, PathBuf)>,
}

impl Backup {
    /// Takes a whole backup, WAL included, with this many workers.
    #[track_caller]
    pub fn take(cluster: &Cluster, workers: usize) -> Self {
        Self::take_with(cluster, workers, "")
    }

    /// The same with further named arguments for `start_backup`.
    #[track_caller]
    pub fn take_with(cluster: &Cluster, workers: usize, options: &str) -> Self {
        let mut leader = cluster.connect();
        let backup = Self::folder(cluster);
        let started = start(&mut leader, options);
        for worker in spawn_workers(cluster, started.id, workers) {
            backup.unpack(&worker.expect());
        }
        backup.unpack(&send_stop(&mut leader));
        backup
    }

    /// An empty folder with a link in `pg_tblspc` for each tablespace that the cluster has outside
    /// its data directory. The links have to be there before anything is unpacked below them.
    #[track_caller]
    pub fn folder(cluster: &Cluster) -> Self {
        let dir = Folder::new("b");
        program::make_dir(&dir.join("data"));
        program::make_dir(&dir.join("data/pg_tblspc"));
        let tablespaces: Vec<(u32, PathBuf)> = cluster
            .connect()
            .query(
                "SELECT oid FROM pg_tablespace WHERE pg_tablespace_location(oid) LIKE '/%'
                 ORDER BY oid",
                &[],
            )
            .expect("the tablespaces of the cluster")
            .iter()
            .map(|row| {
                let oid: u32 = row.get(0);
                (oid, dir.join(format!("tablespace_{oid}")))
            })
            .collect();
        for (oid, location) in &tablespaces {
            program::make_dir(location);
            program::succeed(
                command("ln")
                    .args(["-s", "--"])
                    .arg(location)
                    .arg(dir.join(format!("data/pg_tblspc/{oid}"))),
            );
        }
        Backup { dir, tablespaces }
    }

    /// Adds what is in one stream.
    #[track_caller]
    pub fn unpack(&self, archive: &[u8]) {
        archive::unpack(archive, &self.data_dir());
    }

    /// The folder that becomes a data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Where the tablespaces were unpacked, by oid.
    pub fn tablespaces(&self) -> &[(u32, PathBuf)] {
        &self.tablespaces
    }

    /// Has `pg_verifybackup` accept the backup with its WAL.
    #[track_caller]
    pub fn verify(&self) {
        self.verify_with(&[]);
    }

    /// The same with further arguments, such as `-n` for a backup without WAL.
    #[track_caller]
    pub fn verify_with(&self, args: &[&str]) {
        let mut verify = command("pg_verifybackup");
        verify.args(args).arg(self.data_dir());
        let output = run(&mut verify);
        assert!(output.status.success(), "{}", account(&verify, &output));
    }

    /// What `pg_verifybackup` says about a backup that it must refuse.
    #[track_caller]
    pub fn expect_refusal(&self, args: &[&str]) -> String {
        let mut verify = command("pg_verifybackup");
        verify.args(args).arg(self.data_dir());
        let output = run(&mut verify);
        assert!(!output.status.success(), "{}", account(&verify, &output));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// A stopped cluster on the backup, with its tablespaces in the places they were unpacked to.
    /// The backup must have been verified by now, because `tablespace_map` changes.
    #[track_caller]
    pub fn into_cluster(self) -> Cluster {
        let data = self.data_dir();
        let map: String = self
            .tablespaces
            .iter()
            .map(|(oid, location)| format!("{oid} {}\n", location.display()))
            .collect();
        if data.join("tablespace_map").exists() {
            std::fs::write(data.join("tablespace_map"), map)
                .expect("could not write tablespace_map");
        }
        Cluster::on(&data, self.dir)
    }

    /// A cluster that runs on the backup.
    #[track_caller]
    pub fn restore(self) -> Cluster {
        let mut cluster = self.into_cluster();
        cluster.start();
        cluster
    }
}
