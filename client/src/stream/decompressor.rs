//! Decompression of a stream that arrives in pieces of any size.
//!
//! Frames (with gzip: members) that follow each other are one stream, as `gzip -d`, `lz4 -d` and
//! `zstd -d` have it. However much a piece becomes, it is handed on in portions. What is held is no
//! more than the window of the method, and that has a limit.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};

use anyhow::{Context, Result, ensure};
use backup_format::compression::Method;
use flate2::{Decompress, FlushDecompress, Status};
use zstd::stream::raw::{self, DParameter, Operation as _};

use super::lz4_frame::FrameEnd;

/// Size of an output portion in bytes.
const PORTION: usize = 128 * 1024;
/// Bytes that a decoder of LZ4 is given at once: as many as it reads.
const FEED: usize = 32 * 1024;
/// The window of zstd's highest level, beyond which `zstd -d` does not go either.
const LARGEST_ZSTD_WINDOW_LOG: u32 = 27;
/// All of RFC 1951.
const GZIP_WINDOW_BITS: u8 = 15;

/// Decompressor of a stream.
pub struct Decompressor {
    method: Method,
    /// `None` where bytes pass as they are.
    decoder: Option<Decoder>,
    place: Place,
    portion: Vec<u8>,
    /// Bytes behind the frame that belong to it and are not looked at.
    trailer: usize,
}

/// Checksum and size at the end of a member of gzip.
const GZIP_TRAILER: usize = 8;

/// Where in the stream the next byte will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At its start.
    Start,
    /// In a frame.
    Inside,
    /// Behind a frame, where another may begin.
    Behind,
}

enum Decoder {
    Gzip(Decompress),
    /// `None` after its only frame.
    Lz4(Option<lz4::Decoder<Feed>>, FrameEnd),
    Zstd(raw::Decoder<'static>),
}

/// What became of some bytes.
struct Step {
    /// So many of them are used up.
    read: usize,
    /// So many came out.
    written: usize,
    /// There was no room for more.
    is_full: bool,
    /// The frame has ended behind those that are used up, and all of it has come out.
    ended: bool,
}

impl Decompressor {
    /// Begins; with [`Method::None`] bytes pass as they are.
    ///
    /// # Errors
    /// An error if the library cannot allocate memory.
    pub fn new(method: Method) -> Result<Self> {
        Ok(Self {
            method,
            decoder: Decoder::new(method).with_context(|| cannot(method))?,
            place: Place::Start,
            portion: vec![0; PORTION],
            trailer: 0,
        })
    }

    /// Begins where a reader can begin in the middle of a stream: at a frame, or with gzip where the encoder
    /// forgot what was before.
    ///
    /// # Errors
    /// As [`Decompressor::new`].
    pub fn in_the_middle(method: Method) -> Result<Self> {
        let whole = Self::new(method)?;
        Ok(match method {
            Method::Gzip => Self {
                decoder: Some(Decoder::Gzip(Decompress::new(false))),
                trailer: GZIP_TRAILER,
                ..whole
            },
            Method::None | Method::Lz4 | Method::Zstd => whole,
        })
    }

    /// Takes the next bytes, and hands on what they become.
    ///
    /// # Errors
    /// Where they are not of that format, and those of `out`. Not to be called again after one.
    pub fn push(
        &mut self,
        mut bytes: &[u8],
        out: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        if self.decoder.is_none() {
            return out(bytes);
        }
        let failed = || cannot(self.method);
        while !(bytes.is_empty() && self.place != Place::Inside) {
            if self.place == Place::Behind && self.trailer > 0 {
                let skipped = bytes.len().min(self.trailer);
                self.trailer -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            if self.place == Place::Behind {
                self.decoder = Decoder::new(self.method).with_context(failed)?;
            }
            let Some(decoder) = &mut self.decoder else {
                break;
            };
            let step = decoder.step(bytes, &mut self.portion);
            let step = step.with_context(failed)?;
            bytes = &bytes[step.read..];
            if step.written > 0 {
                out(&self.portion[..step.written])?;
            }
            self.place = if step.ended {
                Place::Behind
            } else {
                Place::Inside
            };
            if bytes.is_empty() && !step.ended && !step.is_full {
                break;
            }
            // There is nothing else that could bring it further.
            ensure!(
                step.read > 0 || step.written > 0 || step.ended,
                "{}: the data make no progress",
                failed()
            );
        }
        Ok(())
    }

    /// Ends the stream.
    ///
    /// # Errors
    /// Where its last frame has not.
    pub fn finish(&self) -> Result<()> {
        ensure!(
            self.decoder.is_none() || self.place == Place::Behind,
            "{}: the data end too early",
            cannot(self.method)
        );
        Ok(())
    }
}

fn cannot(method: Method) -> String {
    format!("could not decompress data by {}", method.name())
}

impl Decoder {
    /// For one frame.
    fn new(method: Method) -> io::Result<Option<Self>> {
        Ok(Some(match method {
            Method::None => return Ok(None),
            Method::Gzip => Self::Gzip(Decompress::new_gzip(GZIP_WINDOW_BITS)),
            Method::Lz4 => {
                let decoder = lz4::Decoder::new(Feed::default())?;
                Self::Lz4(Some(decoder), FrameEnd::new())
            }
            Method::Zstd => {
                let mut decoder = raw::Decoder::new()?;
                decoder.set_parameter(DParameter::WindowLogMax(LARGEST_ZSTD_WINDOW_LOG))?;
                Self::Zstd(decoder)
            }
        }))
    }

    fn step(&mut self, bytes: &[u8], portion: &mut [u8]) -> io::Result<Step> {
        match self {
            Self::Gzip(decoder) => {
                let (read, written) = (decoder.total_in(), decoder.total_out());
                let status = decoder.decompress(bytes, portion, FlushDecompress::None);
                let status = status.map_err(io::Error::other)?;
                // No more than there was room for.
                let written = (decoder.total_out() - written) as usize;
                Ok(Step {
                    read: (decoder.total_in() - read) as usize,
                    written,
                    is_full: written == portion.len(),
                    ended: status == Status::StreamEnd,
                })
            }
            Self::Lz4(decoder, end) => step_lz4(decoder, end, bytes, portion),
            Self::Zstd(decoder) => {
                let status = decoder.run_on_buffers(bytes, portion)?;
                Ok(Step {
                    read: status.bytes_read,
                    written: status.bytes_written,
                    is_full: status.bytes_written == portion.len(),
                    ended: status.remaining == 0,
                })
            }
        }
    }
}

/// What a decoder of LZ4 reads from: it has no other way in. When that is empty for now the decoder
/// keeps what it has, and goes on from there.
#[derive(Default)]
struct Feed(RefCell<VecDeque<u8>>);

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.get_mut().read(buffer) {
            Ok(0) => Err(ErrorKind::WouldBlock.into()),
            read => read,
        }
    }
}

fn step_lz4(
    slot: &mut Option<lz4::Decoder<Feed>>,
    end: &mut FrameEnd,
    bytes: &[u8],
    portion: &mut [u8],
) -> io::Result<Step> {
    let Some(mut decoder) = slot.take() else {
        return Err(ErrorKind::UnexpectedEof.into());
    };
    let bytes = &bytes[..bytes.len().min(FEED)];
    let of_frame = &bytes[..end.clone().take(bytes)];
    decoder.reader().0.borrow_mut().extend(of_frame);
    let mut written = 0;
    let mut ended = false;
    while written < portion.len() && !ended {
        match decoder.read(&mut portion[written..]) {
            Ok(0) => ended = true,
            Ok(length) => written += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    // What it has not read comes with the next step.
    let left = std::mem::take(&mut *decoder.reader().0.borrow_mut());
    let read = of_frame.len() - left.len();
    end.take(&bytes[..read]);
    if ended {
        decoder.finish().1?;
    } else {
        *slot = Some(decoder);
    }
    Ok(Step {
        read,
        written,
        is_full: written == portion.len(),
        ended,
    })
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::io::Write as _;

    use backup_compression::Encoder;
    use backup_format::compression::Compression;

    use super::*;

    const METHODS: [Method; 3] = [Method::Gzip, Method::Lz4, Method::Zstd];

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
            Method::Zstd => zstd::encode_all(bytes, 1).unwrap(),
        }
    }

    /// A frame as the encoder of archives makes it, which is given some bytes after the others.
    fn encode(method: Method, parts: &[&[u8]]) -> Vec<u8> {
        let compression = Compression {
            method,
            level: None,
        };
        let mut encoder = Encoder::new(compression).unwrap().expect("an encoder");
        for part in parts {
            encoder.write(part).unwrap();
        }
        encoder.finish().unwrap();
        let mut frame = Vec::new();
        let take = |bytes: &[u8]| {
            frame.extend_from_slice(bytes);
            Ok::<_, io::Error>(())
        };
        encoder.drain(take).unwrap();
        frame
    }

    fn decompress(method: Method, bytes: &[u8], piece: usize) -> Result<Vec<u8>> {
        let mut decompressor = Decompressor::new(method)?;
        let mut whole = Vec::new();
        for piece in bytes.chunks(piece) {
            decompressor.push(piece, &mut |bytes| {
                assert!(bytes.len() <= PORTION.max(piece.len()));
                whole.extend_from_slice(bytes);
                Ok(())
            })?;
        }
        decompressor.finish()?;
        Ok(whole)
    }

    /// Some of it compresses well, some not.
    fn sample() -> Vec<u8> {
        let mut state = 1_u32;
        let mut bytes = vec![b'x'; 700_000];
        bytes.extend((0..300_000).map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        }));
        bytes
    }

    #[test]
    fn what_was_compressed_comes_out_from_pieces_of_any_size() {
        let bytes = sample();
        for method in [Method::None].into_iter().chain(METHODS) {
            let compressed = compress(method, &bytes);
            for piece in [1, 7, 4096, 65_537, compressed.len()] {
                let out = decompress(method, &compressed, piece).unwrap();
                assert!(out == bytes, "{method:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn frames_that_follow_each_other_are_one_stream() {
        let bytes = sample();
        // As long as what is handed on at once, and nothing at all.
        let parts = [&bytes[..PORTION], &[], &bytes[PORTION..], &[], b"end"];
        let expected = parts.concat();
        for method in METHODS {
            let frames = parts.map(|part| compress(method, part)).concat();
            for piece in [1, 1000, frames.len()] {
                let out = decompress(method, &frames, piece).unwrap();
                assert!(out == expected, "{method:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn frames_whose_ends_do_not_compress_are_one_stream() {
        let sample = sample();
        let noise = &sample[sample.len() - 20_000..];
        // A portion ends everywhere in the noise, whose block is stored as it is.
        let before: Vec<_> = (0..22).map(|n| vec![b'x'; PORTION - n * 1000]).collect();
        let expected: Vec<_> = before.iter().flat_map(|x| [x, noise].concat()).collect();
        for method in METHODS {
            let frames = before.iter().flat_map(|x| encode(method, &[x, noise]));
            let frames: Vec<_> = frames.collect();
            for piece in [1000, 256 * 1024, frames.len()] {
                let out = decompress(method, &frames, piece).unwrap();
                assert!(out == expected, "{method:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn a_piece_may_end_anywhere_in_the_end_of_a_frame() {
        // A block that comes out in more than one portion.
        let content = vec![b'x'; PORTION + 1000];
        for method in METHODS {
            let frame = encode(method, &[&content]);
            for cut in 0..20.min(frame.len()) {
                let (start, end) = frame.split_at(frame.len() - cut);
                let mut decompressor = Decompressor::new(method).unwrap();
                let mut whole = Vec::new();
                for piece in [start, &[end, &frame].concat()] {
                    let mut out = |bytes: &[u8]| {
                        whole.extend_from_slice(bytes);
                        Ok(())
                    };
                    let pushed = decompressor.push(piece, &mut out);
                    pushed.unwrap_or_else(|error| panic!("{method:?}, {cut}: {error:#}"));
                }
                decompressor.finish().unwrap();
                assert!(whole == content.repeat(2), "{method:?}, {cut}");
            }
        }
    }

    #[test]
    fn a_frame_without_its_end_is_an_error() {
        for method in METHODS {
            let frame = compress(method, &sample());
            for length in [0, 1, 5, frame.len() / 2, frame.len() - 4, frame.len() - 1] {
                let error = decompress(method, &frame[..length], 4096).unwrap_err();
                assert!(error.to_string().contains("end too early"), "{error:#}");
            }
            let two = [&frame[..], &frame[..9]].concat();
            decompress(method, &two, 4096).unwrap_err();
        }
    }

    #[test]
    fn what_is_no_frame_is_an_error() {
        for method in METHODS {
            let frame = compress(method, &sample());
            decompress(method, &b"garbage".repeat(100), 4096).unwrap_err();
            decompress(method, &[&frame[..], b"garbage garbage"].concat(), 4096).unwrap_err();
        }
        // A checksum at the end: core's LZ4 and zstd have none.
        let mut changed = compress(Method::Gzip, &sample());
        let place = changed.len() - 8;
        changed[place] ^= 1;
        decompress(Method::Gzip, &changed, 4096).unwrap_err();
    }

    #[test]
    fn a_window_beyond_the_limit_is_refused() {
        let compress = |log| {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            encoder.write_all(&[7; 1000]).unwrap();
            encoder.finish().unwrap()
        };
        let at_limit = compress(LARGEST_ZSTD_WINDOW_LOG);
        assert_eq!(decompress(Method::Zstd, &at_limit, 99).unwrap(), [7; 1000]);
        let beyond = compress(LARGEST_ZSTD_WINDOW_LOG + 1);
        decompress(Method::Zstd, &beyond, 99).unwrap_err();
    }
}
