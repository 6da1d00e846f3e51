//! A manifest without one of its files: `restore` leaves `tablespace_map` out.

use std::io::{BufRead as _, BufReader, Read};

use anyhow::{Context, Result, ensure};
use backup_format::checksum::Algorithm;

use crate::manifest::backup_path::display;
use crate::manifest::digest::Digest;
use crate::manifest::hex::hex;
use crate::manifest::parser::Entry;

/// Size of a read in bytes.
const PIECE: usize = 64 * 1024;

/// Copies a valid manifest without one of its files, which has a line of its own. What is written
/// is to be read again: it is a manifest if this one is written as PostgreSQL writes it.
///
/// # Errors
/// Where it has no such line, and errors of reading and of `write`.
pub fn without(
    manifest: impl Read,
    path: &[u8],
    mut write: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    let mut lines = BufReader::with_capacity(PIECE, manifest);
    let mut digest = Digest::new(Algorithm::Sha256);
    let mut put = |line: &[u8]| {
        digest.update(line);
        write(line)
    };
    // The line before, which may lose its comma, or be the last one of all.
    let (mut before, mut line) = (Vec::new(), Vec::new());
    let mut found = false;
    while lines
        .read_until(b'\n', &mut line)
        .context("could not read the backup manifest")?
        > 0
    {
        let object = line.trim_ascii_end();
        let entry = object.strip_suffix(b",").unwrap_or(object);
        let is_it =
            !found && serde_json::from_slice::<Entry>(entry).is_ok_and(|entry| entry.path == path);
        if is_it {
            found = true;
            // The last file is the one that no comma follows.
            if entry.len() == object.len() && before.ends_with(b",\n") {
                before.truncate(before.len() - 2);
                before.push(b'\n');
            }
        } else {
            put(&before)?;
            std::mem::swap(&mut before, &mut line);
        }
        line.clear();
    }
    ensure!(
        found,
        "could not take file \"{}\" out of the backup manifest",
        display(path)
    );
    let checksum = hex(&digest.finish());
    write(format!("\"Manifest-Checksum\": \"{checksum}\"}}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use backup_format::manifest::PathStyle;

    use super::*;
    use crate::manifest::parser::tests::written;

    fn shortened(manifest: &[u8], path: &[u8]) -> Result<Vec<u8>> {
        let mut text = Vec::new();
        without(manifest, path, |bytes| {
            text.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(text)
    }

    #[test]
    fn a_file_is_taken_out_wherever_it_is() {
        let all: [&[u8]; 4] = [b"PG_VERSION", b"\xe9", b"base/1", b"global/1"];
        for out in all {
            let left: Vec<_> = all.into_iter().filter(|&path| path != out).collect();
            let text = shortened(&written(PathStyle::Utf8, &all), out).unwrap();
            assert_eq!(text, written(PathStyle::Utf8, &left));
        }
        let alone = written(PathStyle::Utf8, &[b"x"]);
        let text = shortened(&alone, b"x").unwrap();
        assert_eq!(text, written(PathStyle::Utf8, &[]));
        assert!(shortened(&alone, b"y").is_err());
    }
}
