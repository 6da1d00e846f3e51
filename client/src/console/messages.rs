//! Messages of the program on standard error: text, above the progress lines of a terminal, or one
//! JSON object a line.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::cli::configuration::ProgressFormat;
use crate::console::escape;
use crate::console::stderr::{self, Capture};
use crate::console::terminal_lines::TerminalLines;

static OUTPUT: Mutex<Output> = Mutex::new(Output {
    style: Style::Text,
    stderr: None,
});

/// Listener for lines that other code writes to standard error.
static LISTENER: Mutex<Option<Listener>> = Mutex::new(None);

/// Returns true if the line is consumed.
type Listener = Box<dyn FnMut(&str) -> bool + Send>;

struct Output {
    style: Style,
    /// Standard error itself, where what others write to it comes here first.
    stderr: Option<File>,
}

enum Style {
    Text,
    Terminal(TerminalLines),
    Json,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    Info,
    Warning,
    Error,
}

#[derive(Serialize)]
struct Message<'a> {
    r#type: &'static str,
    severity: Severity,
    text: &'a str,
}

/// Chooses how messages look beside a progress. What libpq writes to standard error by itself comes
/// through here as well, until the capture ends, if that is needed for the progress or `for_listener`,
/// and wherever it would drive a terminal.
///
/// # Errors
/// Errors of the operating system.
pub fn begin(progress: Option<ProgressFormat>, for_listener: bool) -> io::Result<Option<Capture>> {
    let style = match progress {
        Some(ProgressFormat::Json) => Style::Json,
        Some(ProgressFormat::Text) if is_terminal() => Style::Terminal(TerminalLines::default()),
        _ if for_listener || io::stderr().is_terminal() => Style::Text,
        _ => return Ok(None),
    };
    let (capture, stderr) = Capture::begin(relay)?;
    *output() = Output {
        style,
        stderr: Some(stderr),
    };
    Ok(Some(capture))
}

/// A terminal, whose last lines are redrawn.
fn is_terminal() -> bool {
    io::stderr().is_terminal()
        && std::env::var_os("TERM").is_some_and(|name| !name.is_empty() && name != "dumb")
}

/// Writes an informational message, prefixed with the program's name.
pub fn say(text: impl Display) {
    output().message(Severity::Info, &text.to_string());
}

/// Text of an operating system error as `%m` gives it, without Rust's error number.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}

/// Writes a warning.
pub fn warn(text: impl Display) {
    output().message(Severity::Warning, &text.to_string());
}

/// Writes the error that the program fails with.
pub fn error(text: impl Display) {
    output().message(Severity::Error, &text.to_string());
}

/// What a command has for its standard error. One may draw on a terminal as it likes, where this
/// program does not.
pub fn stderr_of_command() -> Stdio {
    let output = output();
    match (&output.style, &output.stderr) {
        (Style::Text, Some(stderr)) => {
            (stderr.try_clone()).map_or_else(|_| Stdio::inherit(), Stdio::from)
        }
        _ => Stdio::inherit(),
    }
}

/// Has somebody told of each line that others write to standard error from now on. With
/// [`stderr::settle`] it is sure to have been.
pub fn listen(listener: impl FnMut(&str) -> bool + Send + 'static) {
    *lock(&LISTENER) = Some(Box::new(listener));
}

/// Waits until what others have written to standard error by now has been passed on, if it comes through here.
pub fn settle() {
    let is_captured = output().stderr.is_some();
    if is_captured {
        // Where that fails, it comes later.
        let _ = stderr::settle();
    }
}

/// Passes on a line that others wrote to standard error.
fn relay(line: &str) {
    if let Some(listener) = &mut *lock(&LISTENER)
        && listener(line)
    {
        return;
    }
    let severity = if line.starts_with("WARNING:") {
        Severity::Warning
    } else {
        Severity::Info
    };
    let mut output = output();
    match output.style {
        Style::Json => output.message(severity, line),
        Style::Text | Style::Terminal(_) => output.line(line),
    }
}

/// Writes a line as it is.
pub fn write_line(line: &str) {
    output().line(line);
}

/// Whether progress is drawn on a terminal.
pub fn on_terminal() -> bool {
    matches!(output().style, Style::Terminal(_))
}

/// Whether the terminal was resized since the last drawing.
pub fn is_resized() -> bool {
    let output = output();
    match (&output.style, &output.stderr) {
        (Style::Terminal(screen), Some(terminal)) => screen.is_resized(terminal),
        _ => false,
    }
}

/// Redraws the progress lines for the current width and height of the terminal.
pub fn show_lines(lines: impl FnOnce(usize, usize) -> Vec<String>) {
    output().on_screen(|screen, terminal| screen.draw(terminal, lines));
}

/// Erases the progress lines.
pub fn clear_lines() {
    output().on_screen(|screen, terminal| screen.clear(terminal));
}

fn output() -> MutexGuard<'static, Output> {
    lock(&OUTPUT)
}

fn lock<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Output {
    fn message(&mut self, severity: Severity, text: &str) {
        if let Style::Json = self.style {
            let message = Message {
                r#type: "message",
                severity,
                text,
            };
            // Text always has a form.
            if let Ok(line) = serde_json::to_string(&message) {
                self.line(&line);
            }
            return;
        }
        let severity = match severity {
            Severity::Info => "",
            Severity::Warning => "warning: ",
            Severity::Error => "error: ",
        };
        self.line(&format!("pg_parallel_backup: {severity}{text}"));
    }

    fn line(&mut self, line: &str) {
        // Names may come from anywhere: no terminal has to obey them.
        let line = match self.style {
            Style::Json => without_controls(line),
            Style::Text | Style::Terminal(_) => escape::message(line.as_bytes()),
        };
        let line = format!("{line}\n");
        match &mut self.style {
            Style::Terminal(_) => self.on_screen(|screen, terminal| screen.above(terminal, &line)),
            Style::Text | Style::Json => self.write(line.as_bytes()),
        }
    }

    /// Has a screen say what to write to the terminal.
    fn on_screen(&mut self, change: impl FnOnce(&mut TerminalLines, &File) -> String) {
        if let (Style::Terminal(screen), Some(terminal)) = (&mut self.style, &self.stderr) {
            let text = change(screen, terminal);
            self.write(text.as_bytes());
        }
    }

    fn write(&self, bytes: &[u8]) {
        let _ = match &self.stderr {
            Some(stderr) => (&*stderr).write_all(bytes),
            None => io::stderr().lock().write_all(bytes),
        };
    }
}

/// A JSON text that says the same. It has control characters nowhere but in strings, and others than
/// those that have to be escaped.
fn without_controls(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for letter in json.chars() {
        match letter {
            letter if letter.is_control() => {
                text.push_str(&format!("\\u{:04x}", u32::from(letter)));
            }
            letter => text.push(letter),
        }
    }
    text
}
