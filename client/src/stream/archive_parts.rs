//! Parts of archives, which are read each by itself, so that several threads read one archive.
//!
//! The index of an archive says where a part can begin. An index is not trusted: a part has to begin
//! with a member and to end before one.

use std::io::SeekFrom;

use anyhow::{Context as _, Error, Result};
use backup_format::compression::Method;
use backup_format::member::{Broken, Receiver};

use crate::repository::index::{Entry, Frame, Member, MemberSum};
use crate::stream::archive_files::{ArchiveFile, PIECE};
use crate::stream::input::Input;

/// Bytes of an archive, without compression, from which on a part is large enough.
const LARGE: u64 = 64 << 20;

/// Part of an archive.
#[derive(Clone, Debug)]
pub struct ArchivePart {
    /// The archive.
    pub archive: ArchiveFile,
    from: Frame,
    to: End,
    /// Sum of its members by the index; none where there is no index.
    sum: Option<MemberSum>,
}

/// End of a part.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The end of the file.
    File,
    /// The end of the archive, which the index has.
    Archive(Frame),
    /// Another part begins there.
    Part(Frame),
}

impl ArchivePart {
    /// A whole archive as one part.
    pub fn whole(archive: &ArchiveFile) -> Self {
        Self {
            archive: archive.clone(),
            from: Frame::default(),
            to: End::File,
            sum: None,
        }
    }

    /// Parts of an archive by its index, without those that have nothing that is wanted.
    ///
    /// # Errors
    /// Where the index is missing or damaged.
    pub fn plan(archive: &ArchiveFile, wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<Self>> {
        Self::plan_of(archive, LARGE, wanted)
    }

    /// A part for each place of the index from which an archive that is compressed can be read, and one for all
    /// of another archive.
    ///
    /// # Errors
    /// As [`ArchivePart::plan`].
    pub fn plan_all(archive: &ArchiveFile) -> Result<Vec<Self>> {
        let large = match archive.method {
            Method::None => u64::MAX,
            _ => 0,
        };
        Self::plan_of(archive, large, |_| true)
    }

    fn plan_of(
        archive: &ArchiveFile,
        large: u64,
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Vec<Self>> {
        let mut index = archive.open_index()?;
        let mut plan = Plan {
            archive,
            large,
            parts: Vec::new(),
            start: Frame::default(),
            is_wanted: false,
            sum: MemberSum::default(),
        };
        while let Some(entry) = index.next().with_context(|| archive.place())? {
            match entry {
                Entry::Frame(frame) => plan.cut(End::Part(frame)),
                Entry::Member(member) => {
                    let plain = member.plain;
                    if archive.method == Method::None {
                        plan.cut(End::Part(Frame {
                            stored: plain,
                            plain,
                        }));
                    }
                    plan.add(&member);
                    plan.is_wanted |= wanted(&member.path);
                }
            }
        }
        if let Some(totals) = index.totals() {
            plan.cut(End::Archive(Frame {
                stored: totals.stored,
                plain: totals.plain,
            }));
        }
        Ok(plan.parts)
    }

    /// Whether the index has these members for it. It is so where there is no index.
    pub fn has(&self, members: &MemberSum) -> bool {
        self.sum.as_ref().is_none_or(|sum| sum.is(members))
    }

    /// Which part of the archive it is, for messages.
    pub fn place(&self) -> String {
        match (self.from.plain, self.next()) {
            (0, None) => String::new(),
            (from, None) => format!(" from byte {from} on"),
            (from, Some(to)) => format!(" from byte {from} to byte {to}"),
        }
    }

    /// Bytes of the part in its file.
    pub fn size(&self) -> u64 {
        match self.to.frame() {
            Some(end) => end.stored.saturating_sub(self.from.stored),
            None => self.archive.size,
        }
    }

    /// Input for the bytes of the part.
    ///
    /// # Errors
    /// As [`Input::at`].
    pub fn input(&self) -> Result<Input> {
        Input::at(self.archive.method, self.from.plain)
    }

    /// Position in the archive at which another part begins; [`None`] at the end of the archive.
    pub fn next(&self) -> Option<u64> {
        match self.to {
            End::Part(frame) => Some(frame.plain),
            End::File | End::Archive(_) => None,
        }
    }

    /// Hands on its bytes, as they are stored.
    ///
    /// # Errors
    /// The operating system's, the store's, and those of `take`.
    pub fn read(&self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let archive = &self.archive;
        let Some(Frame { stored: end, .. }) = self.to.frame() else {
            return archive.read(take);
        };
        let mut source = archive.open()?;
        source.limit(end);
        source
            .seek(SeekFrom::Start(self.from.stored))
            .with_context(|| format!("could not read file \"{}\"", archive.name))?;
        let mut piece = vec![0; PIECE];
        let mut left = end.saturating_sub(self.from.stored);
        while left > 0 {
            let wanted = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
            let length = archive.read_piece(&mut *source, &mut piece[..wanted])?;
            if length == 0 {
                return Err(Error::msg("the archive is shorter than its index says"))
                    .with_context(|| archive.place());
            }
            take(&piece[..length]).with_context(|| archive.place())?;
            left -= length as u64;
        }
        let is_last = matches!(self.to, End::Archive(_));
        if is_last && archive.read_piece(&mut *source, &mut piece[..1])? > 0 {
            return Err(Error::from(Broken::Trailing).context(archive.place()));
        }
        Ok(())
    }

    /// Hands all members of it to a receiver. `tell` is told how many bytes were read each time.
    ///
    /// # Errors
    /// As [`ArchivePart::read`], and what is wrong with the archive.
    pub fn unpack<R: Receiver<Error = Error>>(
        &self,
        receiver: &mut R,
        mut tell: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        let mut input = self.input()?;
        self.read(|bytes| {
            tell(bytes.len())?;
            input.push(bytes, |reader, plain| reader.push(plain, receiver))
        })?;
        let finished = match self.next() {
            Some(end) => input.finish_part(end),
            None => input.finish(),
        };
        finished.with_context(|| self.archive.place())
    }
}

impl End {
    fn frame(self) -> Option<Frame> {
        match self {
            Self::File => None,
            Self::Archive(frame) | Self::Part(frame) => Some(frame),
        }
    }
}

/// Parts while an index is read.
struct Plan<'a> {
    archive: &'a ArchiveFile,
    /// Bytes without compression from which on a part is not joined by the next.
    large: u64,
    parts: Vec<ArchivePart>,
    /// Where the current piece begins.
    start: Frame,
    /// Whether it has something that is wanted.
    is_wanted: bool,
    /// Sum of its members, unless it joins the part before it.
    sum: MemberSum,
}

impl Plan<'_> {
    /// Whether the current piece joins the part before it, if something in it is wanted.
    fn joins(&self) -> bool {
        self.parts.last().is_some_and(|last| {
            last.next() == Some(self.start.plain) && self.start.plain - last.from.plain < self.large
        })
    }

    /// Adds a member to the current piece.
    fn add(&mut self, member: &Member) {
        let joins = self.joins();
        let last = self.parts.last_mut().filter(|_| joins);
        let sum = match last.and_then(|last| last.sum.as_mut()) {
            Some(sum) => sum,
            None => &mut self.sum,
        };
        sum.add(&member.path, member.kind, member.size, member.plain);
    }

    /// Ends the current piece, which joins the part before it unless that is large.
    fn cut(&mut self, end: End) {
        let Some(place) = end.frame() else {
            return;
        };
        let (start, is_wanted, joins) = (self.start, self.is_wanted, self.joins());
        if place.plain == start.plain && matches!(end, End::Part(_)) {
            return;
        }
        self.start = place;
        self.is_wanted = false;
        let sum = std::mem::take(&mut self.sum);
        if !is_wanted {
            return;
        }
        if let Some(last) = self.parts.last_mut().filter(|_| joins) {
            last.to = end;
            return;
        }
        self.parts.push(ArchivePart {
            archive: self.archive.clone(),
            from: start,
            to: end,
            sum: Some(sum),
        });
    }
}
