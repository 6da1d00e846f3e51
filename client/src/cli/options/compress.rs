//! Parser of `-Z`, with pg_basebackup's grammar.

use anyhow::{Result, anyhow, bail, ensure};
use backup_format::compression::{Compression, InvalidCompression, Method};

use crate::cli::configuration::{Compress, Side};

/// Maximum number of threads of zstd for a frame.
const MOST_WORKERS: i32 = 256;

/// `[{client|server}-]METHOD[:DETAIL]`, or only a level, which is gzip's.
///
/// # Errors
/// An error if the specification is malformed or the method does not support it.
pub fn parse_compress(text: &str) -> Result<Compress> {
    // As parse_compress_options() has it.
    match text.parse() {
        Ok(0) => return Ok(Compress::NONE),
        Ok(level) => return checked(Side::Client, Method::Gzip, &format!("level={level}")),
        Err::<i64, _>(_) => {}
    }
    let (side, text) = match (text.strip_prefix("client-"), text.strip_prefix("server-")) {
        (Some(rest), _) => (Side::Client, rest),
        (_, Some(rest)) => (Side::Server, rest),
        _ => (Side::Client, text),
    };
    let (name, detail) = match text.split_once(':') {
        Some((name, detail)) => (name, Some(detail)),
        None => (text, None),
    };
    let method = Method::ALL
        .into_iter()
        .find(|method| method.name() == name)
        .ok_or_else(|| anyhow!("{}: \"{name}\"", InvalidCompression::UnknownMethod))?;
    match detail {
        Some(detail) => checked(side, method, detail),
        None => Ok(Compress {
            side,
            compression: Compression {
                method,
                level: None,
            },
            ..Compress::NONE
        }),
    }
}

fn checked(side: Side, method: Method, detail: &str) -> Result<Compress> {
    parse_detail(side, method, detail)
        .map_err(|error| anyhow!("invalid compression specification: {error}"))
}

/// Follows parse_compress_specification() and validate_compress_specification().
fn parse_detail(side: Side, method: Method, detail: &str) -> Result<Compress> {
    let name = method.name();
    let mut compress = Compress {
        side,
        compression: Compression {
            method,
            level: None,
        },
        ..Compress::NONE
    };
    // A number by itself is a level.
    if detail.parse::<i64>().is_ok() {
        compress.compression.level = Some(parse_level(method, detail)?);
        return Ok(compress);
    }
    for option in detail.split(',') {
        let (keyword, value) = match option.split_once('=') {
            Some((keyword, value)) => (keyword, Some(value)),
            None => (option, None),
        };
        match keyword {
            "" => bail!("found empty string where a compression option was expected"),
            "level" => {
                compress.compression.level = Some(parse_level(method, required(keyword, value)?)?);
            }
            "workers" => {
                let workers = parse_integer(keyword, required(keyword, value)?)?;
                ensure!(
                    method == Method::Zstd,
                    "compression algorithm \"{name}\" does not accept a worker count"
                );
                ensure!(
                    (0..=MOST_WORKERS).contains(&workers),
                    "compression option \"workers\" must be from 0 to {MOST_WORKERS}"
                );
                compress.workers = workers.unsigned_abs();
            }
            "long" => {
                compress.long = parse_boolean(keyword, value)?;
                ensure!(
                    method == Method::Zstd,
                    "compression algorithm \"{name}\" does not support long-distance mode"
                );
            }
            _ => bail!("unrecognized compression option: \"{keyword}\""),
        }
        ensure!(
            side == Side::Client || keyword == "level",
            "compression option \"{keyword}\" is not supported by the server"
        );
    }
    Ok(compress)
}

fn required<'a>(keyword: &str, value: Option<&'a str>) -> Result<&'a str> {
    value.ok_or_else(|| anyhow!("compression option \"{keyword}\" requires a value"))
}

fn parse_integer(keyword: &str, value: &str) -> Result<i32> {
    value
        .parse()
        .map_err(|_| anyhow!("value for compression option \"{keyword}\" must be an integer"))
}

fn parse_boolean(keyword: &str, value: Option<&str>) -> Result<bool> {
    match value {
        None | Some("yes" | "on" | "1") => Ok(true),
        Some("no" | "off" | "0") => Ok(false),
        Some(_) => bail!("value for compression option \"{keyword}\" must be a Boolean value"),
    }
}

fn parse_level(method: Method, value: &str) -> Result<i32> {
    let level = parse_integer("level", value)?;
    match method.levels() {
        Some(levels) if levels.contains(&level) => Ok(level),
        Some(levels) => bail!(
            "compression algorithm \"{}\" expects a compression level between {} and {}",
            method.name(),
            levels.start(),
            levels.end()
        ),
        None => bail!(
            "compression algorithm \"{}\" does not accept a compression level",
            method.name()
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    fn parsed(text: &str) -> (Side, String, u32, bool) {
        let Compress {
            side,
            compression,
            workers,
            long,
        } = parse_compress(text).unwrap();
        (side, compression.to_string(), workers, long)
    }

    #[test]
    fn it_is_read_as_pg_basebackup_reads_it() {
        for (text, side, compression, workers, long) in [
            ("none", Side::Client, "none", 0, false),
            ("0", Side::Client, "none", 0, false),
            ("9", Side::Client, "gzip:9", 0, false),
            ("gzip", Side::Client, "gzip", 0, false),
            ("client-lz4:1", Side::Client, "lz4:1", 0, false),
            ("server-lz4", Side::Server, "lz4", 0, false),
            ("server-zstd:level=-7", Side::Server, "zstd:-7", 0, false),
            ("zstd:-7", Side::Client, "zstd:-7", 0, false),
            ("zstd:workers=2,level=19", Side::Client, "zstd:19", 2, false),
            ("zstd:long", Side::Client, "zstd", 0, true),
            ("zstd:level=3,long=on", Side::Client, "zstd:3", 0, true),
            ("zstd:long=no", Side::Client, "zstd", 0, false),
        ] {
            let expected = (side, compression.to_owned(), workers, long);
            assert_eq!(parsed(text), expected, "{text}");
        }
    }

    #[test]
    fn what_no_method_does_is_refused() {
        for (text, word) in [
            ("", "unrecognized compression algorithm: \"\""),
            ("zip", "unrecognized compression algorithm: \"zip\""),
            ("GZIP", "unrecognized compression algorithm: \"GZIP\""),
            ("server-", "unrecognized compression algorithm: \"\""),
            ("server-9", "unrecognized compression algorithm: \"9\""),
            ("10", "between 1 and 9"),
            ("-1", "between 1 and 9"),
            ("none:1", "does not accept a compression level"),
            ("gzip:0", "between 1 and 9"),
            ("lz4:13", "between 1 and 12"),
            ("zstd:23", "between -131072 and 22"),
            ("gzip:", "found empty string"),
            ("gzip:9,", "unrecognized compression option: \"9\""),
            ("gzip:level=9,", "found empty string"),
            ("gzip:level", "requires a value"),
            ("gzip:level=", "must be an integer"),
            ("gzip:level=nine", "must be an integer"),
            ("gzip:workers=3", "does not accept a worker count"),
            ("gzip:long", "does not support long-distance mode"),
            ("zstd:workers=-1", "from 0 to 256"),
            ("zstd:workers", "requires a value"),
            ("zstd:long=maybe", "must be a Boolean value"),
            ("zstd:fast", "unrecognized compression option: \"fast\""),
            ("server-zstd:workers=2", "not supported by the server"),
            ("server-zstd:long", "not supported by the server"),
        ] {
            let error = parse_compress(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
