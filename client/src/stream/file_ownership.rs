//! Ownership of files among streams that may carry the same file.
//!
//! When a worker's session ends, the server gives its files to others at once. What the worker had
//! been sent by then still arrives here, beside the same files from another worker, in any order.
//! So only the first to come writes a file under its name. The second writes to a name of its own
//! and takes the first one's place when its stream has ended well, which only one of them does. A
//! stream that failed takes away what it has written.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Number of a stream.
pub type Stream = u64;

/// Owners of files by their paths in the backup.
#[derive(Debug, Default)]
pub struct FileOwnership(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    streams: Stream,
    owners: HashMap<Vec<u8>, Stream>,
}

/// Name under which a stream writes a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Its own.
    Own,
    /// One that is only for this stream, until it ends.
    Aside,
    /// None: the stream has had it before.
    Twice,
}

impl FileOwnership {
    /// Allocates the number of a stream.
    pub fn stream(&self) -> Stream {
        self.with(|state| {
            state.streams += 1;
            state.streams
        })
    }

    /// A stream begins a file.
    pub fn begin(&self, path: &[u8], stream: Stream) -> Ownership {
        self.with(|state| match state.owners.get(path) {
            None => {
                state.owners.insert(path.to_owned(), stream);
                Ownership::Own
            }
            Some(&owner) if owner == stream => Ownership::Twice,
            Some(_) => Ownership::Aside,
        })
    }

    /// Transfers a file to a stream that ended well; `rename` gives the file its name. No other
    /// stream owns it afterwards.
    pub fn take_over<T>(&self, path: &[u8], stream: Stream, rename: impl FnOnce() -> T) -> T {
        self.with(|state| {
            state.owners.insert(path.to_owned(), stream);
            rename()
        })
    }

    /// Gives up a file of a failed stream; `remove` is called if the stream still owns it.
    pub fn give_up(&self, path: &[u8], stream: Stream, remove: impl FnOnce()) {
        self.with(|state| {
            if state.owners.get(path) == Some(&stream) {
                state.owners.remove(path);
                remove();
            }
        });
    }

    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_that_ends_well_has_the_file() {
        let ownership = FileOwnership::default();
        let (lost, other) = (ownership.stream(), ownership.stream());
        assert_eq!(ownership.begin(b"a", lost), Ownership::Own);
        assert_eq!(ownership.begin(b"a", lost), Ownership::Twice);
        assert_eq!(ownership.begin(b"a", other), Ownership::Aside);
        ownership.take_over(b"a", other, || ());
        ownership.give_up(b"a", lost, || panic!("the file is another stream's"));
        assert_eq!(ownership.begin(b"a", other), Ownership::Twice);
    }

    #[test]
    fn a_failed_stream_removes_what_nobody_took() {
        let ownership = FileOwnership::default();
        let (lost, other) = (ownership.stream(), ownership.stream());
        assert_eq!(ownership.begin(b"a", lost), Ownership::Own);
        let mut removed = false;
        ownership.give_up(b"a", lost, || removed = true);
        assert!(removed);
        assert_eq!(ownership.begin(b"a", other), Ownership::Own);
    }
}
