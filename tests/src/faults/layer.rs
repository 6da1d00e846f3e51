//! A layer between a server and its files, which has reads fail or the disk be full.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::builder::Builder;
use crate::program::{self, account, command, run_with_input};
use crate::scratch;

/// As large as the library maps it.
const PAGE: usize = 4096;

/// What a server with the layer reads its orders from.
pub struct Layer {
    control: PathBuf,
}

impl Layer {
    /// A layer that does nothing yet.
    pub fn new() -> Self {
        let control = scratch::dir().join(format!("control{}", scratch::number()));
        let layer = Layer { control };
        layer.order("");
        program::give_to_owner(&layer.control);
        layer
    }

    /// Puts it below the server that the builder makes.
    pub fn below(&self, builder: Builder) -> Builder {
        builder
            .environment("LD_PRELOAD", library())
            .environment("BACKUP_TESTS_CONTROL", &self.control)
    }

    /// Reads of the files whose path ends so fail, where they reach beyond the offset.
    pub fn fail_reads(&self, end_of_path: &str, offset: u64) {
        self.order(&format!("R {offset} {end_of_path}"));
    }

    /// Writes below the directory find no space.
    pub fn fail_writes(&self, dir: &Path) {
        self.order(&format!("W 0 {}/", dir.display()));
    }

    /// Does nothing any more.
    pub fn pass(&self) {
        self.order("");
    }

    /// In place, because servers have the page mapped.
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
