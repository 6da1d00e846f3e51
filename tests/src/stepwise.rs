//! A backup that one session takes in steps, so that a test can change things between them.

use postgres::Client;

use crate::backup::{Backup, Started, start};
use crate::failure::Failure;
use crate::notices::Notices;
use crate::server::Cluster;
use crate::stream::{copy_of, copy_out};

/// A running backup and the folder that its streams go to.
pub struct Stepwise {
    /// The session that started the backup.
    pub leader: Client,
    /// What that session was told.
    pub notices: Notices,
    /// What `start_backup` returned.
    pub started: Started,
    /// What was unpacked so far.
    pub backup: Backup,
}

impl Stepwise {
    /// Starts a backup; `options` are further named arguments of `start_backup`, or nothing.
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

    /// Runs a `send_…` function in the session of the backup and returns its stream.
    pub fn try_stream(&mut self, call: &str) -> Result<Vec<u8>, Failure> {
        copy_out(&mut self.leader, &copy_of(call))
    }

    /// The same for a stream that must end well.
    #[track_caller]
    pub fn stream(&mut self, call: &str) -> Vec<u8> {
        match self.try_stream(call) {
            Ok(stream) => stream,
            Err(failure) => panic!("{call}: {failure}"),
        }
    }

    /// Sends all that is left in the queue and unpacks it.
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

    /// The same, for a backup whose streams the test unpacks itself.
    #[track_caller]
    pub fn closing_tar(&mut self) -> Vec<u8> {
        self.stream("send_stop_backup(wal => true)")
    }

    /// The listing of the backup.
    #[track_caller]
    pub fn listing(&mut self) -> Vec<Entry> {
        listing(&mut self.leader, "")
    }
}

/// A row of `backup_filelist`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the data directory, or to the tablespace that was asked for.
    pub path: String,
    /// `f`, `d` or `l`.
    pub kind: char,
    /// Bytes; 0 for what is no file.
    pub size: i64,
}

/// The listing that `backup_filelist` gives for these arguments.
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
