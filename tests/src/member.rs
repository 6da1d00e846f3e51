//! The members of a tar stream with what their headers say, which `tar --list` shows only as text
//! for people. Whether the archive is sound is left to GNU tar, see [`crate::archive`].

use std::io::Read;

use tar::{Archive, EntryType};

/// One member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The whole name, long or short, without the slash that ends the name of a directory.
    pub path: Vec<u8>,
    /// `f`, `d` or `l`, as in the listing of a backup.
    pub kind: char,
    /// The permission bits.
    pub mode: u32,
    /// When it was changed last, in seconds since 1970.
    pub mtime: u64,
    /// Where a link leads to.
    pub target: Option<Vec<u8>>,
    /// What a file holds.
    pub content: Vec<u8>,
}

impl Member {
    /// The name for comparisons with text; bytes that are no UTF-8 become replacement characters.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.path).into_owned()
    }
}

/// The members in the order of the stream.
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

/// The one member of that name, or nothing. Two of them fail the test.
#[track_caller]
pub fn find(stream: &[u8], name: &str) -> Option<Member> {
    let mut found = members(stream)
        .into_iter()
        .filter(|member| member.path == name.as_bytes());
    let first = found.next();
    assert!(found.next().is_none(), "{name} is there twice");
    first
}

/// The one member of that name, which must be there.
#[track_caller]
pub fn expect(stream: &[u8], name: &str) -> Member {
    find(stream, name).unwrap_or_else(|| panic!("{name} is not in the stream"))
}

/// The end of an archive: two blocks of zeros and nothing behind them.
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
