//! Memory of the parts of uploads, which has one bound for all of them.
//!
//! It consists of chunks that are used again and again, because an allocator keeps what it is given back in
//! pieces of this size. A part takes no more of them than it has bytes. Who needs a chunk beyond the bound waits
//! for a part that is on its way. Where there is none, nobody would end the wait, and the bound is passed.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use object_store::PutPayload;

use crate::runtime::cancellation::Cancellation;

/// Bytes of a part: the least that S3 takes.
pub const PART: usize = 5 * 1024 * 1024;
/// Bytes of a chunk.
const CHUNK: usize = 256 * 1024;
/// Bytes of the parts of a few uploads.
const FEW: usize = 20 * 1024 * 1024;
/// Polling interval of a wait.
const LOOK: Duration = Duration::from_millis(50);

/// Chunks of all uploads to a store.
#[derive(Clone, Debug)]
pub struct Chunks(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug)]
struct State {
    /// Chunks that are not in use.
    free: Vec<Vec<u8>>,
    /// Number of those that are.
    in_use: usize,
    /// Number of those that may be.
    limit: usize,
    /// Number of parts on their way.
    on_the_way: usize,
}

impl Default for Chunks {
    fn default() -> Self {
        let state = State {
            free: Vec::new(),
            in_use: 0,
            limit: FEW / CHUNK,
            on_the_way: 0,
        };
        Self(Arc::new((Mutex::new(state), Condvar::new())))
    }
}

impl Chunks {
    /// Allows for more uploads.
    pub fn allow(&self, more: usize) {
        // One part is filled while another is on its way.
        self.lock().limit += more * 2 * PART / CHUNK;
    }

    fn take(&self, cancellation: &Cancellation) -> Result<Vec<u8>> {
        let mut state = self.lock();
        while state.in_use >= state.limit && state.on_the_way > 0 {
            cancellation.check()?;
            let waited = self.0.1.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.in_use += 1;
        let free = state.free.pop();
        Ok(free.unwrap_or_else(|| Vec::with_capacity(CHUNK)))
    }

    fn give_back(&self, mut chunk: Vec<u8>) {
        chunk.clear();
        let mut state = self.lock();
        state.in_use -= 1;
        state.free.push(chunk);
        self.0.1.notify_all();
    }

    /// A part goes on its way, until the result is dropped.
    pub fn send(&self) -> OnTheWay {
        self.lock().on_the_way += 1;
        OnTheWay(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part on its way.
pub struct OnTheWay(Chunks);

impl Drop for OnTheWay {
    fn drop(&mut self) {
        self.0.lock().on_the_way -= 1;
        self.0.0.1.notify_all();
    }
}

/// Bytes that are collected for a part.
pub struct Part {
    chunks: Vec<Chunk>,
    length: usize,
    home: Chunks,
}

/// A chunk, which goes back when nobody has its bytes any more.
struct Chunk {
    bytes: Vec<u8>,
    home: Chunks,
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        self.home.give_back(std::mem::take(&mut self.bytes));
    }
}

impl Part {
    /// Begins without bytes.
    pub fn new(home: &Chunks) -> Self {
        Self {
            chunks: Vec::new(),
            length: 0,
            home: home.clone(),
        }
    }

    /// Number of its bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// An error for a cancellation while there is no memory.
    pub fn extend(&mut self, mut bytes: &[u8], cancellation: &Cancellation) -> Result<()> {
        while !bytes.is_empty() {
            let last = self.chunks.last_mut();
            let Some(chunk) = last.filter(|chunk| chunk.bytes.len() < CHUNK) else {
                self.chunks.push(Chunk {
                    bytes: self.home.take(cancellation)?,
                    home: self.home.clone(),
                });
                continue;
            };
            let room = CHUNK - chunk.bytes.len();
            let (now, later) = bytes.split_at(bytes.len().min(room));
            chunk.bytes.extend_from_slice(now);
            self.length += now.len();
            bytes = later;
        }
        Ok(())
    }

    /// Takes the bytes out.
    pub fn take(&mut self) -> PutPayload {
        self.length = 0;
        let chunks = std::mem::take(&mut self.chunks);
        chunks.into_iter().map(Bytes::from_owner).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::thread;

    use anyhow::anyhow;

    use super::*;

    #[test]
    fn chunks_come_back_when_their_bytes_are_dropped() {
        let (home, cancellation) = (Chunks::default(), Cancellation::default());
        let counts = || {
            let state = home.lock();
            (state.in_use, state.free.len())
        };
        let mut part = Part::new(&home);
        let bytes: Vec<_> = (0..CHUNK * 2 + 7).map(|n| n as u8).collect();
        for bytes in bytes.chunks(1000) {
            part.extend(bytes, &cancellation).unwrap();
        }
        assert_eq!(part.len(), bytes.len());
        let payload = part.take();
        assert_eq!((part.len(), counts()), (0, (3, 0)));
        let sent: Vec<u8> = payload.iter().flat_map(|chunk| chunk.to_vec()).collect();
        assert!(sent == bytes);
        let again = payload.clone();
        drop(payload);
        assert_eq!(counts(), (3, 0));
        drop(again);
        assert_eq!(counts(), (0, 3));
        part.extend(b"1", &cancellation).unwrap();
        assert_eq!(counts(), (1, 2));
    }

    #[test]
    fn who_needs_memory_waits_for_a_part_on_its_way() {
        let (home, cancellation) = (Chunks::default(), Cancellation::default());
        let mut full = Part::new(&home);
        full.extend(&vec![1; FEW], &cancellation).unwrap();
        // Nothing is on its way, and nobody would end a wait.
        let mut other = Part::new(&home);
        other.extend(b"1", &cancellation).unwrap();
        let payload = full.take();
        let on_the_way = home.send();
        thread::scope(|scope| {
            let mut third = Part::new(&home);
            let waiting = scope.spawn({
                let cancellation = &cancellation;
                move || third.extend(b"1", cancellation).map(|()| third.len())
            });
            drop(payload);
            drop(on_the_way);
            assert_eq!(waiting.join().unwrap().unwrap(), 1);
        });
        full.extend(&vec![1; FEW], &cancellation).unwrap();
        let _on_the_way = home.send();
        cancellation.fail(anyhow!("enough"));
        assert!(other.extend(&vec![1; CHUNK], &cancellation).is_err());
    }
}
