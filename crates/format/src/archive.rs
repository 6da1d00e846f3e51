//! Members of a tar archive: headers, padding and the end.
//!
//! Headers are plain ustar, as `tarCreateHeader()` writes them, wherever ustar can express the member.
//! Otherwise they use GNU extensions, which bsdtar, Python and others also read: base-256 numbers, and
//! an extra member before the real one for a name or link target longer than its field.
//!
//! A part of a file has the header of a file that continues from an earlier volume (`GNUTYPE_MULTIVOL` in
//! GNU tar's tar.h). GNU tar refuses it; bsdtar, Python and others take it for a whole file.
//!
//! All functions append to the caller's buffer. They cannot fail as long as names contain no zero
//! byte, and file names contain none.

use core::ops::Range;

use tar::{EntryType, Header};

/// Block size of a tar archive, in bytes. A header is one block; data is padded to whole blocks.
pub const BLOCK_SIZE: usize = 512;

/// End of an archive: two blocks of zeros.
pub const END: [u8; 2 * BLOCK_SIZE] = [0; 2 * BLOCK_SIZE];

/// Name of the member that carries a long name or link target, as in GNU tar.
const LONG_LINK: &[u8] = b"././@LongLink";

/// User and group name of all members. Like PostgreSQL we do not look them up: a restore as root
/// then creates files that the server can use.
const OWNER: &[u8; 8] = b"postgres";

/// Largest user or group id whose base-256 form leaves the first byte of its field free. That byte
/// holds the base-256 marker and the sign.
const MAX_ID: u64 = (1 << 56) - 1;

/// Type of the header of a part of a file.
pub(crate) const PART_TYPE: u8 = b'M';

/// Where in a header the offset of a part is.
pub(crate) const PART_OFFSET: Range<usize> = 369..381;

/// Where in a header the size of a part's whole file is.
pub(crate) const PART_FILE_SIZE: Range<usize> = 483..495;

/// Place of a part in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilePart {
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Size of the whole file in bytes.
    pub file_size: u64,
}

/// Header fields of a member other than name, type and size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits; file type bits are ignored.
    pub mode: u32,
    /// User id of the owner.
    pub uid: u64,
    /// Group id of the owner.
    pub gid: u64,
    /// Time of the last modification, in seconds since 1970-01-01 UTC.
    pub mtime: i64,
}

/// Appends the header of a regular file, to be followed by `size` bytes and [`padding`].
pub fn file_header(out: &mut Vec<u8>, path: &[u8], size: u64, attributes: &Attributes) {
    member_header(out, EntryType::Regular, path, b"", size, None, attributes);
}

/// Appends the header of a part of a regular file, to be followed by its `size` bytes and [`padding`].
pub fn part_header(
    out: &mut Vec<u8>,
    path: &[u8],
    size: u64,
    part: FilePart,
    attributes: &Attributes,
) {
    let entry_type = EntryType::new(PART_TYPE);
    member_header(out, entry_type, path, b"", size, Some(part), attributes);
}

/// Appends the header of a directory, adding a trailing slash to its name if missing. An empty path
/// is the directory that the archive is extracted to.
pub fn directory_header(out: &mut Vec<u8>, path: &[u8], attributes: &Attributes) {
    let mut name = if path.is_empty() { b"." } else { path }.to_vec();
    if !name.ends_with(b"/") {
        name.push(b'/');
    }
    member_header(out, EntryType::Directory, &name, b"", 0, None, attributes);
}

/// Appends the header of a symbolic link.
pub fn link_header(out: &mut Vec<u8>, path: &[u8], target: &[u8], attributes: &Attributes) {
    member_header(out, EntryType::Symlink, path, target, 0, None, attributes);
}

/// The number of zero bytes that follow the `size` bytes of a member.
pub fn padding(size: u64) -> usize {
    let tail = (size % BLOCK_SIZE as u64) as usize;
    (BLOCK_SIZE - tail) % BLOCK_SIZE
}

fn member_header(
    out: &mut Vec<u8>,
    entry_type: EntryType,
    path: &[u8],
    target: &[u8],
    size: u64,
    part: Option<FilePart>,
    attributes: &Attributes,
) {
    let mut header = Header::new_ustar();
    let fields = header.as_old();
    let (path_fits, target_fits) = (
        path.len() <= fields.name.len(),
        target.len() <= fields.linkname.len(),
    );
    // Same order as GNU tar.
    if !target_fits {
        long_member(out, EntryType::GNULongLink, target);
    }
    if !path_fits {
        long_member(out, EntryType::GNULongName, path);
    }

    header.set_mode(attributes.mode & 0o7777);
    header.set_uid(attributes.uid.min(MAX_ID));
    header.set_gid(attributes.gid.min(MAX_ID));
    header.set_size(size);
    set_mtime(&mut header, attributes.mtime);
    if let Some(part) = part {
        // Not in the fields that ustar has.
        let fields = header.as_mut_bytes();
        fields[PART_OFFSET].copy_from_slice(&number_field(part.offset));
        fields[PART_FILE_SIZE].copy_from_slice(&number_field(part.file_size));
    }
    finish_header(
        out,
        header,
        entry_type,
        path,
        target,
        path_fits && target_fits && part.is_none(),
    );
}

/// A number as the field of a size has it.
fn number_field(number: u64) -> [u8; 12] {
    let mut header = Header::new_ustar();
    header.set_size(number);
    header.as_old().size
}

/// Appends a member whose data is the name or link target of the member that follows.
fn long_member(out: &mut Vec<u8>, entry_type: EntryType, value: &[u8]) {
    // GNU tar counts the terminating zero byte as data.
    let size = value.len() as u64 + 1;
    let mut header = Header::new_ustar();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    finish_header(out, header, entry_type, LONG_LINK, b"", false);
    out.extend_from_slice(value);
    out.resize(out.len() + 1 + padding(size), 0);
}

/// Sets names, type and checksum of the header, and appends it.
///
/// Name and target are truncated to their fields. A `plain` header is complete by itself and keeps
/// the ustar magic. Any other gets the GNU magic; the two layouts do not differ in the fields used
/// here.
fn finish_header(
    out: &mut Vec<u8>,
    mut header: Header,
    entry_type: EntryType,
    path: &[u8],
    target: &[u8],
    plain: bool,
) {
    header.set_entry_type(entry_type);
    if let Some(fields) = header.as_ustar_mut() {
        copy_prefix(&mut fields.name, path);
        copy_prefix(&mut fields.linkname, target);
        copy_prefix(&mut fields.uname, OWNER);
        copy_prefix(&mut fields.gname, OWNER);
        fields.dev_major = *b"0000000\0";
        fields.dev_minor = *b"0000000\0";
        if !plain {
            fields.magic = *b"ustar ";
            fields.version = *b" \0";
        }
    }
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
}

/// Sets the modification time. A time before 1970 is a base-256 number: two's complement over the
/// width of the field.
fn set_mtime(header: &mut Header, mtime: i64) {
    match u64::try_from(mtime) {
        Ok(seconds) => header.set_mtime(seconds),
        Err(_) => {
            let field = &mut header.as_old_mut().mtime;
            field.fill(0xff);
            if let Some(low) = field.last_chunk_mut() {
                *low = mtime.to_be_bytes();
            }
        }
    }
}

/// Copies `bytes`, truncated to the field.
fn copy_prefix(field: &mut [u8], bytes: &[u8]) {
    for (slot, byte) in field.iter_mut().zip(bytes) {
        *slot = *byte;
    }
}
