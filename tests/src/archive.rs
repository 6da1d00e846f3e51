//! Contents of tar streams, read with GNU tar.

use std::path::Path;

use crate::program::{account, command, run_with_input};

/// Unpacks a stream into an existing directory. Any complaint of tar fails the test.
#[track_caller]
pub fn unpack(archive: &[u8], dir: &Path) {
    let mut tar = command("tar");
    tar.args(["--extract", "--file=-", "--preserve-permissions"])
        .args(["--no-same-owner", "--directory"])
        .arg(dir);
    let output = run_with_input(&mut tar, archive);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        account(&tar, &output)
    );
}

/// Member names in stream order. Names of directories end with a slash.
#[track_caller]
pub fn members(archive: &[u8]) -> Vec<String> {
    let mut tar = command("tar");
    tar.args(["--list", "--file=-", "--quoting-style=literal"]);
    let output = run_with_input(&mut tar, archive);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{}",
        account(&tar, &output)
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect()
}

/// The content of one member.
#[track_caller]
pub fn content(archive: &[u8], member: &str) -> Vec<u8> {
    let mut tar = command("tar");
    tar.args(["--extract", "--to-stdout", "--file=-", "--", member]);
    let output = run_with_input(&mut tar, archive);
    assert!(output.status.success(), "{}", account(&tar, &output));
    output.stdout
}
