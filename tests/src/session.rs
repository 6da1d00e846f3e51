//! Sessions of a cluster: connections, psql, and waits for conditions visible in a session.

use std::process::{Command, Output};

use postgres::{Client, Config, NoTls};

use crate::failure::Failure;
use crate::notices::Notices;
use crate::program::{command, major_version, run};
use crate::server::Cluster;
use crate::wait::{PATIENCE, wait_for};

impl Cluster {
    /// Connection parameters for a database, as superuser `postgres`. Tests may modify them before
    /// connecting.
    pub fn config(&self, database: &str) -> Config {
        let mut config = Config::new();
        config
            .host_path(self.socket_dir())
            .port(self.port())
            .user("postgres")
            .dbname(database)
            .application_name("backup_tests")
            .notice_callback(|_| {});
        config
    }

    /// Opens a session of superuser `postgres` in database `postgres`.
    #[track_caller]
    pub fn connect(&self) -> Client {
        self.connect_to("postgres")
    }

    /// Opens a session of superuser `postgres` in another database.
    #[track_caller]
    pub fn connect_to(&self, database: &str) -> Client {
        open(&self.config(database))
    }

    /// Opens a session of another role in database `postgres`.
    #[track_caller]
    pub fn connect_as(&self, role: &str) -> Client {
        open(self.config("postgres").user(role))
    }

    /// Opens a session that keeps its NOTICEs and WARNINGs.
    #[track_caller]
    pub fn connect_with_notices(&self) -> (Client, Notices) {
        let notices = Notices::default();
        let receiver = notices.clone();
        let client = open(
            self.config("postgres")
                .notice_callback(move |notice| receiver.push(notice)),
        );
        (client, notices)
    }

    /// Connection arguments for PostgreSQL's programs.
    pub fn connection_args(&self, user: &str) -> Vec<String> {
        vec![
            "-h".to_owned(),
            self.socket_dir().display().to_string(),
            "-p".to_owned(),
            self.port().to_string(),
            "-U".to_owned(),
            user.to_owned(),
        ]
    }

    /// Connection string for database `postgres`.
    pub fn connection_string(&self) -> String {
        format!(
            "host={} port={} user=postgres dbname=postgres",
            self.socket_dir().display(),
            self.port()
        )
    }

    /// Runs psql in database `postgres`, without its start-up file. It stops at the first error.
    pub fn psql(&self, args: &[&str]) -> Output {
        run(&mut self.psql_command(args))
    }

    /// Command that `psql` runs.
    pub fn psql_command(&self, args: &[&str]) -> Command {
        let mut psql = command("psql");
        psql.args(self.connection_args("postgres"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"])
            .args(["-d", "postgres"])
            .args(args);
        psql
    }

    /// Runs statements in a new session.
    #[track_caller]
    pub fn execute(&self, statements: &str) {
        if let Err(error) = self.connect().batch_execute(statements) {
            panic!("{statements}\n{}", Failure::from(error));
        }
    }

    /// Polls a query until its one boolean is true.
    #[track_caller]
    pub fn wait_for_sql(&self, what: &str, query: &str) {
        let mut client = self.connect();
        wait_for(what, PATIENCE, || match client.query_one(query, &[]) {
            Ok(row) => row.get::<_, Option<bool>>(0) == Some(true),
            Err(error) => panic!("{query}\n{}", Failure::from(error)),
        });
    }

    /// Whether the server has a contrib module. Only that of 16 from scripts/servers.sh has none.
    #[track_caller]
    pub fn has_module(&self, name: &str) -> bool {
        let query = "SELECT FROM pg_available_extensions WHERE name = $1";
        let found = self.connect().query(query, &[&name]);
        let is_there = !found.expect("the extensions").is_empty();
        if !is_there {
            assert_eq!(major_version(), 16, "the server has no {name}");
            eprintln!("not all is tested without {name}");
        }
        is_there
    }

    /// Waits until a server process has exited.
    #[track_caller]
    pub fn wait_for_end_of(&self, backend: i32) {
        self.wait_for_sql(
            &format!("backend {backend} to end"),
            &format!("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {backend})"),
        );
    }
}

#[track_caller]
fn open(config: &Config) -> Client {
    match config.connect(NoTls) {
        Ok(client) => client,
        Err(error) => panic!("could not connect: {}", Failure::from(error)),
    }
}

/// PID of the backend that serves a session.
pub fn backend_pid(client: &mut Client) -> i32 {
    client
        .query_one("SELECT pg_backend_pid()", &[])
        .expect("pg_backend_pid()")
        .get(0)
}
