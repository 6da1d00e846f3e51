//! Guard of a command: a process that keeps the command's input from ending when this program is
//! killed.
//!
//! The operating system closes the pipes of a process that was killed, and a command would take that
//! for the end of its archive. So another process has the command's input open as well. It leads the
//! command's process group, and waits for one byte. When the byte comes it exits, which leaves the end
//! of the input to this program. When this program ends without it, the guard kills its own group:
//! the command has had no end of its input by then. The death signal of Linux would not do, since it
//! comes after the pipes are closed, and to one process of a pipeline.

use std::ffi::OsStr;
use std::io::{self, PipeWriter, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use rustix::process::{Pid, Signal, getpgrp, getpid, kill_process_group};

/// Argument by which this program runs as a guard. It is not for users.
const ARGUMENT: &str = "--guard-command";
/// This program, also where its file has been replaced.
const OWN_PROGRAM: &str = "/proc/self/exe";

/// A guard that runs. It is a zombie, and its number nobody else's, until it is dropped.
#[derive(Debug)]
pub struct Guard {
    child: Child,
    lifeline: Option<PipeWriter>,
}

impl Guard {
    /// Starts a guard in a new process group, with the input of the command that is to be in it.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn start(input: &impl AsFd) -> io::Result<Self> {
        let (waiting, lifeline) = io::pipe()?;
        let child = Command::new(own_program()?)
            .arg(ARGUMENT)
            .stdin(waiting)
            .stdout(input.as_fd().try_clone_to_owned()?)
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        Ok(Self {
            child,
            lifeline: Some(lifeline),
        })
    }

    /// The process group.
    pub fn group(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Has the guard exit, and waits for that: the command's input is then open in this program alone.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn release(&mut self) -> io::Result<()> {
        if let Some(mut lifeline) = self.lifeline.take() {
            // One that was killed needs no release.
            let _ = lifeline.write_all(b"!");
        }
        let options =
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        let id = rustix::process::WaitId::Pid(self.group());
        rustix::io::retry_on_intr(|| rustix::process::waitid(id.clone(), options))?;
        Ok(())
    }
}

impl Drop for Guard {
    /// The group has been killed, or the guard released.
    fn drop(&mut self) {
        let _ = self.release();
        let _ = self.child.wait();
    }
}

fn own_program() -> io::Result<PathBuf> {
    let own = Path::new(OWN_PROGRAM);
    if own.exists() {
        return Ok(own.to_owned());
    }
    std::env::current_exe()
}

/// Whether this process was started as a guard.
pub fn is_wanted() -> bool {
    let mut arguments = std::env::args_os().skip(1);
    arguments.next().as_deref() == Some(OsStr::new(ARGUMENT)) && arguments.next().is_none()
}

/// Runs the guard until its end.
pub fn run() -> ExitCode {
    // A group of its own is what it may kill.
    if getpgrp() != getpid() {
        return ExitCode::FAILURE;
    }
    let mut byte = [0];
    if io::stdin().read_exact(&mut byte).is_err() {
        // This process is in it.
        let _ = kill_process_group(getpgrp(), Signal::KILL);
    }
    ExitCode::SUCCESS
}
