//! Faults of [`S3Server`](super::S3Server): which requests fail, and in what way.

use serde_json::{Value, json};

/// Operation that a request asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Content of an object, or a range of it: GET.
    Get,
    /// Size of an object: HEAD.
    Head,
    /// Part of the list of objects: GET of the bucket.
    List,
    /// Whole object: PUT.
    Put,
    /// Part of an upload of several parts: PUT with a number.
    Part,
    /// Begin of such an upload: POST.
    Begin,
    /// End of such an upload, which makes the object: POST.
    Complete,
    /// Abandonment of such an upload: DELETE.
    Abort,
    /// Removal of an object: DELETE.
    Delete,
    /// Removal of several objects: POST.
    DeleteMany,
    /// Anything else.
    Other,
}

/// All operations with their names in commands.
const KINDS: [(Kind, &str); 11] = [
    (Kind::Get, "get"),
    (Kind::Head, "head"),
    (Kind::List, "list"),
    (Kind::Put, "put"),
    (Kind::Part, "part"),
    (Kind::Begin, "begin"),
    (Kind::Complete, "complete"),
    (Kind::Abort, "abort"),
    (Kind::Delete, "delete"),
    (Kind::DeleteMany, "delete_many"),
    (Kind::Other, "other"),
];

impl Kind {
    /// Requests that make objects or parts of them.
    pub const WRITING: [Kind; 4] = [Kind::Put, Kind::Part, Kind::Begin, Kind::Complete];

    fn name(self) -> &'static str {
        KINDS
            .iter()
            .find_map(|(kind, name)| (*kind == self).then_some(*name))
            .expect("each operation has a name")
    }

    /// Operation of this name.
    pub(super) fn named(wanted: &str) -> Self {
        KINDS
            .iter()
            .find_map(|(kind, name)| (*name == wanted).then_some(*kind))
            .unwrap_or_else(|| panic!("the server knows an operation {wanted:?}"))
    }
}

/// What is done with a request that fails.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// It is refused with the status 503, as by a store that has too many requests. Clients repeat it.
    SlowDown,
    /// It is refused with the status 500. Clients repeat it.
    InternalError,
    /// It is refused with the status 403.
    AccessDenied,
    /// It is refused with this status and error code.
    Status(u16, &'static str),
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

impl Act {
    fn to_json(self) -> Value {
        match self {
            Act::SlowDown => json!({ "status": [503, "SlowDown"] }),
            Act::InternalError => json!({ "status": [500, "InternalError"] }),
            Act::AccessDenied => json!({ "status": [403, "AccessDenied"] }),
            Act::Status(status, code) => json!({ "status": [status, code] }),
            Act::Stall => json!("stall"),
            Act::Close => json!("close"),
            Act::Cut => json!("cut"),
            Act::Hang => json!("hang"),
            Act::Lose => json!("lose"),
            Act::Hold => json!("hold"),
        }
    }
}

/// Fault that fails the requests of some operations, for some objects, or only some of these requests.
#[derive(Clone, Debug)]
pub struct Fault {
    act: Act,
    kinds: Vec<Kind>,
    keys: String,
    when: Value,
}

impl Fault {
    /// Fault that fails all requests.
    pub fn new(act: Act) -> Self {
        Self {
            act,
            kinds: Vec::new(),
            keys: "*".to_owned(),
            when: json!("always"),
        }
    }

    /// Restricts the fault to these operations.
    pub fn on(mut self, kinds: &[Kind]) -> Self {
        self.kinds = kinds.to_vec();
        self
    }

    /// Restricts the fault to objects with such names. An asterisk stands for any text. The name that a request
    /// of the whole bucket has, such as that of the list, is empty.
    pub fn of(mut self, keys: &str) -> Self {
        keys.clone_into(&mut self.keys);
        self
    }

    /// Restricts the fault to the n-th of these requests, the 2n-th and so on. They count from the moment when
    /// the fault was switched on.
    pub fn every(mut self, number: u64) -> Self {
        self.when = json!({ "every": number });
        self
    }

    /// Restricts the fault to the n-th of these requests and all after it.
    pub fn from(mut self, number: u64) -> Self {
        self.when = json!({ "from": number });
        self
    }

    /// Restricts the fault to the first n of these requests.
    pub fn first(mut self, number: u64) -> Self {
        self.when = json!({ "first": number });
        self
    }

    /// The fault for the server.
    pub(super) fn to_json(&self) -> Value {
        let kinds: Vec<_> = self.kinds.iter().map(|kind| kind.name()).collect();
        json!({ "kinds": kinds, "keys": self.keys, "when": self.when, "act": self.act.to_json() })
    }
}
