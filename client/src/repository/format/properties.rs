//! Properties of the readers of `backup.json`, `join.json` and `host.N.json`, whatever they are given.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Debug;

use backup_mutation::changes;
use proptest::prelude::*;
use serde::Serialize;
use serde_json::json;

use super::*;
use crate::repository::backup_info::BackupInfo;
use crate::repository::join_info::{HostInfo, JoinInfo};

const TOKENS: &[&[u8]] = &[
    b"\"format\": 1, ",
    b"\"format\": 2, ",
    b"\"kind\": \"incremental\", ",
    b"\"archives\": [], ",
    b"{\"oid\": 4294967295, \"name\": \"\"}, ",
    b"{\"name\": \"\", \"bytes\": 1, \"stored_bytes\": 1, \"members\": 1}, ",
    b"\"more\": [{}], ",
    b"18446744073709551616",
    b"-9223372036854775808",
    b"2016-12-31T23:59:60Z",
    b"+262142-12-31T23:59:59.999999999+23:59",
    b"-262143-01-01T00:00:00-23:59",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"\\u0000",
    b"\\ud800",
    b"null",
    b"1e9",
    b"-",
    b",",
    b"\"",
    b"}",
    b"]",
    b"\xff",
];

fn description() -> Vec<u8> {
    let description = json!({
        "format": 1, "name": "b", "kind": "full", "parent": null, "parent_start_lsn": "0/28",
        "system_identifier": "7", "server_version": 150_000, "timeline": 1, "start_lsn": "0/28",
        "stop_lsn": null, "start_time": "2026-11-30T03:04:52.25Z",
        "stop_time": "2026-11-30T03:04:53Z", "bytes": 1, "stored_bytes": 2, "files": 3,
        "compression": "zstd:3", "label": "l", "program": "p", "backup_id": -4,
        "checksums": "CRC32C", "databases": [{"oid": 5, "name": "postgres"}], "tablespaces": [],
        "archives": [{"name": "base.0.tar", "bytes": 1, "stored_bytes": 2, "members": 3}],
    });
    serde_json::to_vec(&description).unwrap()
}

/// What was accepted comes back when it is written again.
fn assert_sound<T: DeserializeOwned + Serialize + Debug>(content: &[u8]) {
    let place = || "a file".to_owned();
    if let Ok(found) = parse::<T>(content, 1, place) {
        // What stands in keys that are not known may be no text.
        if let Ok(serde_json::Value::Object(keys)) = serde_json::from_slice(content) {
            assert_eq!(keys["format"], 1);
        }
        let text = serde_json::to_vec(&found).unwrap();
        let again = parse::<T>(&text, 1, place).expect("what was accepted is written");
        assert_eq!(format!("{again:?}"), format!("{found:?}"));
    }
}

#[test]
fn the_inputs_are_right() {
    parse::<BackupInfo>(&description(), 1, String::new).unwrap();
}

proptest! {
    #[test]
    fn a_changed_description_is_refused_or_sound(changes in changes(TOKENS)) {
        assert_sound::<BackupInfo>(&changes.apply(&description()));
    }

    #[test]
    fn changed_files_of_hosts_are_refused_or_sound(changes in changes(TOKENS)) {
        let join = b"{\"format\": 1, \"backup_id\": 4, \"checksums\": \"NONE\", \
            \"index_recipient\": null, \"recipients_sha256\": \"00\"}";
        assert_sound::<JoinInfo>(&changes.apply(join));
        let host = b"{\"format\": 1, \"host\": 2, \"hostname\": \"h\", \"done\": true}";
        assert_sound::<HostInfo>(&changes.apply(host));
    }
}
