//! pg_control, read whole (catalog/pg_control.h).

use core::mem::{offset_of, size_of};

use backup_format::archive::Attributes;
use pgrx::pg_sys;

use super::file::{self, TransientFile};
use super::report::{Error, Result, Sqlstate};

/// Where pg_control lies, relative to the data directory.
pub const PATH: &[u8] = b"global/pg_control";

/// ControlFileLock in storage/lwlocknames.h: the number is the same from 15 to 19.
const CONTROL_FILE_LOCK: usize = 9;

/// Bytes and attributes of pg_control.
pub struct ControlFile {
    /// PG_CONTROL_FILE_SIZE bytes.
    pub content: Vec<u8>,
    /// Mode, owner and modification time.
    pub attributes: Attributes,
}

/// Reads pg_control while nobody writes it, and checks its CRC: a torn pg_control would be a
/// cluster that does not start.
///
/// # Errors
/// `data_corrupted` where the CRC does not match; what the operating system says otherwise.
pub fn read() -> Result<ControlFile> {
    let opened = TransientFile::open(PATH)?;
    let failure = |error: std::io::Error| Error::of_file("read file", PATH, &error);
    let file = opened.map_err(|error| Error::of_file("open file", PATH, &error))?;
    let mut content = vec![0; pg_sys::PG_CONTROL_FILE_SIZE as usize];
    let length = {
        let _lock = SharedLock::acquire();
        file.read_at(&mut content, 0).map_err(failure)?
    };
    if length != content.len() || !has_valid_crc(&content) {
        return Err(Error::new(
            Sqlstate::ERRCODE_DATA_CORRUPTED,
            format!(
                "incorrect checksum in control file \"{}\"",
                String::from_utf8_lossy(PATH)
            ),
        )
        .detail(format!("{length} of {} bytes were read.", content.len())));
    }
    let attributes = file::attributes(&file.metadata().map_err(failure)?);
    Ok(ControlFile {
        content,
        attributes,
    })
}

fn has_valid_crc(content: &[u8]) -> bool {
    const CRC: usize = offset_of!(pg_sys::ControlFileData, crc);
    const _: () =
        assert!(size_of::<pg_sys::ControlFileData>() <= pg_sys::PG_CONTROL_FILE_SIZE as usize);
    let stored = content[CRC..]
        .first_chunk()
        .map(|bytes| u32::from_ne_bytes(*bytes));
    stored == Some(crc32c(&content[..CRC]))
}

/// COMP_CRC32C between INIT_CRC32C and FIN_CRC32C, by the server's function.
fn crc32c(bytes: &[u8]) -> u32 {
    // SAFETY: the server has chosen its implementation when it started, or chooses it on the
    // first call; it is arithmetic and cannot raise.
    let crc = unsafe {
        #[allow(ffi_unwind_calls)]
        match pg_sys::pg_comp_crc32c {
            Some(compute) => compute(!0, bytes.as_ptr().cast(), bytes.len()),
            None => !0,
        }
    };
    !crc
}

/// ControlFileLock in shared mode. An ERROR inside releases it too, with all the session's locks.
struct SharedLock;

impl SharedLock {
    fn acquire() -> Self {
        // SAFETY: the main array holds every lock of lwlocknames.h.
        unsafe { pg_sys::LWLockAcquire(Self::lock(), pg_sys::LWLockMode::LW_SHARED) };
        Self
    }

    /// # Safety
    /// None beyond the server's being up, which it is in every backend.
    unsafe fn lock() -> *mut pg_sys::LWLock {
        // SAFETY: within the array of named locks.
        unsafe { &raw mut (*pg_sys::MainLWLockArray.add(CONTROL_FILE_LOCK)).lock }
    }
}

impl Drop for SharedLock {
    fn drop(&mut self) {
        // SAFETY: held since `acquire`; reading a file between raises nothing.
        unsafe { pg_sys::LWLockRelease(Self::lock()) };
    }
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::{Spi, pg_test};

    use super::{has_valid_crc, read};

    #[pg_test]
    fn pg_control_is_read_whole() {
        let Ok(control_file) = read() else {
            panic!("pg_control could not be read")
        };
        let expected = Spi::get_one::<Vec<u8>>("SELECT pg_read_binary_file('global/pg_control')");
        assert_eq!(expected, Ok(Some(control_file.content)));
        assert_eq!(control_file.attributes.mode, 0o600);
    }

    #[pg_test]
    fn a_torn_pg_control_is_noticed() {
        let Ok(control_file) = read() else {
            panic!("pg_control could not be read")
        };
        let mut content = control_file.content;
        assert!(has_valid_crc(&content));
        content[100] ^= 1;
        assert!(!has_valid_crc(&content));
        assert!(!has_valid_crc(&vec![0; content.len()]));
    }
}
