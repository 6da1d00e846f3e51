//! Directory for everything that a test process creates: below `/tmp`, or below the directory that the
//! environment names in `TESTS_FOLDER`, such as one in memory. Tests that need a disk have one of their own.
//!
//! A shell process holds the reading end of a pipe. The other end closes with the test process,
//! whether by return, abort, Ctrl-C or SIGKILL. The shell then stops the remaining servers and
//! removes the directory. No destructor could guarantee this.

use std::cell::Cell;
use std::ops::Deref;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::program;

struct Scratch {
    dir: PathBuf,
    /// Its standard input is the pipe that closes with the test process.
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

thread_local! {
    /// Whether the calling test needs a disk.
    static ON_DISK: Cell<bool> = const { Cell::new(false) };
}

/// Keeps what the calling test makes from now on out of memory.
pub fn stay_on_disk() {
    ON_DISK.set(true);
}

fn scratch() -> &'static Scratch {
    static NAMED: OnceLock<Scratch> = OnceLock::new();
    static DISK: OnceLock<Scratch> = OnceLock::new();
    let named = std::env::var("TESTS_FOLDER").unwrap_or_default();
    let (scratch, place) = match (ON_DISK.get(), named.as_str()) {
        (true, _) | (_, "") => (&DISK, "/tmp"),
        (false, named) => (&NAMED, named),
    };
    scratch.get_or_init(|| {
        // Short, because the path of a socket is limited to about a hundred bytes.
        let pattern = format!("{place}/pgpb.XXXXXX");
        let made = program::succeed(program::command("mktemp").args(["-d", &pattern]));
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

/// Directory of this test process, for the calling test.
pub fn dir() -> &'static Path {
    &scratch().dir
}

/// Number not used before in this process.
pub fn number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Directory that is removed with its contents when this value is dropped.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Creates a directory that belongs to the owner of the clusters.
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
        // Anything that cannot be removed now is removed at the end of the test process.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
