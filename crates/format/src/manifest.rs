//! Backup manifest, versions 1 and 2, byte for byte as `backup_manifest.c` writes it.
//!
//! [`Writer`] appends to a buffer of the caller, who may hash and send it between any two calls.
//! Order of calls: [`begin`](Writer::begin), [`file`](Writer::file) for each file,
//! [`wal_ranges`](Writer::wal_ranges), and [`finish`](Writer::finish) with the SHA-256 of everything
//! before.

use std::io::Write as _;

use crate::checksum::Algorithm;
pub use crate::timeline::{TimelineEntry, WalRange, WalRangeError, wal_ranges};

/// Which paths are written as text. All others are written in hexadecimal, as `Encoded-Path`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathStyle {
    /// Paths in valid UTF-8, as in the server.
    Utf8,
    /// ASCII paths, so that the manifest is text in every encoding.
    Ascii,
    /// No paths.
    Encoded,
}

/// A file in the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File<'a> {
    /// Path relative to the data directory.
    pub path: &'a [u8],
    /// Size in bytes.
    pub size: u64,
    /// Time of the last modification, in seconds since 1970-01-01 UTC.
    pub mtime: i64,
    /// Checksum of the contents; ignored in a manifest without checksums.
    pub digest: &'a [u8],
}

/// Writer of one manifest.
#[derive(Clone, Debug)]
pub struct Writer {
    algorithm: Algorithm,
    path_style: PathStyle,
    system_identifier: Option<u64>,
    first_file: bool,
}

impl Writer {
    /// Creates a writer; `algorithm` applies to all files. With a system identifier the manifest is of
    /// version 2, which PostgreSQL writes from 17 on; without one it is of version 1.
    pub fn new(
        algorithm: Algorithm,
        path_style: PathStyle,
        system_identifier: Option<u64>,
    ) -> Self {
        Self {
            algorithm,
            path_style,
            system_identifier,
            first_file: true,
        }
    }

    /// Appends the part before the files.
    pub fn begin(&self, out: &mut Vec<u8>) {
        match self.system_identifier {
            None => out.extend_from_slice(b"{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n"),
            Some(identifier) => append(
                out,
                format_args!(
                    "{{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": {identifier},\n"
                ),
            ),
        }
        out.extend_from_slice(b"\"Files\": [");
    }

    /// Appends a file.
    pub fn file(&mut self, out: &mut Vec<u8>, file: &File<'_>) {
        // Each entry ends the previous line, because the last entry has no comma after it.
        let separator = if self.first_file { "\n" } else { ",\n" };
        self.first_file = false;
        append(out, format_args!("{separator}{{ "));
        self.path(out, file.path);
        append(
            out,
            format_args!(
                ", \"Size\": {}, \"Last-Modified\": \"{}\"",
                file.size,
                Gmt(file.mtime)
            ),
        );
        if let Some(name) = self.algorithm.name() {
            append(
                out,
                format_args!(", \"Checksum-Algorithm\": \"{name}\", \"Checksum\": \""),
            );
            append_hex(out, file.digest);
            out.push(b'"');
        }
        out.extend_from_slice(b" }");
    }

    fn path(&self, out: &mut Vec<u8>, path: &[u8]) {
        let text = std::str::from_utf8(path)
            .ok()
            .filter(|text| match self.path_style {
                PathStyle::Utf8 => true,
                PathStyle::Ascii => text.is_ascii(),
                PathStyle::Encoded => false,
            });
        // serde_json escapes the same characters as escape_json(), in the same way.
        match text.and_then(|text| serde_json::to_string(text).ok()) {
            Some(json) => append(out, format_args!("\"Path\": {json}")),
            None => {
                out.extend_from_slice(b"\"Encoded-Path\": \"");
                append_hex(out, path);
                out.push(b'"');
            }
        }
    }

    /// Appends the end of the file list and the WAL ranges that the backup needs, newest first.
    pub fn wal_ranges(&self, out: &mut Vec<u8>, ranges: &[WalRange]) {
        out.extend_from_slice(b"\n],\n\"WAL-Ranges\": [\n");
        for (at, range) in ranges.iter().enumerate() {
            let separator = if at == 0 { "" } else { ",\n" };
            append(
                out,
                format_args!(
                    "{separator}{{ \"Timeline\": {}, \"Start-LSN\": \"{}\", \"End-LSN\": \"{}\" }}",
                    range.timeline, range.start, range.end
                ),
            );
        }
        out.extend_from_slice(b"\n],\n");
    }

    /// Appends the last line: the checksum of all lines before it.
    pub fn finish(&self, out: &mut Vec<u8>, sha256_of_all_before: &[u8; 32]) {
        out.extend_from_slice(b"\"Manifest-Checksum\": \"");
        append_hex(out, sha256_of_all_before);
        out.extend_from_slice(b"\"}\n");
    }
}

fn append(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to a Vec cannot fail.
    let _ = out.write_fmt(text);
}

fn append_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend(
        bytes
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)])),
    );
}

/// A time in seconds since 1970, written as `2024-02-29 23:59:59 GMT` in the Gregorian calendar.
struct Gmt(i64);

impl std::fmt::Display for Gmt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const DAY: i64 = 24 * 60 * 60;
        let (year, month, day) = civil_date(self.0.div_euclid(DAY));
        let second = self.0.rem_euclid(DAY);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} GMT"
        )
    }
}

/// Converts days since 1970-01-01 to year, month and day.
///
/// The calendar repeats every 400 years (an era). The computation begins years with March, which
/// puts the leap day at the end: the months before it have the same lengths in every year.
fn civil_date(days_since_1970: i64) -> (i64, i64, i64) {
    const DAYS_PER_ERA: i64 = 146_097;
    const DAYS_FROM_YEAR_0_MARCH_TO_1970: i64 = 719_468;

    let days = days_since_1970 + DAYS_FROM_YEAR_0_MARCH_TO_1970;
    let era = days.div_euclid(DAYS_PER_ERA);
    let day_of_era = days.rem_euclid(DAYS_PER_ERA);
    // Without the leap days before this day, each year of the era has 365 days.
    let leap_days = day_of_era / 1_460 - day_of_era / 36_524 + day_of_era / 146_096;
    let year_of_era = (day_of_era - leap_days) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // March to July have 153 days, and so have August to December.
    let months_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * months_from_march + 2) / 5 + 1;
    let month = (months_from_march + 2) % 12 + 1;
    let january_or_february = i64::from(month <= 2);
    (400 * era + year_of_era + january_or_february, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_gmt() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 GMT"),
            (-1, "1969-12-31 23:59:59 GMT"),
            (951_827_696, "2000-02-29 12:34:56 GMT"),
            (951_868_800, "2000-03-01 00:00:00 GMT"),
            (1_709_251_199, "2024-02-29 23:59:59 GMT"),
            (1_735_603_199, "2024-12-30 23:59:59 GMT"),
            (1_735_689_599, "2024-12-31 23:59:59 GMT"),
            (1_735_689_600, "2025-01-01 00:00:00 GMT"),
            (4_107_542_399, "2100-02-28 23:59:59 GMT"),
            (4_107_542_400, "2100-03-01 00:00:00 GMT"),
            (-62_135_596_800, "0001-01-01 00:00:00 GMT"),
            (253_402_300_799, "9999-12-31 23:59:59 GMT"),
        ] {
            assert_eq!(Gmt(seconds).to_string(), text);
        }
    }

    #[test]
    fn every_day_is_the_day_after_the_one_before() {
        let is_leap = |year| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days_in = |year, month| match month {
            2 if is_leap(year) => 29,
            2 => 28,
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        let (mut year, mut month, mut day) = (1, 1, 1);
        for days in -719_162.. {
            assert_eq!(civil_date(days), (year, month, day));
            day += 1;
            if day > days_in(year, month) {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
            if year == 10_000 {
                break;
            }
        }
    }

    #[test]
    fn times_that_no_calendar_holds_do_not_panic() {
        assert!(Gmt(i64::MIN).to_string().ends_with(" GMT"));
        assert!(Gmt(i64::MAX).to_string().ends_with(" GMT"));
    }

    #[test]
    fn paths_are_encoded_as_the_style_says() {
        let path = |style, path: &[u8]| {
            let mut out = Vec::new();
            Writer::new(Algorithm::None, style, None).path(&mut out, path);
            String::from_utf8_lossy(&out).into_owned()
        };
        for (bytes, utf8, ascii) in [
            (&b"PG_VERSION"[..], r#""Path": "PG_VERSION""#, None),
            (
                b"a\"\\\n\x01\x7f",
                "\"Path\": \"a\\\"\\\\\\n\\u0001\x7f\"",
                None,
            ),
            (
                b"caf\xc3\xa9",
                "\"Path\": \"café\"",
                Some(r#""Encoded-Path": "636166c3a9""#),
            ),
            (b"\xe9", r#""Encoded-Path": "e9""#, None),
        ] {
            assert_eq!(path(PathStyle::Utf8, bytes), utf8);
            assert_eq!(path(PathStyle::Ascii, bytes), ascii.unwrap_or(utf8));
        }
        let encoded = path(PathStyle::Encoded, b"PG");
        assert_eq!(encoded, r#""Encoded-Path": "5047""#);
    }

    #[test]
    fn version_2_names_the_system() {
        let mut out = Vec::new();
        let identifier = Some(u64::MAX);
        Writer::new(Algorithm::None, PathStyle::Utf8, identifier).begin(&mut out);
        let expected = "{ \"PostgreSQL-Backup-Manifest-Version\": 2,\n\
                        \"System-Identifier\": 18446744073709551615,\n\"Files\": [";
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }

    #[test]
    fn a_manifest_without_files_is_whole() {
        let writer = Writer::new(Algorithm::Sha512, PathStyle::Utf8, None);
        let mut out = Vec::new();
        writer.begin(&mut out);
        writer.wal_ranges(&mut out, &[]);
        writer.finish(&mut out, &[0xa5; 32]);
        let expected = format!(
            "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n],\n\
             \"WAL-Ranges\": [\n\n],\n\"Manifest-Checksum\": \"{}\"}}\n",
            "a5".repeat(32)
        );
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }
}
