//! Directories to which several programs try to write at the same time.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use backup_tests::client::{backup_of, names_in, new_target, restore_of, verify};
use backup_tests::leftover;
use backup_tests::program::{make_dir, succeed};
use backup_tests::scratch::Folder;
use backup_tests::server::Cluster;
use backup_tests::verification;

/// Claim file of a directory that is being written.
const CLAIM: &str = "pg_parallel_backup.unfinished";

/// Runs two commands concurrently and returns their output.
fn race(commands: [Command; 2]) -> [Output; 2] {
    commands
        .map(|mut command| {
            let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().expect("the program runs")
        })
        .map(|child| child.wait_with_output().expect("the program ends"))
}

/// Checks that one command succeeded and that the other was refused because of the first.
#[track_caller]
fn assert_one_won(outputs: &[Output; 2]) -> usize {
    let said = outputs
        .each_ref()
        .map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
    let won = outputs.each_ref().map(|output| output.status.success());
    assert!(won[0] != won[1], "{won:?}: {said:?}");
    let winner = usize::from(won[1]);
    let refused = &said[1 - winner];
    assert!(refused.contains("exists but is not empty"), "{refused}");
    winner
}

/// Target of a round, either absent or empty.
fn target_of(round: usize) -> (Folder, std::path::PathBuf) {
    let (folder, target) = new_target();
    if round.is_multiple_of(2) {
        make_dir(&target);
    }
    (folder, target)
}

#[test]
fn of_two_backups_into_one_directory_one_is_complete_and_the_other_removes_nothing() {
    let cluster = Cluster::new();
    for round in 0..6 {
        let (_folder, target) = target_of(round);
        let backup = || {
            let mut backup = backup_of(&cluster);
            backup.arg("-D").arg(&target);
            backup
        };
        assert_one_won(&race([backup(), backup()]));
        verify(&target, &[]);
    }
    leftover::assert_none(&cluster);
}

#[test]
fn of_two_backups_into_archives_of_one_directory_one_is_complete() {
    let cluster = Cluster::new();
    for round in 0..4 {
        let (_folder, target) = target_of(round);
        let backup = || {
            let mut backup = backup_of(&cluster);
            backup.args(["-Ft", "-D"]).arg(&target);
            backup
        };
        assert_one_won(&race([backup(), backup()]));
        assert!(!names_in(&target).iter().any(|name| name == CLAIM));
        succeed(&mut verification::ours(&[], &target));
    }
}

#[test]
fn two_backups_do_not_share_a_directory_of_wal() {
    let cluster = Cluster::new();
    for _ in 0..3 {
        let (folder, _) = new_target();
        let (wal, targets) = (folder.join("wal"), ["a", "b"].map(|name| folder.join(name)));
        let backup = |target: &Path| {
            let mut backup = backup_of(&cluster);
            backup.arg("--waldir").arg(&wal).arg("-D").arg(target);
            backup
        };
        let winner = assert_one_won(&race([backup(&targets[0]), backup(&targets[1])]));
        assert!(!targets[1 - winner].exists());
        assert!(!names_in(&wal).iter().any(|name| name == CLAIM));
        verify(&targets[winner], &[]);
    }
}

#[test]
fn of_two_restores_into_one_directory_one_is_complete() {
    let cluster = Cluster::new();
    let (_archives, archives) = new_target();
    succeed(backup_of(&cluster).args(["-Ft", "-D"]).arg(&archives));
    for round in 0..4 {
        let (_folder, target) = target_of(round);
        let restore = || restore_of(&archives, &target, &[]);
        assert_one_won(&race([restore(), restore()]));
        verify(&target, &[]);
    }
}

#[test]
fn a_directory_that_a_killed_backup_has_left_says_so() {
    let cluster = Cluster::new();
    let (folder, target) = new_target();
    make_dir(&target);
    std::fs::write(target.join(CLAIM), "").expect("write a file");
    let mut backup = backup_of(&cluster);
    let said = backup_tests::client::expect_failure(backup.arg("-D").arg(&target));
    assert!(said.contains("or was killed while it did"), "{said}");
    assert_eq!(names_in(&target), [CLAIM]);
    assert_eq!(names_in(&folder), ["backup"]);
}
