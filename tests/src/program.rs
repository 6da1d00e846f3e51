//! Runs programs of PostgreSQL and the system as the user that owns the clusters.
//!
//! The server and `initdb` refuse to run as root. If the tests run as root, every program that
//! touches a data directory runs as `postgres`; otherwise it runs as the user of the tests.

use std::ffi::OsStr;
use std::io::Write;
use std::iter;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// Program of util-linux that changes the user.
const SETPRIV: &str = "/usr/bin/setpriv";

/// User and group that own the clusters, if different from those of the tests.
#[derive(Clone, Copy, Debug)]
struct Owner {
    uid: u32,
    gid: u32,
}

/// Directory of PostgreSQL's programs.
pub fn bindir() -> &'static Path {
    static BINDIR: OnceLock<PathBuf> = OnceLock::new();
    BINDIR.get_or_init(|| PathBuf::from(pg_config("--bindir")))
}

/// Directory in which `CREATE EXTENSION` looks for control files.
pub fn extension_dir() -> PathBuf {
    PathBuf::from(pg_config("--sharedir")).join("extension")
}

/// Major version of the server under test.
pub fn major_version() -> u32 {
    let version = pg_config("--version");
    let digits = version.trim_start_matches(|c: char| !c.is_ascii_digit());
    digits
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .and_then(|major| major.parse().ok())
        .unwrap_or_else(|| panic!("pg_config printed {version:?}"))
}

/// Whether the server under test was built with TLS. Only that of 16 from scripts/servers.sh was not.
pub fn has_tls() -> bool {
    let has_tls = pg_config("--configure").contains("openssl");
    if !has_tls {
        assert_eq!(major_version(), 16, "the server has no TLS");
        eprintln!("nothing to test without TLS");
    }
    has_tls
}

/// Folder of cargo that has the programs of the profile of this one, such as `target/debug`.
pub fn built_folder() -> PathBuf {
    let own = std::env::current_exe().expect("the path of the test");
    // The programs of tests are one level below the others.
    let mut folders = own.ancestors().skip(1);
    let folder = folders.find(|folder| !folder.ends_with("deps"));
    folder.expect("the target folder of cargo").to_owned()
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

/// Command for a program, run as the owner of the clusters and without the caller's `PG…`
/// variables. PostgreSQL's own program takes precedence.
pub fn command(program: &str) -> Command {
    let own = bindir().join(program);
    let program = if own.exists() {
        own.as_os_str()
    } else {
        OsStr::new(program)
    };
    let mut command = match owner() {
        // setpriv(1) changes the user, and not the child that this process would otherwise fork: copying the
        // page tables of a process with whole backups in memory takes longer than most programs run.
        Some(Owner { uid, gid }) => {
            let mut setpriv = Command::new(SETPRIV);
            setpriv
                .args([format!("--reuid={uid}"), format!("--regid={gid}")])
                .args(["--clear-groups", "--"]);
            if !program.as_bytes().contains(&b'/') {
                // setpriv would look for it with the rights of root.
                setpriv.arg("/usr/bin/env");
            }
            setpriv
                .arg(program)
                .env("HOME", "/tmp")
                .env("USER", "postgres");
            setpriv
        }
        None => Command::new(program),
    };
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C").env("TZ", "UTC");
    // If a server inherited this variable, its Rust code would add a backtrace to the DETAIL of
    // errors.
    command.env_remove("RUST_BACKTRACE");
    // The owner of the clusters may have no access to the directory of the tests.
    command.current_dir("/tmp");
    command
}

/// Program of a [`command`] and its arguments, for a command that runs it. A change of the user is left out,
/// since that command has made it.
pub fn words(command: &Command) -> impl Iterator<Item = &OsStr> {
    let options = match command.get_program() == SETPRIV {
        // With the name of the program, and what ends the options.
        true => 5,
        false => 0,
    };
    iter::once(command.get_program())
        .chain(command.get_args())
        .skip(options)
}

/// Adds a [`command`] with its environment to another one, which runs it.
pub fn add_program(outer: &mut Command, program: &Command) {
    outer.args(words(program));
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
}

/// Gives a file or directory made by the tests to the owner of the clusters.
pub fn give_to_owner(path: &Path) {
    if let Some(Owner { uid, gid }) = owner() {
        chown(path, Some(uid), Some(gid))
            .unwrap_or_else(|error| panic!("could not change the owner of {path:?}: {error}"));
    }
}

/// Creates a directory with mode 0700 that belongs to the owner of the clusters.
pub fn make_dir(path: &Path) {
    succeed(command("mkdir").args(["-m", "0700", "--"]).arg(path));
}

/// Runs a command and waits for it.
pub fn run(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("could not run {command:?}: {error}"))
}

/// Runs a command that must succeed. Returns its standard output.
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
        // The program may exit before it has read everything. Its exit status tells why.
        scope.spawn(move || stdin.write_all(input).and_then(|()| stdin.flush()));
        child.wait_with_output()
    })
    .unwrap_or_else(|error| panic!("could not wait for {command:?}: {error}"))
}

/// Describes a failed command and its output, for a failure message.
pub fn account(command: &Command, output: &Output) -> String {
    format!(
        "{}: {}\n{}{}",
        words(command)
            .map(OsStr::to_string_lossy)
            .collect::<Vec<_>>()
            .join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout),
    )
}

/// Sends a signal to a process that belongs to the caller.
pub fn signal(name: &str, pid: i32) {
    assert!(pid > 1, "{pid} is not one process");
    succeed(Command::new("kill").args(["-s", name, &pid.to_string()]));
}

fn text_of(command: &mut Command) -> String {
    succeed(command).trim_end().to_owned()
}
