//! What need not be as the manifest says, in pg_verifybackup's list (`pg_verifybackup.c`). Some is in no
//! manifest, and the rest may be changed when the backup is complete: `pg_basebackup -R` adds to
//! `postgresql.auto.conf` and makes `standby.signal`, and who recovers to a point in time makes
//! `recovery.signal`.
//!
//! It is for backups that somebody may have had in hand. One that is just arriving has to be as the
//! server sent it.

/// These paths, and everything below.
pub const EXEMPT: [&[u8]; 5] = [
    b"backup_manifest",
    b"pg_wal",
    b"postgresql.auto.conf",
    b"recovery.signal",
    b"standby.signal",
];

/// Whether a path of a backup is exempt.
pub fn is_exempt(path: &[u8]) -> bool {
    EXEMPT.iter().any(|exempt| is_within(path, exempt))
}

/// Whether a path is that of `outer`, or below it.
pub fn is_within(path: &[u8], outer: &[u8]) -> bool {
    path.strip_prefix(outer)
        .is_some_and(|rest| matches!(rest, [] | [b'/', ..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_exempt_with_what_is_below() {
        for path in ["pg_wal", "pg_wal/x", "pg_wal/x/y", "standby.signal"] {
            assert!(is_exempt(path.as_bytes()), "{path}");
        }
        for path in ["pg_wal2", "base/pg_wal", "recovery.signal.x", "", "pg_wa"] {
            assert!(!is_exempt(path.as_bytes()), "{path}");
        }
    }
}
