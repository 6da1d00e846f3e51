//! Comparison of received files with the manifest.

use std::io::Read;

use anyhow::{Result, bail};
use backup_format::checksum::Algorithm;

use crate::manifest::backup_path::{MANIFEST, display};
use crate::manifest::parser::{Entry, Manifest};
use crate::manifest::received_files::Files;

/// Maximum number of differences in a message.
const EXAMPLES: usize = 10;

/// Number of differences, and the first of them.
#[derive(Default)]
struct Differences {
    count: usize,
    examples: Vec<String>,
}

/// Reads a manifest and compares it with received files; returns it, and the number of files in it.
/// Paths of which `ignores` says so are not looked at on either side.
///
/// # Errors
/// Where the manifest is damaged, and where a file is missing, differs, or is not in the manifest.
pub fn compare(
    manifest: impl Read,
    mut received: Files,
    algorithm: Algorithm,
    ignores: impl Fn(&[u8]) -> bool,
) -> Result<(Manifest, usize)> {
    let mut differences = Differences::default();
    let mut count = 0;
    let manifest = Manifest::read(manifest, |entry| {
        if ignores(&entry.path) {
            return;
        }
        count += 1;
        if let Some(difference) = compare_file(&entry, &mut received, algorithm) {
            differences.add(|| difference);
        }
    })?;
    // WAL is not in a manifest: recovery verifies it.
    let unknown = received
        .untaken()
        .filter(|path| !path.starts_with(b"pg_wal/") && *path != MANIFEST && !ignores(path));
    for path in unknown {
        differences.add(|| {
            let path = display(path);
            format!("\"{path}\" was received but is not in the manifest")
        });
    }
    differences.check()?;
    Ok((manifest, count))
}

fn compare_file(entry: &Entry, received: &mut Files, algorithm: Algorithm) -> Option<String> {
    let path = || display(&entry.path);
    let Some(written) = received.take(&entry.path) else {
        return Some(format!(
            "\"{}\" is in the manifest and did not arrive",
            path()
        ));
    };
    if written.size != entry.size {
        return Some(format!(
            "\"{}\" has size {}, and {} in the manifest",
            path(),
            written.size,
            entry.size
        ));
    }
    (entry.algorithm != algorithm || entry.checksum != written.digest)
        .then(|| format!("checksum mismatch for file \"{}\"", path()))
}

impl Differences {
    fn add(&mut self, text: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(text());
        }
    }

    fn check(self) -> Result<()> {
        if self.count > 0 {
            bail!(
                "backup does not match its manifest, in {} places:\n{}",
                self.count,
                self.examples.join("\n")
            );
        }
        Ok(())
    }
}
