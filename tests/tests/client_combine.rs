//! `pg_parallel_backup combine`, and `restore` of a chain, from PostgreSQL 17 on. pg_combinebackup judges
//! what they make, and which chains they refuse; pg_verifybackup and a started server judge the result.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use backup_tests::chain::{Chain, incremental_file, unpacked};
use backup_tests::client::{backup_of, expect_failure, names_in, program, restore_of, verify};
use backup_tests::disk::Disk;
use backup_tests::incremental::{assert_same_files, is_too_old};
use backup_tests::program::{account, command, make_dir, run, signal, succeed};
use backup_tests::scratch::Folder;
use backup_tests::server::Cluster;
use backup_tests::verification::{append, change_byte, truncate};
use backup_tests::wait::{PATIENCE, wait_for};

const CLAIM: &str = "pg_parallel_backup.unfinished";

#[test]
fn a_chain_of_directories_gives_what_pg_combinebackup_gives() {
    if is_too_old() {
        return;
    }
    let chain = Chain::take(&["-j", "2"]);
    let theirs = chain.target("theirs");
    succeed(&mut chain.theirs_of(&[0, 1, 2], &theirs));
    for (name, args) in [
        ("copied", &[][..]),
        ("by_kernel", &["--copy-file-range", "-j", "1"]),
        ("sha", &["--manifest-checksums", "sha256", "-P", "-v"]),
        ("without", &["--no-manifest", "--sync-method=fsync"]),
    ] {
        let ours = chain.target(name);
        succeed(chain.combine(&ours).args(args));
        assert_same_files(&ours, &theirs);
        if name == "without" {
            assert!(!ours.join("backup_manifest").exists());
        } else {
            verify(&ours, &[]);
            succeed(program().args(["verify", "-n"]).arg(&ours));
        }
    }
    let ours = chain.target("copied");
    let manifest = fs::read_to_string(chain.target("sha").join("backup_manifest"));
    assert!(manifest.expect("a manifest").contains("\"SHA256\""));
    chain.assert_starts(&ours);

    // One full backup is a chain too.
    let alone = chain.target("alone");
    succeed(&mut chain.combine_of(&[0], &alone));
    verify(&alone, &[]);
}

/// A table grows over the end of a segment, and is cut below it.
#[test]
fn a_table_that_crosses_the_end_of_a_segment_comes_back() {
    if is_too_old() {
        return;
    }
    // One row on each page, and 131072 pages in a segment.
    let fill = |from: u32, to: u32| {
        format!(
            "INSERT INTO large SELECT g, repeat('x', 7000) FROM generate_series({from}, {to}) AS g"
        )
    };
    let cluster = Cluster::builder()
        .setting("summarize_wal", "on")
        .setting("autovacuum", "off")
        .start();
    cluster.execute("CREATE TABLE large (a int, b text STORAGE PLAIN)");
    let folder = Folder::new("large");
    let mut backups: Vec<PathBuf> = Vec::new();
    for (name, changes) in [
        ("full", vec![fill(1, 130_900)]),
        ("grown", vec![fill(130_901, 131_500)]),
        (
            "cut",
            vec![
                "DELETE FROM large WHERE a > 120000".to_owned(),
                "VACUUM large".to_owned(),
                fill(120_001, 120_100),
            ],
        ),
    ] {
        changes.iter().for_each(|change| cluster.execute(change));
        let target = folder.join(name);
        let mut backup = backup_of(&cluster);
        backup.args(["-X", "fetch", "-D"]).arg(&target);
        if let Some(earlier) = backups.last() {
            backup.arg("-i").arg(earlier.join("backup_manifest"));
        }
        succeed(&mut backup);
        backups.push(target);
    }
    let [ours, theirs] = ["ours", "theirs"].map(|name| folder.join(name));
    let mut combine = program();
    combine.args(["combine", "-N", "-o"]).arg(&ours);
    succeed(combine.args(&backups));
    let mut combine = command("pg_combinebackup");
    combine.args(["-N", "-o"]).arg(&theirs);
    succeed(combine.args(&backups));
    let excluded = "--exclude=backup_manifest";
    succeed(
        command("diff")
            .args(["-r", excluded])
            .arg(&ours)
            .arg(&theirs),
    );
    verify(&ours, &[]);
    let mut restored = Cluster::on(&ours, folder);
    restored.start();
    restored.wait_for_sql(
        "all rows",
        "SELECT count(*) = 120100 AND sum(a) = 7212065050 AND min(length(b)) = 7000 FROM large",
    );
}

#[test]
fn whole_files_are_linked_where_that_is_wanted() {
    if is_too_old() {
        return;
    }
    let chain = Chain::take(&["-j", "2"]);
    let linked = chain.target("linked");
    let output = run(chain.combine(&linked).arg("--link"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("--link mode was used"), "{said}");
    verify(&linked, &[]);
    let inode = |path: PathBuf| fs::metadata(path).expect("a file").ino();
    let newest = chain.backups.last().expect("a backup");
    assert_eq!(
        inode(linked.join("PG_VERSION")),
        inode(newest.join("PG_VERSION"))
    );
    let theirs = chain.target("theirs");
    succeed(&mut chain.theirs_of(&[0, 1, 2], &theirs));
    assert_same_files(&linked, &theirs);

    // Not every file system can clone.
    let cloned = chain.target("cloned");
    let mut clone = chain.combine(&cloned);
    let output = run(clone.arg("--clone"));
    if output.status.success() {
        assert_same_files(&cloned, &theirs);
    } else {
        let said = account(&clone, &output);
        assert!(said.contains("error while cloning file"), "{said}");
        assert!(!cloned.exists(), "{said}");
    }
}

#[test]
fn a_chain_of_archives_is_combined_and_restored_in_one_go() {
    if is_too_old() {
        return;
    }
    for args in [
        &["-Ft", "-j", "2"][..],
        &["-Ft", "-j", "2", "-Z", "server-zstd:1"],
        &["-Ft", "-j", "1", "-z"],
    ] {
        let chain = Chain::take(args);
        let plain: Vec<_> = (0..3)
            .map(|number| {
                let target = chain.target(&format!("plain{number}"));
                unpacked(&chain.backups[number], &target);
                target
            })
            .collect();
        let theirs = chain.target("theirs");
        succeed(
            command("pg_combinebackup")
                .arg("-N")
                .args(&plain)
                .arg("-o")
                .arg(&theirs),
        );
        let ours = chain.target("ours");
        succeed(&mut chain.combine(&ours));
        assert_same_files(&ours, &theirs);
        verify(&ours, &[]);

        let restored = chain.target("restored");
        let wal = chain.target("wal");
        let mut restore = restore_of(&chain.backups[0], &restored, &[]);
        succeed(restore.args(&chain.backups[1..]).arg("--waldir").arg(&wal));
        assert_same_files(&restored, &theirs);
        assert!(
            fs::symlink_metadata(restored.join("pg_wal"))
                .expect("a link")
                .is_symlink()
        );
        // Archives and directories go together.
        let mixed = chain.target("mixed");
        let mut combine = program();
        combine.args(["combine", "-N"]).arg(&plain[0]);
        succeed(combine.args(&chain.backups[1..]).arg("-o").arg(&mixed));
        assert_same_files(&mixed, &theirs);
        chain.assert_starts(&ours);
        // Nothing was left beside the result.
        assert!(
            !names_in(&chain.folder)
                .iter()
                .any(|name| name.starts_with(".tmp"))
        );
    }
}

#[test]
fn tablespaces_go_where_the_mapping_says() {
    if is_too_old() {
        return;
    }
    let cluster = Cluster::builder().setting("summarize_wal", "on").start();
    let (_, location) = cluster.create_tablespace("elsewhere");
    cluster
        .execute("CREATE TABLE far TABLESPACE elsewhere AS SELECT generate_series(1, 50000) AS a");
    let folder = Folder::new("spaces");
    let mapped = |name: &str| {
        let place = folder.join(format!("{name}-space"));
        (format!("{}={}", location.display(), place.display()), place)
    };
    let (full, full_space) = (folder.join("full"), mapped("full"));
    succeed(
        backup_of(&cluster)
            .args(["-T", &full_space.0, "-D"])
            .arg(&full),
    );
    cluster.execute("INSERT INTO far VALUES (0)");
    let (later, later_space) = (folder.join("later"), mapped("later"));
    let manifest = full.join("backup_manifest");
    succeed(
        backup_of(&cluster)
            .args(["-T", &later_space.0, "-i"])
            .arg(&manifest)
            .arg("-D")
            .arg(&later),
    );
    let combine = |target: &Path, mapping: &[String]| {
        let mut combine = program();
        combine.args(["combine", "-N"]).args([&full, &later]);
        combine.arg("-o").arg(target);
        mapping.iter().for_each(|mapping| {
            combine.arg("-T").arg(mapping);
        });
        combine
    };
    let target = folder.join("combined");
    let said = expect_failure(&mut combine(&target, &[]));
    assert!(said.contains("has no tablespace mapping"), "{said}");
    assert!(!target.exists());
    let new = folder.join("new-space");
    let map = format!("{}={}", later_space.1.display(), new.display());
    succeed(&mut combine(&target, std::slice::from_ref(&map)));
    verify(&target, &[]);
    let theirs = folder.join("theirs");
    let theirs_map = format!(
        "{}={}",
        later_space.1.display(),
        folder.join("their-space").display()
    );
    succeed(
        command("pg_combinebackup")
            .args(["-N", "-T", &theirs_map])
            .args([&full, &later])
            .arg("-o")
            .arg(&theirs),
    );
    assert_same_files(&target, &theirs);
    assert_eq!(names_in(&new), names_in(&folder.join("their-space")));
}

#[test]
fn what_is_no_chain_is_refused_as_pg_combinebackup_refuses_it() {
    if is_too_old() {
        return;
    }
    let chain = Chain::take(&["-j", "1"]);
    for (backups, word) in [
        (&[1, 2][..], "but the first backup should be a full backup"),
        (&[0, 2], "starts at LSN"),
        (&[0, 2, 1], "starts at LSN"),
        (&[0, 0], "but only the first backup should be a full backup"),
    ] {
        let target = chain.target("refused");
        let theirs = expect_failure(&mut chain.theirs_of(backups, &target));
        let ours = expect_failure(&mut chain.combine_of(backups, &target));
        let theirs = theirs.replace("pg_combinebackup: error: ", "");
        let theirs = theirs.lines().next().expect("a message");
        assert!(theirs.contains(word), "{theirs}");
        // From 18 on the low half of an LSN may be padded.
        assert!(ours.contains(word), "{ours}");
        assert!(!target.exists());
    }
    // A backup of another cluster.
    let other = Cluster::builder().initdb_arg("--wal-segsize=1");
    let other = Chain::of(other, &["-j", "1"]);
    let target = chain.target("refused");
    let mut combine = program();
    combine.args(["combine", "-N"]).arg(&other.backups[0]);
    combine.arg(&chain.backups[1]).arg("-o").arg(&target);
    let said = expect_failure(&mut combine);
    assert!(said.contains("expected system identifier"), "{said}");

    // A target that is in use, one that is no backup, and no target.
    make_dir(&target);
    fs::write(target.join("file"), "").expect("a file");
    let said = expect_failure(&mut chain.combine(&target));
    assert!(said.contains("is not empty"), "{said}");
    assert_eq!(names_in(&target), ["file"]);
    let said = expect_failure(program().args(["combine", "-o", "x"]).arg(&target));
    assert!(said.contains("holds no backup"), "{said}");
    expect_failure(program().arg("combine").arg(&chain.backups[0]));
}

/// What pg_combinebackup does not look at: the bytes.
#[test]
fn damage_in_a_backup_is_found_on_the_way() {
    if is_too_old() {
        return;
    }
    let chain = Chain::take(&["-j", "1"]);
    let full = &chain.backups[0];
    let (whole, incremental) = incremental_file(&chain);
    let damage = |path: &Path, change: &dyn Fn(&Path), word: &str| {
        let kept = chain.target("kept");
        succeed(command("cp").arg("-p").arg(path).arg(&kept));
        change(path);
        let target = chain.target("damaged");
        let said = expect_failure(&mut chain.combine(&target));
        assert!(said.contains(word), "{said}");
        let name = path.file_name().expect("a name").to_string_lossy();
        assert!(said.contains(&*name), "{said}");
        assert!(!target.exists(), "{said}");
        succeed(command("mv").arg(&kept).arg(path));
    };
    let size = fs::metadata(&whole).expect("a file").len();
    damage(
        &whole,
        &|path| change_byte(path, size - 1),
        "checksum mismatch",
    );
    damage(
        &whole,
        &|path| truncate(path, size - 8192),
        "in the manifest",
    );
    damage(
        &incremental,
        &|path| change_byte(path, 9000),
        "checksum mismatch",
    );
    damage(&incremental, &append, "in the manifest");
    damage(
        &incremental,
        &|path| fs::remove_file(path).expect("removed"),
        "INCREMENTAL.",
    );
    let newest = &chain.backups[2];
    damage(
        &newest.join("PG_VERSION"),
        &|path| fs::write(path, "99\n").expect("written"),
        "checksum mismatch",
    );
    damage(
        &newest.join("global/pg_control"),
        &|path| change_byte(path, 20),
        "pg_control",
    );
    damage(
        &newest.join("postgresql.conf"),
        &|path| fs::remove_file(path).expect("removed"),
        "missing in the backup",
    );
    // What another backup left behind: on the disk, and not in the manifest.
    let stale = incremental.with_file_name(whole.file_name().expect("a name"));
    fs::copy(&whole, &stale).expect("a copy");
    let target = chain.target("stale");
    succeed(&mut chain.combine(&target));
    let theirs = chain.target("theirs");
    fs::remove_file(&stale).expect("removed");
    succeed(&mut chain.theirs_of(&[0, 1, 2], &theirs));
    assert_same_files(&target, &theirs);
    let relation = whole.strip_prefix(full).expect("a path");
    let (stale, other) = (newest.join(relation), newest.join("base/1/7777"));
    for path in [other, stale] {
        fs::copy(&whole, &path).expect("a copy");
        let said = expect_failure(&mut chain.combine(&chain.target("refused")));
        assert!(said.contains("contains no entry for file"), "{said}");
        fs::remove_file(&path).expect("removed");
    }
    damage(
        &newest.join("backup_manifest"),
        &|path| change_byte(path, 100),
        "manifest",
    );
    fs::write(newest.join(CLAIM), "").expect("a claim");
    let said = expect_failure(&mut chain.combine(&chain.target("unfinished")));
    assert!(said.contains("is incomplete"), "{said}");
}

/// Numbers that look random, and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        // The constants of Knuth's MMIX.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    fn block(&mut self) -> Vec<u8> {
        vec![self.below(256) as u8; 8192]
    }

    fn full(&mut self) -> Vec<u8> {
        (0..self.below(20)).flat_map(|_| self.block()).collect()
    }

    fn incremental(&mut self) -> Vec<u8> {
        let density = 1 + self.below(8);
        let blocks: Vec<u32> = (0..30).filter(|_| self.below(density) == 0).collect();
        let truncation_length = self.below(25) as u32;
        let numbers = [0xD3AE_1F0D, blocks.len() as u32, truncation_length];
        let numbers = numbers.iter().chain(&blocks);
        let mut file: Vec<u8> = numbers.flat_map(|number| number.to_ne_bytes()).collect();
        if !blocks.is_empty() {
            file.resize(8192, 0);
        }
        file.extend(blocks.iter().flat_map(|_| self.block()));
        file
    }
}

/// Chains of files that no server wrote, of all shapes: blocks in one backup, in several and in none,
/// before and behind the truncation length, full files in the middle.
#[test]
fn any_chain_of_blocks_gives_what_pg_combinebackup_gives() {
    if is_too_old() {
        return;
    }
    let chain = Chain::take(&["-j", "1"]);
    let mut numbers = Numbers(20_261_129);
    for backup in &chain.backups {
        fs::remove_file(backup.join("backup_manifest")).expect("a manifest");
    }
    for file in 800_000..800_200 {
        for (number, backup) in chain.backups.iter().enumerate() {
            let (name, content) = match (number, numbers.below(6)) {
                (0, _) | (1, 0) => (format!("{file}"), numbers.full()),
                _ => (format!("INCREMENTAL.{file}"), numbers.incremental()),
            };
            fs::write(backup.join("base/1").join(name), content).expect("a file");
        }
    }
    let theirs = chain.target("theirs");
    succeed(chain.theirs_of(&[0, 1, 2], &theirs).arg("--no-manifest"));
    for args in [&["-j", "1"][..], &["-j", "3"], &["--copy-file-range"]] {
        let ours = chain.target("ours");
        let output = run(chain.combine(&ours).arg("--no-manifest").args(args));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert_eq!(
            said.matches("its files are not verified").count(),
            3,
            "{said}"
        );
        assert_same_files(&ours, &theirs);
        fs::remove_dir_all(&ours).expect("removed");
    }
}

/// Without a manifest nothing but the headers tells.
#[test]
fn impossible_headers_are_refused_without_a_manifest() {
    if is_too_old() {
        return;
    }
    let chain = Chain::take(&["-j", "1", "--manifest-checksums", "NONE"]);
    let (_, incremental) = incremental_file(&chain);
    let original = fs::read(&incremental).expect("a file");
    let most = u32::MAX.to_ne_bytes();
    for (place, bytes, word) in [
        (0, [0; 4], "has bad incremental magic number"),
        (
            4,
            most,
            "has block count 4294967295 in excess of segment size",
        ),
        (8, most, "has truncation block length 4294967295 in excess"),
        (12, most, "has block number 4294967295 in excess"),
    ] {
        let mut damaged = original.clone();
        damaged[place..place + 4].copy_from_slice(&bytes);
        fs::write(&incremental, damaged).expect("written");
        let target = chain.target("refused");
        for args in [&[][..], &["--dry-run"]] {
            let said = expect_failure(chain.combine(&target).args(args));
            assert!(said.contains(word), "{said}");
            assert!(!target.exists());
        }
    }
}

#[test]
fn a_dry_run_writes_nothing_and_refuses_what_would_fail() {
    if is_too_old() {
        return;
    }
    let chain = Chain::take(&["-j", "1"]);
    let target = chain.target("dry");
    let dry = |args: &[&str]| {
        let mut combine = chain.combine(&target);
        combine.arg("--dry-run").args(args);
        combine
    };
    let before = names_in(&chain.folder);
    succeed(&mut dry(&[]));
    assert_eq!(names_in(&chain.folder), before);
    let said = expect_failure(&mut dry(&["-T", "/no/where=/no/other"]));
    assert!(said.contains("there is no tablespace in"), "{said}");
    make_dir(&target);
    succeed(&mut dry(&[]));
    fs::write(target.join("file"), "").expect("a file");
    let said = expect_failure(&mut dry(&[]));
    assert!(said.contains("is not empty"), "{said}");
}

/// The manifest of a chain that is restored is as the newest one was.
#[test]
fn a_restored_chain_has_the_checksums_of_the_newest_manifest() {
    if is_too_old() {
        return;
    }
    let chain = Chain::take(&["-Ft", "-j", "2", "--manifest-checksums", "SHA256"]);
    let restore = |target: &Path| {
        let mut restore = restore_of(&chain.backups[0], target, &[]);
        restore.args(&chain.backups[1..]);
        restore
    };
    let restored = chain.target("restored");
    succeed(&mut restore(&restored));
    let manifest = fs::read_to_string(restored.join("backup_manifest")).expect("a manifest");
    assert!(manifest.contains("\"SHA256\"") && !manifest.contains("CRC32C"));
    verify(&restored, &[]);

    let newest = chain.backups[2].join("backup_manifest");
    fs::remove_file(&newest).expect("removed");
    let without = chain.target("without");
    let output = run(&mut restore(&without));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("has no manifest"), "{said}");
    assert!(!without.join("backup_manifest").exists());
    assert_same_files(&without, &restored);

    // Without the others, an incremental backup that has no manifest either is known by its files.
    let alone = chain.target("alone");
    let said = expect_failure(&mut restore_of(&chain.backups[2], &alone, &[]));
    assert!(said.contains("cannot be restored alone"), "{said}");
    assert!(!alone.exists());
}

/// Where the tablespaces were is in the archive, and may be damaged as everything else.
#[test]
fn a_damaged_tablespace_map_is_found() {
    if is_too_old() {
        return;
    }
    let cluster = Cluster::builder().setting("summarize_wal", "on").start();
    let (_, location) = cluster.create_tablespace("elsewhere");
    let folder = Folder::new("map");
    let full = folder.join("full");
    succeed(
        backup_of(&cluster)
            .args(["-Ft", "-j", "1", "-D"])
            .arg(&full),
    );
    let archive = full.join("base.tar");
    let content = fs::read(&archive).expect("an archive");
    let needle = location.display().to_string().into_bytes();
    let places = content.windows(needle.len()).enumerate();
    let places: Vec<_> = places.filter(|(_, part)| *part == needle).collect();
    let (place, _) = places.last().expect("the location");
    change_byte(&archive, (place + needle.len() - 1) as u64);
    let target = folder.join("combined");
    let mut combine = program();
    combine
        .args(["combine", "-N", "-o"])
        .arg(&target)
        .arg(&full);
    let said = expect_failure(&mut combine);
    assert!(
        said.contains("tablespace_map") && said.contains("checksum mismatch"),
        "{said}"
    );
    assert!(!target.exists());
}

/// Whatever ends the program, no server takes what it leaves for a backup.
#[test]
fn an_interrupted_combination_is_no_backup() {
    if is_too_old() {
        return;
    }
    let chain = Chain::take(&["-j", "1"]);
    // Takes longer than a signal.
    let large = fs::File::create(chain.backups[2].join("pg_wal/large")).expect("a file");
    large.set_len(1 << 34).expect("its size");
    for name in ["TERM", "KILL"] {
        let target = chain.target(name);
        let mut child = chain.combine(&target).spawn().expect("the program");
        let control = target.join("global/pg_control.unfinished");
        wait_for("all but one file", PATIENCE, || control.exists());
        signal(name, i32::try_from(child.id()).expect("a process"));
        let status = child.wait().expect("its status");
        assert!(!status.success());
        if name == "TERM" {
            assert!(!target.exists());
        } else {
            assert!(target.join(CLAIM).exists() && !target.join("global/pg_control").exists());
            assert!(!target.join("backup_manifest").exists());
        }
    }
}

#[test]
fn a_full_disk_leaves_nothing_behind() {
    if is_too_old() {
        return;
    }
    let chain = Chain::take(&["-j", "1"]);
    let place = chain.target("small");
    let Some(_disk) = Disk::mount(&place, 16) else {
        eprintln!("nothing to test where nothing can be mounted");
        return;
    };
    let target = place.join("combined");
    let said = expect_failure(&mut chain.combine(&target));
    assert!(said.contains("No space left on device"), "{said}");
    assert!(!target.exists());
}
