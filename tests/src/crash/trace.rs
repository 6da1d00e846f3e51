//! System calls of a program, as `strace` records them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use crate::program::{add_program, command, succeed};
use crate::scratch;

/// Calls that change files or names, and those by which descriptors get their files.
const CALLS: &str = "open,openat,openat2,creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,\
    truncate,fallocate,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,symlink,\
    symlinkat,link,linkat,fsync,fdatasync,syncfs,sync,lseek,dup,dup2,dup3,fcntl,copy_file_range,\
    sendfile,splice,mmap,io_uring_setup,clone,fork,vfork,execve";

/// Something that a program did to the files below a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Makes a file, where there is none.
    Create(PathBuf),
    /// Gives a file this length.
    Truncate(PathBuf, u64),
    /// A descriptor leads to a file; [`None`] to one elsewhere or without a name. The flag says that
    /// bytes are appended.
    Open(i64, Option<PathBuf>, bool),
    /// A descriptor leads where another does.
    Duplicate(i64, i64),
    /// Moves the position of a descriptor.
    Seek(i64, u64),
    /// Writes at the position of a descriptor, or at an offset.
    Write(i64, Option<u64>, Vec<u8>),
    /// Gives the file of a descriptor this length.
    SetLength(i64, u64),
    /// Makes a directory.
    MakeDirectory(PathBuf),
    /// Makes a symbolic link with a target.
    MakeLink(PathBuf, PathBuf),
    /// Makes a second name for a file.
    MakeName(PathBuf, PathBuf),
    /// Renames a file.
    Rename(PathBuf, PathBuf),
    /// Removes a file, a link or a directory.
    Remove(PathBuf),
    /// Synchronizes the file or directory of a descriptor.
    Sync(i64),
    /// Synchronizes everything.
    SyncAll,
}

/// Runs a program, which must succeed, and returns what it did below a directory.
#[track_caller]
pub fn record(root: &Path, program: &Command) -> Vec<Event> {
    let output = scratch::dir().join(format!("trace{}", scratch::number()));
    let mut strace = command("strace");
    strace
        .args(["-f", "-y", "-xx", "-qq", "--seccomp-bpf"])
        .args(["-e", "signal=none", "-s", "100000000"])
        .args(["-e", &format!("trace={CALLS}"), "-o"])
        .arg(&output)
        .arg("--");
    add_program(&mut strace, program);
    succeed(&mut strace);
    let text = fs::read_to_string(&output).expect("what strace has written");
    let _ = fs::remove_file(&output);
    events(root, &text)
}

/// Whether `strace` can trace here. A run of all tests needs it.
pub fn is_possible() -> bool {
    let mut strace = command("strace");
    strace.args(["-f", "--seccomp-bpf", "-o", "/dev/null", "true"]);
    let is_possible = strace.output().is_ok_and(|output| output.status.success());
    if !is_possible {
        let is_ci = std::env::var_os("CI").is_some();
        assert!(!is_ci, "strace is missing, or may not trace");
        eprintln!("nothing to test without strace");
    }
    is_possible
}

/// A call that has returned, and the lines where it begins and ends.
struct Call {
    name: String,
    /// All that is in parentheses.
    arguments: String,
    result: i64,
    /// Path of the descriptor that is the result.
    path: Option<String>,
    begin: usize,
    end: usize,
}

fn events(root: &Path, text: &str) -> Vec<Event> {
    let mut unfinished: HashMap<&str, (&str, usize)> = HashMap::new();
    let mut events = Vec::new();
    for (line, text) in text.lines().enumerate() {
        let (thread, text) = text.split_once(' ').expect("a thread and its call");
        let text = text.trim_start();
        if text.starts_with(['+', '-']) {
            continue;
        }
        if let Some(begin) = text.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread, (begin, line));
            continue;
        }
        let call = match text.strip_prefix("<... ") {
            None => Call::parse(text, (line, line)),
            Some(end) => {
                let (_, end) = end.split_once(" resumed>").expect("the end of a call");
                let (begin, from) = unfinished.remove(thread).expect("the begin of a call");
                Call::parse(&[begin, end].concat(), (from, line))
            }
        };
        if let Some(call) = call {
            let placed = |(line, event)| Placed {
                place: (line, 0),
                end: call.end,
                event,
            };
            events.extend(call.events(root).into_iter().map(placed));
        }
    }
    // A change is there from the begin of its call on, and what comes of it at the end. So nothing comes
    // before what it needs, whichever thread strace shows first.
    put_behind_directories(&mut events);
    events.sort_by_key(|placed| placed.place);
    events.into_iter().map(|placed| placed.event).collect()
}

/// An event, and where it is among the others.
struct Placed {
    /// Line, and order of those of the same line.
    place: (usize, usize),
    /// Line of the end of its call.
    end: usize,
    event: Event,
}

/// A call that makes a file can begin before the call of another thread that makes the directory for it, and come
/// to it afterwards. What is made in a directory that is made meanwhile is put behind that.
fn put_behind_directories(events: &mut [Placed]) {
    let mut order: Vec<usize> = (0..events.len()).collect();
    // Directories come before what is below them.
    order.sort_by_key(|&index| events[index].event.made().map(|path| path.iter().count()));
    for index in order {
        let Placed { place, end, event } = &events[index];
        let Some(above) = event.made().and_then(Path::parent) else {
            continue;
        };
        let meanwhile = place.0 + 1..=*end;
        let directory = events.iter().find(|other| {
            matches!(&other.event, Event::MakeDirectory(path) if path == above)
                && meanwhile.contains(&other.place.0)
        });
        if let Some((line, order)) = directory.map(|directory| directory.place) {
            events[index].place = (line, order + 1);
        }
    }
}

impl Event {
    /// Path that there is from now on.
    fn made(&self) -> Option<&Path> {
        match self {
            Self::Create(path)
            | Self::Truncate(path, _)
            | Self::MakeDirectory(path)
            | Self::MakeLink(path, _)
            | Self::MakeName(_, path)
            | Self::Rename(_, path) => Some(path),
            _ => None,
        }
    }
}

impl Call {
    /// Reads a call. [`None`] for one that has not returned or has failed.
    fn parse(text: &str, (begin, end): (usize, usize)) -> Option<Self> {
        let (call, result) = text.rsplit_once(" = ").expect("the result of a call");
        let call = call.trim_end().strip_suffix(')').expect("a call");
        let (name, arguments) = call.split_once('(').expect("a call");
        if result.starts_with(['-', '?']) {
            return None;
        }
        let digits = result.split(|c: char| !c.is_ascii_digit()).next()?;
        Some(Self {
            name: name.to_owned(),
            arguments: arguments.to_owned(),
            result: digits.parse().unwrap_or_default(),
            path: result.split_once('<').map(|(_, path)| path.to_owned()),
            begin,
            end,
        })
    }

    /// What the call does below a directory, and the line from which on it has done it.
    fn events(&self, root: &Path) -> Vec<(usize, Event)> {
        let strings = self.strings();
        let descriptors = self.descriptors();
        let path = |string: usize, descriptor: Option<usize>| {
            let directory = descriptor.map(|place| descriptors[place].1.clone());
            let path = Path::new(OsStr::from_bytes(&strings[string]));
            clean(&directory.unwrap_or_default().unwrap_or_default().join(path))
        };
        let is_here = |path: &PathBuf| path.starts_with(root);
        let has = |flag: &str| self.arguments.contains(flag);
        let fd = descriptors.first().map(|(fd, _)| *fd);
        let is_file_here = |place: usize| {
            let path = descriptors.get(place).and_then(|(_, path)| path.as_ref());
            path.is_some_and(is_here)
        };
        let name = self.name.as_str();
        let begins = |event: Event| vec![(self.begin, event)];
        let ends = |event: Event| vec![(self.end, event)];
        match name {
            "open" | "openat" | "openat2" | "creat" => {
                let opened = self.path.as_deref().and_then(path_of);
                let opened = opened.filter(is_here);
                let mut events = Vec::new();
                if let Some(path) = &opened {
                    if has("O_CREAT") || name == "creat" {
                        events.push((self.begin, Event::Create(path.clone())));
                    }
                    if has("O_TRUNC") || name == "creat" {
                        events.push((self.begin, Event::Truncate(path.clone(), 0)));
                    }
                }
                let open = Event::Open(self.result, opened, has("O_APPEND"));
                events.push((self.end, open));
                events
            }
            "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2" => {
                if !is_file_here(0) {
                    return Vec::new();
                }
                let mut bytes = strings.concat();
                bytes.truncate(self.result as usize);
                let offset = match name {
                    "pwrite64" | "pwritev" => Some(self.number_from_end(0)),
                    "pwritev2" => Some(self.number_from_end(1)),
                    _ => None,
                };
                begins(Event::Write(fd.expect("a descriptor"), offset, bytes))
            }
            "ftruncate" if is_file_here(0) => begins(Event::SetLength(
                fd.expect("a descriptor"),
                self.number_from_end(0),
            )),
            "lseek" if is_file_here(0) => {
                ends(Event::Seek(fd.expect("a descriptor"), self.result as u64))
            }
            "dup" | "dup2" | "dup3" => {
                ends(Event::Duplicate(fd.expect("a descriptor"), self.result))
            }
            "fcntl" if has("F_DUPFD") => {
                ends(Event::Duplicate(fd.expect("a descriptor"), self.result))
            }
            "mkdir" | "mkdirat" => {
                let path = path(0, (name == "mkdirat").then_some(0));
                when(is_here(&path), || begins(Event::MakeDirectory(path)))
            }
            "symlink" | "symlinkat" => {
                let path = path(1, (name == "symlinkat").then_some(0));
                let target = PathBuf::from(OsStr::from_bytes(&strings[0]));
                when(is_here(&path), || begins(Event::MakeLink(path, target)))
            }
            "link" | "linkat" => {
                let at = name == "linkat";
                let (from, to) = (path(0, at.then_some(0)), path(1, at.then_some(1)));
                when(is_here(&to), || begins(Event::MakeName(from, to)))
            }
            "rename" | "renameat" | "renameat2" => {
                let at = name != "rename";
                let (from, to) = (path(0, at.then_some(0)), path(1, at.then_some(1)));
                assert_eq!(is_here(&from), is_here(&to), "{from:?} {to:?}");
                when(is_here(&to), || begins(Event::Rename(from, to)))
            }
            "unlink" | "unlinkat" | "rmdir" => {
                let path = path(0, (name == "unlinkat").then_some(0));
                when(is_here(&path), || begins(Event::Remove(path)))
            }
            "fsync" | "fdatasync" => ends(Event::Sync(fd.expect("a descriptor"))),
            "syncfs" | "sync" => ends(Event::SyncAll),
            "mmap" => {
                let is_written = has("MAP_SHARED") && has("PROT_WRITE");
                assert!(!(is_written && is_file_here(0)), "{}", self.arguments);
                Vec::new()
            }
            "io_uring_setup" => panic!("the calls of a ring are not recorded"),
            "copy_file_range" | "sendfile" | "splice" | "truncate" | "fallocate" => {
                assert!(
                    !(0..descriptors.len()).any(is_file_here),
                    "{name}({}) is not replayed",
                    self.arguments
                );
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// All texts in quotes.
    fn strings(&self) -> Vec<Vec<u8>> {
        let quoted = self.arguments.split('"').skip(1).step_by(2);
        quoted.map(bytes_of).collect()
    }

    /// All descriptors with their paths. Paths and texts are hexadecimal, so that nothing else has angle
    /// brackets.
    fn descriptors(&self) -> Vec<(i64, Option<PathBuf>)> {
        let mut pieces = self.arguments.split('<');
        let mut before = pieces.next().unwrap_or_default();
        let mut descriptors = Vec::new();
        for piece in pieces {
            let number = before
                .rsplit([',', ' ', '(', '='])
                .next()
                .unwrap_or_default();
            let number = match number {
                "AT_FDCWD" => -100,
                number => number.parse().unwrap_or(-1),
            };
            descriptors.push((number, path_of(piece)));
            before = piece;
        }
        descriptors
    }

    /// The last argument, or one before it.
    fn number_from_end(&self, place: usize) -> u64 {
        let argument = self.arguments.rsplit(", ").nth(place);
        let argument = argument.and_then(|argument| argument.parse().ok());
        argument.unwrap_or_else(|| panic!("no number in {}", self.arguments))
    }
}

fn when(condition: bool, events: impl FnOnce() -> Vec<(usize, Event)>) -> Vec<(usize, Event)> {
    if condition { events() } else { Vec::new() }
}

/// Path behind an opening angle bracket; [`None`] for a file without a name.
fn path_of(text: &str) -> Option<PathBuf> {
    let (path, rest) = text.split_once('>')?;
    let path = PathBuf::from(std::ffi::OsString::from_vec(bytes_of(path)));
    (path.is_absolute() && !rest.starts_with("(deleted)")).then_some(path)
}

/// Bytes of a text such as `\x61`.
fn bytes_of(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        _ => panic!("{} is not hexadecimal", char::from(byte)),
    };
    let (quads, rest) = text.as_bytes().as_chunks::<4>();
    if !rest.is_empty() || quads.iter().any(|quad| quad[..2] != *b"\\x") {
        // Of a socket or a pipe, without a path.
        return Vec::new();
    }
    quads
        .iter()
        .map(|quad| digit(quad[2]) << 4 | digit(quad[3]))
        .collect()
}

/// A path without dots.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As strace shows it, by `-xx`.
    fn hexadecimal(text: &str) -> String {
        text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
    }

    #[test]
    fn a_file_comes_behind_the_directory_that_is_made_while_its_call_waits() {
        let [outer, inner, file] = ["/d/a", "/d/a/b", "/d/a/b/f"].map(hexadecimal);
        // The second thread asks first, and is served last.
        let text = format!(
            "11 openat(AT_FDCWD<\\x2f>, \"{file}\", O_WRONLY|O_CREAT|O_TRUNC, 0600 <unfinished ...>\n\
             12 mkdir(\"{inner}\", 0700 <unfinished ...>\n\
             13 mkdir(\"{outer}\", 0700) = 0\n\
             11 <... openat resumed>) = 3<{file}>\n\
             12 <... mkdir resumed>) = 0\n"
        );
        let [outer, inner, file] = ["/d/a", "/d/a/b", "/d/a/b/f"].map(PathBuf::from);
        let expected = [
            Event::MakeDirectory(outer),
            Event::MakeDirectory(inner),
            Event::Create(file.clone()),
            Event::Truncate(file.clone(), 0),
            Event::Open(3, Some(file), false),
        ];
        assert_eq!(events(Path::new("/d"), &text), expected);
    }
}
