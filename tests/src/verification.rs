//! Compares `pg_parallel_backup verify` and `pg_verifybackup` on damaged copies of a backup.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::client::{backup_of, names_in, new_target, program};
use crate::page::quiet_table;
use crate::program::{account, bindir, command, give_to_owner, run, succeed};
use crate::scratch::Folder;
use crate::server::Cluster;

/// Command for our verify, with pg_waldump found in the usual way.
pub fn ours(args: &[&str], backup: &Path) -> Command {
    let mut verify = program();
    let path = std::env::var("PATH").expect("PATH");
    verify.env("PATH", format!("{}:{path}", bindir().display()));
    verify.arg("verify").args(args).arg(backup);
    verify
}

/// Command for PostgreSQL's pg_verifybackup.
pub fn theirs(args: &[&str], backup: &Path) -> Command {
    let mut verify = command("pg_verifybackup");
    verify.args(args).arg(backup);
    verify
}

/// Findings of a program, one per line, without its own name. They are sorted, because threads
/// report them in any order.
pub fn findings(output: &Output) -> Vec<String> {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    let mut lines: Vec<_> = said
        .lines()
        .map(|line| {
            let line = line.trim_start_matches("pg_parallel_backup: ");
            let line = line.trim_start_matches("pg_verifybackup: ");
            // Older versions use different wording.
            let line = line.replace("fatal: ", "error: ");
            line.replace(
                "is not a file or directory",
                "is not a regular file or directory",
            )
        })
        .filter(|line| !line.is_empty())
        .collect();
    lines.sort();
    lines
}

/// Checks that both programs report the same findings, and that these contain `word`.
#[track_caller]
pub fn assert_same(args: &[&str], backup: &Path, word: &str) {
    let (mut ours, mut theirs) = (ours(args, backup), theirs(args, backup));
    let (our_output, their_output) = (run(&mut ours), run(&mut theirs));
    let both = format!(
        "{}\n{}",
        account(&ours, &our_output),
        account(&theirs, &their_output)
    );
    assert_eq!(findings(&our_output), findings(&their_output), "{both}");
    assert_eq!(our_output.status, their_output.status, "{both}");
    assert!(findings(&our_output).join("\n").contains(word), "{both}");
    let success = our_output.status.success();
    assert_eq!(success, word == SUCCESS, "{both}");
}

/// Checks a finding of ours that pg_verifybackup does not look for, or words differently.
#[track_caller]
pub fn assert_found(args: &[&str], backup: &Path, words: &[&str]) {
    let mut verify = ours(args, backup);
    let output = run(&mut verify);
    let said = account(&verify, &output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for word in words {
        assert!(said.contains(word), "{word}: {said}");
    }
}

/// Message of both programs for a valid backup.
pub const SUCCESS: &str = "backup successfully verified";

/// Cluster with a tablespace, and its backups. Tests damage copies of them.
pub struct Origin {
    /// Directory of the backups.
    pub folder: Folder,
    /// Source cluster.
    pub cluster: Cluster,
    /// Files of two tables, the second in the tablespace.
    pub tables: [String; 2],
    /// OID of the tablespace.
    pub oid: u32,
}

impl Default for Origin {
    fn default() -> Self {
        Self::new()
    }
}

impl Origin {
    /// Creates the cluster and leaves it idle.
    pub fn new() -> Self {
        let cluster = Cluster::builder().setting("autovacuum", "off").start();
        let (oid, _) = cluster.create_tablespace("outside");
        let mut client = cluster.connect();
        let tables = [
            quiet_table(&mut client, "t", 200, ""),
            quiet_table(&mut client, "u", 100, "TABLESPACE outside"),
        ];
        let (folder, _) = new_target();
        Self {
            folder,
            cluster,
            tables,
            oid,
        }
    }

    /// Takes a backup with these options.
    pub fn backup(&self, name: &str, args: &[&str]) -> PathBuf {
        let target = self.folder.join(name);
        let mut backup = backup_of(&self.cluster);
        backup.args(args).arg("-D").arg(&target);
        if !args.contains(&"-Ft") {
            let location = self.location();
            let new = self.folder.join(format!("{name}-space"));
            backup.arg("-T");
            backup.arg(format!("{}={}", location.display(), new.display()));
        }
        succeed(&mut backup);
        target
    }

    fn location(&self) -> PathBuf {
        self.cluster.socket_dir().join("outside")
    }

    /// Copies a backup, so that a test can damage the copy. Its tablespaces become directories of
    /// their own.
    pub fn copy(&self, backup: &Path, name: &str) -> PathBuf {
        let copy = self.folder.join(name);
        let _ = fs::remove_dir_all(&copy);
        succeed(command("cp").args(["-a", "--"]).arg(backup).arg(&copy));
        let link = copy.join(format!("pg_tblspc/{}", self.oid));
        if link.is_symlink() {
            let space = self.folder.join(format!("{name}-space"));
            let _ = fs::remove_dir_all(&space);
            let origin = fs::read_link(&link).expect("a link");
            succeed(command("cp").args(["-a", "--"]).arg(origin).arg(&space));
            fs::remove_file(&link).expect("remove the link");
            symlink(&space, &link).expect("a new link");
        }
        copy
    }
}

/// Flips one bit.
#[track_caller]
pub fn change_byte(path: &Path, place: u64) {
    let file = File::options().read(true).write(true).open(path);
    let file = file.unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let mut byte = [0];
    file.read_exact_at(&mut byte, place).expect("a byte");
    file.write_all_at(&[byte[0] ^ 1], place).expect("write");
}

/// Appends to a file.
#[track_caller]
pub fn append(path: &Path) {
    let content = fs::read(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    fs::write(path, [&content[..], b"more"].concat()).expect("append");
}

/// Truncates a file, or extends it with zeros.
#[track_caller]
pub fn truncate(path: &Path, size: u64) {
    let file = File::options().write(true).open(path);
    file.and_then(|file| file.set_len(size))
        .unwrap_or_else(|error| panic!("{path:?}: {error}"));
}

/// Creates a file.
#[track_caller]
pub fn new_file(path: &Path, content: &[u8]) {
    fs::write(path, content).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    give_to_owner(path);
}

/// Removes a file.
#[track_caller]
pub fn remove(path: &Path) {
    fs::remove_file(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
}

/// WAL segments in a directory.
pub fn segments(folder: &Path) -> Vec<PathBuf> {
    let names = names_in(folder);
    let segments = names.iter().filter(|name| name.len() == 24);
    segments.map(|name| folder.join(name)).collect()
}

/// Name of a kind of damage, a function that does it, and a word of the expected finding.
pub type Damage<'a> = (&'a str, &'a dyn Fn(&Path), &'a str);
