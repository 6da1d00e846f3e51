//! Names of relation files, as `parse_filename_for_nontemp_relation()` and
//! `looks_like_temp_rel_name()` read them, and which files hold pages with checksums.

use std::error::Error;
use std::fmt;

use crate::path::{self, file_name};

/// A fork of a relation, as its files' names tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fork {
    /// The data itself; no suffix.
    Main,
    /// The free space map; `_fsm`.
    FreeSpaceMap,
    /// The visibility map; `_vm`.
    VisibilityMap,
    /// The image to which an unlogged relation is reset; `_init`.
    Init,
}

impl Fork {
    /// Takes the fork's suffix off the front of `rest`.
    ///
    /// `None` stands for an underscore that no fork name follows.
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

/// The parts of the name of a file that belongs to a permanent or unlogged relation.
///
/// The parts and the name determine each other: a number with leading zeros, which the server
/// never writes, is not accepted. So two files with equal `relfilenode` in one directory are
/// files of one relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RelationFile {
    /// The relation's file number.
    pub relfilenode: u32,
    /// The fork that the file belongs to.
    pub fork: Fork,
    /// The number of the segment; 0 for the first, which has no suffix.
    pub segment: u32,
}

impl RelationFile {
    /// Reads a file name without its directory: `16384`, `16384.1`, `16384_fsm`, `16384_vm.2`.
    ///
    /// Names of temporary relations (see [`is_temporary_relation`]) and of anything else give
    /// `None`.
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
/// `t<backend>_<relfilenode>`, followed by a fork, a segment, or both.
///
/// It means so in a database directory only.
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

/// Whether the pages of a file carry checksums, in a cluster that has them.
///
/// `path` is relative to the data directory. That is so for all files below `global`, `base` and
/// a tablespace's version directory, apart from those that hold no pages.
pub fn is_checksummed(path: &[u8]) -> bool {
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

/// A file whose pages should be verified has a suffix that is no segment number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSegment {
    number: u64,
    file_name: Vec<u8>,
}

impl fmt::Display for InvalidSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, file_name } = self;
        let file_name = path::escape(file_name);
        write!(f, "invalid segment number {number} in file \"{file_name}\"")
    }
}

impl Error for InvalidSegment {}

/// The segment that a file of a relation holds, which says where its block numbers begin.
///
/// As in the server it is the number after the first dot of the file name, whatever follows it,
/// and 0 where there is no dot. It is not checked against the largest block number: a segment
/// beyond that calls for wrapping arithmetic.
///
/// # Errors
/// [`InvalidSegment`] when there is no number after the dot, or it is 0, or too large.
pub fn segment_number(path: &[u8]) -> Result<u32, InvalidSegment> {
    let name = file_name(path);
    let Some(dot) = name.iter().position(|&byte| byte == b'.') else {
        return Ok(0);
    };
    let (digits, _) = split_digits(&name[dot + 1..]);
    let number = digits.iter().fold(0_u64, |number, &digit| {
        number
            .saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    });
    match u32::try_from(number) {
        Ok(segment) if segment > 0 => Ok(segment),
        _ => Err(InvalidSegment {
            number,
            file_name: name.to_vec(),
        }),
    }
}

/// Splits `bytes` behind its leading ASCII digits.
fn split_digits(bytes: &[u8]) -> (&[u8], &[u8]) {
    let end = bytes
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(bytes.len());
    bytes.split_at(end)
}

/// A positive decimal number without leading zeros.
fn parse_number(digits: &[u8]) -> Option<u32> {
    if !matches!(digits.first(), Some(b'1'..=b'9')) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}
