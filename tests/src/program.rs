//! Runs the programs of PostgreSQL and the system's, as the user that owns the clusters.
//!
//! The server and `initdb` refuse to run as root. When the tests do, everything that touches a
//! data directory runs as `postgres`; otherwise it runs as the user of the tests.

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The user and group that own the clusters, when they are not those of the tests.
#[derive(Clone, Copy, Debug)]
struct Owner {
    uid: u32,
    gid: u32,
}

/// The folder of PostgreSQL's programs.
pub fn bindir() -> &'static Path {
    static BINDIR: OnceLock<PathBuf> = OnceLock::new();
    BINDIR.get_or_init(|| PathBuf::from(pg_config("--bindir")))
}

/// The folder in which `CREATE EXTENSION` looks for control files.
pub fn extension_dir() -> PathBuf {
    PathBuf::from(pg_config("--sharedir")).join("extension")
}

/// The major version of the server under test.
pub fn major_version() -> u32 {
    let version = pg_config("--version");
    let digits = version.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .and_then(|major| major.parse().ok())
        .unwrap_or_else(|| panic!("pg_config printed {version:?}"))
}

fn pg_config(option: &str) -> String {
    let pg_config = std::env::var_os("PGRX_PG_CONFIG_PATH").unwrap_or_else(|| "pg_config".into());
    text_of(Command::new(pg_config).arg(option))
}

fn owner() -> Option<Owner> {
    static OWNER: OnceLock<Option<Owner>> = OnceLock::new();
    *OWNER.get_or_init(|| {
        let id = |arguments: &[&str]| -> u32 {
            let text = text_of(Command::new("id").args(arguments));
            text.parse()
                .unwrap_or_else(|_| panic!("id {arguments:?} printed {text:?}"))
        };
        (id(&["-u"]) == 0).then(|| Owner {
            uid: id(&["-u", "postgres"]),
            gid: id(&["-g", "postgres"]),
        })
    })
}

/// A command for a program, PostgreSQL's own where it has one of that name, run as the owner of the
/// clusters and without the caller's `PG…` variables.
pub fn command(program: &str) -> Command {
    let own = bindir().join(program);
    let mut command = if own.exists() {
        Command::new(own)
    } else {
        Command::new(program)
    };
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C").env("TZ", "UTC");
    // Rust code in a server that inherits this would put a backtrace into the DETAIL of errors.
    command.env_remove("RUST_BACKTRACE");
    // The folder of the tests may be closed to the owner of the clusters.
    command.current_dir("/tmp");
    if let Some(Owner { uid, gid }) = owner() {
        command.uid(uid).gid(gid);
        command.env("HOME", "/tmp").env("USER", "postgres");
    }
    command
}

/// Gives a file or folder that the tests made to the owner of the clusters.
pub fn give_to_owner(path: &Path) {
    if let Some(Owner { uid, gid }) = owner() {
        chown(path, Some(uid), Some(gid))
            .unwrap_or_else(|error| panic!("could not change the owner of {path:?}: {error}"));
    }
}

/// Makes a folder that belongs to the owner of the clusters, with mode 0700.
pub fn make_dir(path: &Path) {
    succeed(command("mkdir").args(["-m", "0700", "--"]).arg(path));
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("could not run {command:?}: {error}"))
}

/// Runs a command that must succeed and returns what it printed.
pub fn succeed(command: &mut Command) -> String {
    let output = run(command);
    assert!(output.status.success(), "{}", account(command, &output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command with `input` as its standard input.
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("could not run {command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("standard input is a pipe");
    std::thread::scope(|scope| {
        // The program may end before it has read everything; its exit status tells why.
        scope.spawn(move || stdin.write_all(input).and_then(|()| stdin.flush()));
        child.wait_with_output()
    })
    .unwrap_or_else(|error| panic!("could not wait for {command:?}: {error}"))
}

/// What a failed command was and printed, for a failure message.
pub fn account(command: &Command, output: &Output) -> String {
    format!(
        "{} ({}): {}\n{}{}",
        command.get_program().to_string_lossy(),
        command
            .get_args()
            .map(OsStr::to_string_lossy)
            .collect::<Vec<_>>()
            .join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout),
    )
}

/// Sends a signal to a process that the caller knows to be its own.
pub fn signal(name: &str, pid: i32) {
    assert!(pid > 1, "{pid} is not one process");
    succeed(Command::new("kill").args(["-s", name, &pid.to_string()]));
}

fn text_of(command: &mut Command) -> String {
    succeed(command).trim_end().to_owned()
}
