//! Holds what was received against the manifest, so that nobody has to read it again.

use anyhow::{Context, Result, bail, ensure};
use backup_format::checksum::Algorithm;
use serde::Deserialize;

use crate::digest::Digest;
use crate::folder::{MANIFEST, display};
use crate::received::Files;

/// At most so many differences are named.
const EXAMPLES: usize = 10;

#[derive(Deserialize)]
struct Manifest<'a> {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u32,
    #[serde(rename = "Files", borrow)]
    files: Vec<Entry<'a>>,
    #[serde(rename = "Manifest-Checksum")]
    checksum: String,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(rename = "Path", borrow)]
    path: Option<std::borrow::Cow<'a, str>>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<&'a str>,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<&'a str>,
    #[serde(rename = "Checksum")]
    checksum: Option<&'a str>,
}

/// Compares, and returns the number of files.
///
/// # Errors
/// Where the manifest is damaged, or a file is missing, differs, or is in the backup and not in the
/// manifest.
pub fn compare(manifest: &[u8], mut received: Files, algorithm: Algorithm) -> Result<usize> {
    let parsed: Manifest<'_> =
        serde_json::from_slice(manifest).context("could not parse backup manifest")?;
    ensure!(
        (1..=2).contains(&parsed.version),
        "unexpected manifest version {}",
        parsed.version
    );
    check_own_checksum(manifest, &parsed.checksum)?;
    let mut wrong = Vec::new();
    for entry in &parsed.files {
        let path = entry.path()?;
        let Some(written) = received.remove(path.as_slice()) else {
            wrong.push(format!(
                "\"{}\" is in the manifest and did not arrive",
                display(&path)
            ));
            continue;
        };
        if written.size != entry.size {
            let (size, expected) = (written.size, entry.size);
            wrong.push(format!(
                "\"{}\" has size {size}, and {expected} in the manifest",
                display(&path)
            ));
        } else if entry.algorithm.and_then(Algorithm::parse) != algorithm.name().map(|_| algorithm)
            || entry.checksum.unwrap_or_default() != hex(&written.digest)
        {
            wrong.push(format!("checksum mismatch for file \"{}\"", display(&path)));
        }
    }
    // WAL is not in a manifest: recovery verifies it.
    let unknown = received
        .keys()
        .filter(|path| !path.starts_with(b"pg_wal/") && path.as_slice() != MANIFEST);
    wrong.extend(
        unknown.map(|path| format!("\"{}\" arrived and is not in the manifest", display(path))),
    );
    if !wrong.is_empty() {
        let count = wrong.len();
        wrong.truncate(EXAMPLES);
        bail!(
            "the backup is not what its manifest says, in {count} places:\n{}",
            wrong.join("\n")
        );
    }
    Ok(parsed.files.len())
}

impl Entry<'_> {
    fn path(&self) -> Result<Vec<u8>> {
        match (&self.path, self.encoded_path) {
            (Some(path), None) => Ok(path.as_bytes().to_vec()),
            (None, Some(encoded)) => {
                unhex(encoded).context("could not decode file name in backup manifest")
            }
            _ => bail!("a file in the backup manifest does not have exactly one name"),
        }
    }
}

/// It covers all bytes before its own line.
fn check_own_checksum(manifest: &[u8], expected: &str) -> Result<()> {
    let line = b"\"Manifest-Checksum\"";
    let place = manifest
        .windows(line.len())
        .rposition(|window| window == line)
        .context("backup manifest has no checksum")?;
    let mut digest = Digest::new(Algorithm::Sha256);
    digest.update(&manifest[..place]);
    ensure!(
        hex(&digest.finish()) == expected,
        "backup manifest checksum mismatch"
    );
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs
        .map(|pair| (pair.len() == 2).then(|| byte(pair)).flatten())
        .collect()
}
