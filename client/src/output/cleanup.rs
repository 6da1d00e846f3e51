//! What this program has made, so that it can remove that and nothing else.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, ensure};

use crate::console::messages;

/// What was made, where the threads that make it and the one that removes it find it.
#[derive(Clone, Debug, Default)]
pub struct SharedCleanupList(Arc<Mutex<CleanupList>>);

impl SharedCleanupList {
    /// What was made until now, for this thread alone.
    pub fn lock(&self) -> MutexGuard<'_, CleanupList> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After an error: removes what was made, or says that it is not to be used.
    pub fn clean_up(&self, clean: bool, verbose: bool) {
        let made = self.lock();
        for path in made.paths() {
            if !clean {
                messages::say(format_args!(
                    "\"{}\" is not removed at user's request, and holds no backup",
                    path.display()
                ));
            } else if verbose {
                messages::say(format_args!("removing \"{}\"", path.display()));
            }
        }
        if clean && let Err(error) = made.remove() {
            messages::warn(format_args!("could not remove all that was made: {error}"));
        }
    }
}

/// What was made, to be removed after an error.
#[derive(Clone, Debug, Default)]
pub struct CleanupList {
    directories: Vec<Directory>,
    /// What it would be taken for a backup by.
    marks: Vec<PathBuf>,
}

#[derive(Clone, Debug)]
struct Directory {
    path: PathBuf,
    origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// It was there, and empty; what is in it now is the backup.
    Found,
    /// It was made, with all that is in it.
    Created,
    /// It was made only because something in it was to be made. Others may use it since.
    Above,
}

impl CleanupList {
    /// A file in one of the directories, by which they would be taken for a backup.
    pub fn mark(&mut self, path: PathBuf) {
        self.marks.push(path);
    }

    /// Removes all of it, and nothing else. Directories that were there are empty again. Should this
    /// be interrupted, what is left looks like no backup.
    ///
    /// # Errors
    /// The first of the operating system's; it goes on after one.
    pub fn remove(&self) -> io::Result<()> {
        self.remove_marks()?;
        let mut outcome = Ok(());
        for Directory { path, origin } in self.directories.iter().rev() {
            let removed = match origin {
                Origin::Found => remove_content(path),
                Origin::Created => fs::remove_dir_all(path),
                Origin::Above => fs::remove_dir(path),
            };
            outcome = outcome.and(match removed {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                Err(error)
                    if *origin == Origin::Above && error.kind() == ErrorKind::DirectoryNotEmpty =>
                {
                    Ok(())
                }
                removed => removed,
            });
        }
        outcome
    }

    /// They are gone for certain before anything else is.
    fn remove_marks(&self) -> io::Result<()> {
        let mut folders = Vec::new();
        for mark in &self.marks {
            match fs::remove_file(mark) {
                Ok(()) => folders.extend(mark.parent()),
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

    /// Has an empty directory at a path, whether there was one or none.
    ///
    /// # Errors
    /// Where there is one that is not empty or holds another part of the backup, or it cannot be
    /// made.
    pub fn directory(&mut self, path: &Path, mode: u32) -> Result<()> {
        let quoted = || format!("\"{}\"", path.display());
        let existed = match fs::read_dir(path) {
            Ok(mut entries) => {
                ensure!(
                    entries.next().is_none(),
                    "directory {} exists but is not empty",
                    quoted()
                );
                true
            }
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("could not access directory {}", quoted()));
            }
        };
        if existed {
            self.refuse_second_use(path)?;
        } else {
            self.missing_parents(path, mode)?;
            make(path, mode)?;
        }
        let origin = if existed {
            Origin::Found
        } else {
            Origin::Created
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
        make(parent, mode)?;
        self.add(parent, Origin::Above);
        Ok(())
    }

    fn add(&mut self, path: &Path, origin: Origin) {
        let path = path.to_owned();
        self.directories.push(Directory { path, origin });
    }
}

fn make(path: &Path, mode: u32) -> Result<()> {
    fs::DirBuilder::new()
        .mode(mode)
        .create(path)
        // Whatever the umask is.
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .with_context(|| format!("could not create directory \"{}\"", path.display()))
}

fn is_no_file(error: &io::Error) -> bool {
    use ErrorKind::{IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | IsADirectory)
}

fn remove_content(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
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
        let mut made = CleanupList::default();
        made.directory(&target, 0o700).unwrap();
        made.mark(control.clone());
        made.mark(target.join("base"));
        // No name is so long.
        made.mark(target.join("x".repeat(1000)));
        fs::create_dir_all(target.join("base")).unwrap();
        fs::create_dir_all(control.parent().unwrap()).unwrap();
        fs::write(&control, "").unwrap();

        made.remove().unwrap_err();
        assert!(!control.exists() && target.join("base").exists());
        made.marks.pop();
        made.remove().unwrap();
        assert!(!scratch.0.exists());
    }
}
