//! Members of every type, with names, sizes, owners and times at the limits of the format.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use backup_format::archive::{
    Attributes, BLOCK_SIZE, END, directory_header, file_header, link_header, padding,
};

use crate::readers::{gnu_list, gnu_tar};
use crate::{ATTRIBUTES, add_file};

/// Empty directory, removed at the end of the test even if the test fails.
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
            // The width of columns depends on their content.
            let line = String::from_utf8_lossy(line);
            let words: Vec<_> = line.split_ascii_whitespace().collect();
            words.join(" ")
        })
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
        // The data is missing. GNU tar reports that only after it has listed the member.
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

        // The trailing slash counts towards the length.
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
fn members_are_no_devices() {
    let mut block = Vec::new();
    file_header(&mut block, b"PG_VERSION", 3, &ATTRIBUTES);
    // Some readers treat a field without digits as corrupt.
    assert_eq!(block[329..345], *b"0000000\x000000000\x00");
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
