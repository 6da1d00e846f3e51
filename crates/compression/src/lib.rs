//! Compression of an archive into one complete frame (gzip: one member).
//!
//! An [`Encoder`] keeps compressed bytes in memory until the caller drains them. The libraries'
//! encoders own their writer, and write to it even when they are dropped. So that writer is memory,
//! never a connection, a file or a command. Memory use is the window of the method and the output of
//! one call of [`Encoder::write`].
//!
//! LZ4 and zstd frames have no checksums of their own, as in core (backup/basebackup_lz4.c and
//! backup/basebackup_zstd.c): the manifest has them.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backup_format::compression::{Compression, Method};
use flate2::{Compress, Crc, FlushCompress, Status};

/// Writer in memory of an encoder that owns its writer. Its clones have the same bytes.
#[derive(Clone, Default)]
pub struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    /// Passes the bytes to `take`, and discards them if it succeeds.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn drain<E>(&self, take: impl FnOnce(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut bytes = self.lock();
        take(&bytes)?;
        bytes.clear();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum MethodEncoder {
    Gzip(Gzip),
    Lz4(lz4::Encoder<Output>),
    Zstd(zstd::Encoder<'static, Output>),
}

/// Encoder of one frame.
pub struct Encoder {
    /// `None` once the frame has ended.
    encoder: Option<MethodEncoder>,
    output: Output,
}

impl Encoder {
    /// Begins a frame; `None` for [`Method::None`].
    ///
    /// # Errors
    /// If the library is out of memory or rejects the level.
    pub fn new(compression: Compression) -> io::Result<Option<Self>> {
        let output = Output::default();
        let writer = output.clone();
        let level = compression.level;
        let encoder = match compression.method {
            Method::None => return Ok(None),
            Method::Gzip => {
                let level = level.map_or_else(flate2::Compression::default, |level| {
                    flate2::Compression::new(level.unsigned_abs())
                });
                MethodEncoder::Gzip(Gzip::new(writer, level))
            }
            Method::Lz4 => {
                let encoder = lz4::EncoderBuilder::new()
                    // 0 is the fast mode: level 1 on the command line.
                    .level(level.map_or(0, i32::unsigned_abs))
                    .block_size(lz4::BlockSize::Max256KB)
                    .auto_flush(true)
                    .checksum(lz4::ContentChecksum::NoChecksum)
                    .block_checksum(lz4::liblz4::BlockChecksum::NoBlockChecksum)
                    .build(writer)?;
                MethodEncoder::Lz4(encoder)
            }
            Method::Zstd => {
                let level = level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL);
                MethodEncoder::Zstd(zstd::Encoder::new(writer, level)?)
            }
        };
        Ok(Some(Self {
            encoder: Some(encoder),
            output,
        }))
    }

    /// Makes zstd compress with `threads` threads of its own (0 for none), and with long-distance
    /// matching if `long` is set. No effect on the other methods.
    ///
    /// # Errors
    /// If the library is out of memory.
    #[cfg(feature = "threads")]
    pub fn tune(&mut self, threads: u32, long: bool) -> io::Result<()> {
        if let Some(MethodEncoder::Zstd(encoder)) = &mut self.encoder {
            if threads > 0 {
                encoder.multithread(threads)?;
            }
            if long {
                encoder.long_distance_matching(true)?;
            }
        }
        Ok(())
    }

    /// Compresses bytes. Their output is kept for [`Encoder::drain`].
    ///
    /// # Errors
    /// The library's.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.encoder {
            Some(MethodEncoder::Gzip(encoder)) => encoder.write(bytes),
            Some(MethodEncoder::Lz4(encoder)) => encoder.write_all(bytes),
            Some(MethodEncoder::Zstd(encoder)) => encoder.write_all(bytes),
            None => Err(io::Error::other("the frame has ended")),
        }
    }

    /// Makes the next byte independent of those before, without an end of the member: a decoder of raw
    /// deflate data can begin there. Only for gzip; returns whether it is that. Other methods end the frame
    /// and begin another.
    ///
    /// # Errors
    /// The library's.
    pub fn restart(&mut self) -> io::Result<bool> {
        match &mut self.encoder {
            Some(MethodEncoder::Gzip(encoder)) => {
                encoder.run(&[], FlushCompress::Full).map(|()| true)
            }
            _ => Ok(false),
        }
    }

    /// Ends the frame. The rest of its output is kept for [`Encoder::drain`]. A second call does nothing.
    ///
    /// # Errors
    /// The library's.
    pub fn finish(&mut self) -> io::Result<()> {
        match self.encoder.take() {
            Some(MethodEncoder::Gzip(mut encoder)) => encoder.finish(),
            Some(MethodEncoder::Lz4(encoder)) => encoder.finish().1,
            Some(MethodEncoder::Zstd(encoder)) => encoder.finish().map(drop),
            None => Ok(()),
        }
    }

    /// Passes the compressed bytes to `take`, and discards them if it succeeds.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn drain<E>(&mut self, take: impl FnOnce(&[u8]) -> Result<(), E>) -> Result<(), E> {
        self.output.drain(take)
    }
}

/// Member of gzip. The encoder of flate2 cannot forget what was before.
struct Gzip {
    compress: Compress,
    checksum: Crc,
    output: Output,
    /// What comes out of a call of the library.
    piece: Vec<u8>,
}

impl Gzip {
    /// Identification, deflate, no flags, no time, no extra flags, unknown system: RFC 1952.
    const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    /// Bytes that come out of a call at most.
    const PIECE: usize = 32 * 1024;

    fn new(output: Output, level: flate2::Compression) -> Self {
        output.lock().extend_from_slice(&Self::HEADER);
        Self {
            compress: Compress::new(level, false),
            checksum: Crc::new(),
            output,
            piece: vec![0; Self::PIECE],
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.checksum.update(bytes);
        self.run(bytes, FlushCompress::None)
    }

    fn run(&mut self, mut bytes: &[u8], flush: FlushCompress) -> io::Result<()> {
        loop {
            let before = (self.compress.total_in(), self.compress.total_out());
            let status = self.compress.compress(bytes, &mut self.piece, flush)?;
            let read = self.compress.total_in() - before.0;
            let written = self.compress.total_out() - before.1;
            // Both are within slices.
            bytes = &bytes[read as usize..];
            let written = written as usize;
            self.output.lock().extend_from_slice(&self.piece[..written]);
            let is_full = written == self.piece.len();
            if status == Status::StreamEnd || bytes.is_empty() && !is_full {
                return Ok(());
            }
        }
    }

    fn finish(&mut self) -> io::Result<()> {
        self.run(&[], FlushCompress::Finish)?;
        let mut output = self.output.lock();
        output.extend_from_slice(&self.checksum.sum().to_le_bytes());
        output.extend_from_slice(&self.checksum.amount().to_le_bytes());
        Ok(())
    }
}
