//! Pseudo-terminal for a program, and the contents of its screen.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::program::{add_program, command};
use crate::wait::{PATIENCE, wait_for};

/// Terminal with a program on it. Dropping the value kills the program.
pub struct Terminal {
    child: Child,
    /// Master side of the terminal, used to type.
    keyboard: File,
    emulator: Arc<Mutex<Emulator>>,
    reader: Option<JoinHandle<()>>,
}

struct Emulator {
    parser: vt100::Parser,
    /// Raw output of the program.
    raw: Vec<u8>,
}

impl Terminal {
    /// Runs a command on a terminal of this size. It is the controlling terminal, on which the
    /// command may ask for a password.
    #[track_caller]
    pub fn start(program: &Command, (columns, rows): (u16, u16)) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let keyboard = openpt(flags | OpenptFlags::CLOEXEC).expect("a pseudo-terminal");
        unlockpt(&keyboard).expect("its other side");
        set_size(&keyboard, columns, rows);
        let side = ioctl_tiocgptpeer(&keyboard, flags | OpenptFlags::CLOEXEC);
        let side = File::from(side.expect("its other side"));
        let mut session = command("setsid");
        session.args(["--ctty", "--wait"]).env("TERM", "xterm");
        add_program(&mut session, program);
        let copy = || Stdio::from(side.try_clone().expect("a copy of the terminal"));
        let child = session
            .stdin(copy())
            .stdout(copy())
            .stderr(copy())
            .spawn()
            .unwrap_or_else(|error| panic!("could not run {session:?}: {error}"));
        let keyboard = File::from(keyboard);
        let emulator = Arc::new(Mutex::new(Emulator {
            parser: vt100::Parser::new(size(rows), size(columns), 0),
            raw: Vec::new(),
        }));
        let reader = {
            let mut output = keyboard.try_clone().expect("a copy of the terminal");
            let emulator = Arc::clone(&emulator);
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                // Reading fails once nothing has the other side open.
                while let Ok(count) = output.read(&mut bytes) {
                    let mut emulator = lock(&emulator);
                    emulator.parser.process(&bytes[..count]);
                    emulator.raw.extend_from_slice(&bytes[..count]);
                }
            })
        };
        Self {
            child,
            keyboard,
            emulator,
            reader: Some(reader),
        }
    }

    /// Rows of the screen, without trailing empty rows.
    pub fn rows(&self) -> Vec<String> {
        rows(&lock(&self.emulator).parser)
    }

    /// Waits until the screen satisfies a condition.
    #[track_caller]
    pub fn wait_for(&self, what: &str, mut shows: impl FnMut(&[String]) -> bool) {
        let mut last = Vec::new();
        let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for(what, PATIENCE, || {
                last = self.rows();
                shows(&last)
            });
        }));
        assert!(waited.is_ok(), "no {what}:\n{}", last.join("\n"));
    }

    /// Types text.
    pub fn type_keys(&mut self, keys: &str) {
        let typed = self.keyboard.write_all(keys.as_bytes());
        typed.expect("the terminal takes what is typed");
    }

    /// Resizes the terminal.
    pub fn resize(&self, columns: u16, rows: u16) {
        let mut emulator = lock(&self.emulator);
        emulator
            .parser
            .screen_mut()
            .set_size(size(rows), size(columns));
        set_size(&self.keyboard, columns, rows);
    }

    /// Waits for the program to exit. Returns its exit status, the screen, and the raw output.
    #[track_caller]
    pub fn end(mut self) -> (Option<i32>, Vec<String>, String) {
        wait_for("the program to end", PATIENCE, || {
            matches!(self.child.try_wait(), Ok(Some(_)))
        });
        let status = self.child.wait().expect("it has ended");
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the terminal was read to its end");
        }
        let raw = String::from_utf8_lossy(&lock(&self.emulator).raw).into_owned();
        (status.code(), self.rows(), raw)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn rows(parser: &vt100::Parser) -> Vec<String> {
    let (_, columns) = parser.screen().size();
    let mut rows: Vec<_> = parser
        .screen()
        .rows(0, columns.get())
        .map(|row| row.trim_end().to_owned())
        .collect();
    while rows.last().is_some_and(String::is_empty) {
        rows.pop();
    }
    rows
}

fn size(number: u16) -> NonZero<u16> {
    NonZero::new(number).expect("a terminal has a size")
}

fn set_size(terminal: impl std::os::fd::AsFd, columns: u16, rows: u16) {
    let size = Winsize {
        ws_col: columns,
        ws_row: rows,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(terminal, size).expect("a size of the terminal");
}

fn lock(emulator: &Mutex<Emulator>) -> MutexGuard<'_, Emulator> {
    emulator.lock().unwrap_or_else(PoisonError::into_inner)
}
