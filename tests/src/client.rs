//! Runs the command line program as a user would.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::backup::Backup;
use crate::program::{account, built_folder, command, give_to_owner, run, signal, succeed, words};
use crate::scratch::{self, Folder};
use crate::server::Cluster;
use crate::wait::{PATIENCE, wait_for};

/// Resets ignored signals. A shell may start the tests in the background, where signals are
/// ignored.
const DEFAULT_SIGNALS: &str = "--default-signal=HUP,INT,TERM";

/// Command for the program, without connection arguments.
pub fn program() -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| {
        // The owner of the clusters may have no access to the build directory, so the program is
        // copied. Another process makes the copy: a file descriptor that is open for writing here
        // is briefly inherited by every child, and a file that is open for writing cannot be
        // executed.
        let copy = scratch::dir().join("pg_parallel_backup");
        let built = built_folder().with_file_name("release/pg_parallel_backup");
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

/// Makes a command start with signals ignored, as `nohup` and background jobs of a shell do.
pub fn ignoring(signals: &str, command: &Command) -> Command {
    let ignore = format!("--ignore-signal={signals}");
    let mut ignoring = crate::program::command("/usr/bin/env");
    for argument in words(command).skip(1) {
        match argument == DEFAULT_SIGNALS {
            true => ignoring.arg(&ignore),
            false => ignoring.arg(argument),
        };
    }
    ignoring
}

/// Command that backs up a cluster without fsync. The caller adds the target.
pub fn backup_of(cluster: &Cluster) -> Command {
    let mut program = program();
    program
        .args(cluster.connection_args("postgres"))
        .args(["-c", "fast", "-N"]);
    program
}

/// Command that restores archives without fsync.
pub fn restore_of(archives: &Path, target: &Path, args: &[&str]) -> Command {
    let mut restore = program();
    restore.args(["restore", "-N", "-D"]).arg(target);
    restore.args(args).arg(archives);
    restore
}

/// Creates a directory and returns the path of a target in it that does not exist yet.
pub fn new_target() -> (Folder, PathBuf) {
    let folder = Folder::new("t");
    let target = folder.join("backup");
    (folder, target)
}

/// Creates a file readable by its owner only, as required for passwords and keys.
pub fn private_file(folder: &Path, name: &str, content: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, content).expect("write a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
    give_to_owner(&path);
    path
}

/// Runs a command that must fail with the program's own exit status. Returns its output.
#[track_caller]
pub fn expect_failure(command: &mut Command) -> String {
    let output = run(command);
    let said = account(command, &output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty(), "{said}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Names in a directory, sorted.
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

/// Unpacks one tar file into a directory.
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

/// Decompresses an archive with the program for its file name suffix. Returns the path of the tar
/// file, written beside the archive.
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

/// Unpacks all archives of a backup into one directory, copies the manifest there, and checks that
/// `pg_verifybackup` accepts the result.
#[track_caller]
pub fn unpack_all(cluster: &Cluster, target: &Path) -> Backup {
    unpack_all_with(cluster, target, &[])
}

/// The same with further arguments of `pg_verifybackup`, such as the place of the WAL.
#[track_caller]
pub fn unpack_all_with(cluster: &Cluster, target: &Path, args: &[&str]) -> Backup {
    let backup = Backup::folder(cluster);
    for name in names_in(target) {
        let part = name.split('.').next().unwrap_or_default();
        let folder = match part.parse::<u32>() {
            Ok(oid) => {
                let mut tablespaces = backup.tablespaces().iter();
                let found = tablespaces.find(|tablespace| tablespace.0 == oid);
                found.expect("a tablespace of that OID").1.clone()
            }
            Err(_) if part == "pg_wal" => backup.data_dir().join("pg_wal"),
            Err(_) => backup.data_dir(),
        };
        if name == "backup_manifest" {
            succeed(command("cp").arg(target.join(name)).arg(folder));
        } else {
            let tar = decompress(&target.join(name));
            // GNU tar accepts an archive without an end marker.
            let bytes = fs::read(&tar).expect("the archive");
            assert!(bytes.ends_with(&[0; 1024]), "{tar:?} has no end");
            unpack(&tar, &folder);
        }
    }
    backup.verify_with(args);
    backup
}

/// Checks that `pg_verifybackup` accepts a backup.
#[track_caller]
pub fn verify(data: &Path, args: &[&str]) {
    let mut verify = command("pg_verifybackup");
    verify.args(args).arg(data);
    let output = run(&mut verify);
    assert!(output.status.success(), "{}", account(&verify, &output));
}

/// Waits until two workers of a backup are sending data.
#[track_caller]
pub fn wait_for_streams(cluster: &Cluster) {
    cluster.wait_for_sql(
        "two workers that send",
        "SELECT coalesce(max(workers), 0) = 2 AND sum(bytes_sent) > 0 FROM backup_progress()",
    );
}

/// Terminates the session of one worker, which may be between two streams for a moment.
#[track_caller]
pub fn terminate_a_worker(cluster: &Cluster) {
    cluster.wait_for_sql(
        "a worker to terminate",
        "SELECT coalesce(pg_terminate_backend(min(pid)), false) FROM pg_stat_progress_basebackup
         WHERE phase <> 'transferring wal files'
             AND pid NOT IN (SELECT leader_pid FROM backup_progress())",
    );
}

/// Program that runs in the background of a test. Dropping the value kills it.
pub struct Running(Option<Child>);

impl Running {
    /// Starts the program.
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

    /// Sends a signal to the program.
    #[track_caller]
    pub fn signal(&self, name: &str) {
        let child = self.0.as_ref().expect("it runs");
        signal(name, i32::try_from(child.id()).expect("a process"));
    }

    /// Whether the program has ended.
    pub fn has_ended(&mut self) -> bool {
        let child = self.0.as_mut().expect("it runs");
        matches!(child.try_wait(), Ok(Some(_)))
    }

    /// Terminates one of the program's two workers. Checks that the program replaced the worker and
    /// succeeded. Returns its output.
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

    /// Waits for the program to exit. Returns the exit status, unless a signal killed it, and the
    /// output.
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
