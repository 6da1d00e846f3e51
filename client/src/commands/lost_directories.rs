//! Directories and links that were lost with a connection.
//!
//! A server takes a stream for received when all of it has left and the connection still stands. What
//! was on its way may be lost with the connection nevertheless, and does not come again in another
//! stream. For files the manifest tells. It does not name directories and links, and a tablespace
//! without relations is nothing but a directory. So after a loss what the workers have received is
//! counted. Where that is less than the server has listed, directories and links are compared with the
//! listing, and the missing ones are asked for by name. Without a loss there is nothing to look for: what
//! the server takes for received came in streams that ended well here. The listing of millions of files
//! takes memory of the server.
//!
//! Some are missing with good reason: what is dropped while the backup runs is gone before a worker
//! comes to it. The stream of names tells that apart. It holds all of them that exist, the server fails
//! where it cannot read one, and the stream counts only when its end has arrived here. So a name that is
//! not in a stream that ended well is gone on the server. Recovery needs it no more than it needs a file
//! that vanished: what the server removes in a running backup is removed again by WAL that follows the
//! backup's start.

use std::collections::BTreeMap;

use anyhow::{Context, Error, Result, anyhow};

use crate::manifest::received_files::ReceivedFiles;
use crate::output::target::Target;
use crate::server::connection::Session;
use crate::server::extension::{Extension, ListedEntry, Started};
use crate::stream::part::Request;

/// Most names of one statement.
const MOST_NAMES: usize = 10_000;
/// Bytes of files after which a statement names no more.
const MOST_BYTES: u64 = 16 << 30;
/// Maximum number of names in a message.
const EXAMPLES: usize = 10;

/// Compares what has been received with the listing, and has missing directories and links come again:
/// `ask_again` receives those of one request. Files are compared too where a host may have taken some with it. Returns the number of those that are gone on the server.
///
/// # Errors
/// The server's, and those of `ask_again`.
pub fn complete(
    (session, extension): (&Session, &Extension),
    started: &Started,
    target: &Target,
    (received, with_files): (&ReceivedFiles, bool),
    ask_again: impl Fn(Request, &[&str]) -> Result<()>,
) -> Result<usize> {
    if !received.has_lost_streams() || received.count() == started.file_count {
        return Ok(0);
    }
    let missing = |with_files: bool| {
        let mut entries = extension.entries(session, with_files)?;
        entries.retain(|entry| !has(received, entry));
        Ok::<_, Error>(entries)
    };
    let mut missing =
        missing(with_files).context("could not check for directories lost with a connection")?;
    for (request, entries) in by_request(target, &missing) {
        for names in batches(&entries) {
            ask_again(request, &names).map_err(|error| did_not_arrive(&error, &names))?;
        }
    }
    missing.retain(|entry| !has(received, entry));
    Ok(missing.len())
}

fn has(received: &ReceivedFiles, entry: &ListedEntry) -> bool {
    match entry.is_file {
        true => received.has_file(&entry.path),
        false => received.has_directory(&entry.path),
    }
}

/// Names of entries, so many as one statement and one archive take.
fn batches<'a>(entries: &[&'a ListedEntry]) -> Vec<Vec<&'a str>> {
    let mut batches = vec![Vec::new()];
    let mut bytes = 0;
    for entry in entries {
        let is_full = |batch: &Vec<_>| batch.len() >= MOST_NAMES || bytes >= MOST_BYTES;
        if batches.last().is_some_and(is_full) {
            batches.push(Vec::new());
            bytes = 0;
        }
        bytes += entry.size;
        if let Some(batch) = batches.last_mut() {
            batch.push(entry.name.as_str());
        }
    }
    batches.retain(|batch| !batch.is_empty());
    batches
}

fn by_request<'a>(
    target: &Target,
    missing: &'a [ListedEntry],
) -> Vec<(Request, Vec<&'a ListedEntry>)> {
    let mut requests: BTreeMap<u32, (Request, Vec<&ListedEntry>)> = BTreeMap::new();
    for directory in missing {
        let request = target.request_for(&directory.path);
        let key = match request {
            Request::All => 0,
            Request::Part(part) => part.oid(),
        };
        let (_, entries) = requests.entry(key).or_insert((request, Vec::new()));
        entries.push(directory);
    }
    requests.into_values().collect()
}

fn did_not_arrive(error: &Error, names: &[&str]) -> Error {
    let examples: Vec<_> = names
        .iter()
        .take(EXAMPLES)
        .map(|name| format!("\"{name}\""))
        .collect();
    anyhow!(
        "{} did not arrive, and could not be sent again: {error:#}\nDETAIL:  Among them: {}.",
        count(names.len()),
        examples.join(", ")
    )
}

/// So many directories.
pub fn count(number: usize) -> String {
    match number {
        1 => "1 directory".to_owned(),
        _ => format!("{number} directories"),
    }
}
