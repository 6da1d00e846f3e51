//! Properties of members with any name, attributes and data.

use backup_format::archive::{
    Attributes, BLOCK_SIZE, END, directory_header, file_header, link_header,
};
use proptest::prelude::*;

use crate::readers::{Member, gnu_list, members};
use crate::{ATTRIBUTES, add_file};

/// Any name that a tar archive can contain.
fn name(len: impl Into<proptest::collection::SizeRange>) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(1_u8.., len)
}

/// Relative paths of one to some hundred bytes that fit on a line of a listing.
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
