//! The command line program, run as anybody runs it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::backup::Backup;
use crate::program::{account, command, give_to_owner, run, signal, succeed};
use crate::scratch::{self, Folder};
use crate::server::Cluster;
use crate::wait::{PATIENCE, wait_for};

/// The tests may run where signals are ignored, in the background of a shell for one.
const DEFAULT_SIGNALS: &str = "--default-signal=HUP,INT,TERM";

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
    let mut command = command("/usr/bin/env");
    command.arg(DEFAULT_SIGNALS).arg(program);
    command
}

/// Has a command start with signals ignored, as `nohup` and a shell's background jobs do.
pub fn ignoring(signals: &str, command: &Command) -> Command {
    let ignore = format!("--ignore-signal={signals}");
    let mut ignoring = crate::program::command("/usr/bin/env");
    for argument in command.get_args() {
        match argument == DEFAULT_SIGNALS {
            true => ignoring.arg(&ignore),
            false => ignoring.arg(argument),
        };
    }
    ignoring
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

/// A file that only its owner can read, as those with passwords and keys must be.
pub fn private_file(folder: &Path, name: &str, content: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).expect("write a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
    give_to_owner(&path);
    path
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

/// Unpacks one tar file into a folder.
#[track_caller]
pub fn unpack(archive: &Path, folder: &Path) {
    succeed(
        command("tar")
            .args(["--extract", "--preserve-permissions", "--file"])
            .arg(archive)
            .arg("--directory")
            .arg(folder),
    );
}

/// Has the program of its method decompress an archive, by the suffix of its name; the path of the
/// tar file beside it.
#[track_caller]
pub fn decompress(archive: &Path) -> PathBuf {
    let tar = archive.with_extension("");
    let method = archive.extension().and_then(OsStr::to_str);
    let mut program = match method {
        Some("tar") => return archive.to_owned(),
        Some("gz") => command("gzip"),
        Some("lz4") => command("lz4"),
        Some("zst") => command("zstd"),
        _ => panic!("{archive:?} is no archive"),
    };
    program.args(["--decompress", "--stdout"]).arg(archive);
    let output = run(&mut program);
    let ended_well = output.status.success() && output.stderr.is_empty();
    assert!(ended_well, "{}", String::from_utf8_lossy(&output.stderr));
    fs::write(&tar, output.stdout).unwrap_or_else(|error| panic!("{tar:?}: {error}"));
    tar
}

/// Unpacks all archives of a backup into one folder, with the manifest beside them, and has
/// `pg_verifybackup` accept it.
#[track_caller]
pub fn unpack_all(cluster: &Cluster, target: &Path) -> Backup {
    let backup = Backup::folder(cluster);
    for name in names_in(target) {
        let part = name.split('.').next().unwrap_or_default();
        let folder = match part.parse::<u32>() {
            Ok(oid) => {
                let mut tablespaces = backup.tablespaces().iter();
                let found = tablespaces.find(|tablespace| tablespace.0 == oid);
                found.expect("a tablespace of that OID").1.clone()
            }
            Err(_) => backup.data_dir(),
        };
        if name == "backup_manifest" {
            succeed(command("cp").arg(target.join(name)).arg(folder));
        } else {
            let tar = decompress(&target.join(name));
            // GNU tar does not ask for it.
            let bytes = fs::read(&tar).expect("the archive");
            assert!(bytes.ends_with(&[0; 1024]), "{tar:?} has no end");
            unpack(&tar, &folder);
        }
    }
    backup.verify();
    backup
}

/// Has `pg_verifybackup` accept a backup.
#[track_caller]
pub fn verify(data: &Path, args: &[&str]) {
    let mut verify = command("pg_verifybackup");
    verify.args(args).arg(data);
    let output = run(&mut verify);
    assert!(output.status.success(), "{}", account(&verify, &output));
}

/// Waits until two workers of a backup are sending.
#[track_caller]
pub fn wait_for_streams(cluster: &Cluster) {
    cluster.wait_for_sql(
        "two workers that send",
        "SELECT coalesce(max(workers), 0) = 2 AND sum(bytes_sent) > 0 FROM backup_progress()",
    );
}

/// Ends the session of one worker.
#[track_caller]
pub fn terminate_a_worker(cluster: &Cluster) {
    cluster.execute(
        "SELECT pg_terminate_backend(min(pid)) FROM pg_stat_progress_basebackup
         WHERE pid NOT IN (SELECT leader_pid FROM backup_progress())",
    );
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

    /// Has it lose one of its two workers: it must have replaced that, and ended well. What it said.
    #[track_caller]
    pub fn end_with_a_lost_worker(self, cluster: &Cluster) -> String {
        wait_for_streams(cluster);
        terminate_a_worker(cluster);
        let (status, said) = self.end();
        assert_eq!(status, Some(0), "{said}");
        assert!(
            said.contains("lost its connection and gets another"),
            "{said}"
        );
        said
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
