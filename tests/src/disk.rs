//! Small file system that tests can fill up.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::{command, give_to_owner, make_dir, run};

/// In-memory file system, mounted on a directory until this value is dropped.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
}

impl Disk {
    /// Mounts the file system on a new directory that belongs to the owner of the clusters. Returns
    /// `None` if the tests may not mount.
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

    /// Fills the disk with a file that no backup includes.
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
        // A lazy unmount: processes that still use the file system keep it until they exit.
        let _ = run(Command::new("umount").arg("-l").arg(&self.dir));
        let _ = run(command("rmdir").arg(&self.dir));
    }
}
