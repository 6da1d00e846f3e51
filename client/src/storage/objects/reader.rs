//! Reader of an object. It requests ranges, each by itself, so that a request that fails is repeated for
//! its range alone. The next range is requested while one is read. Memory is bounded: each reader has a buffer for
//! either of them, which it uses again and again.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use futures::TryStreamExt as _;
use object_store::GetOptions;
use object_store::path::Path;
use tokio::task::JoinHandle;

use super::{Objects, to_io};

/// Bytes of the first range after a jump. Ranges grow from there.
const FIRST: u64 = 64 * 1024;
/// Most bytes of a range.
const LARGEST: u64 = 2 * 1024 * 1024;

/// Reader of an object.
pub struct ObjectReader {
    objects: Objects,
    path: Path,
    /// Bytes of the object.
    size: u64,
    /// Nothing from here on is requested ahead.
    end: u64,
    /// Position of the next byte that is read.
    position: u64,
    /// The range that is read.
    piece: Vec<u8>,
    /// Number of its bytes that were read.
    read: usize,
    /// The range that was requested ahead.
    ahead: Option<(Range<u64>, Request)>,
    /// Bytes of the next range.
    next: u64,
}

/// A request that is aborted on drop.
struct Request(JoinHandle<object_store::Result<Vec<u8>>>);

impl Drop for Request {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ObjectReader {
    pub(super) fn new(objects: Objects, path: Path, size: u64) -> Self {
        Self {
            objects,
            path,
            size,
            end: size,
            position: 0,
            piece: Vec::new(),
            read: 0,
            ahead: None,
            next: FIRST,
        }
    }

    /// Requests a range, which the buffer receives.
    fn request(&mut self, start: u64, mut buffer: Vec<u8>) -> Option<(Range<u64>, Request)> {
        // What lies beyond the limit comes when it is read, and not ahead.
        let end = if start < self.end {
            self.end
        } else {
            self.size
        };
        let range = start..start.saturating_add(self.next).min(end);
        if range.is_empty() {
            return None;
        }
        self.next = (self.next * 4).min(LARGEST);
        let store = self.objects.store.objects.clone();
        let path = self.path.clone();
        let options = GetOptions::new().with_range(Some(range.clone()));
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let get = async move {
            buffer.clear();
            buffer.reserve_exact(length);
            let mut frames = store.get_opts(&path, options).await?.into_stream();
            while let Some(frame) = frames.try_next().await? {
                buffer.extend_from_slice(&frame);
                // A store that sends more than was asked for gets no memory for it.
                if buffer.len() > length {
                    break;
                }
            }
            Ok(buffer)
        };
        let handle = self.objects.store.runtime.spawn(get);
        Some((range, Request(handle)))
    }

    fn receive(&mut self, request: &mut Request, length: u64) -> io::Result<Vec<u8>> {
        let handle = &mut request.0;
        let received = self.objects.wait(async { handle.await? });
        let bytes = received.map_err(to_io)?;
        if bytes.len() as u64 != length {
            return Err(io::Error::other(format!(
                "the store sent {} bytes of {length}",
                bytes.len()
            )));
        }
        Ok(bytes)
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut spent = std::mem::take(&mut self.piece);
        self.read = 0;
        let ahead = self.ahead.take();
        let ahead = ahead.filter(|(range, _)| range.start == self.position);
        let requested = ahead.or_else(|| self.request(self.position, std::mem::take(&mut spent)));
        let Some((range, mut request)) = requested else {
            return Ok(());
        };
        if range.end < self.end {
            self.ahead = self.request(range.end, spent);
        }
        self.piece = self.receive(&mut request, range.end - range.start)?;
        Ok(())
    }

    /// What is there from the position on.
    fn rest(&self) -> &[u8] {
        self.piece.get(self.read..).unwrap_or_default()
    }
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest().is_empty() {
            self.fill()?;
        }
        let rest = self.rest();
        let length = buffer.len().min(rest.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.read += length;
        self.position += length as u64;
        Ok(length)
    }
}

impl Seek for ObjectReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(target) => Some(target),
            SeekFrom::End(offset) => self.size.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        let target = target.ok_or(io::ErrorKind::InvalidInput)?;
        let forward = target.checked_sub(self.position);
        match forward.and_then(|forward| usize::try_from(forward).ok()) {
            Some(forward) if forward <= self.rest().len() => self.read += forward,
            _ => {
                self.read = self.piece.len();
                self.next = FIRST;
                self.ahead = (self.ahead.take()).filter(|(range, _)| range.start == target);
            }
        }
        self.position = target;
        Ok(target)
    }
}

impl crate::storage::source::Source for ObjectReader {
    fn limit(&mut self, end: u64) {
        self.end = end.min(self.size);
    }
}
