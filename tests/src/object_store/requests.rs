//! Requests that [`S3Server`](super::S3Server) received.

use std::ops::Deref;

use serde_json::Value;

use super::fault::Kind;

/// Request, also one that failed.
#[derive(Clone, Debug)]
pub struct Request {
    /// Operation.
    pub kind: Kind,
    /// Name of the object, empty if the request concerns the whole bucket.
    pub key: String,
    /// Header `Range`, such as `bytes=0-99`.
    pub range: Option<String>,
    /// Bytes of the request's body that were read.
    pub received: u64,
    /// Bytes of the answer's body that were sent so far.
    pub sent: u64,
    /// Status of the answer, nothing if there was none.
    pub status: Option<u16>,
    /// Whether the request failed on purpose.
    pub faulted: bool,
}

/// Requests in the order in which they arrived.
#[derive(Clone, Debug)]
pub struct Requests(Vec<Request>);

impl Deref for Requests {
    type Target = [Request];

    fn deref(&self) -> &[Request] {
        &self.0
    }
}

impl Requests {
    /// Requests from the server's answer.
    pub(super) fn from_json(answer: &Value) -> Self {
        let requests = answer.as_array().expect("a list of requests");
        Self(requests.iter().map(request).collect())
    }

    /// Number of requests of an operation.
    pub fn count(&self, kind: Kind) -> usize {
        self.iter().filter(|request| request.kind == kind).count()
    }

    /// Number of requests that failed on purpose.
    pub fn faulted(&self) -> usize {
        self.iter().filter(|request| request.faulted).count()
    }

    /// Bytes in bodies of objects and parts, also of those that failed.
    pub fn bytes_put(&self) -> u64 {
        self.put(|_| true)
    }

    /// The same of one object.
    pub fn bytes_put_of(&self, key: &str) -> u64 {
        self.put(|request| request.key == key)
    }

    /// Bytes of objects that were sent to clients.
    pub fn bytes_got(&self) -> u64 {
        self.got(|_| true)
    }

    /// The same of one object.
    pub fn bytes_got_of(&self, key: &str) -> u64 {
        self.got(|request| request.key == key)
    }

    fn put(&self, is_meant: impl Fn(&Request) -> bool) -> u64 {
        self.iter()
            .filter(|request| matches!(request.kind, Kind::Put | Kind::Part) && is_meant(request))
            .map(|request| request.received)
            .sum()
    }

    fn got(&self, is_meant: impl Fn(&Request) -> bool) -> u64 {
        self.iter()
            .filter(|request| request.kind == Kind::Get && is_meant(request))
            // The text of an error is no part of an object.
            .filter(|request| matches!(request.status, Some(200 | 206)))
            .map(|request| request.sent)
            .sum()
    }
}

fn request(value: &Value) -> Request {
    let number = |name: &str| value[name].as_u64().expect("a number");
    let text = |name: &str| value[name].as_str().map(str::to_owned);
    Request {
        kind: Kind::named(&text("kind").expect("an operation")),
        key: text("key").expect("a name"),
        range: text("range"),
        received: number("received"),
        sent: number("sent"),
        status: u16::try_from(number("status"))
            .ok()
            .filter(|status| *status != 0),
        faulted: value["faulted"].as_bool().expect("a truth value"),
    }
}
