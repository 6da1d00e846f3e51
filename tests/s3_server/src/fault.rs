//! Faults: which requests fail, and in what way.

use serde::Deserialize;

use crate::entry::{Entry, Kind};

/// What is done with a request.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// It is answered as it should be.
    Answer,
    /// It is read completely and answered with this status and error code, without effect.
    Status(u16, String),
    /// It is never answered, and its body is not read. The connection stays open.
    Stall,
    /// The connection is closed before anything was read.
    Close,
    /// The connection is closed after half of the body: of the request, if it has one, else of the answer.
    Cut,
    /// Nothing more is read or sent after half of that body. The connection stays open.
    Hang,
    /// The request takes effect, and the connection is closed in place of an answer.
    Lose,
    /// The request takes effect, and is answered when the faults are switched off.
    Hold,
}

/// Which of the requests that match fail. They count from 1.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// All.
    Always,
    /// The n-th, the 2n-th and so on.
    Every(u64),
    /// The n-th and all after it.
    From(u64),
    /// The first n.
    First(u64),
}

/// Fault that a test switched on.
#[derive(Debug, Deserialize)]
pub struct Fault {
    /// Operations that it applies to; all if there is none.
    kinds: Vec<Kind>,
    /// Names of objects that it applies to. An asterisk stands for any text.
    keys: String,
    when: When,
    act: Act,
    /// Requests so far that match.
    #[serde(default)]
    matched: u64,
}

impl Fault {
    /// What it does with a request, if anything. Counts the request.
    pub fn applies(&mut self, entry: &Entry) -> Option<Act> {
        let of_kind = self.kinds.is_empty() || self.kinds.contains(&entry.kind);
        if !of_kind || !matches(self.keys.as_bytes(), entry.key.as_bytes()) {
            return None;
        }
        self.matched += 1;
        let fails = match self.when {
            When::Always => true,
            When::Every(number) => self.matched.is_multiple_of(number),
            When::From(number) => self.matched >= number,
            When::First(number) => self.matched <= number,
        };
        fails.then(|| self.act.clone())
    }
}

/// Whether a text matches a pattern.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|begin| matches(rest, &text[begin..])),
        Some((first, rest)) => text
            .split_first()
            .is_some_and(|(byte, text)| byte == first && matches(rest, text)),
    }
}
