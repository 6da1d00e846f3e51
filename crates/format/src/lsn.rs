//! Log sequence numbers (LSNs): positions in the write-ahead log.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

/// Byte position in the write-ahead log. Zero is invalid and means no position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// Same output as the type `pg_lsn`: both halves in hexadecimal, without leading zeros.
impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// Error of parsing a text that is not an LSN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidLsn(String);

impl fmt::Display for InvalidLsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid input syntax for type pg_lsn: \"{}\"", self.0)
    }
}

impl Error for InvalidLsn {}

/// Same input as the type `pg_lsn`: one to eight hexadecimal digits on either side of the slash.
impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        fn half(digits: &str) -> Option<u64> {
            let fits = (1..=8).contains(&digits.len())
                && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            fits.then(|| u64::from_str_radix(digits, 16).ok())?
        }
        text.split_once('/')
            .and_then(|(high, low)| Some(Self(half(high)? << 32 | half(low)?)))
            .ok_or_else(|| InvalidLsn(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_is_written_as_pg_lsn_writes_it() {
        for (lsn, text) in [
            (0, "0/0"),
            (0x0200_0028, "0/2000028"),
            (0x16_B374_D848, "16/B374D848"),
            (0x1_0000_0000, "1/0"),
            (u64::MAX, "FFFFFFFF/FFFFFFFF"),
        ] {
            assert_eq!(Lsn(lsn).to_string(), text);
            assert_eq!(text.parse(), Ok(Lsn(lsn)));
        }
    }

    #[test]
    fn leading_zeros_and_lower_case_are_read() {
        assert_eq!("00000016/b374d848".parse(), Ok(Lsn(0x16_B374_D848)));
    }

    #[test]
    fn other_texts_are_no_lsn() {
        for text in [
            "",
            "/",
            "0",
            "0/",
            "/0",
            "000000001/0",
            "0/000000001",
            "G/0",
            "0/G",
            "+1/0",
            "-1/0",
            " 1/0",
            "1/0 ",
            "1/0/0",
            "1/\u{662}",
        ] {
            let message = text.parse::<Lsn>().map_err(|error| error.to_string());
            let expected = format!("invalid input syntax for type pg_lsn: \"{text}\"");
            assert_eq!(message, Err(expected));
        }
    }
}
