//! The folder below `/tmp` that holds everything a test process makes.
//!
//! A shell process holds the reading end of a pipe whose other end closes with the test process, be
//! it by a return, an abort, Ctrl-C or SIGKILL. The shell then stops the servers that are left and removes the
//! folder, which no destructor could promise.

use std::ops::Deref;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::program;

struct Scratch {
    dir: PathBuf,
    /// Its standard input is the end of the pipe that closes with the process.
    _undertaker: Child,
}

const UNDERTAKER: &str = r#"
trap '' INT TERM HUP
cat >/dev/null
for file in "$1"/*/data/postmaster.pid; do
    [ -f "$file" ] && read -r pid <"$file" && kill -s QUIT "$pid" 2>/dev/null
done
umount -l "$1"/*/data 2>/dev/null
rm -rf "$1" || { sleep 1; rm -rf "$1"; }
"#;

fn scratch() -> &'static Scratch {
    static SCRATCH: OnceLock<Scratch> = OnceLock::new();
    SCRATCH.get_or_init(|| {
        // Short, since the path of a socket has about a hundred bytes.
        let made = program::succeed(program::command("mktemp").args(["-d", "/tmp/pgpb.XXXXXX"]));
        let dir = PathBuf::from(made.trim_end());
        let undertaker = Command::new("sh")
            .args(["-c", UNDERTAKER, "undertaker"])
            .arg(&dir)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("could not start a shell");
        Scratch {
            dir,
            _undertaker: undertaker,
        }
    })
}

/// The folder of this test process.
pub fn dir() -> &'static Path {
    &scratch().dir
}

/// A number that this process has not used yet.
pub fn number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A folder that is removed with everything in it when this value goes.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes a folder that belongs to the owner of the clusters.
    pub fn new(purpose: &str) -> Self {
        let dir = dir().join(format!("{purpose}{}", number()));
        program::make_dir(&dir);
        Folder(dir)
    }
}

impl Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed now goes with the test process.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
