//! What the server keeps of a request, for the counters of the tests.

use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};

use http::request::Parts;
use http::{Method, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::fault::Act;

/// Operation that a request asks for.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Content of an object, or a range of it.
    Get,
    /// Size of an object.
    Head,
    /// Part of the list of objects.
    List,
    /// Whole object.
    Put,
    /// Part of an upload of several parts.
    Part,
    /// Begin of such an upload.
    Begin,
    /// End of such an upload, which makes the object.
    Complete,
    /// Abandonment of such an upload.
    Abort,
    /// Removal of an object.
    Delete,
    /// Removal of several objects.
    DeleteMany,
    /// Anything else.
    Other,
}

/// Request of a client.
#[derive(Debug)]
pub struct Entry {
    /// Operation.
    pub kind: Kind,
    /// Name of the object, empty if the request concerns the bucket.
    pub key: String,
    /// Header `Range`.
    range: Option<String>,
    /// Bytes of the request's body that were read.
    pub received: AtomicU64,
    /// Bytes of the answer's body that were sent.
    pub sent: AtomicU64,
    /// Status of the answer, 0 before.
    pub status: AtomicU16,
    /// Whether the request failed on purpose.
    pub faulted: AtomicBool,
}

impl Entry {
    /// Entry of a request that has just arrived.
    pub fn new(request: &Parts) -> Self {
        let path = request.uri.path().trim_start_matches('/');
        let key = path.split_once('/').map_or("", |(_, key)| key);
        let key = urlencoding::decode_binary(key.as_bytes());
        let range = request.headers.get(header::RANGE);
        Self {
            kind: kind_of(request, key.is_empty()),
            key: String::from_utf8_lossy(&key).into_owned(),
            range: range.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            status: AtomicU16::new(0),
            faulted: AtomicBool::new(false),
        }
    }

    /// Notes that the request will fail in this way.
    pub fn fail(&self, act: &Act) {
        if !matches!(act, Act::Answer) {
            self.faulted.store(true, Ordering::SeqCst);
        }
    }

    /// The entry for the test.
    pub fn to_json(&self) -> Value {
        json!({
            "kind": self.kind,
            "key": self.key,
            "range": self.range,
            "received": self.received.load(Ordering::SeqCst),
            "sent": self.sent.load(Ordering::SeqCst),
            "status": self.status.load(Ordering::SeqCst),
            "faulted": self.faulted.load(Ordering::SeqCst),
        })
    }
}

fn kind_of(request: &Parts, of_bucket: bool) -> Kind {
    let query = request.uri.query().unwrap_or_default();
    let has = |name: &str| {
        query
            .split('&')
            .any(|pair| pair.split_once('=').map_or(pair, |(left, _)| left) == name)
    };
    match request.method {
        Method::GET if of_bucket && (has("list-type") || query.is_empty()) => Kind::List,
        Method::GET if !of_bucket && !has("uploadId") => Kind::Get,
        Method::HEAD if !of_bucket => Kind::Head,
        Method::PUT if has("partNumber") => Kind::Part,
        Method::PUT if !of_bucket => Kind::Put,
        Method::POST if has("uploads") => Kind::Begin,
        Method::POST if has("uploadId") => Kind::Complete,
        Method::POST if has("delete") => Kind::DeleteMany,
        Method::DELETE if has("uploadId") => Kind::Abort,
        Method::DELETE if !of_bucket => Kind::Delete,
        _ => Kind::Other,
    }
}
