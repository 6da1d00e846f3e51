//! Encrypted backups in a repository: whoever has a key restores them, and nobody else learns what is in them.

use std::fs;
use std::path::{Path, PathBuf};

use backup_tests::client::{expect_failure, names_in, private_file, unpack_all};
use backup_tests::incremental::is_too_old;
use backup_tests::program::{command, run, succeed};
use backup_tests::repository::{Origin, Repository};
use backup_tests::scratch::Folder;
use backup_tests::server::Cluster;

/// Keys of age-keygen. They protect nothing.
const RECIPIENT: &str = "age1t8f7r0qqn4qc6qpc592lk7xncv8jlt36k00va9cr9awk8ajq5dlqtsp28m";
const IDENTITY: &str = "AGE-SECRET-KEY-1J82M2AMN830SLPPZQ5PC6LLZGJYF8H2QUFQJR2X92G7086AXCJ9QM7KCC9";
const OTHER_RECIPIENT: &str = "age1jnm6d6jvaask6rnwrexz0typd639kgjkz03fflnrx4hx7th4wansf8jl2k";
const OTHER_IDENTITY: &str =
    "AGE-SECRET-KEY-1HS8NR77HVKCGLJ5J02PQJZ3VJCJ0MGUY5ZFH0UCS7MDQ9ZYMAR5QTSCZXM";

/// Label and name of a database, of which no other file has anything.
const LABEL: &str = "unmistakable label";
const DATABASE: &str = "unmistakable_database";

/// Cluster, repository and files with keys.
struct Sample {
    origin: Origin,
    repository: Repository,
    keys: Folder,
}

impl Sample {
    fn new() -> Self {
        let origin = Origin::new();
        origin
            .cluster
            .execute(&format!("CREATE DATABASE {DATABASE}"));
        let keys = Folder::new("keys");
        for (name, content) in [
            ("identity", format!("# a comment\n{IDENTITY}\n")),
            ("other", format!("{OTHER_IDENTITY}\n")),
            ("both", format!("{OTHER_IDENTITY}\n\n{IDENTITY}\n")),
            (
                "recipients",
                format!("# two of them\n{RECIPIENT}\n{OTHER_RECIPIENT}\n"),
            ),
            ("passphrase", "correct horse\n".to_owned()),
            ("wrong", "correct mare\n".to_owned()),
            ("empty", "\n".to_owned()),
        ] {
            private_file(&keys, name, &content);
        }
        Self {
            origin,
            repository: Repository::new(),
            keys,
        }
    }

    fn key(&self, name: &str) -> String {
        self.keys.join(name).display().to_string()
    }

    fn passphrase(&self, name: &str) -> String {
        format!("passphrase:{}", self.key(name))
    }

    #[track_caller]
    fn take(&self, name: &str, recipients: &[&str], args: &[&str]) {
        let mut backup = self.repository.backup(&self.origin.cluster, name, args);
        for recipient in recipients {
            backup.args(["--encrypt-to", recipient]);
        }
        succeed(backup.args(["-l", LABEL]));
    }

    /// Checks that a backup is verified, listed and restored with this identity.
    #[track_caller]
    fn assert_readable(&self, name: &str, identity: &str) {
        let args = ["--identity", identity];
        succeed(&mut self.repository.verify(name, &args));
        let rows = self.repository.listed(&args);
        let row = rows.iter().find(|row| row["name"] == name);
        let row = row.expect("the backup");
        assert_eq!(row["state"], "complete", "{row}");
        assert_eq!(row["label"], LABEL, "{row}");
        self.origin
            .assert_restored(&self.repository, name, &["-j", "4", "--identity", identity]);
    }

    /// Checks that nothing comes of a backup with these options.
    #[track_caller]
    fn assert_unreadable(&self, name: &str, args: &[&str], word: &str) {
        let said = expect_failure(&mut self.repository.verify(name, args));
        assert!(said.contains(word), "{word}: {said}");
        self.origin
            .assert_not_restored(&self.repository, name, args, word);
        let rows = self.repository.listed(args);
        let row = rows.iter().find(|row| row["name"] == name);
        let row = row.expect("the backup");
        assert_eq!(row["state"], "unreadable", "{row}");
        let reason = row["reason"].as_str().expect("a reason");
        assert!(reason.contains(word), "{word}: {reason}");
        assert!(row["stored_bytes"].as_u64() > Some(1_000_000), "{row}");
        assert!(
            row["label"].is_null() && row["start_lsn"].is_null(),
            "{row}"
        );
        let before = self.repository.files(name);
        let expire = [&["--keep", "1", "--unfinished", "0s"], args].concat();
        let said = expect_failure(&mut self.repository.expire(&expire));
        assert!(said.contains("cannot be read"), "{said}");
        assert_eq!(self.repository.files(name), before);
    }
}

#[test]
fn who_has_the_key_restores_a_backup() {
    let sample = Sample::new();
    for (name, compression) in [("a", "none"), ("b", "client-zstd"), ("c", "server-gzip:1")] {
        sample.take(name, &[RECIPIENT], &["-j", "2", "-Z", compression]);
        sample.assert_readable(name, &sample.key("identity"));
    }
    sample.assert_readable("c", &sample.key("both"));
    assert_eq!(sample.repository.server.open_uploads(), 0);
}

#[test]
fn each_recipient_of_a_file_restores_a_backup() {
    let sample = Sample::new();
    sample.take("b", &[&sample.key("recipients")], &["-j", "2"]);
    for identity in ["identity", "other"] {
        sample.assert_readable("b", &sample.key(identity));
    }
}

#[test]
fn who_knows_the_passphrase_restores_a_backup() {
    let sample = Sample::new();
    let passphrase = sample.passphrase("passphrase");
    sample.take("b", &[&passphrase, OTHER_RECIPIENT], &["-j", "2"]);
    sample.assert_readable("b", &passphrase);
    sample.assert_readable("b", &sample.key("other"));
    let wrong = ["--identity", &sample.passphrase("wrong")];
    sample.assert_unreadable("b", &wrong, "no identity decrypts the file");
    // Another backup with the same passphrase has another key.
    sample.take("c", &[&passphrase], &["-j", "1"]);
    let [one, other] = ["b", "c"].map(|name| sample.repository.read(name, "key.age"));
    assert!(one != other);
    sample.assert_readable("c", &passphrase);
}

#[test]
fn who_has_no_key_restores_nothing() {
    let sample = Sample::new();
    sample.take("b", &[RECIPIENT], &["-j", "2"]);
    sample.assert_unreadable(
        "b",
        &[],
        "the file is encrypted\nHINT:  Name the file with the key by --identity.",
    );
    let other = ["--identity", &sample.key("other")];
    sample.assert_unreadable("b", &other, "no identity decrypts the file");
    let passphrase = ["--identity", &sample.passphrase("passphrase")];
    sample.assert_unreadable("b", &passphrase, "no identity decrypts the file");
}

#[test]
fn nothing_plain_is_in_the_repository() {
    let sample = Sample::new();
    let passphrase = sample.passphrase("passphrase");
    sample.take("plain", &[], &["-j", "2"]);
    sample.take("b", &[RECIPIENT, &passphrase], &["-j", "2"]);
    let words = [
        LABEL,
        DATABASE,
        "xxxxxxxxxxxxxxxx",
        "pg_control",
        "PG_VERSION",
        "system_identifier",
        "correct horse",
    ];
    let found = |name: &str| -> Vec<&str> {
        let files = sample.repository.files(name).into_iter();
        let contents: Vec<_> = files
            .map(|(file, _)| sample.repository.read(name, &file))
            .collect();
        let has = |word: &&str| {
            let word = word.as_bytes();
            let mut contents = contents.iter();
            contents.any(|content| content.windows(word.len()).any(|part| part == word))
        };
        words.into_iter().filter(has).collect()
    };
    assert_eq!(found("plain"), words[..6]);
    assert!(found("b").is_empty(), "{:?}", found("b"));
    for (file, _) in sample.repository.files("b") {
        assert!(file.ends_with(".age"), "{file}");
        let content = sample.repository.read("b", &file);
        assert!(content.starts_with(b"age-encryption.org/v1\n"), "{file}");
    }
}

#[test]
fn encrypted_files_that_are_changed_are_refused() {
    let sample = Sample::new();
    let repository = &sample.repository;
    let identity = ["--identity", &sample.key("identity")];
    sample.take("b", &[RECIPIENT], &["-j", "1"]);
    sample.take("other", &[RECIPIENT], &["-j", "1"]);
    let archive = "base.0.tar.age";
    let whole = repository.read("b", archive);
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    // A chunk has 64 kB and 16 bytes.
    let chunk = 65_552;
    let refused = |word: &str| {
        sample
            .origin
            .assert_not_restored(repository, "b", &identity, word);
        let said = expect_failure(&mut repository.verify("b", &identity));
        assert!(said.contains(word), "{word}: {said}");
    };
    for content in [
        &changed[..],
        &whole[..whole.len() - 1],
        &whole[..whole.len() - chunk],
        &whole[..100],
        &repository.read("other", "base.1.tar.age"),
    ] {
        repository.write("b", archive, content);
        refused("base.0.tar.age");
    }
    repository.write("b", archive, &whole);
    for (file, word) in [
        ("backup.json.age", "backup.json"),
        ("backup_manifest.age", "backup_manifest"),
    ] {
        let whole = repository.read("b", file);
        let mut changed = whole.clone();
        *changed.last_mut().expect("a byte") ^= 1;
        repository.write("b", file, &changed);
        refused(word);
        repository.write("b", file, &whole);
    }
    succeed(&mut repository.verify("b", &identity));
}

#[test]
fn keys_that_are_none_are_refused() {
    let sample = Sample::new();
    let missing = sample.key("missing");
    let (repository, cluster) = (&sample.repository, &sample.origin.cluster);
    let passphrase = sample.passphrase("passphrase");
    for (recipients, word) in [
        (&[missing.as_str()][..], "could not read file"),
        (&[&sample.passphrase("missing")], "could not read file"),
        (&[&sample.passphrase("empty")], "has no passphrase"),
        (&[&sample.key("empty")], "has no recipient"),
        (&[&sample.key("identity")], "is no recipient of age"),
        (&["age1x"], "is no recipient of age"),
        (&[&passphrase, &passphrase], "to one passphrase only"),
    ] {
        let mut backup = repository.backup(cluster, "b", &[]);
        for recipient in recipients {
            backup.args(["--encrypt-to", recipient]);
        }
        let said = expect_failure(&mut backup);
        assert!(said.contains(word), "{word}: {said}");
        // It is nobody's business.
        assert!(!said.contains(IDENTITY), "{said}");
    }
    for (identity, word) in [
        (missing, "could not read file"),
        (sample.key("empty"), "has no identity"),
        (sample.key("recipients"), "has no identity of age"),
    ] {
        let said = expect_failure(&mut repository.list(&["--identity", &identity]));
        assert!(said.contains(word), "{word}: {said}");
    }
    repository.assert_empty();
}

/// Whether Debian's program is installed.
fn has_age() -> bool {
    let found = run(command("sh").args(["-c", "command -v age"]));
    if !found.status.success() {
        eprintln!("nothing to test without age");
    }
    found.status.success()
}

fn decrypt(key: &str, file: &Path, to: &Path) {
    let mut age = command("age");
    age.args(["-d", "-i", key, "-o"]).arg(to).arg(file);
    succeed(&mut age);
}

#[test]
fn the_program_age_reads_each_file() {
    if !has_age() {
        return;
    }
    let sample = Sample::new();
    sample.take("b", &[RECIPIENT], &["-j", "2", "-Z", "zstd"]);
    let (stored, plain, archives) = (Folder::new("s"), Folder::new("p"), Folder::new("a"));
    for (file, _) in sample.repository.files("b") {
        let content = sample.repository.read("b", &file);
        let from: PathBuf = private_file(&stored, &file, "");
        fs::write(&from, content).expect("write a file");
        let name = file.strip_suffix(".age").expect("an encrypted file");
        let is_index = name.ends_with(".index") || name == "backup.json";
        let folder = if is_index { &plain } else { &archives };
        decrypt(&sample.key("identity"), &from, &folder.join(name));
    }
    let names = names_in(&plain);
    assert!(
        names.contains(&"base.0.tar.zst.index".to_owned()),
        "{names:?}"
    );
    let info = fs::read_to_string(plain.join("backup.json")).expect("a description");
    assert!(info.contains(LABEL), "{info}");
    unpack_all(&sample.origin.cluster, &archives);
}

#[test]
fn an_encrypted_chain_is_restored() {
    if is_too_old() {
        return;
    }
    let summarizing = Cluster::builder().setting("summarize_wal", "on");
    let sample = Sample {
        origin: Origin::on(summarizing.setting("autovacuum", "off").start()),
        ..Sample::new()
    };
    let passphrase = sample.passphrase("passphrase");
    sample.take("full", &[&passphrase], &["-j", "2"]);
    sample
        .origin
        .cluster
        .execute("UPDATE t SET filler = 'y' WHERE ctid < '(3,0)'");
    let earlier = sample.repository.url_of("full");
    let said = expect_failure(&mut sample.repository.backup(
        &sample.origin.cluster,
        "next",
        &["-i", &earlier],
    ));
    assert!(said.contains("the file is encrypted"), "{said}");
    let args = ["-j", "2", "-i", &earlier, "--identity", &passphrase];
    sample.take("next", &[&passphrase], &args);
    sample.assert_readable("next", &passphrase);
}
