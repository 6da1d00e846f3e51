//! Sends files through a socket without any work on them: what a backup cannot be faster than.
//!
//! A pair is a process that reads files and writes them to a socket, as a session of the server does, and
//! a thread that reads the socket, as a worker of the program does. The system calls are those of a
//! backup: reads of 128 kB, writes of a message, and where files are written, one file for each. There
//! are no checksums, no archive and no protocol. Pairs take files from one queue, the largest first.
//!
//! ```text
//! bench_limit [--transport unix|tcp|tls] [--pairs N] [--into DIRECTORY] [--without NAME]... SOURCE...
//! bench_limit --copy STATEMENT SOCKET USER DATABASE
//! ```
//!
//! The second form has the reader of a pair read the stream of a server's session, in place of psql, which copies
//! each message.

mod copy;
mod reader;
mod sender;
mod socket;
mod work;

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use socket::{Listener, Transport};
use work::Work;

/// Name of the mode in which this program starts itself.
const SENDER: &str = "sender";

fn main() -> Result<()> {
    let mut arguments = env::args_os().skip(1);
    let mut transport = Transport::Unix;
    let mut pairs = 1;
    let mut into = None;
    let mut without = Vec::new();
    let mut sources = Vec::new();
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().context("an option lacks its value");
        match argument.to_str() {
            Some("--transport") => transport = Transport::parse(&text(value()?)?)?,
            Some("--pairs") => pairs = text(value()?)?.parse()?,
            Some("--into") => into = Some(PathBuf::from(value()?)),
            Some("--without") => without.push(value()?),
            Some("--copy") => {
                let [statement, socket, user, database] = [(); 4].map(|()| value().and_then(text));
                println!("{}", copy::run(&socket?, &user?, &database?, &statement?)?);
                return Ok(());
            }
            Some(SENDER) => {
                let address = text(value()?)?;
                let sources: Vec<_> = arguments.map(PathBuf::from).collect();
                return sender::run(transport, &address, &Work::find(&sources, &without)?);
            }
            _ => sources.push(PathBuf::from(argument)),
        }
    }
    ensure!(!sources.is_empty(), "the folder to send is missing");
    ensure!(pairs > 0, "there has to be a pair");
    let work = Work::find(&sources, &without)?;
    let mut senders = Command::new(env::current_exe()?);
    senders.args(["--transport", transport.name()]);
    for name in &without {
        senders.arg("--without").arg(name);
    }
    let listener = Listener::open(transport)?;
    senders.arg(SENDER).arg(listener.address()?).args(&sources);
    let bytes = reader::run(&listener, pairs, &mut senders, &work, into.as_deref())?;
    ensure!(
        bytes == work.bytes(),
        "{bytes} of {} bytes have arrived",
        work.bytes()
    );
    println!("{bytes}");
    Ok(())
}

fn text(value: OsString) -> Result<String> {
    value.into_string().ok().context("a value is no text")
}
