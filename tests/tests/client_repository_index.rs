//! Indexes of archives that a hostile store has changed. An index says where to read; what is read is judged by
//! the manifest. One that cannot be read does not keep a backup from being restored.

use backup_tests::planted;
use backup_tests::program::{account, run};
use backup_tests::repository::{Origin, Repository};
use backup_tests::scratch::Folder;
use serde_json::{Value, json};

/// Change of the lines of an index.
type Change = fn(&mut Vec<Value>);

/// Adds to a number in the lines that have all of these fields, and not the other one.
fn add(lines: &mut [Value], field: &str, others: &[&str], without: &str, number: i64) {
    let mut count = 0;
    for line in lines.iter_mut().skip(2) {
        let fits = others.iter().all(|other| line.get(*other).is_some());
        if fits && line.get(without).is_none() {
            let before = line[field].as_i64().expect("a number");
            line[field] = json!(before + number);
            count += 1;
        }
    }
    assert!(count > 0, "the index has no such line: {lines:?}");
}

/// Archive that is read in several parts, with each compression.
struct Sample {
    origin: Origin,
    repository: Repository,
}

const NAMES: [(&str, &str); 2] = [("none", "base.0.tar"), ("zstd", "base.0.tar.zst")];

impl Sample {
    fn new() -> Self {
        let origin = Origin::new();
        planted::relations(&origin.cluster, 1, 10, 20 << 20);
        let repository = Repository::new();
        for (compression, archive) in NAMES {
            let args = ["-j", "1", "-Z", compression];
            repository.take(&origin.cluster, compression, &args);
            let files = repository.archives(compression);
            assert!(files.iter().any(|(name, _)| name == archive), "{files:?}");
        }
        Self { origin, repository }
    }

    /// Checks that nothing comes of a backup whose index lies.
    #[track_caller]
    fn assert_refused(&self, (name, archive): (&str, &str), change: Change, word: &str) {
        let file = format!("{archive}.index");
        let before = self.repository.read(name, &file);
        self.repository.forge_index(name, archive, change);
        assert!(self.repository.read(name, &file) != before);
        self.origin
            .assert_not_restored(&self.repository, name, &["-j", "2"], word);
        self.origin
            .assert_not_verified(&self.repository, name, word);
        self.repository.write(name, &file, &before);
    }
}

#[test]
fn a_place_to_begin_that_is_none_is_refused() {
    let sample = Sample::new();
    let [none, zstd] = NAMES;
    // Where reading begins in the file.
    let moved: Change = |lines| add(lines, "stored", &["stored"], "sha256", 1);
    sample.assert_refused(zstd, moved, "archive \"base.0.tar.zst\"");
    // Where that is in the archive.
    let moved: Change = |lines| {
        add(lines, "plain", &["stored"], "sha256", 512);
        lines.sort_by_key(|line| (line.get("sha256").is_some(), line["plain"].as_u64()));
    };
    sample.assert_refused(zstd, moved, "archive \"base.0.tar.zst\"");
    let moved: Change = |lines| add(lines, "plain", &["path"], "sha256", 512);
    sample.assert_refused(none, moved, "archive \"base.0.tar\"");
    let moved: Change = |lines| add(lines, "plain", &["path"], "sha256", 1);
    sample.assert_refused(none, moved, "archive \"base.0.tar\"");
}

#[test]
fn an_end_that_is_none_is_refused() {
    let sample = Sample::new();
    for backup in NAMES {
        for change in [
            (|lines| add(lines, "stored", &["sha256"], "", 1000)) as Change,
            |lines| add(lines, "stored", &["sha256"], "", -100),
        ] {
            sample.assert_refused(backup, change, &format!("archive \"{}\"", backup.1));
        }
    }
}

#[test]
fn what_an_index_does_not_have_is_missed() {
    let sample = Sample::new();
    // All that belongs to the planted relations.
    let shortened: Change = |lines| {
        let is_hidden = |line: &Value| {
            let path = line["path"].as_str().unwrap_or_default();
            path.starts_with("base/1/9000000")
        };
        let before = lines.len();
        lines.retain(|line| !is_hidden(line));
        let hidden = before - lines.len();
        assert_eq!(hidden, 10);
        add(lines, "members", &["sha256"], "", -(hidden as i64));
        lines.retain(|line| {
            line.get("stored").is_none() || line.get("sha256").is_some() || line["plain"] == 0
        });
    };
    // Without frames everything is read.
    for (name, archive) in NAMES {
        let file = format!("{archive}.index");
        let before = sample.repository.read(name, &file);
        sample.repository.forge_index(name, archive, shortened);
        sample.origin.restore(&sample.repository, name, &[]);
        let word = format!("index of archive \"{archive}\" does not fit it");
        sample
            .origin
            .assert_not_verified(&sample.repository, name, &word);
        sample.repository.write(name, &file, &before);
    }
    // With frames, those parts are not read.
    let hidden: Change = |lines| {
        let mut count = 0;
        lines.retain(|line| {
            let is_member = line.get("path").is_some();
            count += i64::from(is_member);
            !is_member
        });
        add(lines, "members", &["sha256"], "", -count);
    };
    for (name, archive) in NAMES {
        let file = format!("{archive}.index");
        let before = sample.repository.read(name, &file);
        sample.repository.forge_index(name, archive, hidden);
        let word = "is in the manifest and did not arrive";
        sample
            .origin
            .assert_not_restored(&sample.repository, name, &[], word);
        let word = "is present in the manifest but not on disk";
        sample
            .origin
            .assert_not_verified(&sample.repository, name, word);
        sample.repository.write(name, &file, &before);
    }
}

#[test]
fn an_index_that_cannot_be_read_is_not_needed() {
    let origin = Origin::new();
    let repository = Repository::new();
    repository.take(&origin.cluster, "b", &["-j", "2", "-Z", "zstd"]);
    let archive = "base.0.tar.zst";
    let file = format!("{archive}.index");
    let whole = repository.read("b", &file);
    let of = |change: fn(&mut Vec<Value>)| {
        repository.write("b", &file, &whole);
        repository.forge_index("b", archive, change);
        repository.read("b", &file)
    };
    let forged = [
        of(|lines| lines[0]["format"] = json!(2)),
        of(|lines| lines[0]["archive"] = json!("base.1.tar.zst")),
        of(|lines| lines.swap(2, 4)),
        of(|lines| lines[2]["plain"] = json!(-1)),
        of(|lines| lines[2]["path"] = json!("x".repeat(20_000))),
        of(|lines| lines[2] = json!({"plain": 512})),
        of(|lines| add(lines, "members", &["sha256"], "", 1)),
    ];
    let words = [
        "has format 2",
        "is of the archive \"base.1.tar.zst\"",
        "not in the order of the archive",
        "malformed",
        "incomplete",
        "malformed",
        "totals are wrong",
    ];
    let mut changed = whole.clone();
    changed[200] ^= 1;
    let damaged = [
        (Vec::new(), "is empty"),
        (whole[..whole.len() - 10].to_vec(), "incomplete"),
        (whole[..whole.len() / 2].to_vec(), "incomplete"),
        (changed, ""),
        ([&whole[..], b"{}\n"].concat(), "goes on after its end"),
        (b"\0".repeat(100_000), "incomplete"),
    ];
    let cases = forged.into_iter().zip(words).chain(damaged);
    for (content, word) in cases {
        repository.write("b", &file, &content);
        assert_warned(&origin, &repository, archive, word);
    }
    repository.server.remove(&repository.key("b", &file));
    assert_warned(&origin, &repository, archive, "is missing");
    origin.assert_restored(&repository, "b", &["-j", "2"]);
}

/// Checks that a backup is restored with a warning, and not verified.
#[track_caller]
fn assert_warned(origin: &Origin, repository: &Repository, archive: &str, word: &str) {
    let places = Folder::new("r");
    let data = places.join("data");
    let mut restore = repository.restore("b", &data, &[&origin.mapping(&places)]);
    let output = run(&mut restore);
    let said = account(&restore, &output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("warning: "), "{said}");
    assert!(said.contains(word), "{word}: {said}");
    let whole = format!("DETAIL:  Archive \"{archive}\" is read as a whole.");
    assert!(said.contains(&whole), "{said}");
    backup_tests::client::verify(&data, &[]);
    origin.assert_not_verified(repository, "b", word);
}
