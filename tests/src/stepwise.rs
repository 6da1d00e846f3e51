//! Backup taken step by step in one session, so that a test can change things between steps.

use postgres::Client;

use crate::backup::{Backup, Started, start};
use crate::failure::Failure;
use crate::notices::Notices;
use crate::server::Cluster;
use crate::stream::{copy_of, copy_out};

/// Running backup, and the directory into which its streams are unpacked.
pub struct Stepwise {
    /// Session that started the backup.
    pub leader: Client,
    /// NOTICEs and WARNINGs of that session.
    pub notices: Notices,
    /// Row returned by `start_backup`.
    pub started: Started,
    /// Files unpacked so far.
    pub backup: Backup,
}

impl Stepwise {
    /// Starts a backup. `options` holds further named arguments of `start_backup`; it may be empty.
    #[track_caller]
    pub fn start(cluster: &Cluster, options: &str) -> Self {
        let backup = Backup::folder(cluster);
        let (mut leader, notices) = cluster.connect_with_notices();
        let started = start(&mut leader, options);
        Stepwise {
            leader,
            notices,
            started,
            backup,
        }
    }

    /// Runs a `send_…` function in the leader's session and returns its stream.
    pub fn try_stream(&mut self, call: &str) -> Result<Vec<u8>, Failure> {
        copy_out(&mut self.leader, &copy_of(call))
    }

    /// Like [`Stepwise::try_stream`], for a stream that must succeed.
    #[track_caller]
    pub fn stream(&mut self, call: &str) -> Vec<u8> {
        match self.try_stream(call) {
            Ok(stream) => stream,
            Err(failure) => panic!("{call}: {failure}"),
        }
    }

    /// Sends and unpacks everything left in the queue.
    #[track_caller]
    pub fn send_files(&mut self) -> Vec<u8> {
        let stream = self.stream("send_backup_files()");
        self.backup.unpack(&stream);
        stream
    }

    /// Stops the backup with its WAL and unpacks the closing tar.
    #[track_caller]
    pub fn stop(&mut self) -> Vec<u8> {
        let stream = self.closing_tar();
        self.backup.unpack(&stream);
        stream
    }

    /// Stops the backup with its WAL and returns the closing tar without unpacking it.
    #[track_caller]
    pub fn closing_tar(&mut self) -> Vec<u8> {
        self.stream("send_stop_backup(wal => true)")
    }

    /// Listing of the backup.
    #[track_caller]
    pub fn listing(&mut self) -> Vec<Entry> {
        listing(&mut self.leader, "")
    }
}

/// Row of `backup_filelist`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path relative to the data directory, or to the requested tablespace.
    pub path: String,
    /// `f`, `d` or `l`.
    pub kind: char,
    /// Size in bytes; 0 if the entry is not a file.
    pub size: i64,
}

/// Listing that `backup_filelist` returns for these arguments.
#[track_caller]
pub fn listing(client: &mut Client, arguments: &str) -> Vec<Entry> {
    let query = format!(r#"SELECT path, "type", size FROM backup_filelist({arguments})"#);
    let rows = match client.query(&query, &[]) {
        Ok(rows) => rows,
        Err(error) => panic!("{query}: {}", Failure::from(error)),
    };
    rows.iter()
        .map(|row| Entry {
            path: row.get(0),
            kind: char::from(row.get::<_, i8>(1) as u8),
            size: row.get::<_, Option<i64>>(2).unwrap_or_default(),
        })
        .collect()
}
