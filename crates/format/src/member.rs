//! Incremental reader of a tar archive that arrives in pieces of any size.
//!
//! It accepts only what [`archive`](crate::archive) writes: a member of any other type is an error,
//! and so is a header with a wrong checksum. A part of a file is an error too, unless the receiver says
//! otherwise. It passes content on without copying. The receiver
//! interprets names and decides whether to write them.

use core::fmt;

use tar::{EntryType, Header};

use crate::archive::{
    Attributes, BLOCK_SIZE, FilePart, PART_FILE_SIZE, PART_OFFSET, PART_TYPE, padding,
};

/// Longest name or link target, in bytes. Those of PostgreSQL do not exceed MAXPGPATH.
const LONGEST_NAME: u64 = 4096;

/// Type of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
}

/// Member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Name as in the archive, without the trailing slash of a directory.
    pub path: Vec<u8>,
    /// Type.
    pub kind: Kind,
    /// Size of the content in bytes.
    pub size: u64,
    /// Target of a link.
    pub target: Vec<u8>,
    /// Other header fields.
    pub attributes: Attributes,
    /// Position of its first header in the bytes that were read, in bytes.
    pub position: u64,
}

/// Error in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// A block that must be a header is not a valid one.
    NoHeader,
    /// A member has a type that does not occur in a backup.
    Type(u8),
    /// A name is too long or contains a zero byte.
    Name,
    /// A part of a file is not within the file.
    Part,
    /// The archive ends within a member or without its end mark.
    Truncated,
    /// Data follows the end of the archive.
    Trailing,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHeader => f.write_str("the archive has no valid header where one must be"),
            Self::Type(kind) => write!(f, "the archive has a member of type {kind}"),
            Self::Name => f.write_str("the archive has a member with an invalid name"),
            Self::Part => {
                f.write_str("the archive has a part of a file that is not within the file")
            }
            Self::Truncated => f.write_str("the archive is incomplete"),
            Self::Trailing => f.write_str("the archive goes on after its end"),
        }
    }
}

impl core::error::Error for Broken {}

/// Receiver of the members. For each, the reader calls [`begin`](Receiver::begin),
/// [`content`](Receiver::content) any number of times, and [`end`](Receiver::end).
pub trait Receiver {
    /// Error of the receiver.
    type Error: From<Broken>;

    /// Begins a member.
    ///
    /// # Errors
    /// The receiver's own, here and below. The reader stops at the first.
    fn begin(&mut self, member: &Member) -> Result<(), Self::Error>;

    /// Begins a part of a file. Size and content of the member are those of the part. A receiver refuses
    /// parts unless it has asked for them.
    ///
    /// # Errors
    /// As above.
    fn begin_part(&mut self, member: &Member, part: FilePart) -> Result<(), Self::Error> {
        let _ = (member, part);
        Err(Broken::Type(PART_TYPE).into())
    }

    /// Takes the next piece of its content.
    ///
    /// # Errors
    /// As above.
    fn content(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;

    /// Ends the member, after all of its content.
    ///
    /// # Errors
    /// As above.
    fn end(&mut self) -> Result<(), Self::Error>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Collecting a block: a header, or the first block of the end mark.
    Header,
    /// In the content of the current member; bytes left.
    Content(u64),
    /// In the name or link target of the next member; bytes left.
    Long(LongField, u64),
    /// In the padding after content; bytes left.
    Padding(u64),
    /// After the first of the two blocks of zeros.
    Ending,
    /// After the end mark; no data may follow.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LongField {
    Name,
    Target,
}

/// Reader of one archive.
#[derive(Debug)]
pub struct Reader {
    state: State,
    block: Vec<u8>,
    /// Bytes of padding after the content of the current member.
    padding: u64,
    long_name: Vec<u8>,
    long_target: Vec<u8>,
    /// Bytes that were read.
    position: u64,
    /// Where the first header of the current or next member begins.
    member_position: u64,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            state: State::Header,
            block: Vec::with_capacity(BLOCK_SIZE),
            padding: 0,
            long_name: Vec::new(),
            long_target: Vec::new(),
            position: 0,
            member_position: 0,
        }
    }
}

impl Reader {
    /// Creates a reader that begins at a member in the middle of an archive.
    #[must_use]
    pub fn at(position: u64) -> Self {
        Self {
            position,
            ..Self::default()
        }
    }

    /// Bytes that were read, and those before a beginning in the middle.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether the next byte begins a member, or the end of the archive.
    #[must_use]
    pub fn is_between_members(&self) -> bool {
        self.state == State::Header
            && self.block.is_empty()
            && self.long_name.is_empty()
            && self.long_target.is_empty()
    }

    /// Reads the next bytes of the archive.
    ///
    /// # Errors
    /// An error in the archive, or the receiver's own. Do not call it again after an error.
    pub fn push<R: Receiver>(
        &mut self,
        mut bytes: &[u8],
        receiver: &mut R,
    ) -> Result<(), R::Error> {
        while !bytes.is_empty() {
            let before = bytes.len();
            bytes = match self.state {
                State::Header | State::Ending => self.gather_block(bytes, receiver)?,
                State::Content(left) => {
                    let (now, rest) = split(bytes, left);
                    receiver.content(now)?;
                    self.state = State::Content(left - now.len() as u64);
                    rest
                }
                State::Long(field, left) => {
                    let (now, rest) = split(bytes, left);
                    let value = match field {
                        LongField::Name => &mut self.long_name,
                        LongField::Target => &mut self.long_target,
                    };
                    value.extend_from_slice(now);
                    self.state = State::Long(field, left - now.len() as u64);
                    rest
                }
                State::Padding(left) => {
                    let (now, rest) = split(bytes, left);
                    self.state = State::Padding(left - now.len() as u64);
                    rest
                }
                State::Ended => return Err(Broken::Trailing.into()),
            };
            self.position += (before - bytes.len()) as u64;
            self.leave_finished(receiver)?;
        }
        Ok(())
    }

    /// Skips the rest of the current member, including padding. Returns the number of bytes of the archive
    /// that the caller must skip too. The receiver's member ends as if all of its content had arrived.
    ///
    /// # Errors
    /// The receiver's own.
    pub fn skip_content<R: Receiver>(&mut self, receiver: &mut R) -> Result<u64, R::Error> {
        let left = match self.state {
            State::Content(left) => {
                receiver.end()?;
                left.saturating_add(self.padding)
            }
            State::Padding(left) => left,
            _ => return Ok(0),
        };
        self.state = State::Header;
        self.position += left;
        Ok(left)
    }

    /// Checks, at the end of the stream, that the archive is complete.
    ///
    /// # Errors
    /// [`Broken::Truncated`] if it is not.
    pub fn finish(&self) -> Result<(), Broken> {
        match self.state {
            State::Ended => Ok(()),
            _ => Err(Broken::Truncated),
        }
    }

    /// Leaves a state with no bytes left to read.
    fn leave_finished<R: Receiver>(&mut self, receiver: &mut R) -> Result<(), R::Error> {
        match self.state {
            State::Content(0) => {
                receiver.end()?;
                self.state = padding_state(self.padding);
            }
            State::Long(field, 0) => {
                let value = match field {
                    LongField::Name => &mut self.long_name,
                    LongField::Target => &mut self.long_target,
                };
                let padding = padding(value.len() as u64) as u64;
                // The size includes the terminating zero byte.
                if value.pop() != Some(0) || value.is_empty() || value.contains(&0) {
                    return Err(Broken::Name.into());
                }
                self.state = padding_state(padding);
            }
            State::Padding(0) => self.state = State::Header,
            _ => {}
        }
        Ok(())
    }

    fn gather_block<'b, R: Receiver>(
        &mut self,
        bytes: &'b [u8],
        receiver: &mut R,
    ) -> Result<&'b [u8], R::Error> {
        let (now, rest) = split(bytes, (BLOCK_SIZE - self.block.len()) as u64);
        self.block.extend_from_slice(now);
        if self.block.len() == BLOCK_SIZE {
            if self.long_name.is_empty() && self.long_target.is_empty() {
                self.member_position = self.position + now.len() as u64 - BLOCK_SIZE as u64;
            }
            let block = core::mem::take(&mut self.block);
            self.take_block(&block, receiver)?;
            self.block = block;
            self.block.clear();
        }
        Ok(rest)
    }

    fn take_block<R: Receiver>(&mut self, block: &[u8], receiver: &mut R) -> Result<(), R::Error> {
        if block.iter().all(|&byte| byte == 0) {
            if !self.long_name.is_empty() || !self.long_target.is_empty() {
                return Err(Broken::NoHeader.into());
            }
            self.state = match self.state {
                State::Ending => State::Ended,
                _ => State::Ending,
            };
            return Ok(());
        }
        if self.state == State::Ending || !has_right_checksum(block) {
            return Err(Broken::NoHeader.into());
        }
        let header = Header::from_byte_slice(block);
        // Readers disagree on what a header of another layout says, and on long names before one.
        if header.as_ustar().is_none() && header.as_gnu().is_none() {
            return Err(Broken::NoHeader.into());
        }
        let size = header.entry_size().map_err(|_| Broken::NoHeader)?;
        let mut part = None;
        let kind = match header.entry_type() {
            EntryType::GNULongName => return Ok(self.begin_long(LongField::Name, size)?),
            EntryType::GNULongLink => return Ok(self.begin_long(LongField::Target, size)?),
            EntryType::Regular => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Link,
            other if other.as_byte() == PART_TYPE => {
                part = Some(file_part(header, size)?);
                Kind::File
            }
            other => return Err(Broken::Type(other.as_byte()).into()),
        };
        let member = self.member(header, kind, size)?;
        match part {
            Some(part) => receiver.begin_part(&member, part)?,
            None => receiver.begin(&member)?,
        }
        if size > 0 {
            self.padding = padding(size) as u64;
            self.state = State::Content(size);
        } else {
            receiver.end()?;
            self.state = State::Header;
        }
        Ok(())
    }

    fn begin_long(&mut self, field: LongField, size: u64) -> Result<(), Broken> {
        let value = match field {
            LongField::Name => &self.long_name,
            LongField::Target => &self.long_target,
        };
        if size == 0 || size > LONGEST_NAME || !value.is_empty() {
            return Err(Broken::Name);
        }
        self.state = State::Long(field, size);
        Ok(())
    }

    fn member(&mut self, header: &Header, kind: Kind, size: u64) -> Result<Member, Broken> {
        let long_name = core::mem::take(&mut self.long_name);
        let long_target = core::mem::take(&mut self.long_target);
        let fields = header.as_old();
        let mut path = or_field(long_name, &fields.name);
        if kind == Kind::Directory && path.ends_with(b"/") {
            path.pop();
        }
        // The ustar prefix of a name. `archive` does not write one, and other readers would use it.
        let has_prefix = header
            .as_ustar()
            .is_some_and(|fields| fields.prefix[0] != 0);
        if path.is_empty() || has_prefix || (kind != Kind::File && size > 0) {
            return Err(Broken::Name);
        }
        let number = |value: std::io::Result<u64>| value.map_err(|_| Broken::NoHeader);
        Ok(Member {
            path,
            kind,
            size,
            target: or_field(long_target, &fields.linkname),
            attributes: Attributes {
                mode: header.mode().map_err(|_| Broken::NoHeader)? & 0o7777,
                uid: number(header.uid())?,
                gid: number(header.gid())?,
                mtime: mtime(&fields.mtime, header)?,
            },
            position: self.member_position,
        })
    }
}

/// The place of a part of `size` bytes in its file.
fn file_part(header: &Header, size: u64) -> Result<FilePart, Broken> {
    header.as_gnu().ok_or(Broken::NoHeader)?;
    let fields = header.as_bytes();
    let part = FilePart {
        offset: number(&fields[PART_OFFSET])?,
        file_size: number(&fields[PART_FILE_SIZE])?,
    };
    let end = part.offset.checked_add(size).ok_or(Broken::Part)?;
    if size == 0 || end > part.file_size {
        return Err(Broken::Part);
    }
    Ok(part)
}

/// Reads a number of a field that is like that of a size.
fn number(field: &[u8]) -> Result<u64, Broken> {
    let mut header = Header::new_ustar();
    header.as_old_mut().size.copy_from_slice(field);
    header.entry_size().map_err(|_| Broken::NoHeader)
}

/// The state after content: padding, or the next header if there is none.
fn padding_state(padding: u64) -> State {
    if padding == 0 {
        State::Header
    } else {
        State::Padding(padding)
    }
}

/// Splits off `wanted` bytes, or all if there are fewer.
fn split(bytes: &[u8], wanted: u64) -> (&[u8], &[u8]) {
    let length = usize::try_from(wanted).map_or(bytes.len(), |wanted| wanted.min(bytes.len()));
    bytes.split_at(length)
}

/// The long value if there is one, otherwise the field up to its first zero byte.
fn or_field(long: Vec<u8>, field: &[u8]) -> Vec<u8> {
    if long.is_empty() {
        field
            .iter()
            .copied()
            .take_while(|&byte| byte != 0)
            .collect()
    } else {
        long
    }
}

/// Reads the modification time. A time before 1970 is a negative base-256 number.
fn mtime(field: &[u8; 12], header: &Header) -> Result<i64, Broken> {
    if let [0xff, .., a, b, c, d, e, f, g, h] = *field {
        return Ok(i64::from_be_bytes([a, b, c, d, e, f, g, h]));
    }
    let mtime = header.mtime().map_err(|_| Broken::NoHeader)?;
    i64::try_from(mtime).map_err(|_| Broken::NoHeader)
}

/// Whether the checksum is the sum of all bytes, with its own field counted as blanks.
fn has_right_checksum(block: &[u8]) -> bool {
    const FIELD: core::ops::Range<usize> = 148..156;
    let sum: u32 = block
        .iter()
        .enumerate()
        .map(|(place, &byte)| u32::from(if FIELD.contains(&place) { b' ' } else { byte }))
        .sum();
    Header::from_byte_slice(block)
        .cksum()
        .is_ok_and(|said| said == sum)
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
