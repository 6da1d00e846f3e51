//! The half of a pair that reads the socket, and the start of all pairs.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{io, thread};

use anyhow::{Context as _, Result, anyhow, ensure};

use crate::sender::HEADER;
use crate::socket::{Listener, Socket};
use crate::work::Work;

/// Size of a read, as in the program.
pub const PIECE: usize = 128 * 1024;

/// Starts pairs, whose senders are this command. Returns the bytes that have arrived.
///
/// # Errors
/// Errors of the operating system, and of the senders.
pub fn run(
    listener: &Listener,
    pairs: usize,
    sender: &mut Command,
    work: &Work,
    into: Option<&Path>,
) -> Result<u64> {
    let (queue, mut batches) = io::pipe()?;
    let mut senders = Vec::new();
    for _ in 0..pairs {
        sender.stdin(Stdio::from(queue.try_clone()?));
        senders.push(sender.spawn()?);
    }
    sender.stdin(Stdio::null());
    drop(queue);
    let bytes = thread::scope(|scope| {
        let readers: Vec<_> = (0..pairs)
            .map(|_| {
                let socket = listener.accept()?;
                Ok(scope.spawn(move || receive(socket, work, into)))
            })
            .collect::<Result<_>>()?;
        for batch in work.batches() {
            let [first, end] = [batch.start, batch.end].map(|index| (index as u32).to_le_bytes());
            batches.write_all(&[first, end].concat())?;
        }
        drop(batches);
        let mut bytes = 0;
        for reader in readers {
            bytes += reader.join().map_err(|_| anyhow!("a reader failed"))??;
        }
        Ok::<_, anyhow::Error>(bytes)
    })?;
    for mut sender in senders {
        ensure!(sender.wait()?.success(), "a sender failed");
    }
    Ok(bytes)
}

/// Receives the files of one pair, and returns how many bytes they have.
fn receive(mut socket: Socket, work: &Work, into: Option<&Path>) -> Result<u64> {
    let mut buffer = vec![0; PIECE];
    let (mut received, mut left) = (0, 0);
    let mut header = Vec::new();
    let mut file = None;
    loop {
        let count = socket.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        let mut bytes = &buffer[..count];
        while !bytes.is_empty() {
            if left == 0 {
                let (now, rest) = bytes.split_at(bytes.len().min(HEADER - header.len()));
                header.extend_from_slice(now);
                bytes = rest;
                if header.len() == HEADER {
                    let (index, size) = (number(&header[..8])?, number(&header[8..])?);
                    let from = &work.files[usize::try_from(index)?];
                    file = into
                        .map(|folder| create(folder, index, &from.path))
                        .transpose()?;
                    (received, left) = (received + size, size);
                    header.clear();
                }
                continue;
            }
            let here = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
            let (now, rest) = bytes.split_at(here);
            if let Some(file) = &mut file {
                file.write_all(now)?;
            }
            left -= now.len() as u64;
            bytes = rest;
        }
    }
    ensure!(
        left == 0 && header.is_empty(),
        "a file has not arrived as a whole"
    );
    Ok(received)
}

/// Creates a file in a folder named as that which it comes from.
fn create(folder: &Path, index: u64, from: &Path) -> Result<File> {
    let parent = from
        .parent()
        .and_then(Path::file_name)
        .context("a file has no folder")?;
    let path: PathBuf = folder.join(parent);
    let name = path.join(index.to_string());
    match File::create(&name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(&path)?;
            Ok(File::create(&name)?)
        }
        created => Ok(created?),
    }
}

fn number(bytes: &[u8]) -> Result<u64> {
    Ok(u64::from_ne_bytes(bytes.try_into()?))
}
