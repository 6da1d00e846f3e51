//! I/O layer between a server and its files. It can make reads fail, simulate a full disk or an older kernel.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::builder::Builder;
use crate::program::{self, account, command, run_with_input};
use crate::scratch;

/// Size of the control page, as mapped by the library.
const PAGE: usize = 4096;

/// Control file from which the preloaded library takes its orders.
pub struct Layer {
    control: PathBuf,
}

impl Layer {
    /// Creates an inactive layer.
    pub fn new() -> Self {
        let control = scratch::dir().join(format!("control{}", scratch::number()));
        let layer = Layer { control };
        layer.order("");
        program::give_to_owner(&layer.control);
        layer
    }

    /// Preloads the layer into the server to be built.
    pub fn below(&self, builder: Builder) -> Builder {
        builder
            .environment("LD_PRELOAD", library())
            .environment("BACKUP_TESTS_CONTROL", &self.control)
    }

    /// Preloads the layer into a program that starts.
    pub fn below_program(&self, program: &mut Command) {
        program
            .env("LD_PRELOAD", library())
            .env("BACKUP_TESTS_CONTROL", &self.control);
    }

    /// Makes reads fail that extend beyond the offset in files whose path ends with this text.
    pub fn fail_reads(&self, end_of_path: &str, offset: u64) {
        self.order(&format!("R {offset} {end_of_path}"));
    }

    /// Makes writes below the directory fail with ENOSPC.
    pub fn fail_writes(&self, dir: &Path) {
        self.order(&format!("W 0 {}/", dir.display()));
    }

    /// Makes a system call fail that is made by its number, as on a kernel that does not have it.
    pub fn lack_call(&self, number: u32) {
        self.order(&format!("S {number}"));
    }

    /// Deactivates the layer.
    pub fn pass(&self) {
        self.order("");
    }

    /// Overwrites the control file in place, because servers have it mapped.
    fn order(&self, text: &str) {
        use std::os::unix::fs::FileExt;

        let file = std::fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.control)
            .expect("could not open the orders of a layer");
        let mut page = text.as_bytes().to_vec();
        page.resize(PAGE, 0);
        file.write_all_at(&page, 0)
            .expect("could not write the orders of a layer");
    }
}

impl Default for Layer {
    fn default() -> Self {
        Self::new()
    }
}

fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let library = scratch::dir().join("layer.so");
        let mut cc = command("cc");
        cc.args([
            "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-x", "c", "-",
        ])
        .args(["-ldl", "-o"])
        .arg(&library);
        let output = run_with_input(&mut cc, include_bytes!("layer.c"));
        assert!(output.status.success(), "{}", account(&cc, &output));
        library
    })
}
