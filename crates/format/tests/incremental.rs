//! Properties of the reader of incremental headers, whatever it is given.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use backup_format::incremental::{MAGIC, Start, header, parse_numbers};
use backup_mutation::changes;
use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

/// Blocks of a segment of 1 GB.
const SEGMENT: u32 = 131_072;

const TOKENS: &[&[u8]] = &[
    &[0; 4],
    &[0xff; 4],
    &SEGMENT.to_ne_bytes(),
    &(SEGMENT - 1).to_ne_bytes(),
    &MAGIC.to_ne_bytes(),
    &1_u32.to_ne_bytes(),
];

/// Reads a header, if it is one.
fn read(bytes: &[u8]) -> Option<(Vec<u32>, u32)> {
    let start = Start::parse(bytes.first_chunk()?, SEGMENT).ok()?;
    let numbers = bytes[Start::SIZE..].get(..start.numbers_size())?;
    let blocks = parse_numbers(numbers, SEGMENT).ok()?;
    Some((blocks, start.truncation_length))
}

/// What was accepted is written again byte for byte, up to its last number.
fn assert_sound(bytes: &[u8]) {
    if let Some((blocks, truncation_length)) = read(bytes) {
        assert!(blocks.is_sorted_by(|one, next| one < next));
        let again = header(blocks.iter().copied(), truncation_length, 8192);
        let size = Start::SIZE + 4 * blocks.len();
        assert_eq!(bytes[..size], again[..size]);
        assert!(again[size..].iter().all(|&byte| byte == 0));
    }
}

proptest! {
    #[test]
    fn a_changed_header_is_refused_or_sound(
        blocks in btree_set(0..SEGMENT, 0..40),
        truncation_length in 0..=SEGMENT,
        changes in changes(TOKENS),
    ) {
        let bytes = header(blocks.into_iter(), truncation_length, 8);
        assert_sound(&changes.apply(&bytes));
    }

    #[test]
    fn any_numbers_are_refused_or_sound(
        count in 0_u32..6,
        truncation_length in prop_oneof![0..=SEGMENT, any::<u32>()],
        numbers in vec(prop_oneof![0_u32..9, 0..SEGMENT, any::<u32>()], 0..6),
    ) {
        let words = [MAGIC, count, truncation_length].into_iter().chain(numbers);
        let bytes: Vec<u8> = words.flat_map(u32::to_ne_bytes).collect();
        assert_sound(&bytes);
    }
}
