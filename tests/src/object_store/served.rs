//! Process of a server that prints its port, and that ends when its standard input ends.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Server. It ends when this value is dropped, or with the test process.
#[derive(Debug)]
pub(super) struct Served {
    /// Port on 127.0.0.1.
    pub(super) port: u16,
    process: Child,
    control: Mutex<Control>,
}

/// Commands to a server, and its answers.
#[derive(Debug)]
struct Control {
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Served {
    /// Starts a server, and waits until it listens. `advice` says what to do if there is no such program.
    pub(super) fn start(command: &mut Command, advice: &str) -> Self {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("could not run {command:?}: {error}\n{advice}"));
        let mut control = Control {
            commands: process.stdin.take().expect("standard input is a pipe"),
            answers: BufReader::new(process.stdout.take().expect("standard output is a pipe")),
        };
        Self {
            port: control.answer().trim().parse().expect("a port"),
            process,
            control: Mutex::new(control),
        }
    }

    /// Sends a command, and returns the answer.
    pub(super) fn ask(&self, command: &str) -> String {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(control.commands, "{command}").expect("the server reads commands");
        control.answer()
    }
}

impl Control {
    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .expect("a line of the server");
        assert!(!line.is_empty(), "the server ended");
        line
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
