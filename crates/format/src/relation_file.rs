//! Names of relation files, as `parse_filename_for_nontemp_relation()` and
//! `looks_like_temp_rel_name()` read them.

use crate::exclusion;
use crate::path::{self, file_name};

/// Fork of a relation, with its suffix in file names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fork {
    /// The main data; no suffix.
    Main,
    /// The free space map; `_fsm`.
    FreeSpaceMap,
    /// The visibility map; `_vm`.
    VisibilityMap,
    /// The initialization fork, to which an unlogged relation is reset; `_init`.
    Init,
}

impl Fork {
    /// Removes the fork's suffix from the front of `rest`.
    ///
    /// `None` if an underscore is not followed by a fork name.
    fn strip(rest: &[u8]) -> Option<(Self, &[u8])> {
        const SUFFIXES: [(&[u8], Fork); 3] = [
            (b"_fsm", Fork::FreeSpaceMap),
            (b"_vm", Fork::VisibilityMap),
            (b"_init", Fork::Init),
        ];

        if rest.first() != Some(&b'_') {
            return Some((Fork::Main, rest));
        }
        SUFFIXES
            .iter()
            .find_map(|(suffix, fork)| Some((*fork, rest.strip_prefix(*suffix)?)))
    }
}

/// Parts of the file name of a permanent or unlogged relation.
///
/// The parts and the name determine each other: a number with leading zeros is not accepted, and the
/// server never writes one. So two files in one directory with equal `relfilenode` belong to the same
/// relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RelationFile {
    /// The relation's file number.
    pub relfilenode: u32,
    /// The fork that the file belongs to.
    pub fork: Fork,
    /// The segment number; 0 for the first segment, which has no suffix.
    pub segment: u32,
}

impl RelationFile {
    /// Parses a file name without its directory: `16384`, `16384.1`, `16384_fsm`, `16384_vm.2`.
    ///
    /// `None` for any other name, including names of temporary relations (see
    /// [`is_temporary_relation`]).
    pub fn parse(name: &[u8]) -> Option<Self> {
        let (digits, rest) = split_digits(name);
        let relfilenode = parse_number(digits)?;
        let (fork, rest) = Fork::strip(rest)?;
        let segment = match rest {
            [] => 0,
            [b'.', number @ ..] => parse_number(number)?,
            _ => return None,
        };
        Some(Self {
            relfilenode,
            fork,
            segment,
        })
    }
}

/// Whether a file name, without its directory, is that of a temporary relation:
/// `t<backend>_<relfilenode>`, optionally followed by a fork, a segment, or both.
///
/// The name has this meaning only in a database directory.
pub fn is_temporary_relation(name: &[u8]) -> bool {
    fn matches(name: &[u8]) -> Option<bool> {
        let (backend, rest) = split_digits(name.strip_prefix(b"t")?);
        let (relfilenode, rest) = split_digits(rest.strip_prefix(b"_")?);
        let (_, rest) = Fork::strip(rest)?;
        let segment_fits = match rest {
            [] => true,
            [b'.', number @ ..] => !number.is_empty() && split_digits(number).1.is_empty(),
            _ => false,
        };
        Some(!backend.is_empty() && !relfilenode.is_empty() && segment_fits)
    }
    matches(name).unwrap_or(false)
}

/// Whether a path, relative to the data directory, is that of a relation file. Changes to such a file
/// are in the WAL.
pub fn is_relation(path: &[u8]) -> bool {
    relation_at(path).is_some()
}

/// The relation file at a path relative to the data directory.
pub fn relation_at(path: &[u8]) -> Option<RelationFile> {
    let name = file_name(path);
    let directory = path[..path.len() - name.len()].strip_suffix(b"/")?;
    let holds_relations = directory == b"global" || exclusion::is_database_directory(directory);
    RelationFile::parse(name).filter(|_| holds_relations)
}

/// OID of the database whose directory contains a file; 0 for shared relations and for files that are
/// not relation files.
///
/// `path` is relative to the data directory.
pub fn database_of(path: &[u8]) -> u32 {
    path.strip_prefix(b"base/")
        .or_else(|| path::below_version_directory(path))
        .and_then(|rest| rest.split(|&byte| byte == b'/').next())
        .and_then(parse_number)
        .unwrap_or(0)
}

/// OID of the tablespace in which a relation file lies: pg_default and pg_global have one too. `None` for
/// other files.
///
/// `path` is relative to the data directory.
pub fn tablespace_of(path: &[u8]) -> Option<u32> {
    const PG_DEFAULT: u32 = 1663;
    const PG_GLOBAL: u32 = 1664;
    if path.starts_with(b"base/") {
        return Some(PG_DEFAULT);
    }
    if path.starts_with(b"global/") {
        return Some(PG_GLOBAL);
    }
    let oid = path.strip_prefix(b"pg_tblspc/")?;
    parse_number(split_digits(oid).0)
}

/// Splits `bytes` after its leading ASCII digits.
pub(crate) fn split_digits(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(bytes.len());
    bytes.split_at(end)
}

/// Parses a positive decimal number without leading zeros.
fn parse_number(digits: &[u8]) -> Option<u32> {
    if !matches!(digits.first(), Some(b'1'..=b'9')) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &str) -> Option<(u32, Fork, u32)> {
        RelationFile::parse(name.as_bytes()).map(|file| (file.relfilenode, file.fork, file.segment))
    }

    #[test]
    fn relations_are_told_by_directory_and_name() {
        for path in [
            "global/1262",
            "base/5/16384",
            "base/5/16384_fsm.1",
            "base/5/16384_init",
            "pg_tblspc/16400/PG_15_202209061/5/16384.1",
        ] {
            assert!(is_relation(path.as_bytes()), "{path}");
        }
        for path in [
            "",
            "/",
            "16384",
            "base/16384",
            "base/5/",
            "base/5/PG_VERSION",
            "base/5/pg_filenode.map",
            "base/5/t1_16384",
            "base/5/16384_other",
            "global/pg_control",
            "pg_xact/0000",
            "pg_logical/16384",
            "postgresql.auto.conf",
            "base/5/6/16384",
            "pg_tblspc/16400/other/5/16384",
        ] {
            assert!(!is_relation(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn the_database_of_a_file_is_its_directory() {
        for (path, database) in [
            ("base/5/16384.1", 5),
            ("pg_tblspc/16400/PG_15_202209061/16385/16386_vm", 16385),
            ("global/1262", 0),
            ("base/pgsql_tmp/5", 0),
            ("pg_tblspc/16400/PG_15_202209061", 0),
            ("pg_tblspc/16400/other/5/6", 0),
            ("base", 0),
            ("5/6", 0),
            ("base/99999999999/1", 0),
        ] {
            assert_eq!(database_of(path.as_bytes()), database, "{path}");
        }
    }

    #[test]
    fn the_tablespace_of_a_file_has_an_oid() {
        for (path, tablespace) in [
            ("base/5/16384.1", Some(1663)),
            ("global/1262", Some(1664)),
            (
                "pg_tblspc/16400/PG_15_202209061/16385/16386_vm",
                Some(16400),
            ),
            ("pg_xact/0000", None),
            ("pg_tblspc/x", None),
        ] {
            assert_eq!(tablespace_of(path.as_bytes()), tablespace, "{path}");
        }
    }

    #[test]
    fn names_of_relation_files_are_read() {
        for (name, expected) in [
            ("16384", (16384, Fork::Main, 0)),
            ("16384.1", (16384, Fork::Main, 1)),
            ("16384_fsm", (16384, Fork::FreeSpaceMap, 0)),
            ("16384_vm.2", (16384, Fork::VisibilityMap, 2)),
            ("16384_init", (16384, Fork::Init, 0)),
            ("1", (1, Fork::Main, 0)),
            ("4294967295.4294967295", (u32::MAX, Fork::Main, u32::MAX)),
        ] {
            assert_eq!(parsed(name), Some(expected), "{name}");
        }
    }

    #[test]
    fn other_names_are_no_relation_files() {
        for name in [
            "",
            "0",
            "00016384",
            "4294967296",
            "99999999999",
            "16384.",
            "16384.0",
            "16384.01",
            "16384.4294967296",
            "16384.1.2",
            "16384.1_vm",
            "16384_",
            "16384_main",
            "16384_FSM",
            "16384_fsm_vm",
            "16384_fsmx",
            "16384_vm.",
            "16384_init.x",
            " 16384",
            "+16384",
            "-1",
            "16384\n",
            "16384.+1",
            "t3_16384",
            "PG_VERSION",
            "pg_filenode.map",
        ] {
            assert_eq!(parsed(name), None, "{name}");
        }
        assert_eq!(RelationFile::parse(b"16384\xff"), None);
        assert_eq!(RelationFile::parse(b"\xb2\xb3"), None);
    }

    #[test]
    fn temporary_relations_are_told_by_their_names() {
        for name in [
            "t999_999",
            "t9999_999.1",
            "t999_9999_vm",
            "t99999_99999_vm.1",
            "t0_0",
            "t1_00016384_init",
            "t99999999999_99999999999.99999999999",
        ] {
            assert!(is_temporary_relation(name.as_bytes()), "{name}");
        }
        for name in [
            "",
            "t",
            "t_",
            "t1",
            "t1_",
            "t_1",
            "T1_1",
            "t1_1_",
            "t1_1_main",
            "t1_1_vmx",
            "t1_1.",
            "t1_1.x",
            "t1_1.1x",
            "t1_1.1_vm",
            "t1_1_1",
            "tt1_1",
            "t-1_1",
            "16384",
        ] {
            assert!(!is_temporary_relation(name.as_bytes()), "{name}");
        }
        assert!(!is_temporary_relation(b"t1_1\xff"));
    }
}
