//! Parser of a manifest, which hands on each file as it is read.
//!
//! Follows `parse_manifest.c`, with its messages.

use std::fmt;
use std::io::{BufReader, Read};

use anyhow::{Context, Result, anyhow, bail, ensure};
use backup_format::checksum::Algorithm;
use backup_format::lsn::Lsn;
use backup_format::timeline::WalRange;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess,
    Visitor,
};

use crate::manifest::backup_path::display;
use crate::manifest::hex::unhex;
use crate::manifest::own_checksum::{Checksum, Summing};

/// Context of errors in the text of a manifest.
const FAILED: &str = "could not parse backup manifest";
/// Size of a read in bytes.
const PIECE: usize = 64 * 1024;

const VERSION: &str = "PostgreSQL-Backup-Manifest-Version";
const SYSTEM_IDENTIFIER: &str = "System-Identifier";
const FILES: &str = "Files";
const WAL_RANGES: &str = "WAL-Ranges";
const MANIFEST_CHECKSUM: &str = "Manifest-Checksum";
const FIELDS: &[&str] = &[
    VERSION,
    SYSTEM_IDENTIFIER,
    FILES,
    WAL_RANGES,
    MANIFEST_CHECKSUM,
];

/// What a manifest says besides its files.
#[derive(Debug)]
pub struct Manifest {
    /// System identifier of the cluster, from version 2 on.
    pub system_identifier: Option<u64>,
    /// WAL ranges that recovery needs.
    pub wal_ranges: Vec<WalRange>,
    /// The manifest's own checksum, which was verified.
    pub checksum: Checksum,
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

impl Manifest {
    /// Reads a manifest, hands each file on, and verifies the manifest's own checksum. Nothing of
    /// the files is to be relied on before this has ended well.
    ///
    /// # Errors
    /// An error that names the defect.
    pub fn read(source: impl Read, take: impl FnMut(Entry)) -> Result<Self> {
        let mut source = BufReader::with_capacity(PIECE, Summing::new(source));
        let mut deserializer = serde_json::Deserializer::from_reader(&mut source);
        let raw = Document(take)
            .deserialize(&mut deserializer)
            .and_then(|raw| deserializer.end().map(|()| raw))
            .context(FAILED)?;
        ensure!(
            (1..=2).contains(&raw.version),
            "{FAILED}: unexpected manifest version"
        );
        let ranges = raw.wal_ranges.iter().map(RawRange::parse);
        let wal_ranges = ranges.collect::<Result<_>>().context(FAILED)?;
        let checksum = source.into_inner().finish().context(FAILED)?;
        check_own_checksum(&checksum, raw.checksum.as_deref())?;
        Ok(Self {
            // A manifest that names none is of no cluster.
            system_identifier: (raw.version > 1).then(|| raw.system_identifier.unwrap_or(0)),
            wal_ranges,
            checksum,
        })
    }
}

fn check_own_checksum(computed: &Checksum, expected: Option<&str>) -> Result<()> {
    let expected = expected.context("manifest has no checksum")?;
    let checksum = unhex(expected)
        .filter(|checksum| checksum.len() == computed.len())
        .ok_or_else(|| anyhow!("invalid manifest checksum: \"{expected}\""))?;
    ensure!(checksum == computed, "manifest checksum mismatch");
    Ok(())
}

/// A manifest without its files, as its text has it.
struct Raw {
    version: u32,
    system_identifier: Option<u64>,
    wal_ranges: Vec<RawRange>,
    checksum: Option<String>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    #[serde(rename = "Path")]
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    #[serde(rename = "Size")]
    size: Option<u64>,
    #[serde(rename = "Last-Modified")]
    _last_modified: Option<IgnoredAny>,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    #[serde(rename = "Checksum")]
    checksum: Option<String>,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRange {
    #[serde(rename = "Timeline")]
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start: String,
    #[serde(rename = "End-LSN")]
    end: String,
}

/// The whole manifest; the function takes each file.
struct Document<F>(F);

impl<'de, F: FnMut(Entry)> DeserializeSeed<'de> for Document<F> {
    type Value = Raw;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: FnMut(Entry)> Visitor<'de> for Document<F> {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a backup manifest")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Raw, A::Error> {
        let (mut version, mut system_identifier, mut files) = (None, None, None);
        let (mut wal_ranges, mut checksum) = (None, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                VERSION => once(&mut version, VERSION, map.next_value()?)?,
                SYSTEM_IDENTIFIER => {
                    once(&mut system_identifier, SYSTEM_IDENTIFIER, map.next_value()?)?;
                }
                FILES => once(&mut files, FILES, map.next_value_seed(Files(&mut self.0))?)?,
                WAL_RANGES => once(&mut wal_ranges, WAL_RANGES, map.next_value()?)?,
                MANIFEST_CHECKSUM => once(&mut checksum, MANIFEST_CHECKSUM, map.next_value()?)?,
                unknown => return Err(A::Error::unknown_field(unknown, FIELDS)),
            }
        }
        let missing = A::Error::missing_field;
        let version = version.ok_or_else(|| missing(VERSION))?;
        files.ok_or_else(|| missing(FILES))?;
        Ok(Raw {
            version,
            system_identifier: system_identifier.flatten(),
            wal_ranges: wal_ranges.unwrap_or_default(),
            checksum: checksum.flatten(),
        })
    }
}

fn once<T, E: serde::de::Error>(
    place: &mut Option<T>,
    field: &'static str,
    value: T,
) -> Result<(), E> {
    match place.replace(value) {
        Some(_) => Err(E::duplicate_field(field)),
        None => Ok(()),
    }
}

/// The list of files.
struct Files<F>(F);

impl<'de, F: FnMut(Entry)> DeserializeSeed<'de> for Files<F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(Entry)> Visitor<'de> for Files<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of files")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut files: A) -> Result<(), A::Error> {
        while let Some(entry) = files.next_element()? {
            (self.0)(entry);
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = RawEntry::deserialize(deserializer)?;
        raw.check().map_err(D::Error::custom)
    }
}

impl RawEntry {
    fn check(&self) -> Result<Entry> {
        let path = match (&self.path, &self.encoded_path) {
            (Some(path), None) => path.as_bytes().to_vec(),
            (None, Some(encoded)) => unhex(encoded).context("could not decode file name")?,
            (None, None) => bail!("missing path name"),
            (Some(_), Some(_)) => bail!("both path name and encoded path name"),
        };
        let size = self.size.context("missing size")?;
        let algorithm = match (&self.algorithm, &self.checksum) {
            (None, Some(_)) => bail!("checksum without algorithm"),
            (None, None) => Algorithm::None,
            (Some(name), _) => Algorithm::parse(name)
                .with_context(|| format!("unrecognized checksum algorithm: \"{name}\""))?,
        };
        let text = self.checksum.as_deref().unwrap_or_default();
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

impl RawRange {
    fn parse(&self) -> Result<WalRange> {
        let lsn = |text: &str| text.parse::<Lsn>().ok();
        Ok(WalRange {
            timeline: self.timeline,
            start: lsn(&self.start).context("could not parse start LSN")?,
            end: lsn(&self.end).context("could not parse end LSN")?,
        })
    }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use backup_format::manifest::{File, PathStyle, Writer};

    use super::*;
    use crate::manifest::digest::Digest;

    /// Manifest of files of 5 bytes.
    pub fn written(style: PathStyle, paths: &[&[u8]]) -> Vec<u8> {
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
        let mut files = Vec::new();
        let manifest = Manifest::read(&text[..], |file| files.push(file)).unwrap();
        assert_eq!(manifest.system_identifier, Some(42));
        assert_eq!(manifest.wal_ranges[0].timeline, 3);
        assert_eq!(manifest.wal_ranges[0].end, Lsn(0x1_0000_0000));
        assert!(files.iter().all(|file| file.algorithm == Algorithm::Crc32c));
        let paths: Vec<_> = files.iter().map(|file| &file.path[..]).collect();
        assert_eq!(paths, [&b"a\"\\\n"[..], b"\xe9"]);
        assert_eq!(files[1].checksum, [1, 2, 0xab, 0xcd]);
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
            let error = format!(
                "{:#}",
                Manifest::read(changed.as_bytes(), |_| ()).unwrap_err()
            );
            assert!(error.contains(said), "{error}: {said}");
        }
    }
}
