//! Properties of the decompressor, whatever it is given.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufReader, Write as _};

use anyhow::bail;
use backup_mutation::{Pieces, changes, pieces, split};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Output after which a property stops: a bomb goes on for long.
const ENOUGH: usize = 4 << 20;

/// Starts of frames, and what belongs into one.
const TOKENS: &[&[u8]] = &[
    b"\x1f\x8b\x08\0\0\0\0\0\0\x03",
    b"\x28\xb5\x2f\xfd",
    b"\x28\xb5\x2f\xfd\xe0",
    b"\x50\x2a\x4d\x18\x04\0\0\0abcd",
    b"\x04\x22\x4d\x18",
    b"\x04\x22\x4d\x18\x64\x40\xa7",
    b"\x02\x21\x4c\x18",
    b"\x80\0\0\0",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\0",
    b"\xff",
];

/// Content that compresses well in parts.
fn content() -> impl Strategy<Value = Vec<u8>> {
    let run = (any::<u8>(), 1_usize..600).prop_map(|(byte, length)| vec![byte; length]);
    let part = prop_oneof![run, vec(any::<u8>(), 0..60)];
    vec(part, 0..5).prop_map(|parts| parts.concat())
}

fn compress(method: Method, bytes: &[u8]) -> Vec<u8> {
    match method {
        Method::None => bytes.to_vec(),
        Method::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        Method::Lz4 => {
            let mut encoder = lz4::EncoderBuilder::new().build(Vec::new()).unwrap();
            encoder.write_all(bytes).unwrap();
            let (frame, ended) = encoder.finish();
            ended.unwrap();
            frame
        }
        Method::Zstd => zstd::bulk::compress(bytes, 1).unwrap(),
    }
}

/// Decompresses pieces into portions. Gives up where there is more output than enough.
fn decompress<'a>(
    method: Method,
    pieces: impl Iterator<Item = &'a [u8]>,
    portion: usize,
) -> Result<Vec<u8>> {
    let mut decompressor = Decompressor::new(method)?;
    decompressor.portion = vec![0; portion];
    let mut whole = Vec::new();
    for piece in pieces {
        decompressor.push(piece, &mut |bytes| {
            assert!(bytes.len() <= portion);
            whole.extend_from_slice(bytes);
            if whole.len() > ENOUGH {
                bail!("enough");
            }
            Ok(())
        })?;
    }
    decompressor.finish()?;
    Ok(whole)
}

/// What the library's own reader makes of pieces.
fn reference<'a>(method: Method, pieces: impl Iterator<Item = &'a [u8]>) -> io::Result<Vec<u8>> {
    let source = BufReader::with_capacity(1 << 20, Pieces(pieces));
    let (mut whole, enough) = (Vec::new(), ENOUGH as u64);
    match method {
        Method::None => source.take(enough).read_to_end(&mut whole)?,
        Method::Gzip => {
            let decoder = flate2::bufread::MultiGzDecoder::new(source);
            decoder.take(enough).read_to_end(&mut whole)?
        }
        Method::Lz4 => {
            let decoder = lz4::Decoder::new(source)?;
            decoder.take(enough).read_to_end(&mut whole)?
        }
        Method::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(source)?;
            decoder.take(enough).read_to_end(&mut whole)?
        }
    };
    Ok(whole)
}

/// The frames are refused, or become in pieces of any size what the library makes of them.
fn assert_sound(method: Method, frames: &[u8], pieces: &[usize]) {
    let whole = decompress(method, std::iter::once(frames), PORTION);
    let in_pieces = decompress(method, split(frames, pieces), PORTION);
    // Of a frame in pieces whose last block is empty, libzstd does not compare the size with its header.
    let is_lenient = method == Method::Zstd && in_pieces.is_ok();
    assert!(
        whole.is_ok() == in_pieces.is_ok() || is_lenient,
        "{whole:?} {in_pieces:?}"
    );
    if let (Ok(whole), Ok(in_pieces)) = (&whole, &in_pieces) {
        assert_eq!(whole, in_pieces);
    }
    let theirs = [
        reference(method, std::iter::once(frames)),
        reference(method, split(frames, pieces)),
    ];
    for (ours, theirs) in [whole, in_pieces].into_iter().zip(theirs) {
        let Ok(ours) = ours else {
            continue;
        };
        let theirs = match theirs {
            // How it reads depends on the room for output too.
            Err(error) if method == Method::Zstd => {
                assert!(error.to_string().contains("corruption"), "{error}");
                continue;
            }
            theirs => theirs.expect("the library reads it"),
        };
        match method {
            // It reads one frame.
            Method::Lz4 => assert!(ours.starts_with(&theirs)),
            _ => assert_eq!(ours, theirs),
        }
    }
}

macro_rules! properties {
    ($name:ident, $method:expr) => {
        mod $name {
            use super::*;

            proptest! {
                #[test]
                fn what_was_compressed_comes_out(
                    parts in vec(content(), 1..3),
                    pieces in pieces(),
                    portion in 1_usize..3000,
                ) {
                    let frames: Vec<_> = parts.iter().map(|part| compress($method, part)).collect();
                    let frames = frames.concat();
                    let found = decompress($method, split(&frames, &pieces), portion).unwrap();
                    prop_assert_eq!(found, parts.concat());
                }

                #[test]
                fn a_changed_frame_is_refused_or_sound(
                    content in content(),
                    changes in changes(TOKENS),
                    pieces in pieces(),
                ) {
                    let frames = changes.apply(&compress($method, &content));
                    assert_sound($method, &frames, &pieces);
                }
            }
        }
    };
}

properties!(gzip, Method::Gzip);
properties!(lz4_frames, Method::Lz4);
properties!(zstd_frames, Method::Zstd);
