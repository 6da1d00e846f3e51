#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::archive;

/// Members received, each with its whole content.
#[derive(Default, Debug, PartialEq)]
struct Kept(Vec<(Member, Vec<u8>)>);

impl Receiver for Kept {
    type Error = Broken;

    fn begin(&mut self, member: &Member) -> Result<(), Broken> {
        self.0.push((member.clone(), Vec::new()));
        Ok(())
    }

    fn content(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        assert!(!bytes.is_empty());
        self.0.last_mut().unwrap().1.extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Broken> {
        let (member, content) = self.0.last().unwrap();
        assert_eq!(member.size, content.len() as u64);
        Ok(())
    }
}

const ATTRIBUTES: Attributes = Attributes {
    mode: 0o640,
    uid: 3_000_000,
    gid: 1 << 40,
    mtime: -5,
};

fn sample() -> Vec<u8> {
    let mut out = Vec::new();
    archive::directory_header(&mut out, b"base/5", &ATTRIBUTES);
    for (name, size) in [("empty", 0), ("odd", 513), ("whole", 1024)] {
        archive::file_header(&mut out, name.as_bytes(), size, &ATTRIBUTES);
        out.resize(out.len() + size as usize, b'x');
        out.resize(out.len() + archive::padding(size), 0);
    }
    archive::file_header(&mut out, &[b'l'; 300], 1, &ATTRIBUTES);
    out.resize(out.len() + 512, 7);
    archive::link_header(&mut out, b"pg_tblspc/1", &[b't'; 200], &ATTRIBUTES);
    out.extend_from_slice(&archive::END);
    out
}

fn read(bytes: &[u8], piece: usize) -> Result<Kept, Broken> {
    let (mut reader, mut kept) = (Reader::default(), Kept::default());
    for piece in bytes.chunks(piece) {
        reader.push(piece, &mut kept)?;
    }
    reader.finish()?;
    Ok(kept)
}

#[test]
fn what_was_written_is_read_in_pieces_of_any_size() {
    let bytes = sample();
    let whole = read(&bytes, bytes.len()).unwrap();
    let names: Vec<_> = whole
        .0
        .iter()
        .map(|(member, _)| member.path.len())
        .collect();
    assert_eq!(names, [6, 5, 3, 5, 300, 11]);
    assert_eq!(whole.0[0].0.kind, Kind::Directory);
    assert_eq!(whole.0[5].0.target, [b't'; 200]);
    assert!(
        whole
            .0
            .iter()
            .all(|(member, _)| member.attributes == ATTRIBUTES)
    );
    for piece in [1, 7, 511, 512, 513, 4096] {
        assert_eq!(read(&bytes, piece).unwrap(), whole, "{piece}");
    }
}

#[test]
fn content_can_be_left_out() {
    /// Length of each name, and whether the member has ended.
    #[derive(Default)]
    struct Names(Vec<(usize, bool)>);

    impl Receiver for Names {
        type Error = Broken;

        fn begin(&mut self, member: &Member) -> Result<(), Broken> {
            self.0.push((member.path.len(), false));
            Ok(())
        }

        fn content(&mut self, _: &[u8]) -> Result<(), Broken> {
            Ok(())
        }

        fn end(&mut self) -> Result<(), Broken> {
            self.0.last_mut().unwrap().1 = true;
            Ok(())
        }
    }

    let bytes = sample();
    for piece in [1, 512, 600, 1100, 2048] {
        let (mut reader, mut names) = (Reader::default(), Names::default());
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(piece.min(rest.len()));
            reader.push(now, &mut names).unwrap();
            let skipped = reader.skip_content(&mut names).unwrap();
            rest = &later[usize::try_from(skipped).unwrap()..];
        }
        reader.finish().unwrap();
        let expected = [6, 5, 3, 5, 300, 11].map(|length| (length, true));
        assert_eq!(names.0, expected, "{piece}");
    }
}

/// Receiver of parts, with their places.
#[derive(Default, Debug, PartialEq)]
struct Parts(Vec<(Vec<u8>, u64, FilePart)>);

impl Receiver for Parts {
    type Error = Broken;

    fn begin(&mut self, _: &Member) -> Result<(), Broken> {
        panic!("a part is no whole file");
    }

    fn begin_part(&mut self, member: &Member, part: FilePart) -> Result<(), Broken> {
        assert_eq!(member.kind, Kind::File);
        self.0.push((member.path.clone(), member.size, part));
        Ok(())
    }

    fn content(&mut self, _: &[u8]) -> Result<(), Broken> {
        Ok(())
    }

    fn end(&mut self) -> Result<(), Broken> {
        Ok(())
    }
}

fn archive_of_part(path: &[u8], size: u64, part: FilePart) -> Vec<u8> {
    let mut out = Vec::new();
    archive::part_header(&mut out, path, size, part, &ATTRIBUTES);
    out.resize(out.len() + size as usize + archive::padding(size), b'x');
    out.extend_from_slice(&archive::END);
    out
}

fn read_parts(bytes: &[u8]) -> Result<Parts, Broken> {
    let (mut reader, mut parts) = (Reader::default(), Parts::default());
    reader.push(bytes, &mut parts)?;
    reader.finish()?;
    Ok(parts)
}

#[test]
fn parts_of_files_are_for_those_who_ask_for_them() {
    for (path, offset, file_size) in [
        (vec![b'a'; 10], 0, 700),
        (vec![b'b'; 300], 8192, 8192 + 700),
        // More than eleven octal digits.
        (vec![b'c'; 100], 1 << 40, 1 << 50),
    ] {
        let part = FilePart { offset, file_size };
        let bytes = archive_of_part(&path, 700, part);
        assert_eq!(
            read_parts(&bytes).unwrap(),
            Parts(vec![(path.clone(), 700, part)])
        );
        assert_eq!(read(&bytes, 512).unwrap_err(), Broken::Type(b'M'));
    }
}

#[test]
fn a_part_lies_in_its_file() {
    for (size, offset, file_size) in [
        (0, 0, 10),
        (11, 0, 10),
        (1, 10, 10),
        (1, u64::MAX >> 1, 10),
        (600, 100, 699),
    ] {
        let bytes = archive_of_part(b"a", size, FilePart { offset, file_size });
        assert_eq!(
            read_parts(&bytes),
            Err(Broken::Part),
            "{size} {offset} {file_size}"
        );
    }
    // The fields are those of GNU tar's headers only.
    let part = FilePart {
        offset: 0,
        file_size: 10,
    };
    let mut bytes = archive_of_part(b"a", 10, part);
    bytes[257..265].copy_from_slice(b"ustar\x0000");
    bytes[148..156].fill(b' ');
    let sum: u32 = bytes[..512].iter().copied().map(u32::from).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(read_parts(&bytes), Err(Broken::NoHeader));
}

#[test]
fn an_archive_that_ends_early_is_incomplete() {
    let bytes = sample();
    for length in [0, 1, 512, 2000, bytes.len() - 512, bytes.len() - 1] {
        assert_eq!(read(&bytes[..length], 4096).unwrap_err(), Broken::Truncated);
    }
}

#[test]
fn whatever_follows_the_end_is_refused() {
    let mut bytes = sample();
    bytes.push(0);
    assert_eq!(read(&bytes, 4096).unwrap_err(), Broken::Trailing);
}

#[test]
fn a_changed_header_is_refused() {
    let bytes = sample();
    for place in [0, 100, 124, 136, 156, 300] {
        let mut bytes = bytes.clone();
        bytes[place] ^= 1;
        assert_eq!(read(&bytes, 4096).unwrap_err(), Broken::NoHeader, "{place}");
    }
}

#[test]
fn a_name_in_two_halves_is_refused() {
    let mut bytes = Vec::new();
    archive::file_header(&mut bytes, b"x", 0, &ATTRIBUTES);
    let mut header = Header::new_ustar();
    header.as_mut_bytes().copy_from_slice(&bytes);
    header.as_ustar_mut().unwrap().prefix[0] = b'/';
    header.set_cksum();
    assert_eq!(read(header.as_bytes(), 512).unwrap_err(), Broken::Name);
}

#[test]
fn a_long_name_without_a_member_is_refused() {
    let mut bytes = Vec::new();
    archive::file_header(&mut bytes, &[b'l'; 300], 0, &ATTRIBUTES);
    bytes.truncate(bytes.len() - BLOCK_SIZE);
    bytes.extend_from_slice(&archive::END);
    assert_eq!(read(&bytes, 4096).unwrap_err(), Broken::NoHeader);
}

#[test]
fn devices_and_hard_links_are_refused() {
    for kind in [b'1', b'3', b'4', b'6', b'7', b'x', b'g', b'S'] {
        let mut bytes = Vec::new();
        archive::file_header(&mut bytes, b"x", 0, &ATTRIBUTES);
        let mut header = Header::new_ustar();
        header.as_mut_bytes().copy_from_slice(&bytes);
        header.set_entry_type(EntryType::new(kind));
        header.set_cksum();
        assert_eq!(
            read(header.as_bytes(), 512).unwrap_err(),
            Broken::Type(kind)
        );
    }
}

#[test]
fn a_header_of_another_layout_is_refused() {
    for magic in [b"ustar\0 \0", b"ustar 00", b"\0\0\0\0\0\0\0\0"] {
        // Of the member itself, and of the one before it that has its name.
        for name in [&b"x"[..], &[b'l'; 300]] {
            let mut bytes = Vec::new();
            archive::file_header(&mut bytes, name, 0, &ATTRIBUTES);
            let mut header = Header::new_ustar();
            header.as_mut_bytes().copy_from_slice(&bytes[..BLOCK_SIZE]);
            header.as_mut_bytes()[257..265].copy_from_slice(magic);
            header.set_cksum();
            bytes[..BLOCK_SIZE].copy_from_slice(header.as_bytes());
            bytes.extend_from_slice(&archive::END);
            assert_eq!(read(&bytes, 4096).unwrap_err(), Broken::NoHeader);
        }
    }
}
