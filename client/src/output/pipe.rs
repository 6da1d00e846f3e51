//! Commands that receive archives on their standard input.
//!
//! End of input tells a command that the archive is complete. So its input is closed only then;
//! otherwise the command and its process group are killed first. A command may read slowly or not
//! at all: every wait checks for cancellation. Where this program is killed itself, a guard kills the
//! group ([`Guard`]).

use std::fmt;
use std::io::{ErrorKind, PipeWriter, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::cli::command_template::CommandTemplate;
use crate::console::messages;
use crate::output::command_guard::Guard;
use crate::runtime::cancellation::Cancellation;

/// Polling interval of a wait for a command.
const LOOK: Duration = Duration::from_millis(20);
/// Time limit for a command to exit after it closed its input.
const PATIENCE: Duration = Duration::from_secs(5);
/// In a pipeline the first programs can fail as well, where the shell has a way to notice.
const PRELUDE: &str = "if (set -o pipefail) 2>/dev/null; then set -o pipefail; fi\n";

/// The commands that run.
#[derive(Clone, Debug, Default)]
pub struct Commands(Arc<Mutex<Groups>>);

#[derive(Debug, Default)]
struct Groups {
    /// Whether no command may start any more.
    over: bool,
    running: Vec<Pid>,
}

impl Commands {
    /// Starts a command for a file.
    ///
    /// # Errors
    /// Errors of the operating system, and an error after all commands were killed.
    pub fn start(&self, template: &CommandTemplate, file_name: &str) -> Result<Piped> {
        let text = template.for_file(file_name);
        let mut groups = self.lock();
        ensure!(!groups.over, "the backup was ended");
        let spawn = || {
            let (output, input) = std::io::pipe()?;
            // Before the command: no moment is left in which nobody guards it.
            let guard = Guard::start(&input)?;
            let child = Command::new("/bin/sh")
                .arg("-c")
                .arg(format!("{PRELUDE}{text}"))
                .stdin(output)
                .stderr(messages::stderr_of_command())
                .process_group(guard.group().as_raw_nonzero().get())
                .spawn()?;
            Ok::<_, std::io::Error>((child, input, guard))
        };
        let name = Name {
            command: text.clone(),
            file: file_name.to_owned(),
        };
        let (child, input, guard) = spawn().with_context(|| format!("could not run {name}"))?;
        let group = guard.group();
        groups.running.push(group);
        drop(groups);
        let piped = Piped {
            commands: self.clone(),
            name,
            group,
            child,
            guard,
            input: Some(input),
            is_over: false,
        };
        // The other end, which is the command's, stays as it is.
        if let Some(input) = &piped.input {
            rustix::io::ioctl_fionbio(input, true)
                .with_context(|| format!("could not run {}", piped.name))?;
        }
        Ok(piped)
    }

    /// Kills all commands and starts no more.
    pub fn kill(&self) {
        let mut groups = self.lock();
        groups.over = true;
        for group in groups.running.drain(..) {
            kill_group(group);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Groups> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// While the process has not been waited for its number is nobody else's.
    fn forget(&self, group: Pid, kill: bool) {
        let mut groups = self.lock();
        groups.running.retain(|running| *running != group);
        if kill {
            kill_group(group);
        }
    }
}

fn kill_group(group: Pid) {
    // One that has ended needs no killing.
    let _ = kill_process_group(group, Signal::KILL);
}

struct Name {
    command: String,
    file: String,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command \"{}\" for file \"{}\"", self.command, self.file)
    }
}

/// Running command, killed on drop unless finished.
pub struct Piped {
    commands: Commands,
    name: Name,
    group: Pid,
    child: Child,
    guard: Guard,
    input: Option<PipeWriter>,
    is_over: bool,
}

impl Piped {
    /// Writes to its standard input.
    ///
    /// # Errors
    /// An error if the command stops reading, and cancellation.
    pub fn write(&mut self, mut bytes: &[u8], cancellation: &Cancellation) -> Result<()> {
        while !bytes.is_empty() {
            cancellation.check()?;
            let Some(input) = &mut self.input else {
                bail!("{} has no input any more", self.name);
            };
            match input.write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wait_until_writable(input)
                        .with_context(|| format!("could not write to {}", self.name))?;
                    self.check_not_stopped()?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                    return Err(self.closed_its_input(cancellation));
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("could not write to {}", self.name));
                }
            }
        }
        Ok(())
    }

    /// Closes its input and waits until it exits.
    ///
    /// # Errors
    /// An error if the command fails, and cancellation.
    pub fn finish(mut self, cancellation: &Cancellation) -> Result<()> {
        self.wait_until_read(cancellation)?;
        (self.guard.release()).with_context(|| format!("could not end {}", self.name))?;
        self.input = None;
        while !self.has_ended()? {
            cancellation.check()?;
            self.check_not_stopped()?;
            thread::sleep(LOOK);
        }
        let status = self.status(false)?;
        if status.success() {
            return Ok(());
        }
        bail!("{} failed: {}", self.name, describe(status))
    }

    /// What it leaves in the pipe nobody would tell of otherwise.
    fn wait_until_read(&mut self, cancellation: &Cancellation) -> Result<()> {
        while let Some(input) = &self.input {
            cancellation.check()?;
            // In this order: who has closed it reads no more.
            let look = || Ok::<_, Error>((is_closed(input)?, rustix::io::ioctl_fionread(input)?));
            let (closed, unread) =
                look().with_context(|| format!("could not write to {}", self.name))?;
            match (unread, closed) {
                (0, _) => break,
                (_, true) => return Err(self.closed_its_input(cancellation)),
                _ => {
                    self.check_not_stopped()?;
                    thread::sleep(LOOK);
                }
            }
        }
        Ok(())
    }

    fn closed_its_input(&mut self, cancellation: &Cancellation) -> Error {
        let begin = Instant::now();
        let is_patient = || begin.elapsed() < PATIENCE && !cancellation.is_requested();
        loop {
            match self.has_ended() {
                Ok(true) => break,
                Ok(false) if is_patient() => thread::sleep(LOOK),
                Ok(false) => return anyhow!("{} closed its input too early", self.name),
                Err(error) => return error,
            }
        }
        match self.status(true) {
            Ok(status) if status.success() => anyhow!(
                "{} ended before it had everything: {}",
                self.name,
                describe(status)
            ),
            Ok(status) => anyhow!("{} failed: {}", self.name, describe(status)),
            Err(error) => error,
        }
    }

    /// Leaves its process as it is, so that its number stays its own.
    fn has_ended(&self) -> Result<bool> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let ended = waitid(WaitId::Pid(Pid::from_child(&self.child)), options)
            .with_context(|| format!("could not wait for {}", self.name))?;
        Ok(ended.is_some())
    }

    /// A command that reads from the terminal, or writes to one that forbids that, is stopped, since
    /// its process group is not the one in the foreground. Nothing would wake it up.
    ///
    /// # Errors
    /// An error if the command is stopped.
    fn check_not_stopped(&self) -> Result<()> {
        let options = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let signal = match waitid(WaitId::Pid(Pid::from_child(&self.child)), options) {
            Ok(stopped) => stopped.and_then(|status| status.stopping_signal()),
            // It has ended, and cannot stop any more.
            Err(rustix::io::Errno::CHILD) => None,
            Err(error) => {
                return Err(error).with_context(|| format!("could not wait for {}", self.name));
            }
        };
        let Some(signal) = signal else {
            return Ok(());
        };
        bail!(
            "{} was stopped by signal {signal}\n\
             HINT:  Commands cannot use the terminal. Give passwords and the like in files or in the environment.",
            self.name
        )
    }

    /// Exit status of a command that has exited. `kill` kills the rest of its group.
    fn status(&mut self, kill: bool) -> Result<ExitStatus> {
        self.is_over = true;
        self.commands.forget(self.group, kill);
        let status = self.child.wait();
        status.with_context(|| format!("could not wait for {}", self.name))
    }
}

impl Drop for Piped {
    /// It must not take what it has for the whole: its input is closed when it has been killed.
    fn drop(&mut self) {
        if !self.is_over {
            self.commands.forget(self.group, true);
            let _ = self.child.wait();
        }
    }
}

fn wait_until_writable(input: &PipeWriter) -> Result<()> {
    watch(input, LOOK).map(drop)
}

/// Whether nobody can read any more what is written.
fn is_closed(input: &PipeWriter) -> Result<bool> {
    Ok(watch(input, Duration::ZERO)?.contains(PollFlags::ERR))
}

fn watch(input: &PipeWriter, time: Duration) -> Result<PollFlags> {
    let mut descriptors = [PollFd::new(input, PollFlags::OUT)];
    let timeout = Timespec {
        tv_sec: 0,
        tv_nsec: time.subsec_nanos().into(),
    };
    match poll(&mut descriptors, Some(&timeout)) {
        Ok(_) => Ok(descriptors[0].revents()),
        Err(rustix::io::Errno::INTR) => Ok(PollFlags::empty()),
        Err(error) => Err(error.into()),
    }
}

/// Follows wait_result_to_str().
fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(127), _) => "command not found".to_owned(),
        (Some(126), _) => "command not executable".to_owned(),
        (Some(code), _) => format!("child process exited with exit code {code}"),
        (None, Some(signal)) => format!("child process was terminated by signal {signal}"),
        (None, None) => format!("child process exited with unrecognized status {status}"),
    }
}
