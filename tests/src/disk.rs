//! A disk that is small enough to be filled.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::{command, give_to_owner, make_dir, run};

/// A file system in memory, mounted on a folder until this value goes.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
}

impl Disk {
    /// Mounts it on a new folder that belongs to the owner of the clusters. `None` where the tests
    /// are not allowed to mount.
    pub fn mount(dir: &Path, megabytes: u32) -> Option<Self> {
        make_dir(dir);
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={megabytes}m,mode=0700"))
            .arg("tmpfs")
            .arg(dir)
            .output();
        if !mounted.is_ok_and(|output| output.status.success()) {
            return None;
        }
        give_to_owner(dir);
        Some(Disk {
            dir: dir.to_owned(),
        })
    }

    /// Leaves no space, by a file that no backup holds.
    pub fn fill(&self) {
        let mut file = File::create(self.filler()).expect("could not make a file on the disk");
        for size in [1 << 20, 4096] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
    }

    /// Undoes [`Disk::fill`].
    pub fn free(&self) {
        let _ = std::fs::remove_file(self.filler());
    }

    fn filler(&self) -> PathBuf {
        self.dir.join("pgsql_tmp_filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What still uses it keeps it until it ends.
        let _ = run(Command::new("umount").arg("-l").arg(&self.dir));
        let _ = run(command("rmdir").arg(&self.dir));
    }
}
