//! Log sequence numbers, positions in the write-ahead log.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

/// A byte position in the write-ahead log. Zero is not a valid position, and stands for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

/// As the type `pg_lsn` writes it: both halves in hexadecimal, without leading zeros.
impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// A text is not an LSN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidLsn(String);

impl fmt::Display for InvalidLsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid input syntax for type pg_lsn: \"{}\"", self.0)
    }
}

impl Error for InvalidLsn {}

/// Accepts what the type `pg_lsn` does: one to eight hexadecimal digits on either side.
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
