//! A manifest without one of its files: `restore` leaves `tablespace_map` out.

use anyhow::{Context, Result, ensure};
use backup_format::checksum::Algorithm;

use crate::manifest::backup_path::display;
use crate::manifest::digest::Digest;
use crate::manifest::hex::hex;
use crate::manifest::{Entry, Manifest, covered_by_checksum};

/// The manifest without one of its files, which has a line of its own.
///
/// # Errors
/// Where it has none, or is not written as PostgreSQL writes it.
pub fn without(manifest: &[u8], path: &[u8]) -> Result<Vec<u8>> {
    let before = Manifest::parse(manifest)?;
    let (mut head, mut tail) = (Vec::new(), Vec::new());
    let mut found = false;
    for line in covered_by_checksum(manifest)?.split_inclusive(|&byte| byte == b'\n') {
        let object = line.trim_ascii_end();
        let entry = object.strip_suffix(b",").unwrap_or(object);
        let is_it =
            !found && serde_json::from_slice::<Entry>(entry).is_ok_and(|entry| entry.path == path);
        match (found, is_it) {
            (false, true) => {
                found = true;
                // The last one of all is the one that no comma follows.
                if entry.len() == object.len() && head.ends_with(b",\n") {
                    head.truncate(head.len() - 2);
                    head.push(b'\n');
                }
            }
            (false, false) => head.extend_from_slice(line),
            (true, _) => tail.extend_from_slice(line),
        }
    }
    head.append(&mut tail);
    let mut digest = Digest::new(Algorithm::Sha256);
    digest.update(&head);
    let checksum = hex(&digest.finish());
    head.extend_from_slice(format!("\"Manifest-Checksum\": \"{checksum}\"}}\n").as_bytes());

    let after = Manifest::parse(&head).context("could not shorten the backup manifest")?;
    ensure!(
        found && after.files.len() + 1 == before.files.len(),
        "could not take file \"{}\" out of the backup manifest",
        display(path)
    );
    Ok(head)
}
