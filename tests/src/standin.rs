//! A stand-in for a server: it speaks as much of the protocol as the command line program hears,
//! and says what no server would say.

use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, thread};

use crate::client::program;
use crate::crafted::{archive, directory, file, manifest};
use crate::scratch::Folder;
use crate::wait::{PATIENCE, wait_for};

/// What it answers.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// OID and location of each tablespace.
    pub tablespaces: Vec<(String, String)>,
    /// The stream of the first worker that does not lose its connection; others get an empty
    /// archive.
    pub files: Vec<u8>,
    /// The closing stream.
    pub closing: Vec<u8>,
    /// What becomes of a stream that is to be lost.
    pub lost: Option<Lost>,
    /// Directories that it has listed.
    pub directories: Vec<String>,
    /// The stream of what is asked for by name, which it refuses otherwise.
    pub named: Option<Vec<u8>>,
    /// What it tells of beside the start of the backup.
    pub warning: Option<String>,
    /// The message by which it refuses to start a backup, in any encoding.
    pub refusal: Option<Vec<u8>>,
}

/// A stream whose files another has been given before all of it arrived.
#[derive(Clone, Debug)]
pub struct Lost {
    /// Which stream that is, by the order in which they are asked for.
    pub number: usize,
    /// What arrives of it before the other begins.
    pub before: Vec<u8>,
    /// What arrives of it when the other is complete; then the connection ends.
    pub after: Vec<u8>,
    /// The file by which one knows that the first of them has begun to write.
    pub begun: PathBuf,
}

impl Script {
    /// What a server that means well would send, without a manifest.
    pub fn honest() -> Self {
        Self {
            files: archive(&[directory("base/"), file("base/1", b"one")]),
            closing: archive(&[file("global/pg_control", b"control")]),
            ..Self::default()
        }
    }

    /// The same with a manifest that has these files.
    pub fn with_manifest(files: &[String]) -> Self {
        let manifest = manifest(&files.join(",\n"));
        Self {
            closing: archive(&[
                file("global/pg_control", b"control"),
                file("backup_manifest", &manifest),
            ]),
            ..Self::honest()
        }
    }
}

/// It listens until the test ends.
#[derive(Debug)]
pub struct StandIn {
    folder: Folder,
}

/// How many streams of workers have begun and been sent whole.
#[derive(Debug, Default)]
struct Sent {
    begun: AtomicUsize,
    whole: AtomicUsize,
}

/// Its port, which names the socket.
const PORT: &str = "55432";

/// An archive of nothing.
const EMPTY: [u8; 1024] = [0; 1024];

impl StandIn {
    /// Begins to listen.
    pub fn start(script: Script) -> Self {
        let folder = Folder::new("s");
        let path = folder.join(format!(".s.PGSQL.{PORT}"));
        let listener = UnixListener::bind(&path).expect("a socket");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).expect("its mode");
        let script = Arc::new(script);
        let sent = Arc::new(Sent::default());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (script, sent) = (Arc::clone(&script), Arc::clone(&sent));
                // A client that goes away is one that refused to listen.
                thread::spawn(move || serve(stream, &script, &sent));
            }
        });
        Self { folder }
    }

    /// What tells the program to connect here.
    pub fn connection_args(&self) -> Vec<String> {
        let host = self.socket_dir().display().to_string();
        let args = ["-h", &host, "-p", PORT, "-U", "postgres"];
        args.map(str::to_owned).to_vec()
    }

    /// The program with two workers, about to take a backup from here.
    pub fn backup(&self, target: &Path, args: &[&str]) -> Command {
        let mut program = program();
        program
            .args(self.connection_args())
            .args(["-N", "-j", "2", "-D"])
            .arg(target)
            .args(args);
        program
    }

    fn socket_dir(&self) -> PathBuf {
        self.folder.to_path_buf()
    }
}

fn serve(mut stream: UnixStream, script: &Script, sent: &Sent) -> io::Result<()> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    body(&mut stream, length)?;
    // AuthenticationOk.
    message(&mut stream, b'R', &[0; 4])?;
    message(&mut stream, b'Z', b"I")?;
    let mut statement = String::new();
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let body = body(&mut stream, length)?;
        match kind {
            b'Q' => {
                simple(&mut stream, &text(&body), script, sent)?;
                message(&mut stream, b'Z', b"I")?;
            }
            b'P' => {
                // The name of the statement, which is empty, and its text.
                statement = text(&body[1..]);
                message(&mut stream, b'1', b"")?;
            }
            b'B' => message(&mut stream, b'2', b"")?,
            b'E' => answer(&mut stream, &statement, script)?,
            b'S' => message(&mut stream, b'Z', b"I")?,
            b'X' => return Ok(()),
            _ => {}
        }
    }
}

/// The statements that stream.
fn simple(
    stream: &mut UnixStream,
    statement: &str,
    script: &Script,
    sent: &Sent,
) -> io::Result<()> {
    let is_named = statement.contains("files =>");
    if is_named && script.named.is_none() {
        let fields = b"SERROR\0VERROR\0C55006\0Mit is being sent by another worker\0\0";
        return message(stream, b'E', fields);
    }
    // Text format, one column.
    message(stream, b'H', &[0, 0, 1, 0, 0])?;
    if statement.contains("send_stop_backup") {
        data(stream, &script.closing)?;
    } else if is_named {
        data(stream, script.named.as_deref().unwrap_or_default())?;
    } else {
        let number = sent.begun.fetch_add(1, Ordering::SeqCst);
        match (&script.lost, number) {
            (Some(lost), number) if number == lost.number => return lose(stream, lost, sent),
            (Some(lost), 1) if lost.number == 0 => {
                if !lost.before.is_empty() {
                    wait_for("the first stream to write", PATIENCE, || {
                        lost.begun.exists()
                    });
                }
                data(stream, &script.files)?;
            }
            (_, 0) => data(stream, &script.files)?,
            _ => data(stream, &EMPTY)?,
        }
        sent.whole.fetch_add(1, Ordering::SeqCst);
    }
    message(stream, b'c', b"")?;
    message(stream, b'C', b"COPY 0\0")
}

fn lose(stream: &mut UnixStream, lost: &Lost, sent: &Sent) -> io::Result<()> {
    data(stream, &lost.before)?;
    wait_for("another stream", PATIENCE, || {
        sent.whole.load(Ordering::SeqCst) > 0 && lost.begun.exists()
    });
    data(stream, &lost.after)?;
    Err(io::Error::other("the connection is lost"))
}

fn data(stream: &mut UnixStream, archive: &[u8]) -> io::Result<()> {
    archive
        .chunks(1000)
        .try_for_each(|part| message(stream, b'd', part))
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// The statements that return rows.
fn answer(stream: &mut UnixStream, statement: &str, script: &Script) -> io::Result<()> {
    if let Some(refusal) = &script.refusal
        && statement.contains("start_backup(")
    {
        let fields = [&b"SERROR\0VERROR\0C55000\0M"[..], refusal, b"\0\0"];
        return message(stream, b'E', &fields.concat());
    }
    if let Some(warning) = &script.warning
        && statement.contains("start_backup(")
    {
        let fields = format!("SWARNING\0VWARNING\0C01000\0M{warning}\0\0");
        message(stream, b'N', fields.as_bytes())?;
    }
    let owned = |row: &[&str]| row.iter().map(|&value| value.to_owned()).collect();
    let rows: Vec<Vec<String>> = if statement.contains("pg_extension") {
        vec![owned(&["public"])]
    } else if statement.contains("start_backup(") {
        vec![owned(&["42", "0/2000028", "1", "1000", "10"])]
    } else if statement.contains("data_directory_mode") {
        vec![owned(&["0700"])]
    } else if statement.contains("backup_tablespaces(") {
        let tablespaces = script.tablespaces.iter();
        tablespaces
            .map(|(oid, location)| vec![oid.clone(), hex(location)])
            .collect()
    } else if statement.contains("backup_filelist(") {
        let directories = script.directories.iter();
        directories
            .map(|path| vec![path.clone(), hex(path)])
            .collect()
    } else {
        Vec::new()
    };
    let columns = rows.first().map_or(0, Vec::len);
    if columns == 0 {
        message(stream, b'n', b"")?;
        return message(stream, b'C', b"SET\0");
    }
    let mut description = count(columns).to_vec();
    for _ in 0..columns {
        // The name, then table, column, type (text), its size and modifier, and the format.
        description.extend_from_slice(b"c\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
    }
    message(stream, b'T', &description)?;
    for row in &rows {
        let mut data = count(columns).to_vec();
        for value in row {
            data.extend_from_slice(&(value.len() as u32).to_be_bytes());
            data.extend_from_slice(value.as_bytes());
        }
        message(stream, b'D', &data)?;
    }
    message(stream, b'C', b"SELECT 1\0")
}

fn count(columns: usize) -> [u8; 2] {
    (columns as u16).to_be_bytes()
}

fn message(stream: &mut UnixStream, kind: u8, body: &[u8]) -> io::Result<()> {
    let length = (body.len() as u32 + 4).to_be_bytes();
    stream.write_all(&[&[kind], &length[..], body].concat())
}

/// What follows a length that counts itself.
fn body(stream: &mut UnixStream, length: [u8; 4]) -> io::Result<Vec<u8>> {
    let mut body = vec![0; (u32::from_be_bytes(length) as usize).saturating_sub(4)];
    stream.read_exact(&mut body)?;
    Ok(body)
}

fn text(body: &[u8]) -> String {
    let end = body.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&body[..end.unwrap_or(body.len())]).into_owned()
}
