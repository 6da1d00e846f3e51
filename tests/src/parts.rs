//! Parts of large files in the streams of workers that ask for them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use tar::Archive;

use crate::backup::Backup;
use crate::program::give_to_owner;

/// Bytes of all parts but the last of a file.
pub const PART_SIZE: u64 = 16 << 20;

/// Part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Path of the file.
    pub path: String,
    /// Where the part begins.
    pub offset: u64,
    /// Size of the file.
    pub file_size: u64,
    /// Bytes of the part.
    pub content: Vec<u8>,
}

/// The parts of files in a stream, in their order, and an archive of its other members.
#[track_caller]
pub fn split(stream: &[u8]) -> (Vec<Part>, Vec<u8>) {
    let (mut parts, mut rest) = (Vec::new(), Vec::new());
    let mut archive = Archive::new(stream);
    for entry in archive.entries().expect("the stream is an archive") {
        let entry = entry.expect("the stream goes on with another member");
        let header = entry.header().as_bytes();
        let content = entry.raw_file_position() as usize;
        let end = content + entry.size() as usize;
        if entry.header().entry_type().as_byte() == b'M' {
            parts.push(Part {
                path: String::from_utf8_lossy(&entry.path_bytes()).into_owned(),
                offset: number(&header[369..381]),
                file_size: number(&header[483..495]),
                content: stream[content..end].to_vec(),
            });
        } else {
            let begin = entry.raw_header_position() as usize;
            rest.extend_from_slice(&stream[begin..end.next_multiple_of(512)]);
        }
    }
    rest.resize(rest.len() + 1024, 0);
    (parts, rest)
}

/// A number in octal digits, which a zero byte ends.
fn number(field: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(field);
    let text = text.trim_end_matches('\0');
    u64::from_str_radix(text, 8).unwrap_or_else(|_| panic!("{text:?} is no octal number"))
}

/// Offsets of the parts of a file.
pub fn offsets(parts: &[Part], path: &str) -> Vec<u64> {
    let of_file = parts.iter().filter(|part| part.path == path);
    of_file.map(|part| part.offset).collect()
}

impl Backup {
    /// Unpacks streams with parts, which may be of files in directories of another one's. No two parts may be
    /// the same.
    #[track_caller]
    pub fn unpack_parts(&self, streams: &[Vec<u8>]) {
        let streams: Vec<_> = streams.iter().map(|stream| split(stream)).collect();
        for (_, rest) in &streams {
            self.unpack(rest);
        }
        let mut seen = Vec::new();
        for part in streams.iter().flat_map(|(parts, _)| parts) {
            let place = (&part.path, part.offset);
            assert!(!seen.contains(&place), "{place:?} came twice");
            seen.push(place);
            let path = self.data_dir().join(&part.path);
            assert!(fs::symlink_metadata(&path).is_err() || path.is_file());
            let file = File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path);
            let file = file.unwrap_or_else(|error| panic!("{path:?}: {error}"));
            file.write_all_at(&part.content, part.offset)
                .expect("write a part");
            give_to_owner(&path);
        }
    }
}
