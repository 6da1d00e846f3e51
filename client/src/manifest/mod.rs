//! The backup manifest: parser, and comparison with received files, which spares reading them
//! again.
//!
//! Follows `parse_manifest.c`, with its messages.
//!
//! Imports: `runtime`, `console`, `cli`.

pub mod backup_path;
pub mod digest;
pub mod exemption;
pub mod hex;
pub mod received_files;
pub mod shortened;

use anyhow::{Context, Result, anyhow, bail, ensure};
use backup_format::checksum::Algorithm;
use backup_format::lsn::Lsn;
use backup_format::timeline::WalRange;
use serde::de::{Deserialize, Deserializer, Error as _, IgnoredAny};

use crate::manifest::backup_path::{MANIFEST, display};
use crate::manifest::digest::Digest;
use crate::manifest::hex::unhex;
use crate::manifest::received_files::Files;

/// Size limit of a manifest, which is held in memory: 1 GB, as in the server.
pub const LARGEST: u64 = 1 << 30;

/// Maximum number of differences in a message.
const EXAMPLES: usize = 10;

/// Content of a manifest.
#[derive(Debug)]
pub struct Manifest {
    /// System identifier of the cluster, from version 2 on.
    pub system_identifier: Option<u64>,
    /// The files.
    pub files: Vec<Entry>,
    /// WAL ranges that recovery needs.
    pub wal_ranges: Vec<WalRange>,
}

/// A file in a manifest.
#[derive(Debug)]
pub struct Entry {
    /// Its path, relative to the data directory.
    pub path: Vec<u8>,
    /// Its size in bytes.
    pub size: u64,
    /// Checksum algorithm.
    pub algorithm: Algorithm,
    /// Its checksum.
    pub checksum: Vec<u8>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw<'a> {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u32,
    #[serde(rename = "System-Identifier")]
    system_identifier: Option<u64>,
    #[serde(rename = "Files")]
    files: Vec<Entry>,
    #[serde(rename = "WAL-Ranges", default)]
    wal_ranges: Vec<RawRange<'a>>,
    #[serde(rename = "Manifest-Checksum")]
    checksum: Option<&'a str>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry<'a> {
    #[serde(rename = "Path", borrow)]
    path: Option<std::borrow::Cow<'a, str>>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<&'a str>,
    #[serde(rename = "Size")]
    size: Option<u64>,
    #[serde(rename = "Last-Modified")]
    _last_modified: Option<IgnoredAny>,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<&'a str>,
    #[serde(rename = "Checksum")]
    checksum: Option<&'a str>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRange<'a> {
    #[serde(rename = "Timeline")]
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start: &'a str,
    #[serde(rename = "End-LSN")]
    end: &'a str,
}

impl Manifest {
    /// Parses a manifest and verifies its own checksum.
    ///
    /// # Errors
    /// An error that names the defect.
    pub fn parse(text: &[u8]) -> Result<Self> {
        const FAILED: &str = "could not parse backup manifest";
        let raw: Raw<'_> = serde_json::from_slice(text).context(FAILED)?;
        ensure!(
            (1..=2).contains(&raw.version),
            "{FAILED}: unexpected manifest version"
        );
        let ranges = raw.wal_ranges.iter().map(RawRange::parse);
        let wal_ranges = ranges.collect::<Result<_>>().context(FAILED)?;
        let covered = covered_by_checksum(text).context(FAILED)?;
        check_own_checksum(covered, raw.checksum)?;
        Ok(Self {
            // A manifest that names none is of no cluster.
            system_identifier: (raw.version > 1).then(|| raw.system_identifier.unwrap_or(0)),
            files: raw.files,
            wal_ranges,
        })
    }

    /// The single algorithm of all its checksums.
    ///
    /// # Errors
    /// An error if there are several algorithms.
    pub fn algorithm(&self) -> Result<Algorithm> {
        let algorithm = self
            .files
            .first()
            .map_or(Algorithm::None, |file| file.algorithm);
        ensure!(
            self.files.iter().all(|file| file.algorithm == algorithm),
            "the backup manifest has checksums of several algorithms"
        );
        Ok(algorithm)
    }

    /// Whether a file is listed.
    pub fn has(&self, path: &[u8]) -> bool {
        self.files.iter().any(|file| file.path == path)
    }

    /// Compares the manifest with received files.
    ///
    /// # Errors
    /// An error if a file is missing, differs, or is not in the manifest.
    pub fn compare(&self, mut received: Files, algorithm: Algorithm) -> Result<()> {
        let mut wrong = Vec::new();
        for entry in &self.files {
            let path = || display(&entry.path);
            let Some(written) = received.remove(entry.path.as_slice()) else {
                wrong.push(format!(
                    "\"{}\" is in the manifest and did not arrive",
                    path()
                ));
                continue;
            };
            if written.size != entry.size {
                wrong.push(format!(
                    "\"{}\" has size {}, and {} in the manifest",
                    path(),
                    written.size,
                    entry.size
                ));
            } else if entry.algorithm != algorithm || entry.checksum != written.digest {
                wrong.push(format!("checksum mismatch for file \"{}\"", path()));
            }
        }
        // WAL is not in a manifest: recovery verifies it.
        let unknown = received
            .keys()
            .filter(|path| !path.starts_with(b"pg_wal/") && path.as_slice() != MANIFEST);
        wrong.extend(unknown.map(|path| {
            format!(
                "\"{}\" was received but is not in the manifest",
                display(path)
            )
        }));
        if !wrong.is_empty() {
            let count = wrong.len();
            wrong.truncate(EXAMPLES);
            bail!(
                "backup does not match its manifest, in {count} places:\n{}",
                wrong.join("\n")
            );
        }
        Ok(())
    }
}

/// Checks the size of a manifest.
///
/// # Errors
/// An error if it is too large.
pub fn check_size(size: u64) -> Result<()> {
    ensure!(size < LARGEST, "the manifest is too large");
    Ok(())
}

/// Reads a manifest, compares, and returns the number of files.
///
/// # Errors
/// Where the manifest is damaged, and as [`Manifest::compare`].
pub fn compare(manifest: &[u8], received: Files, algorithm: Algorithm) -> Result<usize> {
    let manifest = Manifest::parse(manifest)?;
    manifest.compare(received, algorithm)?;
    Ok(manifest.files.len())
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = RawEntry::deserialize(deserializer)?;
        raw.check().map_err(D::Error::custom)
    }
}

impl RawEntry<'_> {
    fn check(&self) -> Result<Entry> {
        let path = match (&self.path, self.encoded_path) {
            (Some(path), None) => path.as_bytes().to_vec(),
            (None, Some(encoded)) => unhex(encoded).context("could not decode file name")?,
            (None, None) => bail!("missing path name"),
            (Some(_), Some(_)) => bail!("both path name and encoded path name"),
        };
        let size = self.size.context("missing size")?;
        let algorithm = match (self.algorithm, self.checksum) {
            (None, Some(_)) => bail!("checksum without algorithm"),
            (None, None) => Algorithm::None,
            (Some(name), _) => Algorithm::parse(name)
                .with_context(|| format!("unrecognized checksum algorithm: \"{name}\""))?,
        };
        let text = self.checksum.unwrap_or_default();
        let checksum = unhex(text).with_context(|| {
            let path = display(&path);
            format!("invalid checksum for file \"{path}\": \"{text}\"")
        })?;
        Ok(Entry {
            path,
            size,
            algorithm,
            checksum,
        })
    }
}

impl RawRange<'_> {
    fn parse(&self) -> Result<WalRange> {
        let lsn = |text: &str| text.parse::<Lsn>().ok();
        Ok(WalRange {
            timeline: self.timeline,
            start: lsn(self.start).context("could not parse start LSN")?,
            end: lsn(self.end).context("could not parse end LSN")?,
        })
    }
}

/// The lines that the manifest checksum covers: all but the last.
pub(super) fn covered_by_checksum(text: &[u8]) -> Result<&[u8]> {
    let Some((b'\n', lines)) = text.split_last() else {
        bail!("last line not newline-terminated");
    };
    let newline = lines.iter().rposition(|&byte| byte == b'\n');
    let newline = newline.context("expected at least 2 lines")?;
    Ok(&text[..=newline])
}

fn check_own_checksum(covered: &[u8], expected: Option<&str>) -> Result<()> {
    let expected = expected.context("manifest has no checksum")?;
    let mut digest = Digest::new(Algorithm::Sha256);
    digest.update(covered);
    let digest = digest.finish();
    let checksum = unhex(expected)
        .filter(|checksum| checksum.len() == digest.len())
        .ok_or_else(|| anyhow!("invalid manifest checksum: \"{expected}\""))?;
    ensure!(checksum == digest, "manifest checksum mismatch");
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use backup_format::manifest::{File, PathStyle, Writer};

    use super::*;
    use crate::manifest::shortened::without;

    fn written(style: PathStyle, paths: &[&[u8]]) -> Vec<u8> {
        let mut writer = Writer::new(Algorithm::Crc32c, style, Some(42));
        let mut text = Vec::new();
        writer.begin(&mut text);
        for path in paths {
            writer.file(
                &mut text,
                &File {
                    path,
                    size: 5,
                    mtime: 0,
                    digest: &[1, 2, 0xab, 0xcd],
                },
            );
        }
        let range = WalRange {
            timeline: 3,
            start: Lsn(0x0200_0028),
            end: Lsn(0x1_0000_0000),
        };
        writer.wal_ranges(&mut text, &[range]);
        let mut digest = Digest::new(Algorithm::Sha256);
        digest.update(&text);
        let digest = digest.finish().try_into().unwrap();
        writer.finish(&mut text, &digest);
        text
    }

    #[test]
    fn what_was_written_is_read() {
        let text = written(PathStyle::Utf8, &[b"a\"\\\n", b"\xe9"]);
        let manifest = Manifest::parse(&text).unwrap();
        assert_eq!(manifest.system_identifier, Some(42));
        assert_eq!(manifest.wal_ranges[0].timeline, 3);
        assert_eq!(manifest.wal_ranges[0].end, Lsn(0x1_0000_0000));
        assert_eq!(manifest.algorithm().unwrap(), Algorithm::Crc32c);
        let paths: Vec<_> = manifest.files.iter().map(|file| &file.path[..]).collect();
        assert_eq!(paths, [&b"a\"\\\n"[..], b"\xe9"]);
        assert_eq!(manifest.files[1].checksum, [1, 2, 0xab, 0xcd]);
    }

    #[test]
    fn a_file_is_taken_out_wherever_it_is() {
        let all: [&[u8]; 4] = [b"PG_VERSION", b"\xe9", b"base/1", b"global/1"];
        for out in all {
            let left: Vec<_> = all.into_iter().filter(|&path| path != out).collect();
            let text = without(&written(PathStyle::Utf8, &all), out).unwrap();
            assert_eq!(text, written(PathStyle::Utf8, &left));
        }
        let alone = written(PathStyle::Utf8, &[b"x"]);
        let text = without(&alone, b"x").unwrap();
        assert_eq!(text, written(PathStyle::Utf8, &[]));
        assert!(without(&alone, b"y").is_err());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let text = written(PathStyle::Utf8, &[b"x"]);
        let text = String::from_utf8(text).unwrap();
        for (from, to, said) in [
            ("\"Size\": 5", "\"Size\": 6", "manifest checksum mismatch"),
            ("\"Size\": 5", "\"Size\": -5", "invalid value"),
            ("\"Size\": 5, ", "", "missing size"),
            ("\"Path\": \"x\", ", "", "missing path name"),
            ("\"Path\"", "\"Encoded-Path\"", "could not decode file name"),
            (
                "\"Path\"",
                "\"Path\": \"y\", \"Encoded-Path\"",
                "both path name",
            ),
            ("CRC32C", "MD5", "unrecognized checksum algorithm: \"MD5\""),
            (
                "\"Checksum-Algorithm\": \"CRC32C\", ",
                "",
                "checksum without algorithm",
            ),
            ("0102abcd", "0102abc", "invalid checksum for file \"x\""),
            (
                "Version\": 2",
                "Version\": 3",
                "unexpected manifest version",
            ),
            ("0/2000028", "0-2000028", "could not parse start LSN"),
            ("\"}\n", "\"}", "last line not newline-terminated"),
            ("]", "", "could not parse backup manifest"),
        ] {
            // The last of them, which is the only one or that of the last line.
            let (before, after) = text.rsplit_once(from).expect(from);
            let changed = format!("{before}{to}{after}");
            let error = format!("{:#}", Manifest::parse(changed.as_bytes()).unwrap_err());
            assert!(error.contains(said), "{error}: {said}");
        }
    }
}
