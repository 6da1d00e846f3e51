//! What makes a standby of a backup: `-R`, as pg_basebackup writes it.

/// The lines for `postgresql.auto.conf`.
pub fn settings(conninfo: &[(String, String)], slot: Option<&str>) -> String {
    let pairs: Vec<_> = conninfo
        .iter()
        .map(|(keyword, value)| format!("{keyword}={}", quote_value(value)))
        .collect();
    let mut lines = setting("primary_conninfo", &pairs.join(" "));
    if let Some(slot) = slot {
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
        let pairs = [
            ("host", "/tmp/a b"),
            ("password", "x'\\y"),
            ("port", "5432"),
        ]
        .map(|(keyword, value)| (keyword.to_owned(), value.to_owned()));
        assert_eq!(
            settings(&pairs, Some("slot_1")),
            "primary_conninfo = 'host=''/tmp/a b'' password=''x\\\\''\\\\\\\\y'' port=5432'\n\
             primary_slot_name = 'slot_1'\n"
        );
    }
}
