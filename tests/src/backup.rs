//! A complete backup from the client's side: one leader, several workers and the closing tar. All
//! streams are unpacked into one directory.

use std::path::PathBuf;

use postgres::{Client, Row};

use crate::archive;
use crate::failure::Failure;
use crate::program::{self, account, command, run};
use crate::scratch::Folder;
use crate::server::Cluster;
use crate::stream::{Worker, copy_of, copy_out};

/// A position as the extension and versions up to 18 write it. Later ones write eight digits behind the slash.
pub fn plain_lsn(text: &str) -> String {
    let (high, low) = text.split_once('/').expect("a position");
    let low = low.trim_start_matches('0');
    format!("{high}/{}", if low.is_empty() { "0" } else { low })
}

/// Row returned by `start_backup`.
#[derive(Clone, Debug)]
pub struct Started {
    /// Backup ID, passed to the workers.
    pub id: i64,
    /// Start LSN, as text.
    pub start_lsn: String,
    /// Timeline at the start.
    pub timeline: i32,
    /// `backup_label` as of the start.
    pub backup_label: String,
    /// Empty if there are no tablespaces to map.
    pub tablespace_map: String,
    /// Number of entries in the listing.
    pub file_count: i64,
    /// Total size of the files in the listing, in bytes.
    pub total_bytes: i64,
}

/// Starts a backup with a fast checkpoint. `options` holds further named arguments; it may be
/// empty.
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
        start_lsn: plain_lsn(row.get(1)),
        timeline: row.get(2),
        backup_label: row.get(3),
        tablespace_map: row.get(4),
        file_count: row.get(5),
        total_bytes: row.get(6),
    })
}

/// Starts a backup; failure to start fails the test.
#[track_caller]
pub fn start(leader: &mut Client, options: &str) -> Started {
    match try_start(leader, options) {
        Ok(started) => started,
        Err(failure) => panic!("start_backup({options}): {failure}"),
    }
}

/// Runs several workers concurrently until the queue of the backup is empty.
#[track_caller]
pub fn spawn_workers(cluster: &Cluster, id: i64, count: usize) -> Vec<Worker> {
    let copy = copy_of(&format!("send_backup_files({id})"));
    (0..count).map(|_| Worker::spawn(cluster, &copy)).collect()
}

/// Stops the session's backup and returns the closing tar.
pub fn try_send_stop(leader: &mut Client, options: &str) -> Result<Vec<u8>, Failure> {
    copy_out(leader, &copy_of(&format!("send_stop_backup({options})")))
}

/// Stops a complete backup and returns the closing tar, WAL included.
#[track_caller]
pub fn send_stop(leader: &mut Client) -> Vec<u8> {
    match try_send_stop(leader, "wal => true") {
        Ok(bytes) => bytes,
        Err(failure) => panic!("send_stop_backup(wal => true): {failure}"),
    }
}

/// Directory into which the streams of one backup are unpacked.
#[derive(Debug)]
pub struct Backup {
    dir: Folder,
    tablespaces: Vec<(u32, PathBuf)>,
}

impl Backup {
    /// Takes a complete backup, WAL included, with this many workers.
    #[track_caller]
    pub fn take(cluster: &Cluster, workers: usize) -> Self {
        Self::take_with(cluster, workers, "")
    }

    /// Like [`Backup::take`], with further named arguments for `start_backup`.
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

    /// Creates an empty directory with a link in `pg_tblspc` for each tablespace outside the data
    /// directory. The links must exist before anything is unpacked below them.
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

    /// Unpacks one stream.
    #[track_caller]
    pub fn unpack(&self, archive: &[u8]) {
        archive::unpack(archive, &self.data_dir());
    }

    /// Directory that becomes the data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Locations of the unpacked tablespaces, by OID.
    pub fn tablespaces(&self) -> &[(u32, PathBuf)] {
        &self.tablespaces
    }

    /// Checks that `pg_verifybackup` accepts the backup with its WAL.
    #[track_caller]
    pub fn verify(&self) {
        self.verify_with(&[]);
    }

    /// Same check with further arguments, such as `-n` for a backup without WAL.
    #[track_caller]
    pub fn verify_with(&self, args: &[&str]) {
        let mut verify = command("pg_verifybackup");
        verify.args(args).arg(self.data_dir());
        let output = run(&mut verify);
        assert!(output.status.success(), "{}", account(&verify, &output));
    }

    /// Returns the output of `pg_verifybackup` for a backup that it must reject.
    #[track_caller]
    pub fn expect_refusal(&self, args: &[&str]) -> String {
        let mut verify = command("pg_verifybackup");
        verify.args(args).arg(self.data_dir());
        let output = run(&mut verify);
        assert!(!output.status.success(), "{}", account(&verify, &output));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Creates a stopped cluster from the backup. Its tablespaces stay where they were unpacked.
    /// Verify the backup before this call: the call changes `tablespace_map`.
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

    /// Starts a cluster from the backup.
    #[track_caller]
    pub fn restore(self) -> Cluster {
        let mut cluster = self.into_cluster();
        cluster.start();
        cluster
    }
}
