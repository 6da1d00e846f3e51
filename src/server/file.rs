//! Files and directories of the cluster through the server's own descriptors (storage/fd.h).
//!
//! The server knows of the descriptors opened here and closes what an ERROR leaves behind. It does not know of
//! one that [`TransientFile::open_without_links`] opens: an ERROR unwinds, which closes it.
//! Relative paths start at the data directory, which is every backend's working directory.

use core::ffi::CStr;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use std::ffi::{CString, OsStr};
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use backup_format::archive::Attributes;
use backup_format::path::is_tablespace_link;
use pgrx::pg_sys;

use super::allocation::ByteStrings;
use super::clock;
use super::interrupt::ReadWait;
use super::report::{Error, Result, Sqlstate};
use super::settings;

/// An open regular file.
#[derive(Debug)]
pub struct TransientFile {
    descriptor: i32,
    /// Whether the server knows the descriptor.
    is_servers: bool,
}

/// Flags of an open for reading.
const READING: i32 = libc::O_RDONLY | libc::O_NOFOLLOW | libc::O_NONBLOCK;

impl TransientFile {
    /// Opens a file for reading, without following a link in the last component and without
    /// waiting for the writer of a fifo. The outer error is the server's, the inner one the
    /// operating system's.
    ///
    /// # Errors
    /// Where the session has too many files open.
    pub fn open(path: &[u8]) -> Result<io::Result<Self>> {
        let Ok(name) = CString::new(path) else {
            return Ok(Err(io::ErrorKind::InvalidInput.into()));
        };
        // SAFETY: guarded by pgrx; the name is terminated.
        let descriptor = unsafe { pg_sys::OpenTransientFile(name.as_ptr(), READING) };
        if descriptor < 0 {
            return Ok(Err(io::Error::last_os_error()));
        }
        Ok(Ok(Self {
            descriptor,
            is_servers: true,
        }))
    }

    /// Opens a file as [`TransientFile::open`] does, if no link is on the way to it, by one system call. `None`
    /// where that fails, be it that the system does not have the call: then the steps of
    /// [`has_real_parents`] and of [`TransientFile::open`] tell why.
    #[must_use]
    pub fn open_without_links(path: &[u8]) -> Option<Self> {
        #[cfg(target_os = "linux")]
        {
            let name = CString::new(path).ok()?;
            // SAFETY: all fields are numbers, for which zero is a value.
            let mut how: libc::open_how = unsafe { core::mem::zeroed() };
            how.flags = u64::try_from(READING | libc::O_CLOEXEC).ok()?;
            how.resolve = libc::RESOLVE_NO_SYMLINKS;
            // SAFETY: the name is terminated, and the structure has the size that is told.
            let descriptor = unsafe {
                libc::syscall(
                    libc::SYS_openat2,
                    libc::AT_FDCWD,
                    name.as_ptr(),
                    &raw const how,
                    size_of_val(&how),
                )
            };
            let descriptor = i32::try_from(descriptor).ok()?;
            (descriptor >= 0).then_some(Self {
                descriptor,
                is_servers: false,
            })
        }
        #[cfg(not(target_os = "linux"))]
        None
    }

    /// What fstat() says.
    ///
    /// # Errors
    /// The operating system's.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.with_std_file(std::fs::File::metadata)
    }

    /// What the operating system knows it by.
    pub(super) fn descriptor(&self) -> i32 {
        self.descriptor
    }

    /// Reads at an offset until the buffer is full or the file ends. Returns the bytes read.
    ///
    /// # Errors
    /// The operating system's.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;

        let _waiting = ReadWait::start();
        self.with_std_file(|file| {
            let mut filled = 0;
            while filled < buffer.len() {
                match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(filled)
        })
    }

    /// Lends the descriptor to the standard library.
    fn with_std_file<T>(&self, action: impl FnOnce(&std::fs::File) -> T) -> T {
        use std::os::fd::FromRawFd;

        // SAFETY: the descriptor is open as long as `self`, and ManuallyDrop leaves it open.
        let file = unsafe { std::fs::File::from_raw_fd(self.descriptor) };
        let file = core::mem::ManuallyDrop::new(file);
        action(&file)
    }
}

impl Drop for TransientFile {
    fn drop(&mut self) {
        if self.is_servers {
            // SAFETY: the descriptor came from OpenTransientFile in this transaction, so the server
            // knows it and has nothing to complain about.
            unsafe { pg_sys::CloseTransientFile(self.descriptor) };
        } else {
            // SAFETY: nobody else has the descriptor.
            unsafe { libc::close(self.descriptor) };
        }
    }
}

/// What lies under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// Anything else.
    Special,
}

/// What a listing needs to know of a name.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    /// What it is.
    pub file_type: FileType,
    /// Bytes.
    pub size: u64,
    /// Seconds since 1970.
    pub mtime: i64,
    /// Owner, group and permissions.
    access: Access,
}

/// What decides who may read a file.
#[derive(Clone, Copy, Debug)]
struct Access {
    uid: u32,
    gid: u32,
    mode: u32,
}

/// An open directory.
#[derive(Debug)]
pub struct Directory {
    stream: NonNull<pg_sys::DIR>,
    path: Vec<u8>,
}

impl Directory {
    /// Opens a directory. `None` where it does not exist.
    ///
    /// # Errors
    /// "could not open directory".
    pub fn open(path: &[u8]) -> Result<Option<Self>> {
        let Ok(name) = CString::new(path) else {
            return Ok(None);
        };
        // SAFETY: guarded by pgrx. The server keeps the open directory in its own table and closes
        // it after an ERROR.
        let stream = unsafe { pg_sys::AllocateDir(name.as_ptr()) };
        if let Some(stream) = NonNull::new(stream) {
            let path = path.to_vec();
            return Ok(Some(Self { stream, path }));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => Ok(None),
            _ => Err(Error::of_file("open directory", path, &error)),
        }
    }

    /// The names in it, without `.` and `..`.
    ///
    /// # Errors
    /// `out_of_memory`. Raises the server's own "could not read directory".
    pub fn names(&self) -> Result<ByteStrings> {
        let path = CString::new(self.path.as_slice()).unwrap_or_default();
        let mut names = ByteStrings::default();
        // SAFETY: guarded by pgrx; each entry is copied before the next is read.
        unsafe {
            loop {
                let entry = pg_sys::ReadDir(self.stream.as_ptr(), path.as_ptr());
                if entry.is_null() {
                    return Ok(names);
                }
                let name = CStr::from_ptr((&raw const (*entry).d_name).cast());
                if name != c"." && name != c".." {
                    names.push(&[name.to_bytes()])?;
                }
            }
        }
    }

    /// What lies under a name in it, without following a link and without a look-up of the whole
    /// path. `None` where there is nothing of that name.
    ///
    /// # Errors
    /// "could not stat file or directory", where the operating system says anything else.
    pub fn status(&self, name: &[u8]) -> Result<Option<Status>> {
        let Ok(name) = CString::new(name) else {
            return Ok(None);
        };
        let mut status = MaybeUninit::<libc::stat>::uninit();
        // SAFETY: the directory is open, the name is terminated, and the structure is written
        // before it is read, which the result tells.
        let status = unsafe {
            let directory = libc::dirfd(self.stream.as_ptr().cast());
            let flags = libc::AT_SYMLINK_NOFOLLOW;
            let result = libc::fstatat(directory, name.as_ptr(), status.as_mut_ptr(), flags);
            if result == 0 {
                Ok(status.assume_init())
            } else {
                Err(io::Error::last_os_error())
            }
        };
        match status {
            Ok(status) => Ok(Some(Status {
                file_type: match status.st_mode & libc::S_IFMT {
                    libc::S_IFREG => FileType::Regular,
                    libc::S_IFDIR => FileType::Directory,
                    libc::S_IFLNK => FileType::Link,
                    _ => FileType::Special,
                },
                size: u64::try_from(status.st_size).unwrap_or(0),
                mtime: status.st_mtime,
                access: Access {
                    uid: status.st_uid,
                    gid: status.st_gid,
                    mode: status.st_mode & 0o7777,
                },
            })),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT) => Ok(None),
                _ => {
                    let path = [&self.path, &b"/"[..], name.to_bytes()].concat();
                    Err(Error::of_file("stat file or directory", &path, &error))
                }
            },
        }
    }
}

impl Directory {
    /// Checks that the server may read a file of this directory. Owner and mode suffice for the files
    /// that the server has made. Others are for the operating system to judge, which knows groups,
    /// access control lists and capabilities.
    ///
    /// # Errors
    /// "could not open file", with owners and mode, where it may not.
    pub fn check_readable(&self, name: &[u8], status: &Status) -> Result<()> {
        let Access { uid, gid, mode } = status.access;
        // SAFETY: both only read the process's own ids.
        let (own_uid, own_gid) = unsafe { (libc::geteuid(), libc::getegid()) };
        if uid == own_uid && mode & libc::S_IRUSR != 0 {
            return Ok(());
        }
        let Ok(terminated) = CString::new(name) else {
            return Ok(());
        };
        // SAFETY: the directory is open, and the name is terminated.
        let result = unsafe {
            let directory = libc::dirfd(self.stream.as_ptr().cast());
            libc::faccessat(directory, terminated.as_ptr(), libc::R_OK, libc::AT_EACCESS)
        };
        let error = io::Error::last_os_error();
        // Anything else shows when the file is sent, or it has vanished by then.
        if result == 0 || error.raw_os_error() != Some(libc::EACCES) {
            return Ok(());
        }
        let path = match self.path.as_slice() {
            b"." => name.to_vec(),
            directory => [directory, b"/", name].concat(),
        };
        Err(Error::of_file("open file", &path, &error)
            .detail(format!(
                "The file has owner {uid}, group {gid} and mode {mode:04o}; the server runs as user {own_uid} and group {own_gid}."
            ))
            .hint(
                "Give the file to the server's account, or move it out of the data directory if it is not a part of the cluster.",
            ))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // SAFETY: opened by the server in this transaction, which therefore knows it.
        unsafe { pg_sys::FreeDir(self.stream.as_ptr()) };
    }
}

/// The names in a directory. `None` where it does not exist.
///
/// # Errors
/// As [`Directory::open`] and [`Directory::names`].
pub fn read_directory(path: &[u8]) -> Result<Option<ByteStrings>> {
    let directory = Directory::open(path)?;
    directory.map(|directory| directory.names()).transpose()
}

/// What lstat() says. `None` where there is nothing of that name.
///
/// # Errors
/// "could not stat file or directory", where the operating system says anything else.
pub fn metadata_if_exists(path: &[u8]) -> Result<Option<Metadata>> {
    match std::fs::symlink_metadata(as_path(path)) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => Ok(None),
            _ => Err(Error::of_file("stat file or directory", path, &error)),
        },
    }
}

/// Whether the directories that a relative path leads through still exist.
///
/// # Errors
/// Where one of them has become a link to somewhere else. Those in pg_tblspc are meant to be links.
pub fn has_real_parents(path: &[u8]) -> Result<bool> {
    for (end, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
        let directory = &path[..end];
        if is_tablespace_link(directory) {
            continue;
        }
        match metadata_if_exists(directory)? {
            Some(metadata) if metadata.is_dir() => {}
            Some(metadata) if metadata.is_symlink() => {
                return Err(has_changed(directory, "directory"));
            }
            _ => return Ok(false),
        }
    }
    Ok(true)
}

/// The error for an entry of the listing that something else has taken the place of.
#[must_use]
pub fn has_changed(path: &[u8], was: &str) -> Error {
    let path = super::encoding::display(path);
    Error::new(
        Sqlstate::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("\"{path}\" is no longer a {was}"),
    )
    .detail(format!(
        "It was a {was} when the files of the backup were listed."
    ))
    .hint(
        "Symbolic links are followed in pg_tblspc only, and special files are no part of a backup.",
    )
}

/// The target of a link. `None` where there is no link of that name.
///
/// # Errors
/// "could not read symbolic link", where the operating system says anything else.
pub fn link_target(path: &[u8]) -> Result<Option<Vec<u8>>> {
    use std::os::unix::ffi::OsStringExt;

    match std::fs::read_link(as_path(path)) {
        Ok(target) => Ok(Some(target.into_os_string().into_vec())),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::EINVAL) => Ok(None),
            _ => Err(Error::of_file("read symbolic link", path, &error)),
        },
    }
}

/// A file's attributes as the archive carries them.
#[must_use]
pub fn attributes(metadata: &Metadata) -> Attributes {
    Attributes {
        mode: metadata.mode() & 0o7777,
        uid: u64::from(metadata.uid()),
        gid: u64::from(metadata.gid()),
        mtime: metadata.mtime(),
    }
}

/// What a file that the server wrote now would have.
#[must_use]
pub fn attributes_of_new_file() -> Attributes {
    // SAFETY: both only read the process's own ids.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    Attributes {
        mode: settings::file_mode(),
        uid: u64::from(uid),
        gid: u64::from(gid),
        mtime: clock::current_unix_time(),
    }
}

fn as_path(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}
