//! Buffer of a stream: one CopyData message, filled in place and sent without a copy.

use crate::server::allocation;
use crate::server::client::{self, HEADROOM};
use crate::server::report::Result;
use crate::server::settings::PAGE_SIZE;

/// Payload bytes of a full message. Each message wakes its client, who empties the socket's buffer
/// faster than it is filled: few large ones cost less than many small ones.
pub const FULL_PAYLOAD: usize = 1024 * 1024 + HEADER_ROOM;

/// The same over an encrypted connection, whose client copies a message several times: one that fits
/// its processor's cache costs it less, and the records are small in any case.
pub const FULL_ENCRYPTED_PAYLOAD: usize = 128 * 1024 + HEADER_ROOM;

/// Size of a member header, unless the name is long.
pub const HEADER_ROOM: usize = 512;

/// A message that is being filled.
pub struct Message {
    storage: Vec<u8>,
    /// Where the payload begins: aligned to a page of memory, behind the room for the head.
    start: usize,
    filled: usize,
    capacity: usize,
}

impl Message {
    /// An empty message with room for `capacity` bytes, which never grows.
    ///
    /// # Errors
    /// `out_of_memory`.
    pub fn new(capacity: usize) -> Result<Self> {
        const ALIGNMENT: usize = 4096;
        let storage = allocation::vec_of(0, HEADROOM + ALIGNMENT + capacity)?;
        let start = HEADROOM + storage[HEADROOM..].as_ptr().align_offset(ALIGNMENT);
        Ok(Self {
            storage,
            start,
            filled: 0,
            capacity,
        })
    }

    /// Room left, in bytes.
    #[must_use]
    pub fn room(&self) -> usize {
        self.capacity - self.filled
    }

    /// Whether the message is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Payload so far.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.storage[self.start..self.start + self.filled]
    }

    /// Empties the message.
    pub fn clear(&mut self) {
        self.filled = 0;
    }

    /// Next part of the payload, `length` bytes or as many as there is room for. The caller fills
    /// it and calls [`Message::commit`].
    pub fn next_part(&mut self, length: usize) -> &mut [u8] {
        let from = self.start + self.filled;
        let length = length.min(self.room());
        &mut self.storage[from..from + length]
    }

    /// Adds the first `length` bytes of the next part to the payload.
    pub fn commit(&mut self, length: usize) {
        self.filled += length.min(self.room());
    }

    /// Adds as many bytes as there is room for, and returns the rest.
    #[must_use]
    pub fn push<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (now, rest) = bytes.split_at(bytes.len().min(self.room()));
        self.next_part(now.len()).copy_from_slice(now);
        self.commit(now.len());
        rest
    }

    /// Sends the message and empties it.
    pub fn send(&mut self) {
        let from = self.start - HEADROOM;
        client::send_copy_data(&mut self.storage[from..self.start + self.filled]);
        self.clear();
    }
}

// A file's content goes on at a multiple of 512 bytes, which suits the page checksum.
const _: () = assert!(FULL_PAYLOAD.is_multiple_of(512) && FULL_PAYLOAD > PAGE_SIZE + HEADER_ROOM);
