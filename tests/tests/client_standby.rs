//! Files written by `-R`, compared with pg_basebackup.

use std::fs;
use std::path::Path;

use backup_tests::client::{new_target, private_file, program};
use backup_tests::program::{command, major_version, succeed};
use backup_tests::server::Cluster;

/// Parameters of a backup's `primary_conninfo`. Their order depends on the program and its libpq.
#[track_caller]
fn primary_conninfo(target: &Path) -> Vec<String> {
    let path = target.join("postgresql.auto.conf");
    let settings = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let line = settings.lines().find_map(|line| {
        let value = line.strip_prefix("primary_conninfo = '")?;
        value.strip_suffix('\'')
    });
    let line = line.unwrap_or_else(|| panic!("{settings}"));
    line.split(' ').map(str::to_owned).collect()
}

/// From version 17 on, slot synchronization connects to this database.
#[test]
fn a_standby_knows_the_database_as_from_pg_basebackup() {
    let cluster = Cluster::new();
    let (folder, _) = new_target();
    let service = "[nightly]\ndbname=postgres\n";
    let services = private_file(&folder, "services", service);
    let services = services.to_str().expect("UTF-8");
    let is_written = major_version() >= 17;
    for (number, (string, variables, is_named)) in [
        ("", &[][..], false),
        ("dbname=postgres", &[], true),
        ("postgresql:///postgres", &[], true),
        ("", &[("PGDATABASE", "postgres")], true),
        ("connect_timeout=9", &[("PGDATABASE", "postgres")], true),
        ("dbname=postgres", &[("PGDATABASE", "x")], true),
        ("", &[("PGSERVICE", "nightly")], true),
        ("service=nightly", &[], false),
    ]
    .into_iter()
    .enumerate()
    {
        let [ours, theirs] = [("ours", program()), ("theirs", command("pg_basebackup"))].map(
            |(name, mut backup)| {
                let target = folder.join(format!("{name}.{number}"));
                backup.args(cluster.connection_args("postgres"));
                backup.args(["-c", "fast", "-N", "-R", "-D"]).arg(&target);
                backup.env("PGSERVICEFILE", services);
                backup.envs(variables.iter().copied());
                if !string.is_empty() {
                    backup.args(["-d", string]);
                }
                succeed(&mut backup);
                primary_conninfo(&target)
            },
        );
        let database = |parts: &[String]| -> Vec<String> {
            let parts = parts.iter().filter(|part| part.starts_with("dbname="));
            parts.cloned().collect()
        };
        assert_eq!(database(&ours), database(&theirs), "{string} {variables:?}");
        let expected: &[&str] = match is_written && is_named {
            true => &["dbname=postgres"],
            false => &[],
        };
        assert_eq!(database(&ours), expected, "{string} {variables:?}");
    }
}
