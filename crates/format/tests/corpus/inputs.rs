//! Files of the corpus, as they are and with bytes changed, removed and added.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// File of the corpus.
#[derive(Clone, Debug)]
pub struct Input {
    /// Folder below `corpus`.
    pub subject: String,
    /// Whether the parser of the subject must accept it; `None` without such a parser.
    pub accepted: Option<bool>,
    pub bytes: Vec<u8>,
    #[allow(dead_code, reason = "shown when a test fails")]
    name: String,
}

/// All files of the corpus.
pub fn inputs() -> &'static [Input] {
    static INPUTS: OnceLock<Vec<Input>> = OnceLock::new();
    INPUTS.get_or_init(|| {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        let mut inputs = Vec::new();
        for subject in names(&corpus) {
            let dir = corpus.join(&subject);
            for (folder, accepted) in [
                ("accepted", Some(true)),
                ("refused", Some(false)),
                (".", None),
            ] {
                let dir = dir.join(folder);
                for name in names(&dir) {
                    if dir.join(&name).is_file() {
                        inputs.push(Input {
                            subject: subject.clone(),
                            accepted,
                            bytes: fs::read(dir.join(&name)).unwrap(),
                            name,
                        });
                    }
                }
            }
        }
        inputs
    })
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Change to an input.
#[derive(Clone, Debug)]
enum Change {
    Replace(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Cut(Index),
    Repeat(Index),
    /// Replaces the rest by that of another input.
    GoOnWith(Index, Index),
}

/// An input with up to six changes. Most inserted bytes have a meaning in one of the formats.
pub fn mangled() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        select(b"\0\n /\\._:-+0129aAfFtZ\x7f\x80\xc3\xff".as_slice()),
        any::<u8>()
    ];
    let at = any::<Index>;
    let change = prop_oneof![
        (at(), byte.clone()).prop_map(|(at, byte)| Change::Replace(at, byte)),
        (at(), byte).prop_map(|(at, byte)| Change::Insert(at, byte)),
        at().prop_map(Change::Remove),
        at().prop_map(Change::Cut),
        at().prop_map(Change::Repeat),
        (at(), at()).prop_map(|(at, other)| Change::GoOnWith(at, other)),
    ];
    (at(), vec(change, 1..7)).prop_map(|(input, changes)| {
        let mut bytes = input.get(inputs()).bytes.clone();
        for change in changes {
            apply(change, &mut bytes);
        }
        bytes
    })
}

fn apply(change: Change, bytes: &mut Vec<u8>) {
    let place = |at: Index| at.index(bytes.len() + 1);
    let byte = |at: Index| (!bytes.is_empty()).then(|| at.index(bytes.len()));
    match change {
        Change::Replace(at, value) => {
            if let Some(at) = byte(at) {
                bytes[at] = value;
            }
        }
        Change::Insert(at, value) => {
            let at = place(at);
            bytes.insert(at, value);
        }
        Change::Remove(at) => {
            if let Some(at) = byte(at) {
                bytes.remove(at);
            }
        }
        Change::Cut(at) => {
            let at = place(at);
            bytes.truncate(at);
        }
        Change::Repeat(at) => {
            let at = place(at);
            // Up to this limit, an input can overflow every field of a tar header.
            if bytes.len() < 1000 {
                bytes.extend_from_within(at..);
            }
        }
        Change::GoOnWith(at, other) => {
            let at = place(at);
            let other = &other.get(inputs()).bytes;
            bytes.truncate(at);
            bytes.extend_from_slice(&other[at.min(other.len())..]);
        }
    }
}
