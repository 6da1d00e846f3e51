//! The program loses a connection, its own process or its disk in the middle of a part.

use std::fs;
use std::path::{Path, PathBuf};

use backup_tests::client::{
    Running, backup_of, expect_failure, names_in, new_target, program, terminate_a_worker,
};
use backup_tests::disk::Disk;
use backup_tests::faults::proxy::Proxy;
use backup_tests::leftover;
use backup_tests::parts::{PART_SIZE, assert_whole, cluster_with_seven_parts};
use backup_tests::program::{account, run};
use backup_tests::server::Cluster;
use backup_tests::wait::{PATIENCE, wait_for};

/// Waits until two workers have begun parts of the large file, which is the last: one from its start, and the other
/// from its end. The program has begun to write both.
#[track_caller]
fn wait_for_two_in_one_file(cluster: &Cluster, target: &Path, path: &str) {
    let length = |data: &Path| fs::metadata(data.join(path)).map_or(0, |file| file.len());
    let last_part = (length(&cluster.data_dir()) - 1) / PART_SIZE * PART_SIZE;
    wait_for("the last part to begin", PATIENCE, || {
        length(target) > last_part
    });
    cluster.wait_for_sql(
        "two workers with one file",
        "SELECT coalesce(max(workers), 0) = 2 AND max(files_total - files_sent) = 1
         FROM backup_progress()",
    );
}

/// Processes of the server that serve the workers.
fn workers(cluster: &Cluster) -> Vec<i32> {
    let query = "SELECT pid FROM pg_stat_progress_basebackup
                 WHERE phase <> 'transferring wal files'
                     AND pid NOT IN (SELECT leader_pid FROM backup_progress())
                 ORDER BY pid";
    let rows = cluster.connect().query(query, &[]).expect("the workers");
    rows.iter().map(|row| row.get(0)).collect()
}

/// Parts of a file that are written aside: the names of their files.
fn aside(target: &Path, path: &str) -> Vec<String> {
    let (directory, name) = path.rsplit_once('/').expect("a directory");
    let names = names_in(&target.join(directory)).into_iter();
    let begin = format!("{name}.");
    names.filter(|name| name.starts_with(&begin)).collect()
}

/// A backup with two workers, the first of which has fallen silent in the large file: the server has given it up
/// and hands its parts to the other, and the program knows nothing of it.
struct Silent {
    cluster: Cluster,
    path: String,
    proxy: Proxy,
    target: (backup_tests::scratch::Folder, PathBuf),
    program: Running,
    silent: i32,
    other: i32,
}

impl Silent {
    #[track_caller]
    fn begin() -> Self {
        let (cluster, path) = cluster_with_seven_parts();
        let proxy = Proxy::before(&cluster).expect("a proxy");
        let target = new_target();
        let mut backup = backup_of(&cluster);
        backup.arg("-h").arg(proxy.dir()).args(["-j", "2"]);
        let program = Running::start(backup.args(["-r", "30M", "-D"]).arg(&target.1));
        wait_for_two_in_one_file(&cluster, &target.1, &path);
        // A worker may be between two streams for a moment.
        let mut found = Vec::new();
        wait_for("both workers", PATIENCE, || {
            found = workers(&cluster);
            found.len() == 2
        });
        let (silent, other) = (found[0], found[1]);
        proxy.line(silent).expect("a connection").stall();
        cluster.execute(&format!("SELECT pg_terminate_backend({silent})"));
        cluster.wait_for_end_of(silent);
        Self {
            cluster,
            path,
            proxy,
            target,
            program,
            silent,
            other,
        }
    }

    /// Waits until the other worker writes parts aside that the silent one has begun. Returns the name of its file.
    #[track_caller]
    fn wait_for_aside(&self) -> String {
        let mut names = Vec::new();
        wait_for("parts that are written aside", PATIENCE, || {
            names = aside(&self.target.1, &self.path);
            !names.is_empty()
        });
        assert_eq!(names.len(), 1, "{names:?}");
        names.remove(0)
    }

    /// The silent connection speaks again and is found to be lost. The backup ends well, after so many losses.
    #[track_caller]
    fn end(self, losses: usize) {
        self.proxy.line(self.silent).expect("a connection").open();
        let (status, said) = self.program.end();
        assert_eq!(status, Some(0), "{said}");
        let said_lost = said.matches("lost its connection and gets another");
        assert_eq!(said_lost.count(), losses, "{said}");
        assert_whole(&self.cluster, &self.target.1, &self.path);
        leftover::assert_none(&self.cluster);
    }
}

#[test]
fn one_worker_alone_begins_the_part_again_that_it_has_lost() {
    let (cluster, path) = cluster_with_seven_parts();
    let (_folder, target) = new_target();
    let mut backup = backup_of(&cluster);
    backup.args(["-j", "1", "-r", "20M", "-D"]).arg(&target);
    let running = Running::start(&mut backup);
    wait_for("the first part", PATIENCE, || {
        fs::metadata(target.join(&path)).is_ok_and(|file| file.len() > 0)
    });
    terminate_a_worker(&cluster);
    let (status, said) = running.end();
    assert_eq!(status, Some(0), "{said}");
    assert!(
        said.contains("lost its connection and gets another"),
        "{said}"
    );
    assert_whole(&cluster, &target, &path);
    leftover::assert_none(&cluster);
}

/// They take their places when their stream ends, although the first to write them is silent yet.
#[test]
fn parts_that_were_written_aside_complete_those_of_a_silent_connection() {
    let silent = Silent::begin();
    silent.wait_for_aside();
    wait_for("the parts to take their places", PATIENCE, || {
        aside(&silent.target.1, &silent.path).is_empty()
    });
    silent.end(1);
}

#[test]
fn parts_that_were_written_aside_go_with_their_own_connection() {
    let silent = Silent::begin();
    let name = silent.wait_for_aside();
    silent.proxy.line(silent.other).expect("a connection").cut();
    // The connection that follows writes to a file of its own.
    wait_for("the parts to be removed", PATIENCE, || {
        !aside(&silent.target.1, &silent.path).contains(&name)
    });
    silent.end(2);
}

/// What is there has the mark of an unfinished backup, and nothing takes it for one.
#[test]
fn a_program_that_is_killed_in_a_part_leaves_no_backup() {
    let (cluster, path) = cluster_with_seven_parts();
    let (folder, target) = new_target();
    let mut backup = backup_of(&cluster);
    backup.args(["-j", "2", "-r", "40M", "-D"]).arg(&target);
    let running = Running::start(&mut backup);
    wait_for_two_in_one_file(&cluster, &target, &path);
    running.signal("KILL");
    assert_eq!(running.end().0, None);
    leftover::assert_none(&cluster);
    let names = names_in(&target);
    assert!(
        names.contains(&"pg_parallel_backup.unfinished".to_owned()),
        "{names:?}"
    );
    assert!(target.join(&path).exists());
    for mark in ["backup_manifest", "global/pg_control"] {
        assert!(!target.join(mark).exists(), "{mark}");
    }
    let mut again = backup_of(&cluster);
    let said = expect_failure(again.arg("-D").arg(&target));
    assert!(said.contains("exists but is not empty"), "{said}");
    let mut verify = program();
    let output = run(verify.arg("verify").arg(&target));
    assert!(!output.status.success(), "{}", account(&verify, &output));
    let mut restored = Cluster::on(&target, folder);
    restored.try_start().expect_err("the server started");
}

/// The message names the file. All of it is removed, unless that is not wanted.
#[test]
fn a_disk_that_is_full_in_a_part_is_an_error_that_names_the_file() {
    let (cluster, path) = cluster_with_seven_parts();
    let (folder, _) = new_target();
    // Everything but the large file fits.
    let Some(disk) = Disk::mount(&folder.join("disk"), 90) else {
        println!("left out: this account cannot mount a file system");
        return;
    };
    let root = folder.join("disk");
    for keeps in [false, true] {
        let target = root.join("backup");
        let mut backup = backup_of(&cluster);
        backup.args(["--no-space-check", "-j", "3", "-D"]);
        backup.arg(&target);
        if keeps {
            backup.arg("--no-clean");
        }
        let said = expect_failure(&mut backup);
        let message = format!("could not write file \"{path}\": No space left on device");
        assert!(said.contains(&message), "{said}");
        leftover::assert_none(&cluster);
        if keeps {
            assert!(said.contains("is not removed"), "{said}");
            assert!(target.join("pg_parallel_backup.unfinished").exists());
            assert!(!target.join("global/pg_control").exists());
        } else {
            assert!(names_in(&root).is_empty());
        }
    }
    drop(disk);
}
