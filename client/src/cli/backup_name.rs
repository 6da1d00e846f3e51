//! Names of backups in a repository, and their kinds.

use std::fmt;

use anyhow::{Result, ensure};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Kind of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It needs no other backup.
    Full,
    /// It needs the backup before.
    Incremental,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
        })
    }
}

/// Default name: the start in UTC and the kind.
pub fn default(start: DateTime<Utc>, kind: Kind) -> String {
    format!("{}-{kind}", start.format("%Y%m%dT%H%M%SZ"))
}

/// Checks a name: letters, digits, `.`, `_` and `-`, at most 200, and no dot at the start.
///
/// # Errors
/// An error for any other name.
pub fn check(name: &str) -> Result<()> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    ensure!(
        (1..=200).contains(&name.len()) && name.bytes().all(fits) && !name.starts_with('.'),
        "name of a backup \"{name}\" is not valid\n\
         HINT:  Names consist of letters, digits, \".\", \"_\" and \"-\", and do not begin with a dot."
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_default_name_is_valid_and_tells_start_and_kind() {
        let start = DateTime::from_timestamp(1_795_719_600, 0).unwrap();
        let name = default(start, Kind::Full);
        assert_eq!(name, "20261126T190000Z-full");
        check(&name).unwrap();
        for name in ["", ".", "..", ".hidden", "a/b", "a b", "ä", "x\0"] {
            assert!(check(name).is_err(), "{name}");
        }
    }
}
