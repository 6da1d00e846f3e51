//! Properties of the reader of archives, whatever it is given.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Read as _;

use backup_mutation::{changes, noise, pieces, split};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::archive::{END, directory_header, file_header, link_header, part_header};

/// Largest number that a header of [`archive`](crate::archive) has for a user or a group.
const LARGEST_ID: u64 = (1 << 56) - 1;

/// What a changed archive may get: types, numbers of base 256, members that end early.
const TOKENS: &[&[u8]] = &[
    &[0; 512],
    &END,
    b"ustar  \0",
    b"ustar\x0000",
    b"\x80\0\0\0\0\0\0\x7f",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"777777777777",
    b"../",
    b"/",
    b"\0",
    b"0",
    b"1",
    b"2",
    b"5",
    b"L",
    b"K",
    b"x",
    b"S",
    b"M",
];

/// Member with its whole content.
#[derive(Clone, Debug, PartialEq)]
struct Whole {
    member: Member,
    /// Of a part of a file.
    part: Option<FilePart>,
    content: Vec<u8>,
}

/// Keeps everything, and checks the order of the calls.
#[derive(Default)]
struct Kept {
    members: Vec<Whole>,
    is_inside: bool,
}

impl Kept {
    fn begin_any(&mut self, member: &Member, part: Option<FilePart>) {
        assert!(!self.is_inside);
        self.is_inside = true;
        self.members.push(Whole {
            member: member.clone(),
            part,
            content: Vec::new(),
        });
    }
}

impl Receiver for Kept {
    type Error = Broken;

    fn begin(&mut self, member: &Member) -> Result<(), Broken> {
        self.begin_any(member, None);
        Ok(())
    }

    fn begin_part(&mut self, member: &Member, part: FilePart) -> Result<(), Broken> {
        assert!(member.kind == Kind::File && member.size > 0);
        assert!(part.offset.checked_add(member.size).unwrap() <= part.file_size);
        self.begin_any(member, Some(part));
        Ok(())
    }

    fn content(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        assert!(self.is_inside && !bytes.is_empty());
        let whole = self.members.last_mut().unwrap();
        whole.content.extend_from_slice(bytes);
        assert!(whole.content.len() as u64 <= whole.member.size);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Broken> {
        assert!(self.is_inside);
        self.is_inside = false;
        let whole = self.members.last().unwrap();
        assert_eq!(whole.content.len() as u64, whole.member.size);
        Ok(())
    }
}

/// Reads an archive, and checks that the reader itself holds little.
fn read<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Whole>, Broken> {
    let (mut reader, mut kept) = (Reader::default(), Kept::default());
    for piece in pieces {
        reader.push(piece, &mut kept)?;
        let held = [&reader.long_name, &reader.long_target, &reader.block];
        let held: usize = held.iter().map(|bytes| bytes.capacity()).sum();
        assert!(held <= 4 * LONGEST_NAME as usize + 4 * BLOCK_SIZE, "{held}");
    }
    reader.finish()?;
    Ok(kept.members)
}

/// A path or a target, without zero bytes.
fn name() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![6 => 1_usize..20, 1 => 95_usize..105, 1 => 200_usize..600];
    noise(length).prop_map(|mut name| {
        name.iter_mut().for_each(|byte| *byte = (*byte).max(1));
        name
    })
}

fn whole() -> impl Strategy<Value = Whole> {
    let kind = select(&[Kind::File, Kind::File, Kind::Directory, Kind::Link][..]);
    let attributes = (0_u32..0o10000, 0..=LARGEST_ID, 0..=LARGEST_ID, any::<i64>());
    let content = noise(prop_oneof![4 => 0_usize..40, 1 => 500_usize..1100]);
    let place = prop_oneof![
        2 => Just(None),
        1 => (0..1_u64 << 62, 0..1_u64 << 62).prop_map(Some),
    ];
    (kind, name(), name(), content, attributes, place).prop_map(
        |(kind, mut path, target, content, (mode, uid, gid, mtime), place)| {
            while kind == Kind::Directory && path.last() == Some(&b'/') {
                path.pop();
            }
            if path.is_empty() {
                path.push(b'x');
            }
            let content = match kind {
                Kind::File => content,
                Kind::Directory | Kind::Link => Vec::new(),
            };
            let target = match kind {
                Kind::Link => target,
                Kind::File | Kind::Directory => Vec::new(),
            };
            let member = Member {
                path,
                kind,
                size: content.len() as u64,
                target,
                attributes: Attributes {
                    mode,
                    uid,
                    gid,
                    mtime,
                },
                position: 0,
            };
            let part = place.filter(|_| kind == Kind::File && member.size > 0);
            let part = part.map(|(offset, rest)| FilePart {
                offset,
                file_size: offset + member.size + rest,
            });
            Whole {
                member,
                part,
                content,
            }
        },
    )
}

fn write(members: &mut [Whole]) -> Vec<u8> {
    let mut out = Vec::new();
    for Whole {
        member,
        part,
        content,
    } in members
    {
        member.position = out.len() as u64;
        let (path, attributes) = (&member.path, &member.attributes);
        match (member.kind, *part) {
            (Kind::File, Some(part)) => {
                part_header(&mut out, path, member.size, part, attributes);
            }
            (Kind::File, None) => file_header(&mut out, path, member.size, attributes),
            (Kind::Directory, _) => directory_header(&mut out, path, attributes),
            (Kind::Link, _) => link_header(&mut out, path, &member.target, attributes),
        }
        out.extend_from_slice(content);
        out.resize(out.len() + padding(member.size), 0);
    }
    out.extend_from_slice(&END);
    out
}

/// Gives every block that looks like a header the right checksum, so that a change gets beyond it.
fn repair(archive: &mut [u8], is_header: impl Fn(&[u8]) -> bool) {
    for block in archive.chunks_exact_mut(BLOCK_SIZE) {
        if is_header(block) {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().copied().map(u32::from).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

fn looks_like_header(block: &[u8]) -> bool {
    block[257..262] == *b"ustar"
}

/// What was accepted comes back when it is written again, and the tar crate reads the same.
fn assert_sound(archive: &[u8], members: &[Whole]) {
    let mut expected = members.to_vec();
    for Whole { member, .. } in &mut expected {
        // Nobody uses these, or they cannot be written.
        member.attributes.uid = member.attributes.uid.min(LARGEST_ID);
        member.attributes.gid = member.attributes.gid.min(LARGEST_ID);
        if member.kind != Kind::Link {
            member.target.clear();
        }
        if member.kind == Kind::Directory && member.path.ends_with(b"/") {
            // The client refuses an empty part of a name.
            return;
        }
    }
    let written = write(&mut expected);
    let again = read(std::iter::once(&written[..])).expect("what was written is an archive");
    assert_eq!(again, expected);

    let mut theirs = tar::Archive::new(archive);
    let mut ours = members.iter();
    for entry in theirs.entries().expect("an archive") {
        let mut entry = entry.expect("the tar crate reads it");
        let Whole {
            member, content, ..
        } = ours.next().expect("as many members");
        let mut path = entry.path_bytes().into_owned();
        if member.kind == Kind::Directory && path.ends_with(b"/") {
            path.pop();
        }
        assert_eq!(path, member.path);
        let mut data = Vec::new();
        entry.read_to_end(&mut data).expect("the content");
        assert_eq!(&data, content);
    }
    assert_eq!(ours.next(), None);
}

proptest! {
    #[test]
    fn what_is_written_is_read_in_pieces_of_any_size(
        mut members in vec(whole(), 0..6),
        pieces in pieces(),
    ) {
        let archive = write(&mut members);
        prop_assert_eq!(read(split(&archive, &pieces)), Ok(members));
    }

    #[test]
    fn a_changed_archive_is_refused_or_sound(
        mut members in vec(whole(), 1..4),
        changes in changes(TOKENS),
        is_repaired in any::<bool>(),
        pieces in pieces(),
    ) {
        let mut archive = changes.apply(&write(&mut members));
        if is_repaired {
            repair(&mut archive, looks_like_header);
        }
        let whole = read(std::iter::once(&archive[..]).filter(|bytes| !bytes.is_empty()));
        prop_assert_eq!(&whole, &read(split(&archive, &pieces)));
        if let Ok(members) = whole {
            assert_sound(&archive, &members);
        }
    }

    /// Every field is anything, with a right checksum.
    #[test]
    fn a_header_of_any_bytes_is_refused_or_sound(
        mut header in noise(Just(BLOCK_SIZE)),
        kind in select(&b"\x000125LKxgS7M"[..]),
        numbers in any::<[u32; 3]>(),
        size in prop_oneof![Just(0_u64), 0_u64..1100, any::<u64>()],
        has_magic in any::<bool>(),
        pieces in pieces(),
    ) {
        for (field, number) in [100, 108, 116].into_iter().zip(&numbers) {
            if header[field] < 200 {
                header[field..field + 7].copy_from_slice(format!("{:07o}", number & 0o777_7777).as_bytes());
                header[field + 7] = 0;
            }
        }
        if header[136] < 128 {
            header[136..148].copy_from_slice(b"00000000000\0");
        }
        header[124..136].fill(0);
        header[124] = 0x80;
        header[128..136].copy_from_slice(&size.to_be_bytes());
        header[156] = kind;
        if has_magic {
            header[257..265].copy_from_slice(b"ustar  \0");
        }
        repair(&mut header, |_| true);
        let size = size.min(1100) as usize;
        header.resize(BLOCK_SIZE + size.next_multiple_of(BLOCK_SIZE), b'y');
        header.extend_from_slice(&END);
        let whole = read(std::iter::once(&header[..]));
        prop_assert_eq!(&whole, &read(split(&header, &pieces)));
        if let Ok(members) = whole {
            assert_sound(&header, &members);
        }
    }
}
