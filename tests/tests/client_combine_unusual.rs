//! `combine` of backups that are not as the program leaves them: single streams, archives and directories that
//! somebody has changed, and backups of a cluster whose checksums were enabled in between. pg_combinebackup and a
//! started server judge what is combined.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use backup_tests::archive;
use backup_tests::chain::{CHANGE, Chain, incremental_file, unpacked};
use backup_tests::client::{backup_of, decompress, expect_failure, names_in, unpack, verify};
use backup_tests::crafted::{add, directory, edit, file, link};
use backup_tests::incremental::{assert_same_files, is_too_old};
use backup_tests::program::{account, command, make_dir, run, succeed};
use backup_tests::server::{Cluster, Shutdown};
use backup_tests::verification::new_file;

/// Takes the next backup of a chain as one stream, which becomes its only file.
#[track_caller]
fn add_stream(chain: &mut Chain, name: &str, file: &str, args: &[&str]) {
    let mut backup = backup_of(&chain.cluster);
    backup.args(args).args(["-D", "-"]);
    if let Some(earlier) = chain.backups.last() {
        let names = names_in(earlier);
        let stream = fs::read(decompress(&earlier.join(&names[0]))).expect("a stream");
        let manifest = chain.target("manifest");
        fs::write(&manifest, archive::content(&stream, "backup_manifest")).expect("its manifest");
        backup.arg("-i").arg(manifest);
    }
    let output = run(&mut backup);
    assert!(output.status.success(), "{}", account(&backup, &output));
    let target = chain.target(name);
    make_dir(&target);
    fs::write(target.join(file), output.stdout).expect("written");
    chain.backups.push(target);
}

#[test]
fn backups_that_are_one_stream_have_their_manifests_inside() {
    if is_too_old() {
        return;
    }
    let mut chain = Chain::begin(Cluster::builder());
    add_stream(&mut chain, "full", "base.tar", &[]);
    chain.cluster.execute(CHANGE);
    add_stream(&mut chain, "first", "base.tar.gz", &["-z"]);
    let first = chain.backups[1].join("base.tar");
    let _ = fs::remove_file(&first);
    chain.cluster.execute("DELETE FROM cut WHERE a > 100");
    add_stream(&mut chain, "second", "base.tar", &[]);
    let _ = fs::remove_file(&first);
    let theirs = chain.target("theirs");
    let mut combine = command("pg_combinebackup");
    combine.arg("-N");
    for (number, backup) in chain.backups.iter().enumerate() {
        let plain = chain.target(&format!("plain{number}"));
        unpacked(backup, &plain);
        combine.arg(plain);
    }
    succeed(combine.arg("-o").arg(&theirs));

    let ours = chain.target("ours");
    let mut combine = chain.combine(&ours);
    let output = run(&mut combine);
    let said = account(&combine, &output);
    assert!(output.status.success(), "{said}");
    assert!(output.stderr.is_empty(), "{said}");
    assert_same_files(&ours, &theirs);
    chain.assert_starts(&ours);

    // The manifests are read, and tell what is wrong.
    let newest = chain.backups[2].join("base.tar");
    let whole = fs::read(&newest).expect("a stream");
    let manifest = String::from_utf8(archive::content(&whole, "backup_manifest"));
    let forged = manifest.expect("a manifest").replacen("Size", "Siz", 1);
    for (name, content, word) in [
        ("PG_VERSION", "99\n", "checksum mismatch"),
        (
            "backup_manifest",
            &forged,
            "manifest \"backup_manifest\" in",
        ),
    ] {
        edit(&newest, Some(name), Some((name, content.as_bytes())));
        let target = chain.target("refused");
        let said = expect_failure(&mut chain.combine(&target));
        assert!(said.contains(word), "{said}");
        assert!(!target.exists(), "{said}");
        fs::write(&newest, &whole).expect("written");
    }
}

#[test]
fn archives_that_no_server_sends_are_refused() {
    if is_too_old() {
        return;
    }
    let mut chain = Chain::begin(Cluster::builder());
    let (_, location) = chain.cluster.create_tablespace("elsewhere");
    chain.add("full", &["-Ft", "-j", "1"]);
    let archive = chain.backups[0].join("base.tar");
    let whole = fs::read(&archive).expect("an archive");
    let space = chain.target("space");
    let mapping = format!("{}={}", location.display(), space.display());
    let combine = |target: &Path| {
        let mut combine = chain.combine_of(&[0], target);
        combine.args(["-T", &mapping]);
        combine
    };
    let refused = |word: &str| {
        let target = chain.target("refused");
        for args in [&[][..], &["--dry-run"]] {
            let said = expect_failure(combine(&target).args(args));
            assert!(said.contains(word), "{word}: {said}");
            assert!(!target.exists(), "{said}");
        }
    };
    for (member, word) in [
        (
            link("pg_tblspc/4711", "/nowhere"),
            "has a link \"pg_tblspc/4711\", which is refused",
        ),
        (
            link("base/1", "/nowhere"),
            "has a link \"base/1\", which is refused",
        ),
        (
            file("PG_VERSION", b"17\n"),
            "backup contains file \"PG_VERSION\" twice",
        ),
    ] {
        add(&archive, member);
        refused(word);
        fs::write(&archive, &whole).expect("written");
    }
    // The same file in two archives.
    let other = archive.with_file_name("base.1.tar");
    fs::write(
        &other,
        backup_tests::crafted::archive(&[directory("base"), file("PG_VERSION", b"17\n")]),
    )
    .expect("written");
    refused("backup contains file \"PG_VERSION\" twice");
    // All backups of a chain have archives of these names.
    refused(&format!("backup in \"{}\"", chain.backups[0].display()));
    fs::remove_file(&other).expect("removed");
    // As it was, nothing is wrong with it.
    succeed(&mut combine(&chain.target("combined")));
}

#[test]
fn a_tablespace_that_was_not_unpacked_is_missed() {
    if is_too_old() {
        return;
    }
    let mut chain = Chain::begin(Cluster::builder());
    let (oid, location) = chain.cluster.create_tablespace("elsewhere");
    chain
        .cluster
        .execute("ALTER TABLE cut SET TABLESPACE elsewhere");
    chain.add("full", &["-Ft", "-j", "1", "-X", "fetch"]);
    let plain = chain.target("plain");
    make_dir(&plain);
    unpack(&chain.backups[0].join("base.tar"), &plain);
    succeed(
        command("cp")
            .arg(chain.backups[0].join("backup_manifest"))
            .arg(&plain),
    );
    let there = plain.join("pg_tblspc").join(oid.to_string());
    // It may be a link to the tablespace of the cluster.
    let _ = fs::remove_file(&there);
    let archives = std::mem::replace(&mut chain.backups[0], plain.clone());
    let target = chain.target("combined");
    let said = expect_failure(&mut chain.combine_of(&[0], &target));
    let missed = format!(
        "tablespace {oid} in \"{}\" has no link in \"{}\"\nHINT:  Unpack its archive, and make the link.",
        location.display(),
        plain.join("pg_tblspc").display()
    );
    assert!(said.contains(&missed), "{said}");
    assert!(!target.exists());

    let space = chain.target("space");
    make_dir(&space);
    unpack(&archives.join(format!("{oid}.tar")), &space);
    symlink(&space, &there).expect("a link");
    let new = chain.target("new-space");
    let mapping = format!("{}={}", space.display(), new.display());
    succeed(chain.combine_of(&[0], &target).args(["-T", &mapping]));
    verify(&target, &[]);
    assert_eq!(names_in(&new), names_in(&space));
}

/// pg_checksums writes pages of which WAL knows nothing.
#[test]
fn checksums_that_only_some_backups_have_are_worth_a_warning() {
    if is_too_old() {
        return;
    }
    let mut chain = Chain::begin(Cluster::builder().without_checksums());
    chain.add("full", &["-j", "1"]);
    for (name, switch) in [("with", "--enable"), ("without", "--disable")] {
        chain.cluster.stop(Shutdown::Fast);
        let mut pg_checksums = command("pg_checksums");
        pg_checksums.args([switch, "--no-sync", "-D"]);
        succeed(pg_checksums.arg(chain.cluster.data_dir()));
        chain.cluster.start();
        chain.cluster.execute(CHANGE);
        chain.add(name, &["-j", "1"]);
    }
    let warning = "only some backups have checksums enabled\n";
    let hint =
        "Disable, and optionally reenable, checksums on the output directory to avoid failures.\n";
    // The newest backup tells what the result has.
    for (backups, is_mixed) in [(&[0, 1][..], true), (&[0, 1, 2], false)] {
        for mut combine in [
            chain.combine_of(backups, &chain.target("ours")),
            chain.theirs_of(backups, &chain.target("theirs")),
        ] {
            let output = run(&mut combine);
            let said = account(&combine, &output);
            assert!(output.status.success(), "{said}");
            assert_eq!(
                said.contains(warning) && said.contains(hint),
                is_mixed,
                "{said}"
            );
            assert_eq!(output.stderr.is_empty(), !is_mixed, "{said}");
        }
        let [ours, theirs] = ["ours", "theirs"].map(|name| chain.target(name));
        assert_same_files(&ours, &theirs);
        fs::remove_dir_all(&ours).expect("removed");
        fs::remove_dir_all(&theirs).expect("removed");
    }
}

/// Without manifests nothing but the files tells what a backup has.
#[test]
fn an_incremental_file_that_no_full_backup_has_is_refused() {
    if is_too_old() {
        return;
    }
    let chain = Chain::take(&["-j", "1"]);
    let (whole, incremental) = incremental_file(&chain);
    for backup in &chain.backups {
        fs::remove_file(backup.join("backup_manifest")).expect("a manifest");
    }
    let refused = |ours_word: &str, theirs_word: &str| {
        let target = chain.target("refused");
        let [ours, theirs] = [chain.combine(&target), chain.theirs_of(&[0, 1, 2], &target)]
            .map(|mut combine| expect_failure(combine.arg("--no-manifest")));
        assert!(ours.contains(ours_word), "{ours}");
        assert!(theirs.contains(theirs_word), "{theirs}");
        assert!(!target.exists());
        let mut dry = chain.combine(&target);
        let said = expect_failure(dry.args(["--no-manifest", "--dry-run"]));
        assert!(said.contains(ours_word), "{said}");
    };
    fs::remove_file(&whole).expect("removed");
    let name = incremental.file_name().expect("a name");
    let missing = format!(
        "{}\" is missing in the backup in \"{}\"",
        name.display(),
        chain.backups[0].display()
    );
    refused(&missing, "could not open file");
    let content = fs::read(&incremental).expect("a file");
    new_file(&whole.with_file_name(name), &content);
    let unexpected = "full backup contains unexpected incremental file";
    refused(unexpected, unexpected);
}
