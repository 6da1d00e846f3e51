//! Some databases and tablespaces of a backup in a repository, restored without the others.

use std::path::Path;

use backup_tests::client::{expect_failure, names_in, new_target};
use backup_tests::incremental::is_too_old;
use backup_tests::page::quiet_table;
use backup_tests::planted;
use backup_tests::program::{account, run, succeed};
use backup_tests::repository::{Access, Origin, Repository};
use backup_tests::scratch::Folder;
use backup_tests::server::Cluster;

/// Cluster with large databases, in a repository with and without compression.
struct Sample {
    origin: Origin,
    repository: Repository,
    /// OIDs of the databases `other` and `large`.
    other: u32,
    large: u32,
}

fn oid_of(cluster: &Cluster, database: &str) -> u32 {
    let query = "SELECT oid FROM pg_database WHERE datname = $1";
    let row = cluster.connect().query_one(query, &[&database]);
    row.expect("the database").get(0)
}

const BACKUPS: [(&str, &[&str]); 3] = [
    ("none", &["-j", "1"]),
    ("zstd", &["-j", "1", "-Z", "zstd"]),
    ("four", &["-j", "4", "-Z", "gzip:1"]),
];

impl Sample {
    fn new() -> Self {
        let origin = Origin::new();
        let cluster = &origin.cluster;
        cluster.execute("CREATE DATABASE large");
        quiet_table(
            &mut cluster.connect_to("large"),
            "w",
            100,
            "TABLESPACE outside",
        );
        let [other, large] = ["other", "large"].map(|name| oid_of(cluster, name));
        // Compression must not make nothing of it.
        for number in 1..5 {
            let noise = format!(
                "CREATE TABLE noise_{number} AS SELECT md5(i::text) || md5((-i)::text)
                 FROM generate_series(1, 200000) AS i"
            );
            let made = cluster.connect_to("large").batch_execute(&noise);
            made.expect("a table");
        }
        cluster.execute("CHECKPOINT");
        planted::relations(cluster, other, 2, 1 << 20);
        let repository = Repository::new();
        for (name, args) in BACKUPS {
            repository.take(cluster, name, args);
        }
        Self {
            origin,
            repository,
            other,
            large,
        }
    }

    /// Restores a part, and starts a server. Returns it and the bytes that came from the store.
    #[track_caller]
    fn restore(&self, name: &str, args: &[&str]) -> (Cluster, u64) {
        let places = Folder::new("r");
        let data = places.join("data");
        self.repository.server.forget_requests();
        let mut restore = self.repository.restore(name, &data, args);
        let output = run(restore.args(["-j", "2", &self.origin.mapping(&places)]));
        let said = account(&restore, &output);
        assert!(output.status.success(), "{said}");
        assert!(
            said.contains("has no backup manifest, because it is a part"),
            "{said}"
        );
        assert!(said.contains("HINT:  Drop the databases"), "{said}");
        assert!(!data.join("backup_manifest").exists());
        let got = self.repository.server.requests().bytes_got();
        let mut restored = Cluster::on(&data, places);
        restored.start();
        (restored, got)
    }

    fn stored(&self, name: &str) -> u64 {
        let archives = self.repository.archives(name);
        archives.iter().map(|(_, size)| size).sum()
    }
}

fn count(cluster: &Cluster, database: &str, table: &str) -> i64 {
    let query = format!("SELECT count(*) FROM {table}");
    let row = cluster.connect_to(database).query_one(&query, &[]);
    row.expect("the rows").get(0)
}

/// Whether a directory has files of relations.
fn has_relations(folder: &Path) -> bool {
    let exists = folder.exists();
    exists
        && names_in(folder)
            .iter()
            .any(|name| name.starts_with(|digit: char| digit.is_ascii_digit()))
}

#[test]
fn a_database_is_restored_without_the_others() {
    let sample = Sample::new();
    for (name, _) in BACKUPS {
        for wanted in ["other", &sample.other.to_string()] {
            let (restored, got) = sample.restore(name, &["--only-database", wanted]);
            assert_eq!(count(&restored, "other", "v"), 350);
            let data = restored.data_dir();
            assert!(has_relations(&data.join(format!("base/{}", sample.other))));
            assert!(!has_relations(&data.join(format!("base/{}", sample.large))));
            // With one archive, what is left out is most of it.
            if name != "four" {
                let stored = sample.stored(name);
                assert!(got < stored * 3 / 4, "{name}: {got} of {stored}");
            }
            // Those of initdb are always there.
            assert_eq!(count(&restored, "postgres", "t"), 2100);
            restored.execute("DROP DATABASE large");
            restored.execute("CREATE DATABASE large");
            restored.amcheck();
        }
    }
}

#[test]
fn several_databases_are_restored() {
    let sample = Sample::new();
    let args = ["--only-database", "other", "--only-database", "large"];
    let (restored, _) = sample.restore("zstd", &args);
    assert_eq!(count(&restored, "other", "v"), 350);
    assert_eq!(count(&restored, "large", "w"), 700);
    restored.amcheck();
}

#[test]
fn a_tablespace_is_left_out_or_restored() {
    let sample = Sample::new();
    let cluster = &sample.origin.cluster;
    let (second, _) = cluster.create_tablespace("second");
    quiet_table(&mut cluster.connect(), "x", 20, "TABLESPACE second");
    sample.repository.take(cluster, "two", &["-j", "2"]);
    let (first, _) = sample.origin.space;
    for wanted in ["outside", &first.to_string()] {
        let (restored, _) = sample.restore("two", &["--only-tablespace", wanted]);
        assert_eq!(count(&restored, "postgres", "u"), 1400);
        assert_eq!(count(&restored, "large", "w"), 700);
        let links = restored.data_dir().join("pg_tblspc");
        assert!(links.join(first.to_string()).exists());
        let second = links.join(second.to_string());
        assert!(!second.is_symlink() || !second.join("PG_VERSION").exists());
        let error = restored
            .connect()
            .query("SELECT * FROM x", &[])
            .expect_err("it is not there");
        assert!(
            format!("{error:?}").contains("could not open file"),
            "{error:?}"
        );
        restored.execute("DROP TABLE x");
    }
    let args = ["--only-database", "large", "--only-tablespace", "outside"];
    let (restored, _) = sample.restore("two", &args);
    assert_eq!(count(&restored, "large", "w"), 700);
    restored.execute("DROP DATABASE other");
}

#[test]
fn what_the_backup_does_not_have_is_refused() {
    let sample = Sample::new();
    let (folder, target) = new_target();
    for (args, word) in [
        (
            ["--only-database", "missing"],
            "the backup has no database \"missing\"",
        ),
        (
            ["--only-database", "4294967295"],
            "the backup has no database",
        ),
        (
            ["--only-tablespace", "missing"],
            "the backup has no tablespace \"missing\"",
        ),
        (
            ["--only-tablespace", "pg_global"],
            "the backup has no tablespace",
        ),
    ] {
        let said = expect_failure(&mut sample.repository.restore("none", &target, &args));
        assert!(said.contains(word), "{word}: {said}");
        assert!(names_in(&folder).is_empty());
    }
}

#[test]
fn of_archives_that_nothing_describes_a_database_is_restored_by_its_oid() {
    let origin = Origin::new();
    let folder = Folder::new("tar");
    let archives = folder.join("b");
    let mut backup = backup_tests::client::backup_of(&origin.cluster);
    succeed(backup.args(["-Ft", "-j", "2", "-D"]).arg(&archives));
    let access = Access::directory(&folder);
    let places = Folder::new("r");
    let data = places.join("data");
    let mapping = origin.mapping(&places);
    let args = ["--only-database", "other", &mapping];
    let said = expect_failure(&mut access.restore("b", &data, &args));
    assert!(said.contains("HINT:  Give its OID"), "{said}");
    let oid = oid_of(&origin.cluster, "other").to_string();
    succeed(&mut access.restore("b", &data, &["--only-database", &oid, &mapping]));
    let mut restored = Cluster::on(&data, places);
    restored.start();
    assert_eq!(count(&restored, "other", "v"), 350);
}

#[test]
fn of_an_incremental_backup_all_is_restored_or_nothing() {
    if is_too_old() {
        return;
    }
    let cluster = Cluster::builder().setting("summarize_wal", "on");
    let origin = Origin::on(cluster.setting("autovacuum", "off").start());
    let repository = Repository::new();
    repository.take(&origin.cluster, "full", &["-j", "2"]);
    origin.cluster.execute("INSERT INTO t VALUES ('y')");
    let earlier = repository.url_of("full");
    repository.take(&origin.cluster, "next", &["-j", "2", "-i", &earlier]);
    let (folder, target) = new_target();
    for args in [
        ["--only-database", "other"],
        ["--only-tablespace", "outside"],
    ] {
        let said = expect_failure(&mut repository.restore("next", &target, &args));
        assert!(
            said.contains("only a full backup can be restored in parts"),
            "{said}"
        );
        assert!(names_in(&folder).is_empty());
    }
    origin.assert_restored(&repository, "next", &["-j", "2"]);
}
