//! Members of a tar stream with their header fields. `tar --list` shows these only as text for
//! people. GNU tar checks whether the archive is sound, see [`crate::archive`].

use std::io::Read;

use tar::{Archive, EntryType};

/// Member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Full name, short or long, without the trailing slash of a directory.
    pub path: Vec<u8>,
    /// `f`, `d` or `l`, as in the listing of a backup.
    pub kind: char,
    /// Permission bits.
    pub mode: u32,
    /// Time of last modification, in seconds since 1970.
    pub mtime: u64,
    /// Target of a link.
    pub target: Option<Vec<u8>>,
    /// Content of a file.
    pub content: Vec<u8>,
}

impl Member {
    /// Name for comparisons with text. Bytes that are not UTF-8 become replacement characters.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

/// Members in stream order.
#[track_caller]
pub fn members(stream: &[u8]) -> Vec<Member> {
    let mut archive = Archive::new(stream);
    let entries = archive.entries().expect("the stream is an archive");
    entries
        .map(|entry| {
            let mut entry = entry.expect("the stream goes on with another member");
            let path = entry.path_bytes();
            let path = path.strip_suffix(b"/").unwrap_or(&path).to_vec();
            let kind = match entry.header().entry_type() {
                EntryType::Regular => 'f',
                EntryType::Directory => 'd',
                EntryType::Symlink => 'l',
                other => panic!("{:?} is {other:?}", String::from_utf8_lossy(&path)),
            };
            let mode = entry.header().mode().expect("the mode is a number") & 0o7777;
            let mtime = entry.header().mtime().expect("the mtime is a number");
            let target = entry.link_name_bytes().map(|target| target.into_owned());
            let mut content = Vec::new();
            entry
                .read_to_end(&mut content)
                .expect("the stream holds the whole member");
            Member {
                path,
                kind,
                mode,
                mtime,
                target: target.filter(|_| kind == 'l'),
                content,
            }
        })
        .collect()
}

/// The only member with that name, if any. Two of them fail the test.
#[track_caller]
pub fn find(stream: &[u8], name: &str) -> Option<Member> {
    let mut found = members(stream)
        .into_iter()
        .filter(|member| member.path == name.as_bytes());
    let first = found.next();
    assert!(found.next().is_none(), "{name} is there twice");
    first
}

/// The only member with that name, which must exist.
#[track_caller]
pub fn expect(stream: &[u8], name: &str) -> Member {
    find(stream, name).unwrap_or_else(|| panic!("{name} is not in the stream"))
}

/// Checks the end of an archive: two blocks of zeros and nothing after them.
#[track_caller]
pub fn assert_ends_well(stream: &[u8]) {
    assert!(
        stream.len() >= 1024 && stream.len().is_multiple_of(512),
        "the stream has {} bytes",
        stream.len()
    );
    let (_, end) = stream.split_at(stream.len() - 1024);
    assert!(
        end.iter().all(|byte| *byte == 0),
        "the stream does not end with two blocks of zeros"
    );
}

/// Whether the bytes of a text occur anywhere in a stream.
pub fn contains(stream: &[u8], text: &str) -> bool {
    stream
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}
