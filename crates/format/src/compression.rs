//! Names and levels of compression methods, as `pg_basebackup --compress` takes them.

use std::error::Error;
use std::fmt;
use std::ops::RangeInclusive;

/// A compression method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// No compression.
    None,
    /// RFC 1952.
    Gzip,
    /// The LZ4 frame format.
    Lz4,
    /// RFC 8878.
    Zstd,
}

impl Method {
    /// All methods.
    pub const ALL: [Self; 4] = [Self::None, Self::Gzip, Self::Lz4, Self::Zstd];

    /// The name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Suffix that pg_basebackup adds to the name of an archive.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Gzip => ".gz",
            Self::Lz4 => ".lz4",
            Self::Zstd => ".zst",
        }
    }

    /// Valid levels; `None` for a method without levels.
    pub fn levels(self) -> Option<RangeInclusive<i32>> {
        match self {
            Self::None => None,
            Self::Gzip => Some(1..=9),
            Self::Lz4 => Some(1..=12),
            // ZSTD_minCLevel() and ZSTD_maxCLevel().
            Self::Zstd => Some(-131_072..=22),
        }
    }
}

/// A method and its level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Compression {
    /// The method.
    pub method: Method,
    /// The level; `None` is the method's default.
    pub level: Option<i32>,
}

/// Error of [`Compression::parse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidCompression {
    /// No method has this name.
    UnknownMethod,
    /// The method has no such level.
    InvalidLevel(Method),
}

impl fmt::Display for InvalidCompression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownMethod => write!(f, "unrecognized compression algorithm"),
            Self::InvalidLevel(method) => match method.levels() {
                Some(levels) => write!(
                    f,
                    "Compression algorithm \"{}\" expects a compression level between {} and {}.",
                    method.name(),
                    levels.start(),
                    levels.end()
                ),
                None => write!(
                    f,
                    "Compression algorithm \"{}\" does not accept a compression level.",
                    method.name()
                ),
            },
        }
    }
}

impl Error for InvalidCompression {}

/// `method` or `method:level`, as [`Compression::parse`] reads it.
impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.method.name())?;
        match self.level {
            Some(level) => write!(f, ":{level}"),
            None => Ok(()),
        }
    }
}

/// No compression.
impl Default for Compression {
    fn default() -> Self {
        Self {
            method: Method::None,
            level: None,
        }
    }
}

impl Compression {
    /// Parses `method` or `method:level`, with the method in upper or lower case.
    ///
    /// # Errors
    /// [`InvalidCompression`], with the reason.
    pub fn parse(text: &str) -> Result<Self, InvalidCompression> {
        let (name, level) = match text.split_once(':') {
            Some((name, level)) => (name, Some(level)),
            None => (text, None),
        };
        let method = Method::ALL
            .into_iter()
            .find(|method| method.name().eq_ignore_ascii_case(name))
            .ok_or(InvalidCompression::UnknownMethod)?;
        let Some(level) = level else {
            return Ok(Self {
                method,
                level: None,
            });
        };
        // The standard library would accept a plus sign.
        let number = level.parse().ok().filter(|_| !level.starts_with('+'));
        let in_range = |number: &i32| {
            method
                .levels()
                .is_some_and(|levels| levels.contains(number))
        };
        match number.filter(in_range) {
            Some(number) => Ok(Self {
                method,
                level: Some(number),
            }),
            None => Err(InvalidCompression::InvalidLevel(method)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<(Method, Option<i32>), InvalidCompression> {
        Compression::parse(text).map(|compression| (compression.method, compression.level))
    }

    #[test]
    fn methods_are_known_by_name_with_or_without_a_level() {
        for (text, method, level) in [
            ("none", Method::None, None),
            ("gzip", Method::Gzip, None),
            ("GZip:1", Method::Gzip, Some(1)),
            ("gzip:9", Method::Gzip, Some(9)),
            ("lz4:12", Method::Lz4, Some(12)),
            ("zstd:-131072", Method::Zstd, Some(-131_072)),
            ("zstd:0", Method::Zstd, Some(0)),
            ("zstd:22", Method::Zstd, Some(22)),
        ] {
            assert_eq!(parsed(text), Ok((method, level)), "{text}");
        }
    }

    #[test]
    fn unknown_methods_are_refused() {
        for text in [
            "", ":", ":1", "gz", " gzip", "gzip ", "gzipp:1", "zlib", "gzip,1",
        ] {
            assert_eq!(
                parsed(text),
                Err(InvalidCompression::UnknownMethod),
                "{text}"
            );
        }
    }

    #[test]
    fn levels_out_of_range_are_refused() {
        for (text, method) in [
            ("none:1", Method::None),
            ("gzip:", Method::Gzip),
            ("gzip:0", Method::Gzip),
            ("gzip:10", Method::Gzip),
            ("gzip:-1", Method::Gzip),
            ("gzip:+1", Method::Gzip),
            ("gzip: 1", Method::Gzip),
            ("gzip:1:2", Method::Gzip),
            ("gzip:1.5", Method::Gzip),
            ("lz4:0", Method::Lz4),
            ("lz4:13", Method::Lz4),
            ("zstd:23", Method::Zstd),
            ("zstd:-131073", Method::Zstd),
            ("zstd:99999999999", Method::Zstd),
        ] {
            assert_eq!(
                parsed(text),
                Err(InvalidCompression::InvalidLevel(method)),
                "{text}"
            );
        }
    }
}
