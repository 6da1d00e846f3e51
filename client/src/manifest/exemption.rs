//! Paths that may differ from the manifest, as in `pg_verifybackup.c`. Some are in no manifest.
//! Others change after the backup: `pg_basebackup -R` appends to `postgresql.auto.conf` and creates
//! `standby.signal`, and point-in-time recovery creates `recovery.signal`.
//!
//! The list applies to backups at rest. A backup that is being received must match its manifest
//! exactly.

/// Exempt paths, including everything below them.
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
