//! `pg_parallel_backup restore`: the restored cluster starts, matches the manifest, and equals a
//! backup into a directory. A refused restore leaves nothing behind.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use backup_tests::client::{
    backup_of, expect_failure, names_in, new_target, program, restore_of, verify,
};
use backup_tests::crafted::edit;
use backup_tests::page::quiet_table;
use backup_tests::program::{account, command, give_to_owner, make_dir, run, succeed};
use backup_tests::scratch::Folder;
use backup_tests::server::{Cluster, Shutdown};
use backup_tests::verification::ours;

fn map(old: &Path, new: &Path) -> String {
    format!("{}={}", old.display(), new.display())
}

/// Cluster with two tablespaces, one at a path that needs quoting.
struct Origin {
    folder: Folder,
    cluster: Cluster,
    spaces: [(u32, PathBuf); 2],
}

impl Origin {
    fn new() -> Self {
        let cluster = Cluster::builder().setting("autovacuum", "off").start();
        let odd = cluster.make_dir("o d\\d=x");
        let mut client = cluster.connect();
        let location = odd.to_str().expect("UTF-8");
        client
            .batch_execute(&format!("CREATE TABLESPACE odd LOCATION '{location}'"))
            .expect("CREATE TABLESPACE");
        let row = client.query_one("SELECT oid FROM pg_tablespace WHERE spcname = 'odd'", &[]);
        let odd = (row.expect("the tablespace").get(0), odd);
        let spaces = [cluster.create_tablespace("outside"), odd];
        quiet_table(&mut client, "t", 300, "");
        quiet_table(&mut client, "u", 200, "TABLESPACE outside");
        quiet_table(&mut client, "v", 10, "TABLESPACE odd");
        cluster.execute("VACUUM (FREEZE)");
        cluster.execute("CHECKPOINT");
        let (folder, _) = new_target();
        Self {
            folder,
            cluster,
            spaces,
        }
    }

    fn tar(&self, name: &str, args: &[&str]) -> PathBuf {
        let target = self.folder.join(name);
        let mut backup = backup_of(&self.cluster);
        succeed(backup.arg("-Ft").args(args).arg("-D").arg(&target));
        target
    }

    /// Options that map the tablespaces into a directory.
    fn mapping(&self, folder: &Path) -> Vec<String> {
        let mapped = self.spaces.iter().map(|(oid, location)| {
            let old = location.display().to_string().replace('=', "\\=");
            format!("-T{old}={}", folder.join(oid.to_string()).display())
        });
        mapped.collect()
    }

    /// Checks that the restored server has all tables, in locations of its own.
    #[track_caller]
    fn assert_starts(&self, data: &Path, places: Folder) {
        for (oid, _) in &self.spaces {
            let link = fs::read_link(data.join(format!("pg_tblspc/{oid}"))).expect("a link");
            assert_eq!(link, places.join(oid.to_string()));
        }
        let mut restored = Cluster::on(data, places);
        restored.start();
        let query = "SELECT (SELECT count(*) FROM t) + (SELECT count(*) FROM u)
                     + (SELECT count(*) FROM v)";
        let row = restored.connect().query_one(query, &[]);
        assert_eq!(row.expect("the tables").get::<_, i64>(0), 7 * 510);
        restored.amcheck();
        restored.stop_and_check_checksums();
    }
}

/// Checks that both directories have the same files, apart from those that identify the backup.
/// Links are not compared: each backup has its own locations.
#[track_caller]
fn assert_same(one: &Path, other: &Path) {
    let mut diff = command("diff");
    diff.arg("--recursive");
    for name in ["backup_label", "backup_manifest", "pg_wal", "pg_control"] {
        diff.arg(format!("--exclude={name}"));
    }
    succeed(diff.arg(one).arg(other));
    let modes = |folder: &Path| {
        let mut find = command("find");
        find.args(["-L"]).arg(folder).args(["-printf", "%P %m\n"]);
        let found = succeed(&mut find);
        let mut lines: Vec<_> = found.lines().map(str::to_owned).collect();
        lines.retain(|line| !line.starts_with("pg_wal/"));
        lines.sort();
        lines
    };
    assert_eq!(modes(one), modes(other));
}

#[test]
fn archives_become_the_directory_that_they_are_a_backup_of() {
    let origin = Origin::new();
    let plain = origin.folder.join("plain");
    let spaces = origin.mapping(&origin.folder);
    succeed(
        backup_of(&origin.cluster)
            .args(&spaces)
            .arg("-D")
            .arg(&plain),
    );
    for (jobs, compression) in [
        ("1", "none"),
        ("3", "none"),
        ("2", "gzip:1"),
        ("3", "zstd"),
        ("2", "lz4"),
    ] {
        let name = format!("tar-{jobs}-{compression}").replace(':', "");
        let archives = origin.tar(&name, &["-j", jobs, "-Z", compression]);
        let places = Folder::new("r");
        let data = places.join("data");
        let mut command = restore_of(&archives, &data, &["-j", "2", "-v", "-P"]);
        let output = run(command.args(origin.mapping(&places)));
        let said = account(&command, &output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("files match the manifest"), "{said}");
        assert!(said.contains("restore completed"), "{said}");
        assert!(!data.join("tablespace_map").exists());
        verify(&data, &[]);
        assert_same(&data, &plain);
        origin.assert_starts(&data, places);
    }
}

#[test]
fn wal_goes_where_it_is_wanted_and_everything_to_the_disk() {
    let origin = Origin::new();
    let archives = origin.tar("tar", &["-j", "2", "--manifest-checksums", "SHA256"]);
    for method in ["fsync", "syncfs"] {
        let places = Folder::new("r");
        let (data, wal) = (places.join("deep/er/data"), places.join("wal"));
        let mut restore = program();
        restore.args(["restore", "--sync-method", method, "-D"]);
        restore.arg(&data).arg("--waldir").arg(&wal);
        succeed(restore.args(origin.mapping(&places)).arg(&archives));
        assert_eq!(fs::read_link(data.join("pg_wal")).expect("a link"), wal);
        assert!(names_in(&wal).iter().any(|name| name.len() == 24));
        verify(&data, &[]);
        origin.assert_starts(&data, places);
    }
}

#[test]
fn tablespaces_go_where_they_were_unless_they_are_mapped() {
    let origin = Origin::new();
    let archives = origin.tar("tar", &["-j", "2"]);
    let target = origin.folder.join("data");
    // The original tablespaces still exist.
    let said = expect_failure(&mut restore_of(&archives, &target, &[]));
    assert!(said.contains("exists but is not empty"), "{said}");
    assert!(said.contains("-T puts it elsewhere"), "{said}");
    assert!(!target.exists());
    let wrong = map(Path::new("/nowhere"), &origin.folder.join("x"));
    let said = expect_failure(&mut restore_of(&archives, &target, &["-T", &wrong]));
    assert!(
        said.contains("there is no tablespace in \"/nowhere\""),
        "{said}"
    );
    assert!(!target.exists());

    let Origin {
        folder,
        cluster,
        spaces,
    } = origin;
    let mut cluster = cluster;
    cluster.stop(Shutdown::Fast);
    for (_, location) in &spaces {
        fs::remove_dir_all(location).expect("remove a tablespace");
    }
    succeed(&mut restore_of(&archives, &target, &[]));
    for (oid, location) in &spaces {
        let link = target.join(format!("pg_tblspc/{oid}"));
        assert_eq!(&fs::read_link(link).expect("a link"), location);
    }
    verify(&target, &[]);
    let mut restored = Cluster::on(&target, folder);
    restored.start();
    restored.amcheck();
}

#[test]
fn a_backup_that_a_group_may_read_stays_so() {
    let cluster = Cluster::builder()
        .initdb_arg("--allow-group-access")
        .start();
    let (folder, archives) = new_target();
    succeed(
        backup_of(&cluster)
            .args(["-Ft", "-j", "2", "-D"])
            .arg(&archives),
    );
    let data = folder.join("data");
    let wal = folder.join("wal").display().to_string();
    succeed(&mut restore_of(&archives, &data, &["--waldir", &wal]));
    for (path, mode) in [
        (data.clone(), 0o750),
        (wal.into(), 0o750),
        (data.join("base"), 0o750),
        (data.join("PG_VERSION"), 0o640),
    ] {
        let found = fs::metadata(&path).expect("a part").permissions().mode() & 0o777;
        assert_eq!(found, mode, "{path:?}");
    }
    let mut restored = Cluster::on(&data, folder);
    restored.start();
}

#[test]
fn archives_of_pg_basebackup_are_restored() {
    let origin = Origin::new();
    for (method, compress) in [("stream", "-z"), ("fetch", "--no-sync")] {
        let archives = origin.folder.join(method);
        succeed(
            command("pg_basebackup")
                .args(origin.cluster.connection_args("postgres"))
                .args([
                    "-c",
                    "fast",
                    "--no-sync",
                    "-Ft",
                    compress,
                    "-X",
                    method,
                    "-D",
                ])
                .arg(&archives),
        );
        let places = Folder::new("r");
        let data = places.join("data");
        succeed(restore_of(&archives, &data, &[]).args(origin.mapping(&places)));
        verify(&data, &[]);
        origin.assert_starts(&data, places);
    }
}

#[test]
fn one_stream_with_everything_is_restored() {
    let origin = Origin::new();
    let archives = origin.folder.join("one");
    make_dir(&archives);
    let mut backup = backup_of(&origin.cluster);
    let output = run(backup.args(["-D", "-"]));
    assert!(output.status.success(), "{}", account(&backup, &output));
    let path = archives.join("base.tar");
    fs::write(&path, &output.stdout).expect("write the archive");
    give_to_owner(&path);
    let places = Folder::new("r");
    let data = places.join("data");
    succeed(restore_of(&archives, &data, &[]).args(origin.mapping(&places)));
    verify(&data, &[]);
    origin.assert_starts(&data, places);
}

#[test]
fn without_a_manifest_there_is_a_warning() {
    let origin = Origin::new();
    let archives = origin.tar("tar", &["-j", "2", "--no-manifest"]);
    let places = Folder::new("r");
    let data = places.join("data");
    let mut command = restore_of(&archives, &data, &[]);
    let output = run(command.args(origin.mapping(&places)));
    let said = account(&command, &output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("warning: backup has no manifest"), "{said}");
    assert!(!data.join("backup_manifest").exists());
    origin.assert_starts(&data, places);
}

#[test]
fn damaged_archives_leave_nothing() {
    let origin = Origin::new();
    let archives = origin.tar("tar", &["-j", "2"]);
    // The archive that contains the table.
    let names = ["base.0.tar", "base.1.tar"];
    let filler = b"xxxxxxxxx".as_slice();
    let find = |content: &[u8]| content.windows(9).position(|window| window == filler);
    let (name, whole, place) = names
        .into_iter()
        .find_map(|name| {
            let whole = fs::read(archives.join(name)).expect("an archive");
            find(&whole).map(|place| (name, whole, place))
        })
        .expect("rows of the table");
    let base = archives.join(name);
    let mut changed = whole.clone();
    changed[place] = b'y';
    for (content, word) in [
        (changed.clone(), "checksum mismatch for file"),
        (
            whole[..whole.len() - 1024].to_vec(),
            ": the archive is incomplete",
        ),
        (whole[..100_000].to_vec(), ": the archive is incomplete"),
        (b"garbage".repeat(200), ": the archive has no valid header"),
        (
            [&whole[..], b"more"].concat(),
            ": the archive goes on after its end",
        ),
    ] {
        fs::write(&base, content).expect("write");
        let places = Folder::new("r");
        let target = places.join("data");
        let said =
            expect_failure(restore_of(&archives, &target, &[]).args(origin.mapping(&places)));
        assert!(said.contains(word), "{word}: {said}");
        // Damaged content is an error of the archive; other damage concerns a single file.
        let archive = format!("archive \"{name}\"");
        assert_eq!(word.starts_with(':'), said.contains(&archive), "{said}");
        assert!(names_in(&places).is_empty(), "{said}");
    }
    // A target kept with `--no-clean` does not start.
    fs::write(&base, &changed).expect("write");
    let places = Folder::new("r");
    let target = places.join("data");
    let mut kept = restore_of(&archives, &target, &["--no-clean"]);
    let said = expect_failure(kept.args(origin.mapping(&places)));
    assert!(said.contains("is not removed at user's request"), "{said}");
    let mut restored = Cluster::on(&target, places);
    restored.try_start().expect_err("the server started");

    fs::write(&base, &whole).expect("write");
    for (missing, words) in [
        ("PG_VERSION", "is in the manifest and did not arrive"),
        ("tablespace_map", "is in the manifest and in no archive"),
    ] {
        for name in names {
            edit(&archives.join(name), Some(missing), None);
        }
        let places = Folder::new("r");
        let target = places.join("data");
        let said =
            expect_failure(restore_of(&archives, &target, &[]).args(origin.mapping(&places)));
        assert!(said.contains(&format!("\"{missing}\" {words}")), "{said}");
        assert!(names_in(&places).is_empty(), "{said}");
    }
}

/// The manifest does not contain the files that make it a standby. `verify` ignores them too.
#[test]
fn a_standby_of_pg_basebackup_is_restored() {
    let origin = Origin::new();
    let cluster = &origin.cluster;
    cluster.execute("ALTER SYSTEM SET work_mem = '5MB'");
    cluster.execute("SELECT pg_create_physical_replication_slot('for_standby')");
    for (number, args) in [
        &["-X", "stream", "-S", "for_standby", "-z"][..],
        &["-X", "fetch"],
    ]
    .into_iter()
    .enumerate()
    {
        let archives = origin.folder.join(number.to_string());
        succeed(
            command("pg_basebackup")
                .args(cluster.connection_args("postgres"))
                .args(["-c", "fast", "--no-sync", "-Ft", "-R"])
                .args(args)
                .arg("-D")
                .arg(&archives),
        );
        succeed(&mut ours(&[], &archives));
        let places = Folder::new("r");
        let data = places.join("data");
        succeed(restore_of(&archives, &data, &[]).args(origin.mapping(&places)));
        verify(&data, &[]);
        assert!(data.join("standby.signal").exists());
        let settings = fs::read_to_string(data.join("postgresql.auto.conf")).expect("settings");
        for word in ["work_mem = '5MB'", "primary_conninfo = '"] {
            assert!(settings.contains(word), "{settings}");
        }
        for (oid, _) in &origin.spaces {
            let link = fs::read_link(data.join(format!("pg_tblspc/{oid}"))).expect("a link");
            assert_eq!(link, places.join(oid.to_string()));
        }
        let mut standby = Cluster::on(&data, places);
        standby.start();
        cluster.execute(&format!(
            "CREATE TABLE later_{number} TABLESPACE outside AS SELECT * FROM u"
        ));
        standby.wait_for_sql(
            "the table on the standby",
            &format!("SELECT pg_is_in_recovery() AND to_regclass('later_{number}') IS NOT NULL"),
        );
    }
}

#[test]
fn what_may_be_changed_in_archives_is_restored_and_nothing_else() {
    let origin = Origin::new();
    let archives = origin.tar("tar", &["-j", "1"]);
    let base = archives.join("base.tar");
    edit(&base, None, Some(("recovery.signal", b"")));
    edit(&base, Some("postgresql.auto.conf"), None);
    succeed(&mut ours(&[], &archives));
    let places = Folder::new("r");
    let data = places.join("data");
    succeed(restore_of(&archives, &data, &[]).args(origin.mapping(&places)));
    verify(&data, &[]);
    assert!(data.join("recovery.signal").exists());
    assert!(!data.join("postgresql.auto.conf").exists());

    edit(&base, None, Some(("global/standby.signal", b"")));
    let places = Folder::new("r");
    let mut refused = restore_of(&archives, &places.join("data"), &[]);
    let said = expect_failure(refused.args(origin.mapping(&places)));
    let word = "\"global/standby.signal\" was received but is not in the manifest";
    assert!(said.contains(word), "{said}");
    let findings = expect_failure(&mut ours(&[], &archives));
    assert!(findings.contains("not in the manifest"), "{findings}");
}
