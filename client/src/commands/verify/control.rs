//! Check of the system identifier in pg_control.

use std::fmt::Display;

use anyhow::{Result, bail, ensure};
use backup_format::control_file::{self, ControlFile, InvalidControlFile};

use crate::manifest::digest::crc32c;

/// Compares a pg_control with the manifest. A backup of another cluster is not worth another look.
///
/// # Errors
/// Where it is damaged, or of another cluster; `name` is what it is called in messages.
pub fn check(content: &[u8], expected: u64, name: impl Display) -> Result<()> {
    match ControlFile::read(content, crc32c) {
        Ok(ControlFile {
            system_identifier: found,
            ..
        }) => {
            ensure!(
                found == expected,
                "{name}: manifest system identifier is {expected}, but control file has {found}"
            );
            Ok(())
        }
        Err(InvalidControlFile::Short) => bail!(
            "could not read file \"{name}\": read {} of {}",
            content.len(),
            control_file::content_size(content)
        ),
        Err(error) => bail!("{name}: {error}"),
    }
}
