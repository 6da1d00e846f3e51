//! Configuration of a test cluster.

use std::ffi::OsString;

use crate::disk::Disk;
use crate::program;
use crate::server::{Cluster, free_port, require_extension};
use crate::template;

/// Settings of every cluster. No test crashes the machine, so fsync is unnecessary.
const SETTINGS: &str = "\
fsync = off
shared_buffers = 32MB
max_connections = 60
max_wal_senders = 10
wal_level = replica
max_wal_size = 512MB
log_line_prefix = '%m [%p] %q%a '
log_checkpoints = off
lc_messages = 'C'
";

/// Builder for a cluster that differs from the default: data checksums on, extension installed.
#[derive(Clone, Debug)]
pub struct Builder {
    checksums: bool,
    extension: bool,
    initdb_args: Vec<String>,
    settings: String,
    environment: Vec<(String, OsString)>,
    disk_megabytes: Option<u32>,
    over_tcp: bool,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            checksums: true,
            extension: true,
            initdb_args: Vec::new(),
            settings: String::new(),
            environment: Vec::new(),
            disk_megabytes: None,
            over_tcp: false,
        }
    }
}

impl Builder {
    /// Creates the cluster without data checksums.
    pub fn without_checksums(mut self) -> Self {
        self.checksums = false;
        self
    }

    /// Does not install the extension.
    pub fn without_extension(mut self) -> Self {
        self.extension = false;
        self
    }

    /// Adds an argument for `initdb`, such as `--wal-segsize=1` or `--allow-group-access`.
    pub fn initdb_arg(mut self, argument: &str) -> Self {
        self.initdb_args.push(argument.to_owned());
        self
    }

    /// Adds a line to `postgresql.conf`, with the value quoted.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings
            .push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
        self
    }

    /// Adds an environment variable for the server.
    pub fn environment(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Puts the data directory on a file system of its own, if the tests may mount one.
    pub fn disk(mut self, megabytes: u32) -> Self {
        self.disk_megabytes = Some(megabytes);
        self
    }

    /// Makes the server also listen on 127.0.0.1, at a free port.
    pub fn over_tcp(mut self) -> Self {
        self.over_tcp = true;
        self
    }

    /// Creates the data directory and starts a server on it.
    pub fn start(self) -> Cluster {
        if self.extension {
            require_extension();
        }
        let mut cluster = self.create();
        cluster.start();
        if self.extension {
            cluster.create_extension("postgres");
        }
        cluster
    }

    /// Creates the data directory without starting a server.
    pub fn create(&self) -> Cluster {
        let mut initdb_args = self.initdb_args.clone();
        if self.checksums {
            initdb_args.push("--data-checksums".to_owned());
        } else if program::major_version() >= 18 {
            // From version 18 on, initdb enables data checksums by default.
            initdb_args.push("--no-data-checksums".to_owned());
        }
        let mut cluster = Cluster::empty();
        cluster.environment.clone_from(&self.environment);
        if self.over_tcp {
            cluster.addresses = "127.0.0.1";
            cluster.port = free_port();
        }
        cluster.disk = self
            .disk_megabytes
            .and_then(|megabytes| Disk::mount(&cluster.data_dir(), megabytes));
        template::copy_to(&cluster.data_dir(), &initdb_args);
        cluster.append_to_conf(SETTINGS);
        cluster.append_to_conf(&self.settings);
        cluster
    }
}
