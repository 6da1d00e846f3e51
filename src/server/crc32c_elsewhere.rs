//! The module crc32c on processors whose instructions it does not know: there is no such checksum.

/// Bytes of a page that could be taken at once.
pub const BLOCK: usize = 8192;

/// A checksum that does not exist.
#[derive(Clone, Copy, Debug)]
pub enum Crc32c {}

impl Crc32c {
    /// `None`.
    #[must_use]
    pub fn new(_allow_wider: bool) -> Option<Self> {
        None
    }

    /// Adds bytes.
    pub fn update(&mut self, _bytes: &[u8]) {
        match *self {}
    }

    /// Adds a page, and returns its checksum.
    #[must_use]
    pub fn update_by_page(&mut self, _page: &[u8], _number: u32) -> u16 {
        match *self {}
    }

    /// The checksum of all bytes.
    #[must_use]
    pub fn finish(self) -> u32 {
        match self {}
    }
}
