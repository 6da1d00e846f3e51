//! Standard error, on which others write as well: libpq the server's warnings, for instance.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::pipe::{PipeFlags, pipe_with};
use rustix::stdio::{dup2_stderr, stderr};

/// How long to wait for what is still under way at the end. A command that this program has started
/// may keep its standard error open for longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long a mark may take, on a machine that has much else to do.
const PATIENCE_FOR_MARK: Duration = Duration::from_secs(60);

/// What this program writes among the lines of others, to know that all before has been handed over:
/// no line of theirs ends with it.
const MARK: u8 = 0;

/// How many marks were written, and how many have come.
static MARKS: Mutex<Marks> = Mutex::new(Marks {
    written: 0,
    come: 0,
});
static MARK_CAME: Condvar = Condvar::new();

struct Marks {
    written: u64,
    come: u64,
}

/// Waits until all that this thread had others write to standard error has been handed over.
///
/// # Errors
/// The operating system's, and where it takes too long.
pub fn settle() -> io::Result<()> {
    let mut marks = MARKS.lock().unwrap_or_else(PoisonError::into_inner);
    marks.written += 1;
    // Whoever has a lower number has had its lines written before this mark.
    let mine = marks.written;
    drop(marks);
    rustix::io::write(stderr(), &[MARK, b'\n'])?;
    let marks = MARKS.lock().unwrap_or_else(PoisonError::into_inner);
    let (_marks, waited) = MARK_CAME
        .wait_timeout_while(marks, PATIENCE_FOR_MARK, |marks| marks.come < mine)
        .unwrap_or_else(PoisonError::into_inner);
    if waited.timed_out() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(())
}

/// What others write to standard error is handed over line by line, as long as this exists.
#[derive(Debug)]
pub struct Capture {
    stderr: File,
    ended: Receiver<()>,
}

impl Capture {
    /// Begins, and returns standard error itself.
    ///
    /// # Errors
    /// Errors of the operating system.
    pub fn begin(take: impl Fn(&str) + Send + 'static) -> io::Result<(Self, File)> {
        let own = File::from(rustix::io::fcntl_dupfd_cloexec(stderr(), 3)?);
        let own_too = own.try_clone()?;
        let (from_others, to_us) = pipe_with(PipeFlags::CLOEXEC)?;
        let (sender, ended) = mpsc::channel();
        dup2_stderr(&to_us)?;
        thread::spawn(move || {
            let lines = BufReader::new(File::from(from_others)).split(b'\n');
            for line in lines.map_while(Result::ok) {
                // It may come behind a line that has no end.
                let before = line.strip_suffix(&[MARK]);
                let text = before.unwrap_or(&line);
                if before.is_none() || !text.is_empty() {
                    take(&String::from_utf8_lossy(text));
                }
                if before.is_some() {
                    MARKS.lock().unwrap_or_else(PoisonError::into_inner).come += 1;
                    MARK_CAME.notify_all();
                }
            }
            let _ = sender.send(());
        });
        let stderr = own_too;
        Ok((Self { stderr, ended }, own))
    }
}

impl Drop for Capture {
    /// Standard error is what it was, and what has been written to it is handed over.
    fn drop(&mut self) {
        // The pipe ends with the last of those who can write to it.
        if dup2_stderr(&self.stderr).is_ok() {
            let _ = self.ended.recv_timeout(PATIENCE);
        }
    }
}
