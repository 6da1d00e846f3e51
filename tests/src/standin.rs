//! Stand-in for a server. It speaks the part of the protocol that the command line program uses,
//! and sends answers that no real server would send.

use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use std::{fs, thread};

use crate::client::program;
use crate::crafted::{archive, directory, file, manifest};
use crate::scratch::Folder;
use crate::wait::{PATIENCE, wait_for};

/// Answers of the stand-in.
#[derive(Clone, Debug, Default)]
pub struct Script {
    /// OID and location of each tablespace.
    pub tablespaces: Vec<(String, String)>,
    /// Stream of the first worker that keeps its connection. Other workers get an empty archive.
    pub files: Vec<u8>,
    /// Closing stream.
    pub closing: Vec<u8>,
    /// Stream whose connection is to be lost.
    pub lost: Option<Lost>,
    /// Directories in the listing.
    pub directories: Vec<String>,
    /// Stream for a request by name. Such requests are refused if this is `None`.
    pub named: Option<Vec<u8>>,
    /// WARNING sent with the start of the backup.
    pub warning: Option<String>,
    /// First stream of WAL. Without one there is no send_wal(), as in version 0.2.0.
    pub wal: Option<Vec<u8>>,
    /// Whether send_backup_files() has an argument for parts of large files.
    pub parts: bool,
    /// Error message that refuses the start of a backup, in any encoding.
    pub refusal: Option<Vec<u8>>,
}

/// Stream that loses its connection. Its files go to another worker before all of it has arrived.
#[derive(Clone, Debug)]
pub struct Lost {
    /// Number of the stream, in the order of requests.
    pub number: usize,
    /// Part that arrives before the other stream begins.
    pub before: Vec<u8>,
    /// Part that arrives after the other stream is complete. The connection then ends.
    pub after: Vec<u8>,
    /// File that shows that the first worker has begun to write.
    pub begun: PathBuf,
}

impl Script {
    /// Script of a benign server, without a manifest.
    pub fn honest() -> Self {
        Self {
            files: archive(&[directory("base/"), file("base/1", b"one")]),
            closing: archive(&[file("global/pg_control", b"control")]),
            ..Self::default()
        }
    }

    /// Script of a benign server, with a manifest of these files.
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

/// Stand-in that listens until the test ends.
#[derive(Debug)]
pub struct StandIn {
    folder: Folder,
}

/// Number of worker streams that have begun, and that have been sent completely, and of requests for WAL.
#[derive(Debug, Default)]
struct Sent {
    begun: AtomicUsize,
    whole: AtomicUsize,
    wal: AtomicUsize,
}

/// Connection of a WAL stream. Its end counts as a request: the stream was taken, or refused.
struct WalConnection<'a>(&'a Sent);

impl Drop for WalConnection<'_> {
    fn drop(&mut self) {
        self.0.wal.fetch_add(1, Ordering::SeqCst);
    }
}

/// Port in the name of the socket.
const PORT: &str = "55432";

/// Empty archive.
const EMPTY: [u8; 1024] = [0; 1024];

impl StandIn {
    /// Starts listening.
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
                // A client that disconnects has rejected an answer. That is no failure here.
                thread::spawn(move || serve(stream, &script, &sent));
            }
        });
        Self { folder }
    }

    /// Connection arguments for the program.
    pub fn connection_args(&self) -> Vec<String> {
        let host = self.socket_dir().display().to_string();
        let args = ["-h", &host, "-p", PORT, "-U", "postgres"];
        args.map(str::to_owned).to_vec()
    }

    /// Command that takes a backup from the stand-in with two workers.
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
    let mut wal = None;
    loop {
        let mut head = [0; 5];
        stream.read_exact(&mut head)?;
        let [kind, length @ ..] = head;
        let body = body(&mut stream, length)?;
        match kind {
            b'Q' => {
                if text(&body).contains("send_wal") {
                    wal.get_or_insert(WalConnection(sent));
                }
                simple(&mut stream, &text(&body), script, sent)?;
                message(&mut stream, b'Z', b"I")?;
            }
            b'P' => {
                // Name of the statement (empty), then its text.
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

/// Answers a statement that streams.
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
    } else if statement.contains("send_wal") {
        match sent.wal.fetch_add(1, Ordering::SeqCst) {
            0 => data(stream, script.wal.as_deref().unwrap_or_default())?,
            _ => {
                // A server waits for the next segment.
                thread::sleep(Duration::from_millis(50));
                data(stream, &EMPTY)?;
            }
        }
    } else if is_named {
        data(stream, script.named.as_deref().unwrap_or_default())?;
    } else {
        if script.wal.is_some() {
            wait_for("the first stream of WAL to be taken", PATIENCE, || {
                sent.wal.load(Ordering::SeqCst) >= 2
            });
        }
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

/// Answers a statement that returns rows.
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
    let rows: Vec<Vec<String>> = if statement.contains("has_function_privilege") {
        // Those that the role may not execute.
        Vec::new()
    } else if statement.contains("datconnlimit") {
        vec![owned(&["role", "database", "-1", "-1", "100", "0"])]
    } else if statement.contains("coalesce(spcoid, 0)") {
        vec![owned(&["0", "1000"])]
    } else if statement.contains("pg_extension") {
        // As version 0.2.0: send_backup_files() has no argument max_bytes.
        let flag = |is_set: bool| if is_set { "t" } else { "f" };
        let (has_send_wal, has_parts) = (flag(script.wal.is_some()), flag(script.parts));
        vec![owned(&["public", "f", has_send_wal, has_parts])]
    } else if statement.contains("wal_segment_size") {
        vec![owned(&["1048576"])]
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
        // Column name, then table, column, type (text), type size and modifier, and format.
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

/// Reads the body of a message. The length counts itself.
fn body(stream: &mut UnixStream, length: [u8; 4]) -> io::Result<Vec<u8>> {
    let mut body = vec![0; (u32::from_be_bytes(length) as usize).saturating_sub(4)];
    stream.read_exact(&mut body)?;
    Ok(body)
}

fn text(body: &[u8]) -> String {
    let end = body.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&body[..end.unwrap_or(body.len())]).into_owned()
}
