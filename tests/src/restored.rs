//! Checks of a cluster restored from a backup.

use crate::program::{command, succeed};
use crate::server::{Cluster, Shutdown};

impl Cluster {
    /// Checks every table and index of every database with `pg_amcheck`, where the server has its extension.
    #[track_caller]
    pub fn amcheck(&self) {
        if !self.has_module("amcheck") {
            return;
        }
        succeed(
            command("pg_amcheck")
                .args(self.connection_args("postgres"))
                .args(["--all", "--install-missing", "--heapallindexed"]),
        );
    }

    /// Stops the server and checks every page with `pg_checksums`.
    #[track_caller]
    pub fn stop_and_check_checksums(&mut self) {
        self.stop(Shutdown::Fast);
        succeed(
            command("pg_checksums")
                .args(["--check", "-D"])
                .arg(self.data_dir()),
        );
    }
}
