//! Changes of inputs, for properties of the readers of backups.
//!
//! A reader of bytes at random sees little more than its first check. So properties begin with an input
//! that is right, and change it in a few places.

use std::io::{self, Read};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Changes of one input, applied one after the other.
#[derive(Clone, Debug)]
pub struct Changes(Vec<Change>);

#[derive(Clone, Debug)]
enum Change {
    /// One byte becomes another.
    Set(Index, u8),
    /// Some bytes are removed.
    Remove(Index, usize),
    /// Bytes are added.
    Insert(Index, Vec<u8>),
    /// Some bytes come a second time, in another place.
    Repeat(Index, usize, Index),
    /// The rest is missing.
    Cut(Index),
}

/// One to five changes. Bytes that are added are any, or one of `tokens`, which must not be empty.
pub fn changes(tokens: &'static [&'static [u8]]) -> impl Strategy<Value = Changes> {
    let place = any::<Index>;
    let length = || prop_oneof![1_usize..8, 1_usize..700];
    let bytes = prop_oneof![
        3 => select(tokens).prop_map(<[u8]>::to_vec),
        1 => vec(any::<u8>(), 1..9),
    ];
    let change = prop_oneof![
        4 => (place(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        2 => (place(), length()).prop_map(|(at, length)| Change::Remove(at, length)),
        3 => (place(), bytes).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        2 => (place(), length(), place())
            .prop_map(|(from, length, to)| Change::Repeat(from, length, to)),
        1 => place().prop_map(Change::Cut),
    ];
    vec(change, 1..6).prop_map(Changes)
}

/// Bytes without a pattern. They cost less than a strategy for each byte, and do not shrink.
pub fn noise(length: impl Strategy<Value = usize>) -> impl Strategy<Value = Vec<u8>> {
    (any::<u64>(), length).prop_map(|(seed, length)| {
        let mut state = seed | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        };
        (0..length).map(|_| next()).collect()
    })
}

/// Sizes of the pieces in which a reader gets its input; the last is repeated.
pub fn pieces() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![1_usize..4, 1_usize..2000], 1..5)
}

/// Splits an input.
pub fn split<'a>(mut bytes: &'a [u8], sizes: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let last = sizes.last().copied().unwrap_or(1);
    let mut sizes = sizes.iter().copied().chain(std::iter::repeat(last));
    std::iter::from_fn(move || {
        let size = sizes.next()?.min(bytes.len());
        let (piece, rest) = bytes.split_at(size);
        bytes = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

impl Changes {
    /// The input with these changes.
    #[must_use]
    pub fn apply(&self, input: &[u8]) -> Vec<u8> {
        let mut bytes = input.to_vec();
        for change in &self.0 {
            // A place may be behind the last byte.
            let at = |place: &Index, bytes: &[u8]| place.index(bytes.len() + 1);
            match change {
                Change::Set(place, byte) => {
                    let place = at(place, &bytes);
                    if let Some(old) = bytes.get_mut(place) {
                        *old = *byte;
                    }
                }
                Change::Remove(place, length) => {
                    let from = at(place, &bytes);
                    let to = bytes.len().min(from + length);
                    bytes.drain(from..to);
                }
                Change::Insert(place, more) => {
                    let place = at(place, &bytes);
                    bytes.splice(place..place, more.iter().copied());
                }
                Change::Repeat(from, length, to) => {
                    let from = at(from, &bytes);
                    let end = bytes.len().min(from + length);
                    let more = bytes[from..end].to_vec();
                    let to = at(to, &bytes);
                    bytes.splice(to..to, more);
                }
                Change::Cut(place) => bytes.truncate(at(place, &bytes)),
            }
        }
        bytes
    }
}

/// Reader that gives bytes in pieces. A buffer has to be as long as any of them.
pub struct Pieces<I>(pub I);

impl<'a, I: Iterator<Item = &'a [u8]>> Read for Pieces<I> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = self.0.next().unwrap_or_default();
        buffer[..piece.len()].copy_from_slice(piece);
        Ok(piece.len())
    }
}
