//! Repositories of backups: the program with access to one, a cluster whose backups go there, and the judges of
//! what comes back.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::client::{program, unpack_all, verify};
use crate::incremental::contents;
use crate::object_store::{Azurite, Moto, S3Server};
use crate::page::quiet_table;
use crate::program::{account, give_to_owner, run, succeed};
use crate::scratch::Folder;
use crate::server::Cluster;
use crate::verification::ours;

/// Prefix of the repository in a bucket.
const PREFIX: &str = "in/side";

/// Place of a repository, and what a client needs to reach it.
#[derive(Clone, Debug)]
pub struct Access {
    url: String,
    environment: Vec<(&'static str, String)>,
}

impl Access {
    /// Repository at a URL, with variables of the environment.
    pub fn new(url: &str, environment: Vec<(&'static str, String)>) -> Self {
        Self {
            url: url.to_owned(),
            environment,
        }
    }

    /// Repository in a directory.
    pub fn directory(path: &Path) -> Self {
        Self::new(&format!("file://{}", path.display()), Vec::new())
    }

    /// Repository in moto's bucket.
    pub fn moto(server: &Moto) -> Self {
        Self::new(&format!("{}/{PREFIX}", server.url()), server.environment())
    }

    /// Repository in Azurite's container.
    pub fn azurite(server: &Azurite) -> Self {
        Self::new(&format!("{}/{PREFIX}", server.url()), server.environment())
    }

    /// Repository in the bucket of a server, for the client of Google Cloud Storage.
    pub fn google(server: &S3Server) -> Self {
        let url = format!("{}/{PREFIX}", server.google_url());
        Self::new(&url, server.google_environment())
    }

    /// The same place with another value of a variable.
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.environment.retain(|(other, _)| *other != name);
        self.environment.push((name, value.to_owned()));
        self
    }

    /// The same place without a variable.
    pub fn without(mut self, name: &str) -> Self {
        self.environment.retain(|(other, _)| *other != name);
        self
    }

    /// URL of the repository.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// URL of a backup in it.
    pub fn url_of(&self, name: &str) -> String {
        format!("{}/{name}", self.url)
    }

    /// The program, which can reach the repository.
    pub fn program(&self) -> Command {
        let mut program = program();
        program.envs(self.environment.iter().cloned());
        program
    }

    /// Command that takes a backup without fsync. An empty name stands for the default.
    pub fn backup(&self, cluster: &Cluster, name: &str, args: &[&str]) -> Command {
        self.backup_as("postgres", cluster, name, args)
    }

    /// The same as another role.
    pub fn backup_as(&self, role: &str, cluster: &Cluster, name: &str, args: &[&str]) -> Command {
        let mut backup = self.program();
        backup
            .args(cluster.connection_args(role))
            .args(["-c", "fast", "-N", "-D", &self.url]);
        if !name.is_empty() {
            backup.args(["--name", name]);
        }
        backup.args(args);
        backup
    }

    /// Takes a backup.
    #[track_caller]
    pub fn take(&self, cluster: &Cluster, name: &str, args: &[&str]) {
        succeed(&mut self.backup(cluster, name, args));
    }

    /// Command that verifies a backup, with pg_waldump found in the usual way.
    pub fn verify(&self, name: &str, args: &[&str]) -> Command {
        let mut verify = ours(args, Path::new(&self.url_of(name)));
        verify.envs(self.environment.iter().cloned());
        verify
    }

    /// Command that restores a backup without fsync.
    pub fn restore(&self, name: &str, target: &Path, args: &[&str]) -> Command {
        let mut restore = self.program();
        restore.args(["restore", "-N", "-D"]).arg(target);
        restore.args(args).arg(self.url_of(name));
        restore
    }

    /// Command that lists the backups.
    pub fn list(&self, args: &[&str]) -> Command {
        let mut list = self.program();
        list.arg("list").args(args).arg(&self.url);
        list
    }

    /// Command that removes backups.
    pub fn expire(&self, args: &[&str]) -> Command {
        let mut expire = self.program();
        expire.arg("expire").args(args).arg(&self.url);
        expire
    }

    /// The list for programs.
    #[track_caller]
    pub fn listed(&self, args: &[&str]) -> Vec<Value> {
        let args = [&["--json"], args].concat();
        let text = succeed(&mut self.list(&args));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// Names and states of the backups.
    #[track_caller]
    pub fn states(&self) -> Vec<(String, String)> {
        let rows = self.listed(&[]);
        let text = |row: &Value, name: &str| row[name].as_str().expect(name).to_owned();
        rows.iter()
            .map(|row| (text(row, "name"), text(row, "state")))
            .collect()
    }
}

/// Repository in an S3 server with faults.
#[derive(Debug)]
pub struct Repository {
    /// The server.
    pub server: S3Server,
    access: Access,
}

impl Deref for Repository {
    type Target = Access;

    fn deref(&self) -> &Access {
        &self.access
    }
}

impl Default for Repository {
    fn default() -> Self {
        Self::new()
    }
}

impl Repository {
    /// Starts a server with an empty bucket.
    pub fn new() -> Self {
        let server = S3Server::start();
        let url = format!("{}/{PREFIX}", server.url());
        let access = Access::new(&url, server.environment());
        Self { server, access }
    }

    /// Name of the object of a file.
    pub fn key(&self, name: &str, file: &str) -> String {
        format!("{PREFIX}/{name}/{file}")
    }

    /// Files of a backup and their sizes.
    pub fn files(&self, name: &str) -> Vec<(String, u64)> {
        let folder = self.key(name, "");
        let objects = self.server.objects().into_iter();
        objects
            .filter_map(|(key, size)| Some((key.strip_prefix(&folder)?.to_owned(), size)))
            .collect()
    }

    /// Archives of a backup and their sizes.
    pub fn archives(&self, name: &str) -> Vec<(String, u64)> {
        let mut files = self.files(name);
        files.retain(|(file, _)| file.contains(".tar") && !file.contains(".index"));
        files
    }

    /// Content of a file.
    pub fn read(&self, name: &str, file: &str) -> Vec<u8> {
        self.server.read(&self.key(name, file))
    }

    /// Changes a file, or makes one.
    pub fn write(&self, name: &str, file: &str, content: &[u8]) {
        self.server.write(&self.key(name, file), content);
    }

    /// Description of a backup.
    pub fn info(&self, name: &str) -> Value {
        serde_json::from_slice(&self.read(name, "backup.json")).expect("a description in JSON")
    }

    /// Makes another backup of the files of one.
    pub fn copy(&self, from: &str, to: &str) {
        for (file, _) in self.files(from) {
            self.write(to, &file, &self.read(from, &file));
        }
    }

    /// Copies the archives of a backup and its manifest into a directory.
    pub fn download(&self, name: &str) -> Folder {
        let folder = Folder::new("d");
        let archives = self.archives(name).into_iter().map(|(file, _)| file);
        for file in archives.chain(["backup_manifest".to_owned()]) {
            let path = folder.join(&file);
            fs::write(&path, self.read(name, &file)).expect("write a file");
            give_to_owner(&path);
        }
        folder
    }

    /// Unpacks the archives of a backup with programs of the system, and has PostgreSQL's program verify it.
    #[track_caller]
    pub fn unpack(&self, cluster: &Cluster, name: &str) {
        unpack_all(cluster, &self.download(name));
    }

    /// Checks that nothing is left of any backup, and no upload.
    #[track_caller]
    pub fn assert_empty(&self) {
        assert_eq!(self.server.objects(), []);
        assert_eq!(self.server.open_uploads(), 0);
    }
}

/// Cluster with a tablespace and a second database, which leaves its tables alone.
#[derive(Debug)]
pub struct Origin {
    /// The cluster.
    pub cluster: Cluster,
    /// OID of the tablespace and its location.
    pub space: (u32, PathBuf),
}

impl Default for Origin {
    fn default() -> Self {
        Self::new()
    }
}

impl Origin {
    /// Creates the cluster: tables `t` and `u` in `postgres`, `u` in the tablespace `outside`, and `v` in the
    /// database `other`.
    pub fn new() -> Self {
        Self::on(Cluster::builder().setting("autovacuum", "off").start())
    }

    /// The same on a cluster with settings of its own.
    pub fn on(cluster: Cluster) -> Self {
        let space = cluster.create_tablespace("outside");
        let mut client = cluster.connect();
        quiet_table(&mut client, "t", 300, "");
        quiet_table(&mut client, "u", 200, "TABLESPACE outside");
        cluster.execute("CREATE DATABASE other");
        quiet_table(&mut cluster.connect_to("other"), "v", 50, "");
        Self { cluster, space }
    }

    /// Option that puts the tablespace into a directory.
    pub fn mapping(&self, folder: &Path) -> String {
        let new = folder.join("space");
        format!("-T{}={}", self.space.1.display(), new.display())
    }

    /// Restores a backup, and has PostgreSQL's program verify it. Returns the folder with `data` and `space`.
    #[track_caller]
    pub fn restore(&self, access: &Access, name: &str, args: &[&str]) -> Folder {
        let places = Folder::new("r");
        let data = places.join("data");
        let mut restore = access.restore(name, &data, args);
        let output = run(restore.arg(self.mapping(&places)));
        assert!(output.status.success(), "{}", account(&restore, &output));
        verify(&data, &[]);
        let link = fs::read_link(data.join(format!("pg_tblspc/{}", self.space.0)));
        assert_eq!(link.expect("a link"), places.join("space"));
        places
    }

    /// Restores a backup, and starts a server that has the same rows as the cluster.
    #[track_caller]
    pub fn assert_restored(&self, access: &Access, name: &str, args: &[&str]) {
        let places = self.restore(access, name, args);
        self.assert_starts(places);
    }

    /// Starts a server on a restored directory, and compares the rows.
    #[track_caller]
    pub fn assert_starts(&self, places: Folder) {
        let data = places.join("data");
        let mut restored = Cluster::on(&data, places);
        restored.start();
        assert_eq!(contents(&restored), contents(&self.cluster));
        restored.amcheck();
        restored.stop_and_check_checksums();
    }
}
