//! Reader of an object. It requests ranges, each by itself, so that a request that fails is repeated for
//! its range alone. The next range is requested while one is read.

use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use bytes::Bytes;
use object_store::ObjectStoreExt as _;
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
    /// What is there from that position on.
    piece: Bytes,
    /// The range that was requested ahead.
    ahead: Option<(Range<u64>, Request)>,
    /// Bytes of the next range.
    next: u64,
}

/// A request that is aborted on drop.
struct Request(JoinHandle<object_store::Result<Bytes>>);

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
            piece: Bytes::new(),
            ahead: None,
            next: FIRST,
        }
    }

    fn request(&mut self, start: u64) -> Option<(Range<u64>, Request)> {
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
        let (path, wanted) = (self.path.clone(), range.clone());
        let get = async move { store.get_range(&path, wanted).await };
        let handle = self.objects.store.runtime.spawn(get);
        Some((range, Request(handle)))
    }

    fn receive(&mut self, request: &mut Request, length: u64) -> io::Result<Bytes> {
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
        let ahead = self.ahead.take();
        let ahead = ahead.filter(|(range, _)| range.start == self.position);
        let Some((range, mut request)) = ahead.or_else(|| self.request(self.position)) else {
            return Ok(());
        };
        if range.end < self.end {
            self.ahead = self.request(range.end);
        }
        self.piece = self.receive(&mut request, range.end - range.start)?;
        Ok(())
    }
}

impl Read for ObjectReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            self.fill()?;
        }
        let length = buffer.len().min(self.piece.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
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
            Some(forward) if forward <= self.piece.len() => {
                drop(self.piece.split_to(forward));
            }
            _ => {
                self.piece = Bytes::new();
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
