//! Parsers of option values.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::cli::configuration::Location;

/// Beginning of a recipient or an identity that is a file with a passphrase.
pub const PASSPHRASE: &str = "passphrase:";

/// Whether a name is valid for a replication slot, by the server's rules.
pub fn is_slot_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    (1..64).contains(&name.len()) && name.bytes().all(fits)
}

/// Default number of jobs for a number of processors.
pub fn default_jobs(processors: usize) -> usize {
    processors.clamp(1, 4)
}

/// Number of processors available to this program.
pub fn own_processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Parses the location of a repository or of a backup: a directory, `file://` with its path, or the URL of a
/// prefix in an object store.
///
/// # Errors
/// An error for a URL that is none of these.
pub fn parse_location(text: &OsStr) -> Result<Location> {
    let Some((scheme, rest)) = text.to_str().and_then(|text| text.split_once("://")) else {
        return Ok(Location::Directory(PathBuf::from(text)));
    };
    if scheme == "file" {
        ensure!(
            rest.starts_with('/'),
            "URL \"file://{rest}\" does not have an absolute path"
        );
        return Ok(Location::Directory(PathBuf::from(rest)));
    }
    ensure!(
        ["s3", "gs", "az"].contains(&scheme),
        "URL \"{scheme}://{rest}\" has an unknown scheme\n\
         HINT:  Known are s3://, gs://, az:// and file://. Another server of the protocol of S3 is named by \
         --store-option endpoint=http://HOST:PORT."
    );
    Ok(Location::Objects(format!(
        "{scheme}://{}",
        rest.trim_end_matches('/')
    )))
}

/// Whether a text is a URL, and not a path.
pub fn is_url(text: &OsStr) -> bool {
    text.to_str().is_some_and(|text| text.contains("://"))
}

/// Parses a rate in kB/s: a number with an optional suffix k or M.
///
/// # Errors
/// An error if the rate is malformed or out of the server's range.
pub fn parse_rate(text: &str) -> Result<u32> {
    let (digits, factor) = match text.as_bytes() {
        [.., b'k'] => (&text[..text.len() - 1], 1.0),
        [.., b'M'] => (&text[..text.len() - 1], 1024.0),
        _ => (text, 1.0),
    };
    let number: f64 = digits
        .trim()
        .parse()
        .ok()
        .filter(|number: &f64| number.is_finite())
        .with_context(|| format!("transfer rate \"{text}\" is not a valid value"))?;
    ensure!(number > 0.0, "transfer rate must be greater than zero");
    let rate = number * factor;
    ensure!(
        (32.0..=1_048_576.0).contains(&rate),
        "transfer rate \"{text}\" is out of range: it must be from 32 kB/s to 1 GB/s"
    );
    Ok(rate as u32)
}

/// Parses a size in bytes: a number with an optional unit, as in postgresql.conf.
///
/// # Errors
/// An error if the size is malformed or too large.
pub fn parse_size(text: &str) -> Result<u64> {
    let text = text.trim();
    let unit = text.trim_start_matches(|letter: char| letter.is_ascii_digit());
    let factor: u64 = match unit.trim_start() {
        "" | "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        "TB" => 1 << 40,
        _ => bail!(
            "size \"{text}\" is not a valid value\nHINT:  Valid units are \"B\", \"kB\", \"MB\", \"GB\", and \"TB\"."
        ),
    };
    let digits = &text[..text.len() - unit.len()];
    let number: u64 = digits
        .parse()
        .with_context(|| format!("size \"{text}\" is not a valid value"))?;
    // The server's argument is a bigint.
    number
        .checked_mul(factor)
        .filter(|&size| i64::try_from(size).is_ok())
        .with_context(|| format!("size \"{text}\" is out of range"))
}

/// Parses a time: a number with a unit, as in postgresql.conf.
///
/// # Errors
/// An error if the time is malformed or too long.
pub fn parse_time(text: &str) -> Result<Duration> {
    let text = text.trim();
    let unit = text.trim_start_matches(|letter: char| letter.is_ascii_digit());
    let factor: u64 = match unit.trim_start() {
        "s" => 1,
        "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => bail!(
            "time \"{text}\" is not a valid value\nHINT:  Valid units are \"s\", \"min\", \"h\", and \"d\"."
        ),
    };
    let digits = &text[..text.len() - unit.len()];
    let number: u32 = digits
        .parse()
        .with_context(|| format!("time \"{text}\" is not a valid value"))?;
    Ok(Duration::from_secs(u64::from(number) * factor))
}

/// Parses a mapping `OLD=NEW`; `\=` is an equals sign in a path.
///
/// # Errors
/// An error if the mapping is malformed or a path is not absolute.
pub fn parse_mapping(text: &str) -> Result<(PathBuf, PathBuf)> {
    let mut parts = Vec::new();
    let mut part = String::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if letters.next_if_eq(&'=').is_some() => part.push('='),
            '=' => parts.push(std::mem::take(&mut part)),
            letter => part.push(letter),
        }
    }
    parts.push(part);
    let [old, new] = <[String; 2]>::try_from(parts).map_err(|parts| {
        if parts.len() > 2 {
            anyhow::anyhow!("multiple \"=\" signs in tablespace mapping \"{text}\"")
        } else {
            invalid_mapping(text)
        }
    })?;
    if old.is_empty() || new.is_empty() {
        return Err(invalid_mapping(text));
    }
    let (old, new) = (PathBuf::from(old), PathBuf::from(new));
    ensure!(
        old.is_absolute(),
        "old directory is not an absolute path in tablespace mapping: {}",
        old.display()
    );
    ensure!(
        new.is_absolute(),
        "new directory is not an absolute path in tablespace mapping: {}",
        new.display()
    );
    // As the server has it: without a slash at the end, or two in a row.
    Ok((old.components().collect(), new.components().collect()))
}

/// Canonical form of a path: without empty parts, `.`, and `..` after another part. An absolute
/// path stays absolute. Works on bytes, as `canonicalize_path()` does.
pub fn canonical(path: &Path) -> Vec<u8> {
    let path = path.as_os_str().as_bytes();
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|&last| last != b"..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let root: &[u8] = if path.starts_with(b"/") { b"/" } else { b"" };
    [root, &parts.join(&b'/')].concat()
}

fn invalid_mapping(text: &str) -> anyhow::Error {
    anyhow::anyhow!("invalid tablespace mapping format \"{text}\", must be \"OLDDIR=NEWDIR\"")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn rates_have_suffixes_and_limits() {
        for (text, rate) in [
            ("32", 32),
            ("100k", 100),
            ("1M", 1024),
            ("1.5M", 1536),
            ("1048576", 1_048_576),
            ("1024M", 1_048_576),
        ] {
            assert_eq!(parse_rate(text).unwrap(), rate, "{text}");
        }
        for text in [
            "", "k", "x", "31", "0", "-5", "1049000", "1025M", "1G", "nan", "inf", "1e9",
        ] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_the_units_of_postgresql_conf() {
        for (text, size) in [
            ("0", 0),
            ("17", 17),
            ("8kB", 8192),
            ("3 MB", 3 << 20),
            ("4GB", 4 << 30),
            ("8388607TB", 8_388_607 << 40),
        ] {
            assert_eq!(parse_size(text).unwrap(), size, "{text}");
        }
        for text in [
            "",
            "kB",
            "-1",
            "1.5GB",
            "4gb",
            "4G",
            "8388608TB",
            "99999999999999999999",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn mappings_are_read_as_pg_basebackup_reads_them() {
        let pair = |text| {
            let (old, new) = parse_mapping(text).unwrap();
            (old.display().to_string(), new.display().to_string())
        };
        assert_eq!(pair("/a=/b"), ("/a".into(), "/b".into()));
        assert_eq!(pair("/a\\=c//d/=/b b"), ("/a=c/d".into(), "/b b".into()));
        for text in ["", "=", "/a", "/a=", "=/b", "/a=/b=/c", "a=/b", "/a=b"] {
            assert!(parse_mapping(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names_have_one_form() {
        for (path, form) in [
            ("base/1", "base/1"),
            ("./base//1/", "base/1"),
            ("base/x/../1/.", "base/1"),
            ("//base/./1", "/base/1"),
            ("../x", "../x"),
            ("x/../../y", "../y"),
            ("", ""),
        ] {
            assert_eq!(canonical(Path::new(path)), form.as_bytes(), "{path}");
        }
    }
}
