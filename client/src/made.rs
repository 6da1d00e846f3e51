//! What this program has made, so that it can remove that and nothing else.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// What was made, to be removed after an error.
#[derive(Debug, Default)]
pub struct Made {
    /// And whether it was there, and empty.
    directories: Vec<(PathBuf, bool)>,
}

impl Made {
    /// Removes all of it, and nothing else. Directories that were there are empty again.
    ///
    /// # Errors
    /// The operating system's.
    pub fn remove(&self) -> io::Result<()> {
        for (path, existed) in self.directories.iter().rev() {
            if *existed {
                for entry in fs::read_dir(path)? {
                    let entry = entry?;
                    if entry.file_type()?.is_dir() {
                        fs::remove_dir_all(entry.path())?;
                    } else {
                        fs::remove_file(entry.path())?;
                    }
                }
            } else {
                match fs::remove_dir_all(path) {
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    removed => removed?,
                }
            }
        }
        Ok(())
    }

    /// The directories.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.directories.iter().map(|(path, _)| path.as_path())
    }

    /// Has an empty directory at a path, whether there was one or none.
    ///
    /// # Errors
    /// Where there is one that is not empty, or it cannot be made.
    pub fn directory(&mut self, path: &Path) -> Result<()> {
        let quoted = || format!("\"{}\"", path.display());
        let existed = match fs::read_dir(path) {
            Ok(mut entries) => {
                ensure!(
                    entries.next().is_none(),
                    "directory {} exists but is not empty\n\
                     HINT:  Empty it, or name another directory.",
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
        if !existed {
            self.missing_parents(path)?;
            fs::DirBuilder::new()
                .mode(0o700)
                .create(path)
                .with_context(|| format!("could not create directory {}", quoted()))?;
        }
        self.directories.push((path.to_owned(), existed));
        Ok(())
    }

    fn missing_parents(&mut self, path: &Path) -> Result<()> {
        let Some(parent) = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
        else {
            return Ok(());
        };
        if parent.exists() {
            return Ok(());
        }
        self.missing_parents(parent)?;
        fs::DirBuilder::new()
            .mode(0o700)
            .create(parent)
            .with_context(|| format!("could not create directory \"{}\"", parent.display()))?;
        self.directories.push((parent.to_owned(), false));
        Ok(())
    }
}
