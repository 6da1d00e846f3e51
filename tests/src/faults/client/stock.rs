//! What earlier runs on a server have left for later ones: the chain of backups that the next incremental one
//! continues, and the repositories.

use std::fs;
use std::path::{Path, PathBuf};

use super::plan::{ClientPlan, Kind};
use crate::program::{make_dir, succeed};
use crate::repository::{Access, Repository};
use crate::scratch::Folder;

/// Length from which a chain of incremental backups is not continued.
const LONGEST_CHAIN: usize = 4;

/// Backups of one server. Everything is made when it is needed first.
#[derive(Default)]
pub struct Stock {
    /// Full backup and incremental ones after it, each in the directory `backup` of its folder.
    pub chain: Vec<Folder>,
    directory: Option<(Folder, Access)>,
    store: Option<Repository>,
}

impl Stock {
    /// Repository for a plan, if it needs one.
    pub fn access(&mut self, plan: &ClientPlan) -> Option<Access> {
        match plan.kind {
            Kind::Plain | Kind::Tar => None,
            Kind::Directory => {
                let (_, access) = self.directory.get_or_insert_with(|| {
                    let folder = Folder::new("y");
                    make_dir(&folder.join("repository"));
                    let access = Access::directory(&folder.join("repository"));
                    (folder, access)
                });
                Some(access.clone())
            }
            Kind::Store => {
                let store = self.store.get_or_insert_with(Repository::new);
                Some((**store).clone())
            }
        }
    }

    /// The S3 server.
    pub fn store(&self) -> Option<&Repository> {
        self.store.as_ref()
    }

    /// Directory of the repository that is one.
    pub fn directory(&self) -> Option<PathBuf> {
        let (folder, _) = self.directory.as_ref()?;
        Some(folder.join("repository"))
    }

    /// Names and sizes of all files in the repository of a plan.
    pub fn files(&self, plan: &ClientPlan) -> Vec<(String, u64)> {
        match (plan.kind, &self.store, self.directory()) {
            (Kind::Store, Some(store), _) => store.server.objects(),
            (Kind::Directory, _, Some(directory)) => sizes_below(&directory),
            _ => Vec::new(),
        }
    }

    /// Adds a backup to the chain, or ends the chain if it is long.
    pub fn extend_chain(&mut self, backup: Folder) {
        if self.chain.len() < LONGEST_CHAIN {
            self.chain.push(backup);
        } else {
            self.chain.clear();
        }
    }

    /// Name of the backup in the repository after which an incremental one is taken, unless its chain is long.
    #[track_caller]
    pub fn parent(&self, access: &Access) -> Option<String> {
        let states = access.states();
        let newest = states.iter().rev().find(|(_, state)| state == "complete");
        newest
            .filter(|_| states.len() < LONGEST_CHAIN)
            .map(|(name, _)| name.clone())
    }
}

/// Names and sizes of files and directories below a directory, sorted.
fn sizes_below(root: &Path) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a directory") {
            let path = entry.expect("an entry").path();
            let metadata = path.metadata().expect("its metadata");
            let name = path.strip_prefix(root).expect("a path below the root");
            let size = if metadata.is_dir() { 0 } else { metadata.len() };
            found.push((name.display().to_string(), size));
            if metadata.is_dir() {
                folders.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Removes what nobody needs from a repository: all but the newest full backup and those after it, and what is
/// unfinished. Checks that nothing else is there.
#[track_caller]
pub fn expire(stock: &Stock, access: &Access, plan: &ClientPlan) {
    succeed(&mut access.expire(&["--keep", "1", "--unfinished", "0s"]));
    let rows = access.listed(&[]);
    let of = |key: &str| -> Vec<String> {
        let values = rows.iter().map(|row| row[key].as_str());
        values
            .map(|value| value.unwrap_or_default().to_owned())
            .collect()
    };
    let names = of("name");
    assert!(
        of("state").iter().all(|state| state == "complete"),
        "after expire: {rows:?}"
    );
    let full = of("kind").iter().filter(|kind| *kind == "full").count();
    assert!(full <= 1, "after expire: {rows:?}");
    for (file, _) in stock.files(plan) {
        let is_of_a_backup = names
            .iter()
            .any(|name| file.split('/').any(|part| part == name));
        assert!(is_of_a_backup, "{file} is an orphan");
    }
    if let (Kind::Store, Some(store)) = (plan.kind, stock.store()) {
        // Before its mark is there, an upload of a program that was killed has no parts.
        assert_eq!(store.server.open_uploads_with_parts(), 0);
    }
}
