//! Clusters with chains of backups that the program takes, and commands that put them together. From PostgreSQL
//! 17 on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::builder::Builder;
use crate::client::{backup_of, names_in, program, unpack, verify};
use crate::incremental::contents;
use crate::program::{command, make_dir, succeed};
use crate::scratch::Folder;
use crate::server::Cluster;

/// Statement after which a backup has a relation file with a few changed blocks.
pub const CHANGE: &str = "UPDATE t SET b = 'changed' WHERE a % 1000 = 0";

/// A cluster, and a chain of its backups in a format.
pub struct Chain {
    /// The cluster.
    pub cluster: Cluster,
    /// Holds the backups and what is made of them.
    pub folder: Folder,
    /// The backups, the oldest first.
    pub backups: Vec<PathBuf>,
}

impl Chain {
    /// Takes a full backup and two incremental ones, all with these options.
    #[track_caller]
    pub fn take(args: &[&str]) -> Self {
        Self::of(Cluster::builder(), args)
    }

    /// The same with a cluster of this builder.
    #[track_caller]
    pub fn of(builder: Builder, args: &[&str]) -> Self {
        let mut chain = Self::begin(builder);
        for (name, change) in [
            ("full", "SELECT"),
            ("first", CHANGE),
            ("second", "DELETE FROM cut WHERE a > 100"),
        ] {
            chain.cluster.execute(change);
            chain.cluster.execute("VACUUM");
            chain.add(name, args);
        }
        chain
    }

    /// A cluster with two tables, and no backup of it yet.
    #[track_caller]
    pub fn begin(builder: Builder) -> Self {
        let cluster = builder
            .setting("summarize_wal", "on")
            .setting("autovacuum", "off")
            .start();
        cluster.execute(
            "CREATE TABLE t AS SELECT g AS a, repeat('t', 500) AS b FROM generate_series(1, 20000) AS g;
             CREATE TABLE cut AS TABLE t;
             CREATE INDEX ON t (a)",
        );
        Self {
            cluster,
            folder: Folder::new("chain"),
            backups: Vec::new(),
        }
    }

    /// Takes the next backup with these options. The first is a full one.
    #[track_caller]
    pub fn add(&mut self, name: &str, args: &[&str]) {
        let target = self.target(name);
        let mut backup = backup_of(&self.cluster);
        backup.args(args).arg("-D").arg(&target);
        if let Some(earlier) = self.backups.last() {
            backup.arg("-i").arg(earlier.join("backup_manifest"));
        }
        succeed(&mut backup);
        self.backups.push(target);
    }

    /// Path of a file or a directory beside the backups.
    pub fn target(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Command that combines these backups of the chain.
    pub fn combine_of(&self, backups: &[usize], target: &Path) -> Command {
        let mut combine = program();
        combine.args(["combine", "-N", "-j", "2"]);
        combine.args(backups.iter().map(|&number| &self.backups[number]));
        combine.arg("-o").arg(target);
        combine
    }

    /// Command that combines all three.
    pub fn combine(&self, target: &Path) -> Command {
        self.combine_of(&[0, 1, 2], target)
    }

    /// The same with pg_combinebackup.
    pub fn theirs_of(&self, backups: &[usize], target: &Path) -> Command {
        let mut combine = command("pg_combinebackup");
        combine.arg("-N");
        combine.args(backups.iter().map(|&number| &self.backups[number]));
        combine.arg("-o").arg(target);
        combine
    }

    /// Starts a server on a result, which must have what the cluster has.
    #[track_caller]
    pub fn assert_starts(&self, data: &Path) {
        verify(data, &[]);
        let folder = Folder::new("started");
        let mut restored = Cluster::on(data, folder);
        restored.start();
        assert_eq!(contents(&restored), contents(&self.cluster));
        restored.amcheck();
        restored.stop_and_check_checksums();
    }
}

/// The largest relation file of the full backup that is incremental in both others, and the incremental file
/// of the first, which has blocks.
pub fn incremental_file(chain: &Chain) -> (PathBuf, PathBuf) {
    let [full, first, second] = &chain.backups[..] else {
        panic!("three backups");
    };
    let size = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
    let base = first.join("base");
    let files = names_in(&base).into_iter().flat_map(|database| {
        let names = names_in(&base.join(&database));
        names
            .into_iter()
            .map(move |name| format!("base/{database}/{name}"))
    });
    let files = files.filter(|path| path.contains("/INCREMENTAL."));
    let files = files.filter(|path| size(&first.join(path)) > 8192 && second.join(path).exists());
    let files = files.map(|path| {
        (
            full.join(path.replace("INCREMENTAL.", "")),
            first.join(path),
        )
    });
    let largest = files.max_by_key(|(whole, _)| size(whole));
    largest.expect("an incremental file")
}

/// Unpacks each archive of a backup into a directory, with the manifest.
#[track_caller]
pub fn unpacked(backup: &Path, target: &Path) {
    make_dir(target);
    for name in names_in(backup) {
        match name.as_str() {
            "backup_manifest" => {
                succeed(command("cp").arg(backup.join(name)).arg(target));
            }
            _ if name.starts_with("pg_wal.tar") => {
                unpack(&backup.join(name), &target.join("pg_wal"))
            }
            _ => unpack(&backup.join(name), target),
        }
    }
}
