//! Files of a data directory that contain pages with checksums.

use crate::path::{self, file_name};
use crate::relation_file::{relation_at, split_digits};

/// Rule for which files contain pages with checksums in a cluster with data checksums, as in core's
/// base backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChecksummedFiles {
    /// Up to version 16 (`is_checksummed_file()` in `basebackup.c`): all files below `global`, `base` and
    /// a tablespace's version directory, except for a list of names.
    AllButListed,
    /// From version 17 on: files with the name of a relation file.
    Relations,
}

impl ChecksummedFiles {
    /// Segment number of a file with pages, which determines its first block number; `None` for a file
    /// without pages. `path` is relative to the data directory.
    ///
    /// The segment number is not checked against the largest block number: callers need wrapping
    /// arithmetic for one beyond it. A file whose suffix is not a segment number is not a relation file
    /// and contains no pages. Up to version 16, core fails the whole backup on such a file; from 17 on,
    /// it sends the file as is. The server itself creates such files: `pg_filenode.map.tmp` from 16 on.
    pub fn segment(self, path: &[u8]) -> Option<u32> {
        match self {
            Self::AllButListed if may_hold_pages(path) => segment_number(file_name(path)),
            Self::AllButListed => None,
            Self::Relations => relation_at(path).map(|file| file.segment),
        }
    }
}

fn may_hold_pages(path: &[u8]) -> bool {
    const NAMES: [&[u8]; 3] = [b"pg_control", b"pg_filenode.map", b"PG_VERSION"];
    const PREFIXES: [&[u8]; 2] = [b"pg_internal.init", b"config_exec_params"];

    let in_tablespace = path.starts_with(b"global/")
        || path.starts_with(b"base/")
        || path::below_version_directory(path).is_some();
    let name = file_name(path);
    in_tablespace
        && !name.is_empty()
        && !NAMES.contains(&name)
        && !PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The number after the first dot of a file name, as core reads it up to version 16. Anything may follow
/// the number. 0 if there is no dot; `None` if the number is missing, 0 or too large.
fn segment_number(name: &[u8]) -> Option<u32> {
    let Some(dot) = name.iter().position(|&byte| byte == b'.') else {
        return Some(0);
    };
    let (digits, _) = split_digits(&name[dot + 1..]);
    let number = std::str::from_utf8(digits).ok()?.parse().ok();
    number.filter(|&segment| segment > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_pages_are_checksummed() {
        let both = [
            "global/1262",
            "base/5/16384",
            "base/5/16384_fsm.1",
            "pg_tblspc/16400/PG_15_202209061/5/16384",
        ];
        let older = ["base/5/stray file", "base/5/pg_control2", "base/5/16384.4x"];
        for (path, newer) in both
            .map(|path| (path, true))
            .into_iter()
            .chain(older.map(|path| (path, false)))
        {
            let segment = |files: ChecksummedFiles| files.segment(path.as_bytes());
            assert!(segment(ChecksummedFiles::AllButListed).is_some(), "{path}");
            assert_eq!(
                segment(ChecksummedFiles::Relations).is_some(),
                newer,
                "{path}"
            );
        }
        for path in [
            "",
            "global",
            "global/",
            "global/pg_control",
            "global/pg_filenode.map",
            "global/pg_filenode.map.tmp",
            "global/pg_internal.init",
            "global/pg_internal.init.123",
            "base/5/PG_VERSION",
            "base/5/PG_VERSION.old",
            "base/5/pg_internal.init",
            "base/5/config_exec_params.new",
            "base/5/16384.",
            "base/5/16384.0",
            "base/5/1.-1",
            "base/5/1.4294967296",
            "base/5/1.99999999999999999999",
            "PG_VERSION",
            "postgresql.conf",
            "pg_xact/0000",
            "./base/5/16384",
            "globals/1",
            "pg_tblspc/16400",
            "pg_tblspc/16400/16384",
            "pg_tblspc/x/PG_15_202209061/5/16384",
            "pg_tblspc/16400/PG_15_202209061/5/PG_VERSION",
        ] {
            for files in [ChecksummedFiles::AllButListed, ChecksummedFiles::Relations] {
                assert_eq!(files.segment(path.as_bytes()), None, "{path}");
            }
        }
        let odd = b"base/5/\xe9.conf";
        assert_eq!(ChecksummedFiles::AllButListed.segment(odd), None);
    }

    #[test]
    fn segment_numbers_are_read_from_the_file_name() {
        for (path, older, newer) in [
            ("base/5/16384", Some(0), Some(0)),
            ("base/5/16384.1", Some(1), Some(1)),
            ("base/5/16384_vm.12", Some(12), Some(12)),
            ("base/5.7/16384", Some(0), None),
            ("base/5/16384.2.3", Some(2), None),
            ("base/5/16384.4x", Some(4), None),
            ("base/5/16384.007", Some(7), None),
            ("global/16384.4294967295", Some(u32::MAX), Some(u32::MAX)),
        ] {
            let segment = |files: ChecksummedFiles| files.segment(path.as_bytes());
            assert_eq!(segment(ChecksummedFiles::AllButListed), older, "{path}");
            assert_eq!(segment(ChecksummedFiles::Relations), newer, "{path}");
        }
    }
}
