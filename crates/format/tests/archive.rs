//! Archives of this crate, as the `tar` crate and GNU tar read them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use backup_format::archive::{
    Attributes, BLOCK_SIZE, END, directory_header, file_header, link_header, padding,
};
use proptest::prelude::*;

const ATTRIBUTES: Attributes = Attributes {
    mode: 0o640,
    uid: 117,
    gid: 123,
    mtime: 951_827_696,
};

fn add_file(out: &mut Vec<u8>, path: &[u8], data: &[u8]) {
    let size = data.len() as u64;
    file_header(out, path, size, &ATTRIBUTES);
    out.extend_from_slice(data);
    out.resize(out.len() + padding(size), 0);
}

fn gnu_tar(arguments: &[&str], archive: &[u8]) -> Output {
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
        // A tar that has seen enough closes its input; its exit status tells the rest.
        scope.spawn(move || input.write_all(archive));
        tar.wait_with_output().unwrap()
    })
}

/// What GNU tar says of an archive, one line for each member. It must find nothing wrong.
fn gnu_list(archive: &[u8]) -> Vec<Vec<u8>> {
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

/// A member of an archive, as the `tar` crate reads it.
#[derive(Debug, PartialEq, Eq)]
struct Member {
    typeflag: u8,
    path: Vec<u8>,
    target: Vec<u8>,
    data: Vec<u8>,
}

fn members(archive: &[u8]) -> Vec<Member> {
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

/// An empty directory that goes away at the end of the test, even if that fails.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("archive-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn gnu_tar_lists_what_the_header_says() {
    let mut archive = Vec::new();
    add_file(&mut archive, b"base/5/16384", b"data");
    let directory = Attributes {
        mode: 0o40700,
        ..ATTRIBUTES
    };
    directory_header(&mut archive, b"pg_wal", &directory);
    let link = Attributes {
        mode: 0o120777,
        ..ATTRIBUTES
    };
    link_header(&mut archive, b"pg_tblspc/16400", b"/srv/far away", &link);
    archive.extend_from_slice(&END);

    let expected = [
        "-rw-r----- postgres/postgres 4 2000-02-29 12:34:56 base/5/16384",
        "drwx------ postgres/postgres 0 2000-02-29 12:34:56 pg_wal/",
        "lrwxrwxrwx postgres/postgres 0 2000-02-29 12:34:56 pg_tblspc/16400 -> /srv/far away",
    ];
    let lines: Vec<_> = gnu_list(&archive)
        .iter()
        .map(|line| {
            // The columns are as wide as the widest size, which is not the subject here.
            let line = String::from_utf8_lossy(line).into_owned();
            let (owner, rest) = line.split_at(27);
            format!("{owner}{}", rest.trim_start().replacen("  ", " ", 1))
        })
        .map(|line| line.replace("postgres  ", "postgres "))
        .collect();
    assert_eq!(lines, expected);
}

#[test]
fn numeric_owners_survive() {
    for (id, text) in [
        (0, "0/0"),
        (2_097_151, "2097151/2097151"),
        (2_097_152, "2097152/2097152"),
        (4_294_967_294, "4294967294/4294967294"),
    ] {
        let mut archive = Vec::new();
        let attributes = Attributes {
            uid: id,
            gid: id,
            ..ATTRIBUTES
        };
        file_header(&mut archive, b"PG_VERSION", 0, &attributes);
        archive.extend_from_slice(&END);
        let output = gnu_tar(&["-tv", "--numeric-owner"], &archive);
        let listing = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success() && listing.contains(text),
            "{listing}"
        );
    }
}

#[test]
fn times_before_1970_and_after_2242_survive() {
    for (mtime, text) in [
        (-1, "1969-12-31 23:59:59"),
        (-2_147_483_648, "1901-12-13 20:45:52"),
        (0, "1970-01-01 00:00:00"),
        (8_589_934_591, "2242-03-16 12:56:31"),
        (8_589_934_592, "2242-03-16 12:56:32"),
        (253_402_300_799, "9999-12-31 23:59:59"),
    ] {
        let mut archive = Vec::new();
        file_header(
            &mut archive,
            b"old",
            0,
            &Attributes {
                mtime,
                ..ATTRIBUTES
            },
        );
        archive.extend_from_slice(&END);
        let output = gnu_tar(&["-tv", "--full-time"], &archive);
        let listing = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(listing.contains(text), "{listing}");
    }
}

#[test]
fn a_size_of_8_gib_survives() {
    for size in [(8_u64 << 30) - 1, 8 << 30, 1 << 40] {
        let mut header = Vec::new();
        file_header(&mut header, b"base/5/16384", size, &ATTRIBUTES);
        assert_eq!(header.len(), BLOCK_SIZE);
        assert_eq!(
            tar::Header::from_byte_slice(&header).entry_size().unwrap(),
            size
        );
        // The data is not there, of which GNU tar complains after it listed the member.
        let listing = gnu_tar(&["-tv"], &header).stdout;
        let listing = String::from_utf8_lossy(&listing);
        assert!(listing.contains(&format!(" {size} ")), "{listing}");
    }
}

#[test]
fn a_name_of_100_bytes_fits_a_plain_header() {
    for (len, blocks) in [(99, 1), (100, 1), (101, 3), (511, 3), (512, 4)] {
        let name = vec![b'n'; len];
        let mut file = Vec::new();
        file_header(&mut file, &name, 0, &ATTRIBUTES);
        assert_eq!(file.len(), blocks * BLOCK_SIZE, "file name of {len} bytes");

        let mut link = Vec::new();
        link_header(&mut link, b"pg_tblspc/16400", &name, &ATTRIBUTES);
        assert_eq!(
            link.len(),
            blocks * BLOCK_SIZE,
            "link target of {len} bytes"
        );

        // The slash counts.
        let mut directory = Vec::new();
        directory_header(&mut directory, &name[1..], &ATTRIBUTES);
        assert_eq!(
            directory.len(),
            blocks * BLOCK_SIZE,
            "directory of {len} bytes"
        );
        let mut same = Vec::new();
        let with_slash = [&name[1..], b"/"].concat();
        directory_header(&mut same, &with_slash, &ATTRIBUTES);
        assert_eq!(same, directory);
    }
}

#[test]
fn plain_members_are_ustar_and_long_ones_gnu() {
    let magic = |path: &[u8]| {
        let mut out = Vec::new();
        file_header(&mut out, path, 0, &ATTRIBUTES);
        out.chunks(BLOCK_SIZE)
            .map(|block| block[257..265].to_vec())
            .collect::<Vec<_>>()
    };
    assert_eq!(magic(b"PG_VERSION"), [b"ustar\x0000"]);
    let long = magic(&[b'n'; 101]);
    assert_eq!(
        (&long[0][..], &long[2][..]),
        (&b"ustar  \0"[..], &b"ustar  \0"[..])
    );
}

#[test]
fn data_is_padded_to_whole_blocks() {
    for (size, zeros) in [
        (0, 0),
        (1, 511),
        (511, 1),
        (512, 0),
        (513, 511),
        (u64::MAX, 1),
    ] {
        assert_eq!(padding(size), zeros, "{size}");
    }
}

#[test]
fn gnu_tar_extracts_long_and_odd_names() {
    let deep = [&b"d".repeat(90)[..], &b"e".repeat(200), b"file"].join(&b'/');
    let exact = b"x".repeat(100);
    let odd = b"caf\xe9 \x01\"\\n";
    let target = [&b"/nowhere/"[..], &b"t".repeat(180)].concat();
    let long_link = b"l".repeat(150);

    let mut archive = Vec::new();
    let directory = Attributes {
        mode: 0o750,
        ..ATTRIBUTES
    };
    let parent = &deep[..deep.len() - b"/file".len()];
    directory_header(&mut archive, parent, &directory);
    add_file(&mut archive, &deep, &[7; 1000]);
    add_file(&mut archive, &exact, b"");
    add_file(&mut archive, odd, b"odd");
    link_header(&mut archive, b"link", &target, &ATTRIBUTES);
    link_header(&mut archive, &long_link, &target, &ATTRIBUTES);
    archive.extend_from_slice(&END);

    let scratch = Scratch::new("extract");
    let directory = scratch.0.to_str().unwrap();
    let output = gnu_tar(&["-x", "-p", "--no-same-owner", "-C", directory], &archive);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{errors}");

    let at = |name: &[u8]| scratch.0.join(OsStr::from_bytes(name));
    let mode = |name: &[u8]| fs::metadata(at(name)).unwrap().permissions().mode();
    assert_eq!(mode(parent), 0o40750);
    assert_eq!(mode(&deep), 0o100640);
    assert_eq!(fs::read(at(&deep)).unwrap(), [7; 1000]);
    assert_eq!(fs::read(at(&exact)).unwrap(), b"");
    assert_eq!(fs::read(at(odd)).unwrap(), b"odd");
    for link in [&b"link"[..], &long_link] {
        assert_eq!(
            fs::read_link(at(link)).unwrap().as_os_str().as_bytes(),
            target
        );
    }
}

#[test]
fn an_empty_archive_is_two_blocks_of_zeros() {
    assert_eq!(END, [0; 1024]);
    assert!(gnu_list(&END).is_empty());
}

#[test]
fn the_data_directory_itself_can_be_a_member() {
    let mut archive = Vec::new();
    directory_header(&mut archive, b"", &ATTRIBUTES);
    archive.extend_from_slice(&END);
    let lines = gnu_list(&archive);
    assert!(lines.len() == 1 && lines[0].ends_with(b" ./"));
}

/// Any bytes that a file name in a tar archive can have.
fn name(len: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(1_u8.., len)
}

/// Relative paths that a listing by lines can show, of one to some hundred bytes.
fn printable_path() -> impl Strategy<Value = Vec<u8>> {
    let byte = (1_u8..).prop_filter("no separator", |byte| !b"\n/.".contains(byte));
    let part = proptest::collection::vec(byte, 1..130);
    proptest::collection::vec(part, 1..5).prop_map(|parts| parts.join(&b'/'))
}

proptest! {
    #[test]
    fn the_tar_crate_reads_back_any_names(
        files in proptest::collection::vec((name(1..700), proptest::collection::vec(any::<u8>(), 0..1100)), 0..8),
        link in name(1..300),
        target in name(1..700),
    ) {
        let mut archive = Vec::new();
        for (path, data) in &files {
            add_file(&mut archive, path, data);
        }
        link_header(&mut archive, &link, &target, &ATTRIBUTES);
        archive.extend_from_slice(&END);
        prop_assert_eq!(archive.len() % BLOCK_SIZE, 0);

        let mut expected: Vec<_> = files
            .into_iter()
            .map(|(path, data)| Member { typeflag: b'0', path, target: Vec::new(), data })
            .collect();
        expected.push(Member { typeflag: b'2', path: link, target, data: Vec::new() });
        prop_assert_eq!(members(&archive), expected);
    }

    #[test]
    fn the_tar_crate_reads_back_any_attributes(
        mode in any::<u32>(),
        uid in 0_u64..1 << 56,
        gid in 0_u64..1 << 56,
        mtime in any::<i64>(),
        size in any::<u64>(),
    ) {
        let mut block = Vec::new();
        file_header(&mut block, b"f", size, &Attributes { mode, uid, gid, mtime });
        let header = tar::Header::from_byte_slice(&block);
        prop_assert_eq!(header.mode().unwrap(), mode & 0o7777);
        prop_assert_eq!(header.uid().unwrap(), uid);
        prop_assert_eq!(header.gid().unwrap(), gid);
        prop_assert_eq!(header.mtime().unwrap() as i64, mtime);
        prop_assert_eq!(header.entry_size().unwrap(), size);
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        let own: u32 = block[148..156].iter().map(|&byte| u32::from(byte)).sum();
        prop_assert_eq!(header.cksum().unwrap(), sum - own + 8 * u32::from(b' '));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn gnu_tar_lists_any_names(
        paths in proptest::collection::vec(printable_path(), 1..20),
        target in printable_path(),
    ) {
        let mut archive = Vec::new();
        for path in &paths {
            link_header(&mut archive, path, &target, &ATTRIBUTES);
            directory_header(&mut archive, path, &ATTRIBUTES);
            add_file(&mut archive, path, b"x");
        }
        archive.extend_from_slice(&END);
        let lines = gnu_list(&archive);
        prop_assert_eq!(lines.len(), 3 * paths.len());
        for (lines, path) in lines.chunks(3).zip(&paths) {
            let ends = [
                [&b" "[..], path, b" -> ", &target].concat(),
                [&b" "[..], path, b"/"].concat(),
                [&b" "[..], path].concat(),
            ];
            for (line, end) in lines.iter().zip(&ends) {
                prop_assert!(line.ends_with(end));
            }
        }
    }
}
