//! Reading an archive while it arrives, in pieces of any size.
//!
//! Understands what [`archive`](crate::archive) writes, and nothing else: a member of any other
//! type is an error, and so is a header whose checksum is wrong. Content is handed on where it
//! lies. What a name means, and whether it may be written, is the receiver's to say.

use core::fmt;

use tar::{EntryType, Header};

use crate::archive::{Attributes, BLOCK_SIZE, padding};

/// The longest name or link target, in bytes. PostgreSQL has none beyond MAXPGPATH.
const LONGEST_NAME: u64 = 4096;

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
}

/// A member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name, as it is in the archive, but for the slash behind a directory.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Bytes of content that follow.
    pub size: u64,
    /// Where a link leads.
    pub target: Vec<u8>,
    /// What else its header says.
    pub attributes: Attributes,
}

/// What is wrong with an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Where a header should be there is something else.
    NoHeader,
    /// A member of a type that no backup has.
    Type(u8),
    /// A name that is too long, or holds a zero byte.
    Name,
    /// It ends in the middle, or without its end mark.
    Truncated,
    /// Something follows the end.
    Trailing,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHeader => f.write_str("the archive has no valid header where one must be"),
            Self::Type(kind) => write!(f, "the archive has a member of type {kind}"),
            Self::Name => f.write_str("the archive has a member with an invalid name"),
            Self::Truncated => f.write_str("the archive is incomplete"),
            Self::Trailing => f.write_str("the archive goes on after its end"),
        }
    }
}

impl core::error::Error for Broken {}

/// Who gets the members, each with [`begin`](Receiver::begin), its content in any number of pieces,
/// and [`end`](Receiver::end).
pub trait Receiver {
    /// What can fail.
    type Error: From<Broken>;

    /// A member begins.
    ///
    /// # Errors
    /// The receiver's own, here and below; the reader goes no further.
    fn begin(&mut self, member: &Member) -> Result<(), Self::Error>;

    /// Some of its content.
    ///
    /// # Errors
    /// As above.
    fn content(&mut self, bytes: &[u8]) -> Result<(), Self::Error>;

    /// All of its content has been there.
    ///
    /// # Errors
    /// As above.
    fn end(&mut self) -> Result<(), Self::Error>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Gathering a block that is a header, or a part of the end.
    Header,
    /// Content of the current member.
    Content(u64),
    /// The name or link target of the member to come.
    Long(LongField, u64),
    /// What follows content up to a whole block.
    Padding(u64),
    /// One of the two blocks of zeros has been there.
    Ending,
    /// Nothing may follow.
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LongField {
    Name,
    Target,
}

/// Reads one archive.
#[derive(Debug)]
pub struct Reader {
    state: State,
    block: Vec<u8>,
    /// Bytes that follow the content of the current member.
    padding: u64,
    long_name: Vec<u8>,
    long_target: Vec<u8>,
}

impl Default for Reader {
    fn default() -> Self {
        Self {
            state: State::Header,
            block: Vec::with_capacity(BLOCK_SIZE),
            padding: 0,
            long_name: Vec::new(),
            long_target: Vec::new(),
        }
    }
}

impl Reader {
    /// Takes the next bytes of the archive.
    ///
    /// # Errors
    /// What is wrong with the archive, and the receiver's own. Not to be called again after one.
    pub fn push<R: Receiver>(
        &mut self,
        mut bytes: &[u8],
        receiver: &mut R,
    ) -> Result<(), R::Error> {
        while !bytes.is_empty() {
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
            self.leave_finished(receiver)?;
        }
        Ok(())
    }

    /// Leaves out what is still to come of the current member: returns the number of bytes that the
    /// caller has to leave out likewise. The member ends for the receiver, as if all had been there.
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
        Ok(left)
    }

    /// The stream has ended.
    ///
    /// # Errors
    /// Where the archive has not.
    pub fn finish(&self) -> Result<(), Broken> {
        match self.state {
            State::Ended => Ok(()),
            _ => Err(Broken::Truncated),
        }
    }

    /// Leaves a state that has nothing left to wait for.
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
                // The terminating zero byte is data.
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
        let size = header.entry_size().map_err(|_| Broken::NoHeader)?;
        let kind = match header.entry_type() {
            EntryType::GNULongName => return Ok(self.begin_long(LongField::Name, size)?),
            EntryType::GNULongLink => return Ok(self.begin_long(LongField::Target, size)?),
            EntryType::Regular => Kind::File,
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => Kind::Link,
            other => return Err(Broken::Type(other.as_byte()).into()),
        };
        let member = self.member(header, kind, size)?;
        receiver.begin(&member)?;
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
        // The other half of a name, which archive does not write, and other readers would believe.
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
        })
    }
}

/// Content is followed by padding before the next header.
fn padding_state(padding: u64) -> State {
    if padding == 0 {
        State::Header
    } else {
        State::Padding(padding)
    }
}

/// As many bytes as are wanted and there are, and the rest.
fn split(bytes: &[u8], wanted: u64) -> (&[u8], &[u8]) {
    let length = usize::try_from(wanted).map_or(bytes.len(), |wanted| wanted.min(bytes.len()));
    bytes.split_at(length)
}

/// A field ends at its first zero byte.
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

/// Before 1970 it is a negative number in base 256.
fn mtime(field: &[u8; 12], header: &Header) -> Result<i64, Broken> {
    if let [0xff, .., a, b, c, d, e, f, g, h] = *field {
        return Ok(i64::from_be_bytes([a, b, c, d, e, f, g, h]));
    }
    let mtime = header.mtime().map_err(|_| Broken::NoHeader)?;
    i64::try_from(mtime).map_err(|_| Broken::NoHeader)
}

/// The sum of all bytes, with those of the checksum's field as blanks.
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
mod tests;
