//! Two readers of tar archives. The `tar` crate also lays out the headers under test. GNU tar shares
//! no code with either.

use std::io::{Read, Write};
use std::process::{Command, Output, Stdio};

/// Runs GNU tar with the archive as its input.
pub fn gnu_tar(arguments: &[&str], archive: &[u8]) -> Output {
    let mut tar = Command::new("tar")
        .args(["--quoting-style=literal", "-f", "-"])
        .args(arguments)
        .env("TZ", "UTC")
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("GNU tar");
    let mut input = tar.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // tar may close its input early. The write error is ignored: the exit status of tar reports failures.
        scope.spawn(move || input.write_all(archive));
        tar.wait_with_output().unwrap()
    })
}

/// Listing of an archive by GNU tar, one line for each member. GNU tar must report no error.
pub fn gnu_list(archive: &[u8]) -> Vec<Vec<u8>> {
    let output = gnu_tar(&["-tv", "--full-time"], archive);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{errors}");
    let mut lines: Vec<_> = output
        .stdout
        .split(|&b| b == b'\n')
        .map(<[u8]>::to_vec)
        .collect();
    assert_eq!(lines.pop(), Some(Vec::new()));
    lines
}

/// Member of an archive, as read by the `tar` crate.
#[derive(Debug, PartialEq, Eq)]
pub struct Member {
    pub typeflag: u8,
    pub path: Vec<u8>,
    pub target: Vec<u8>,
    pub data: Vec<u8>,
}

/// All members of an archive, as read by the `tar` crate.
pub fn members(archive: &[u8]) -> Vec<Member> {
    tar::Archive::new(archive)
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let mut data = Vec::new();
            entry.read_to_end(&mut data).unwrap();
            Member {
                typeflag: entry.header().entry_type().as_byte(),
                path: entry.path_bytes().into_owned(),
                target: entry.link_name_bytes().unwrap_or_default().into_owned(),
                data,
            }
        })
        .collect()
}
