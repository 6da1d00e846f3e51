//! Reading of files in a directory that is not trusted.
//!
//! A file of a backup is a regular file. Opening a FIFO would block until there is a writer,
//! opening a device may have side effects, and a sparse file can have any size. So the file type is
//! checked before and after opening, and the bytes held in memory are limited.

use std::fs::{self, File, Metadata};
use std::io::{Error, ErrorKind, Read as _, Result};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// Opens a regular file for reading. Follows symbolic links, which tablespaces need.
///
/// # Errors
/// Errors of the operating system, and an error for another file type.
pub fn open(path: &Path) -> Result<File> {
    check(&fs::metadata(path)?)?;
    // It may be another one by now.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = File::options();
    let file = options
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    check(&file.metadata()?)?;
    Ok(file)
}

/// Opens a file of less than `limit` bytes.
///
/// # Errors
/// As [`open`], and where it is larger.
pub fn open_limited(path: &Path, limit: u64) -> Result<File> {
    let file = open(path)?;
    if file.metadata()?.len() >= limit {
        return Err(Error::new(ErrorKind::FileTooLarge, "File too large"));
    }
    Ok(file)
}

/// Reads the first bytes of a file, `count` of them where there are so many.
///
/// # Errors
/// As [`open`].
pub fn read_start(path: &Path, count: u64) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    open(path)?.take(count).read_to_end(&mut content)?;
    Ok(content)
}

fn check(found: &Metadata) -> Result<()> {
    if found.is_file() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, "Not a regular file"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::env;
    use std::process;

    use super::*;

    #[test]
    fn no_more_is_read_than_is_wanted() {
        let path = env::temp_dir().join(format!("regular_file.{}", process::id()));
        fs::write(&path, b"12345").unwrap();
        assert_eq!(read_start(&path, 3).unwrap(), b"123");
        let mut content = Vec::new();
        let mut whole = open_limited(&path, 6).unwrap();
        whole.read_to_end(&mut content).unwrap();
        assert_eq!(content, b"12345");
        let error = open_limited(&path, 5).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        // Nobody could hold that.
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(1 << 40).unwrap();
        assert_eq!(read_start(&path, 5).unwrap(), b"12345");
        fs::remove_file(&path).unwrap();
        for other in ["/", "/dev/null"] {
            let error = open(Path::new(other)).unwrap_err();
            assert_eq!(error.to_string(), "Not a regular file");
        }
    }
}
