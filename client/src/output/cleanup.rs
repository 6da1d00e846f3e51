//! Directories that this program writes to. They are claimed before anything is written, and
//! removed after an error, with nothing else.
//!
//! A directory is recorded, and so removed after an error, once it is claimed ([`claim`]).

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};

use crate::console::messages;
use crate::output::claim::{self, CLAIM, no_access};
use crate::storage::objects::Objects;

/// Cleanup list shared by threads.
#[derive(Clone, Debug, Default)]
pub struct SharedCleanupList(Arc<Mutex<CleanupList>>);

impl SharedCleanupList {
    /// Locks the list.
    pub fn lock(&self) -> MutexGuard<'_, CleanupList> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cleans up after an error: removes created directories, or warns that they hold no backup.
    pub fn clean_up(&self, clean: bool, verbose: bool) {
        let cleanup = self.lock();
        let directories = cleanup.paths().map(|path| path.display().to_string());
        let objects = cleanup.objects.iter().map(ToString::to_string);
        for place in directories.chain(objects) {
            if !clean {
                messages::say(format_args!(
                    "\"{place}\" is not removed at user's request, and holds no backup"
                ));
            } else if verbose {
                messages::say(format_args!("removing \"{place}\""));
            }
        }
        if clean && let Err(error) = cleanup.remove() {
            messages::warn(format_args!("could not remove all created files: {error}"));
        }
    }
}

/// Directories to remove after an error.
#[derive(Clone, Debug, Default)]
pub struct CleanupList {
    directories: Vec<Directory>,
    /// Files that identify a backup to a server or a tool.
    key_files: Vec<PathBuf>,
    /// Prefix of the objects of a backup.
    objects: Option<Objects>,
}

#[derive(Clone, Debug)]
struct Directory {
    path: PathBuf,
    origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// It existed and was empty; its content is the backup.
    Found,
    /// It was created, with its content.
    Created,
    /// It was created as the parent of another directory. Others may use it since, and it has no
    /// claim.
    Above,
}

impl CleanupList {
    /// Records a file that identifies the backup.
    pub fn add_key_file(&mut self, path: PathBuf) {
        self.key_files.push(path);
    }

    /// Records the prefix of the objects of the backup.
    pub fn add_objects(&mut self, objects: Objects) {
        self.objects = Some(objects);
    }

    /// Removes the created directories with their content, and the content of those that existed.
    /// After an interruption the rest is not recognized as a backup.
    ///
    /// # Errors
    /// The first error of the operating system; later steps still run.
    pub fn remove(&self) -> io::Result<()> {
        self.remove_key_files()?;
        let mut outcome = match &self.objects {
            Some(objects) => objects.impatient().remove_all().map_err(|error| {
                io::Error::other(format!(
                    "{error:#}\nHINT:  The backup does not count without its manifest, and \"expire\" removes what is left."
                ))
            }),
            None => Ok(()),
        };
        for Directory { path, origin } in self.directories.iter().rev() {
            outcome = outcome.and(remove_directory(path, *origin));
        }
        outcome
    }

    /// Removes the identifying files before anything else, and synchronizes that.
    fn remove_key_files(&self) -> io::Result<()> {
        let mut folders = Vec::new();
        for file in &self.key_files {
            match fs::remove_file(file) {
                Ok(()) => folders.extend(file.parent()),
                // A directory of that name is taken for nothing.
                Err(error) if is_no_file(&error) => {}
                Err(error) => return Err(error),
            }
        }
        for folder in folders {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    /// Removes the claims of all directories: the backup is complete but for the names of its last
    /// files.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn remove_claims(&self) -> Result<()> {
        for path in self.paths() {
            let claim = path.join(CLAIM);
            fs::remove_file(&claim)
                .with_context(|| format!("could not remove file \"{}\"", claim.display()))?;
        }
        Ok(())
    }

    /// The directories that hold the backup.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.of(|origin| origin != Origin::Above)
    }

    /// Of these, the ones that were not there before.
    pub fn new_paths(&self) -> impl Iterator<Item = &Path> {
        self.of(|origin| origin == Origin::Created)
    }

    /// The directories that were made above them.
    pub fn above(&self) -> impl Iterator<Item = &Path> {
        self.of(|origin| origin == Origin::Above)
    }

    fn of(&self, wanted: impl Fn(Origin) -> bool) -> impl Iterator<Item = &Path> {
        self.directories
            .iter()
            .filter(move |directory| wanted(directory.origin))
            .map(|directory| directory.path.as_path())
    }

    /// Claims an empty directory at a path, and creates it where there is none.
    ///
    /// # Errors
    /// Where there is one that is not empty, that another process claims or that holds another part of
    /// the backup, or it cannot be created.
    pub fn directory(&mut self, path: &Path, mode: u32) -> Result<()> {
        let created = match fs::read_dir(path) {
            Ok(_) => false,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.missing_parents(path, mode)?;
                make(path, mode)?
            }
            Err(error) => return Err(no_access(path, error)),
        };
        if !created {
            self.refuse_second_use(path)?;
        }
        if let Err(error) = claim::take(path) {
            if created {
                // It stays where somebody else has claimed it meanwhile.
                let _ = fs::remove_dir(path);
            }
            return Err(error);
        }
        let origin = if created {
            Origin::Created
        } else {
            Origin::Found
        };
        self.add(path, origin);
        Ok(())
    }

    /// Two parts of a backup in one directory would look empty to each other at first.
    fn refuse_second_use(&self, path: &Path) -> Result<()> {
        let identity = |path: &Path| fs::metadata(path).map(|data| (data.dev(), data.ino())).ok();
        let this = identity(path);
        ensure!(
            !self.paths().any(|used| identity(used) == this),
            "directory \"{}\" would hold two parts of the backup",
            path.display()
        );
        Ok(())
    }

    fn missing_parents(&mut self, path: &Path, mode: u32) -> Result<()> {
        let Some(parent) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        else {
            return Ok(());
        };
        if parent.exists() {
            return Ok(());
        }
        self.missing_parents(parent, mode)?;
        if make(parent, mode)? {
            self.add(parent, Origin::Above);
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, origin: Origin) {
        let path = path.to_owned();
        self.directories.push(Directory { path, origin });
    }
}

/// Creates a directory. False where another process has created it meanwhile.
fn make(path: &Path, mode: u32) -> Result<bool> {
    let created = fs::DirBuilder::new()
        .mode(mode)
        .create(path)
        // Whatever the umask is.
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)));
    match created {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(error) => {
            Err(error).with_context(|| format!("could not create directory \"{}\"", path.display()))
        }
    }
}

/// Removes a directory, or what is in it where it was found empty. The claim is the last to go: nobody
/// else may put anything there before.
fn remove_directory(path: &Path, origin: Origin) -> io::Result<()> {
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result,
    };
    if origin != Origin::Above {
        gone(remove_content(path))?;
        gone(fs::remove_file(path.join(CLAIM)))?;
    }
    if origin == Origin::Found {
        return Ok(());
    }
    match fs::remove_dir(path) {
        // Others use it now.
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(()),
        removed => gone(removed),
    }
}

fn is_no_file(error: &io::Error) -> bool {
    use ErrorKind::{IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory)
}

fn remove_content(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() == CLAIM {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    /// A folder that is gone when the test is.
    struct Scratch(PathBuf);

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn what_a_backup_is_known_by_goes_first() {
        let name = format!("pg_parallel_backup.made.{}", std::process::id());
        let scratch = Scratch(std::env::temp_dir().join(name));
        let target = scratch.0.join("backup");
        let control = target.join("global/pg_control");
        let mut cleanup = CleanupList::default();
        cleanup.directory(&target, 0o700).unwrap();
        cleanup.add_key_file(control.clone());
        cleanup.add_key_file(target.join("base"));
        // No name is so long.
        cleanup.add_key_file(target.join("x".repeat(1000)));
        fs::create_dir_all(target.join("base")).unwrap();
        fs::create_dir_all(control.parent().unwrap()).unwrap();
        fs::write(&control, "").unwrap();

        cleanup.remove().unwrap_err();
        assert!(!control.exists() && target.join("base").exists());
        cleanup.key_files.pop();
        cleanup.remove().unwrap();
        assert!(!scratch.0.exists());
    }

    /// Exactly one of many that want a directory gets it, and the others remove nothing of it.
    #[test]
    fn a_directory_is_claimed_once() {
        let name = format!("pg_parallel_backup.claim.{}", std::process::id());
        let scratch = Scratch(std::env::temp_dir().join(name));
        for round in 0..100 {
            let found = round % 2 == 0;
            let target = scratch.0.join(format!("{round}/backup"));
            if found {
                fs::create_dir_all(&target).unwrap();
            }
            let start = std::sync::Barrier::new(4);
            let claim = || {
                let mut list = CleanupList::default();
                start.wait();
                let result = list.directory(&target, 0o700);
                if result.is_ok() {
                    fs::write(target.join("file"), "").unwrap();
                } else {
                    list.remove().unwrap();
                }
                (result, list)
            };
            let results: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(claim)).collect();
                threads
                    .into_iter()
                    .map(|thread| thread.join().unwrap())
                    .collect()
            });
            let (won, lost): (Vec<_>, Vec<_>) =
                results.into_iter().partition(|(result, _)| result.is_ok());
            assert_eq!((won.len(), lost.len()), (1, 3));
            for (result, _) in lost {
                let said = format!("{:#}", result.unwrap_err());
                assert!(said.contains("exists but is not empty"), "{said}");
            }
            let (_, list) = &won[0];
            assert!(target.join("file").exists() && target.join(CLAIM).exists());
            list.remove().unwrap();
            // One that was created by a loser was found by the winner.
            let left = target
                .read_dir()
                .map(|mut entries| entries.next().is_some());
            assert!(left.map_or(!found, |left| !left));
        }
    }

    #[test]
    fn a_directory_that_another_process_has_filled_is_left_alone() {
        let name = format!("pg_parallel_backup.filled.{}", std::process::id());
        let scratch = Scratch(std::env::temp_dir().join(name));
        let mut first = CleanupList::default();
        first.directory(&scratch.0, 0o700).unwrap();
        fs::write(scratch.0.join("PG_VERSION"), "15").unwrap();
        let mut second = CleanupList::default();
        let refused = format!("{:#}", second.directory(&scratch.0, 0o700).unwrap_err());
        assert!(
            refused.contains("Another process writes a backup to it"),
            "{refused}"
        );
        first.remove_claims().unwrap();
        let refused = format!("{:#}", second.directory(&scratch.0, 0o700).unwrap_err());
        assert!(!refused.contains("Another process"), "{refused}");
        second.remove().unwrap();
        let names: Vec<_> = scratch
            .0
            .read_dir()
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["PG_VERSION"]);
    }
}
