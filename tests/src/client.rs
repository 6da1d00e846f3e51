//! The command line program, run as anybody runs it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::program::{account, command, run, signal};
use crate::scratch::{self, Folder};
use crate::server::Cluster;
use crate::wait::{PATIENCE, wait_for};

/// A command for the program, without a server to connect to.
pub fn program() -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        // The folder of the build may be closed to the owner of the clusters. Another process makes
        // the copy: what this one has open for writing is open in each of its children for a moment,
        // and a file that is open for writing cannot be run.
        let copy = scratch::dir().join("pg_parallel_backup");
        let built = built_program();
        let mut install = Command::new("install");
        let output = run(install.args(["-m", "755", "--"]).args([&built, &copy]));
        assert!(
            output.status.success(),
            "{}\nFirst run: cargo build --release -p pg_parallel_backup_client",
            account(&install, &output)
        );
        copy
    });
    command(program.to_str().expect("the path is UTF-8"))
}

/// Beside the folder that the test's own program is in.
fn built_program() -> PathBuf {
    let own = std::env::current_exe().expect("the path of the test");
    let target = own
        .ancestors()
        .find(|folder| folder.file_name() == Some(OsStr::new("deps")))
        .and_then(|deps| deps.parent()?.parent())
        .expect("the target folder of cargo");
    target.join("release/pg_parallel_backup")
}

/// A command that backs up a cluster and does not wait for the disk; the target is for the caller
/// to add.
pub fn backup_of(cluster: &Cluster) -> Command {
    let mut program = program();
    program
        .args(cluster.connection_args("postgres"))
        .args(["-c", "fast", "-N"]);
    program
}

/// A command that restores archives and does not wait for the disk.
pub fn restore_of(archives: &Path, target: &Path, args: &[&str]) -> Command {
    let mut restore = program();
    restore.args(["restore", "-N", "-D"]).arg(target);
    restore.args(args).arg(archives);
    restore
}

/// A folder for a target that does not exist yet.
pub fn new_target() -> (Folder, PathBuf) {
    let folder = Folder::new("t");
    let target = folder.join("backup");
    (folder, target)
}

/// Runs a command that must fail as the program fails; what it said.
#[track_caller]
pub fn expect_failure(command: &mut Command) -> String {
    let output = run(command);
    let said = account(command, &output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty(), "{said}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The names in a folder, sorted.
#[track_caller]
pub fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Has `pg_verifybackup` accept a backup.
#[track_caller]
pub fn verify(data: &Path, args: &[&str]) {
    let mut verify = command("pg_verifybackup");
    verify.args(args).arg(data);
    let output = run(&mut verify);
    assert!(output.status.success(), "{}", account(&verify, &output));
}

/// A program that runs beside the test. It is killed if the test fails.
pub struct Running(Option<Child>);

impl Running {
    /// Starts it.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("could not run {command:?}: {error}"));
        Self(Some(child))
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, name: &str) {
        let child = self.0.as_ref().expect("it runs");
        signal(name, i32::try_from(child.id()).expect("a process"));
    }

    /// Waits for its end: the exit status, if it was not killed, and what it said.
    #[track_caller]
    pub fn end(mut self) -> (Option<i32>, String) {
        let child = self.0.as_mut().expect("it runs");
        wait_for("the program to end", PATIENCE, || {
            matches!(child.try_wait(), Ok(Some(_)))
        });
        let output = self.0.take().map(Child::wait_with_output);
        let output = output.expect("it ran").expect("its output");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
