//! Last files of a backup as a row of `stop_backup()`, within the limits of text and of a row.
//!
//! What does not fit is found before the backup ends, so that `send_stop_backup()` can still end it.

use backup_format::manifest::PathStyle;

use crate::server::encoding;
use crate::server::report::{Error, Result, Sqlstate};

use super::leader::Leader;
use super::manifest::Manifest;

/// What the server allocates at once, at most (MaxAllocSize): the limit of a row, and of the message
/// that it leaves in.
pub const LARGEST: usize = 0x3FFF_FFFF;

/// In a row, beside the files that workers have sent: pg_control in hexadecimal digits, and in the
/// manifest the entries of the last files and the ranges of WAL, one for each timeline.
const ROOM_FOR_THE_REST: usize = 256 * 1024;

/// A manifest of ASCII is text in every encoding and the same bytes at every client.
pub const PATH_STYLE: PathStyle = PathStyle::Ascii;

/// Makes sure that `tablespace_map` can be a text.
///
/// # Errors
/// `character_not_in_repertoire`.
pub fn check_map_is_text(leader: &Leader) -> Result<()> {
    if encoding::is_text(&leader.started.tablespace_map) {
        return Ok(());
    }
    Err(Error::new(
        Sqlstate::ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
        "tablespace_map cannot be represented in the encoding of the database",
    )
    .detail("The location of a tablespace holds bytes that are no text in it.")
    .hint("Use send_stop_backup(), which sends the file as it is. The backup goes on."))
}

/// Makes sure that the manifest fits into a row of `largest` bytes. Nothing may be sent meanwhile.
///
/// # Errors
/// `program_limit_exceeded`.
pub fn check_manifest_fits(leader: &Leader, largest: usize) -> Result<()> {
    let Some(manifest) = Manifest::of_sent(leader, PATH_STYLE)? else {
        return Ok(());
    };
    let size = manifest.size()?;
    // Text grows up to four times on its way into the client's encoding.
    let text = leader.started.backup_label.len() + leader.started.tablespace_map.len();
    let rest = text.saturating_mul(4).saturating_add(ROOM_FOR_THE_REST);
    if size <= largest.saturating_sub(rest) as u64 {
        return Ok(());
    }
    Err(Error::new(
        Sqlstate::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
        format!("backup manifest of {size} bytes does not fit into a row"),
    )
    .hint("Use send_stop_backup(), whose stream has room for it. The backup goes on."))
}

/// The whole manifest.
///
/// # Errors
/// `out_of_memory`, and those of [`Manifest::write`].
pub fn as_text(manifest: &Manifest) -> Result<Vec<u8>> {
    let size = usize::try_from(manifest.size()?).unwrap_or(usize::MAX);
    let mut text = Vec::new();
    text.try_reserve_exact(size).map_err(|_| {
        Error::new(Sqlstate::ERRCODE_OUT_OF_MEMORY, "out of memory")
            .detail(format!("Failed on request of size {size}."))
            .hint("Use send_stop_backup(), which sends the manifest in pieces. The backup has been ended.")
    })?;
    manifest.write(&mut |piece| {
        text.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(text)
}

#[cfg(any(test, feature = "pg_test"))]
#[pgrx::pg_schema]
mod tests {
    use pgrx::{Spi, pg_test};

    use super::{LARGEST, ROOM_FOR_THE_REST, check_manifest_fits};
    use crate::backup::state::Phase;
    use crate::backup::{leader, stop};

    /// The largest row that is too small for the manifest of a backup without files is as large as the
    /// rest of it.
    #[pg_test]
    fn a_manifest_that_fits_into_no_row_leaves_the_backup_running() {
        assert_eq!(Spi::run("SELECT start_backup(fast => true)"), Ok(()));
        let refused = stop::stop(false, true, |leader, _| {
            check_manifest_fits(leader, ROOM_FOR_THE_REST)
        });
        let Err(failure) = refused else {
            panic!("the manifest fitted");
        };
        let failure = format!("{failure:?}");
        for part in [
            "ERRCODE_PROGRAM_LIMIT_EXCEEDED",
            "does not fit into a row",
            "Use send_stop_backup(), whose stream has room for it. The backup goes on.",
        ] {
            assert!(failure.contains(part), "{failure}");
        }
        let phase = leader::with_leader(|leader| leader.backup.phase());
        assert_eq!(phase, Some(Phase::Streaming));

        let stopped = stop::stop(false, true, |leader, _| {
            check_manifest_fits(leader, LARGEST)
        });
        match stopped {
            Ok(stopped) => stopped.finish(),
            Err(failure) => panic!("{failure:?}"),
        }
        assert!(leader::with_leader(|_| ()).is_none());
    }
}
