//! Configuration of a standby (`-R`), as pg_basebackup writes it (`fe_utils/recovery_gen.c`).

/// The first version, as libpq has it, whose pg_basebackup writes the name of a database.
const WITH_DATABASE: i32 = 170_000;

/// Settings of a standby.
#[derive(Clone, Copy, Debug)]
pub struct Standby<'a> {
    /// Version of its server.
    pub server_version: i32,
    /// How to connect to its primary: keywords and values, without a database.
    pub conninfo: &'a [(String, String)],
    /// The database that the user named. WAL comes without one; the synchronization of slots connects
    /// to it.
    pub database: Option<&'a str>,
    /// Its replication slot on the primary.
    pub slot: Option<&'a str>,
}

/// The lines for `postgresql.auto.conf`.
pub fn settings(standby: &Standby<'_>) -> String {
    let pair = |keyword: &str, value: &str| format!("{keyword}={}", quote_value(value));
    let mut pairs: Vec<_> = standby
        .conninfo
        .iter()
        .map(|(keyword, value)| pair(keyword, value))
        .collect();
    if standby.server_version >= WITH_DATABASE {
        pairs.extend(standby.database.map(|name| pair("dbname", name)));
    }
    let mut lines = setting("primary_conninfo", &pairs.join(" "));
    if let Some(slot) = standby.slot {
        lines.push_str(&setting("primary_slot_name", slot));
    }
    lines
}

/// A line of a configuration file.
fn setting(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('\'', "''");
    format!("{name} = '{value}'\n")
}

/// A value in a connection string.
fn quote_value(value: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    if !value.is_empty() && value.bytes().all(is_plain) {
        return value.to_owned();
    }
    let value = value.replace('\\', "\\\\").replace('\'', "\\'");
    format!("'{value}'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_twice() {
        let conninfo = [
            ("host", "/tmp/a b"),
            ("password", "x'\\y"),
            ("port", "5432"),
        ]
        .map(|(keyword, value)| (keyword.to_owned(), value.to_owned()));
        let standby = Standby {
            server_version: 150_020,
            conninfo: &conninfo,
            database: None,
            slot: Some("slot_1"),
        };
        assert_eq!(
            settings(&standby),
            "primary_conninfo = 'host=''/tmp/a b'' password=''x\\\\''\\\\\\\\y'' port=5432'\n\
             primary_slot_name = 'slot_1'\n"
        );
    }

    #[test]
    fn the_database_is_written_from_version_17_on() {
        let conninfo = [("user".to_owned(), "a".to_owned())];
        for (server_version, database, expected) in [
            (160_014, Some("app"), "user=a"),
            (170_000, Some("app"), "user=a dbname=app"),
            (180_004, Some("it's"), "user=a dbname=''it\\\\''s''"),
            (180_004, None, "user=a"),
        ] {
            let standby = Standby {
                server_version,
                conninfo: &conninfo,
                database,
                slot: None,
            };
            let expected = format!("primary_conninfo = '{expected}'\n");
            assert_eq!(settings(&standby), expected, "{server_version}");
        }
    }
}
