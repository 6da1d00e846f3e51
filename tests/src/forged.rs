//! Files of a repository that a hostile store has changed, with checksums that fit.

use serde_json::{Value, json};

use crate::client::{expect_failure, names_in};
use crate::program::{account, command, run, run_with_input};
use crate::repository::{Origin, Repository};
use crate::scratch::Folder;

impl Repository {
    /// Changes the lines of an archive's index, and makes the checksum in its last line fit.
    #[track_caller]
    pub fn forge_index(&self, name: &str, archive: &str, change: impl FnOnce(&mut Vec<Value>)) {
        let file = format!("{archive}.index");
        let text = String::from_utf8(self.read(name, &file)).expect("an index is text");
        let mut lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line of JSON"))
            .collect();
        change(&mut lines);
        let mut last = lines.pop().expect("a last line");
        let before: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let sum = run_with_input(&mut command("sha256sum"), before.as_bytes()).stdout;
        let sum = String::from_utf8_lossy(&sum);
        last["sha256"] = json!(sum.split_whitespace().next().expect("a checksum"));
        self.write(name, &file, format!("{before}{last}\n").as_bytes());
    }

    /// Changes the description of a backup.
    #[track_caller]
    pub fn forge_info(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut info = self.info(name);
        change(&mut info);
        self.write(name, "backup.json", info.to_string().as_bytes());
    }
}

impl Origin {
    /// Checks that a restore is refused with these words, and leaves nothing.
    #[track_caller]
    pub fn assert_not_restored(
        &self,
        repository: &Repository,
        name: &str,
        args: &[&str],
        word: &str,
    ) {
        let places = Folder::new("r");
        let target = places.join("data");
        let mut restore = repository.restore(name, &target, args);
        let said = expect_failure(restore.arg(self.mapping(&places)));
        assert!(said.contains(word), "{word}: {said}");
        assert!(names_in(&places).is_empty(), "{said}");
    }

    /// Checks that a verification fails with these words.
    #[track_caller]
    pub fn assert_not_verified(&self, repository: &Repository, name: &str, word: &str) {
        let said = expect_failure(&mut repository.verify(name, &["-j", "2"]));
        assert!(said.contains(word), "{word}: {said}");
        let mut json = repository.verify(name, &["--json"]);
        let output = run(&mut json);
        let said = account(&json, &output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(!said.contains("true"), "{said}");
    }
}
