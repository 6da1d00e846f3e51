//! Object stores for the tests, on 127.0.0.1: [`S3Server`], which fails requests when a test says so, and two
//! servers of other makers as a second opinion, [`Moto`] and [`Azurite`].
//!
//! The program knows a store by its URL and by variables of its environment.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use self::served::Served;
use crate::program::built_folder;
use crate::scratch::Folder;

mod azurite;
mod fault;
mod installed;
mod moto;
mod requests;
mod served;

pub use azurite::Azurite;
pub use fault::{Act, Fault, Kind};
pub use moto::Moto;
pub use requests::{Request, Requests};

/// Bucket that each server has when it starts.
pub const BUCKET: &str = "bucket";

const ACCESS_KEY: &str = "tests";
const SECRET_KEY: &str = "secret of the tests";
const REGION: &str = "eu-central-1";

/// S3 server that keeps objects as files. It ends when this value is dropped, or with the test process.
///
/// An object's name is a path below the bucket's folder. So no object can have a name that continues another
/// one's after a slash.
#[derive(Debug)]
pub struct S3Server {
    /// First, because it is dropped first: then nobody uses the folder.
    served: Served,
    /// Folder of the bucket, and of what the server keeps beside it.
    folder: Folder,
}

impl S3Server {
    /// Starts a server with an empty bucket.
    pub fn start() -> Self {
        let folder = Folder::new("s3");
        fs::create_dir(folder.join(BUCKET)).expect("a folder for the bucket");
        let mut server = Command::new(built_folder().join("s3_server"));
        server.arg(&*folder).args([ACCESS_KEY, SECRET_KEY]);
        Self {
            served: Served::start(&mut server, "First run: cargo build -p s3_server"),
            folder,
        }
    }

    /// Variables with which a client reaches the server.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        s3_environment(self.served.port, ACCESS_KEY, SECRET_KEY)
    }

    /// URL of the bucket.
    pub fn url(&self) -> String {
        format!("s3://{BUCKET}")
    }

    /// Variables with which a client of Google Cloud Storage reaches the server.
    pub fn google_environment(&self) -> Vec<(&'static str, String)> {
        let account = json!({
            "gcs_base_url": format!("http://127.0.0.1:{}/google", self.served.port),
            "disable_oauth": true,
            "client_email": "",
            "private_key": "",
            "private_key_id": "",
        });
        vec![
            ("GOOGLE_SERVICE_ACCOUNT_KEY", account.to_string()),
            ("GOOGLE_ALLOW_HTTP", "true".to_owned()),
        ]
    }

    /// URL of the bucket for such a client.
    pub fn google_url(&self) -> String {
        format!("gs://{BUCKET}")
    }

    /// Port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.served.port
    }

    /// Folder of the bucket. Files in it are objects.
    pub fn folder(&self) -> PathBuf {
        self.folder.join(BUCKET)
    }

    /// Names and sizes of all objects, sorted by name.
    pub fn objects(&self) -> Vec<(String, u64)> {
        let bucket = self.folder();
        let mut objects = Vec::new();
        let mut folders = vec![bucket.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).expect("a folder of objects") {
                let path = entry.expect("an object").path();
                let metadata = path.metadata().expect("metadata of an object");
                if metadata.is_dir() {
                    folders.push(path);
                } else {
                    let key = path.strip_prefix(&bucket).expect("a path in the bucket");
                    objects.push((key.to_string_lossy().into_owned(), metadata.len()));
                }
            }
        }
        objects.sort();
        objects
    }

    /// Content of an object.
    pub fn read(&self, key: &str) -> Vec<u8> {
        let path = self.folder().join(key);
        fs::read(&path).unwrap_or_else(|error| panic!("could not read {path:?}: {error}"))
    }

    /// Makes an object, or changes one, without a request.
    pub fn write(&self, key: &str, content: &[u8]) {
        let path = self.folder().join(key);
        fs::create_dir_all(path.parent().unwrap_or(&path)).expect("a folder for the object");
        fs::write(&path, content)
            .unwrap_or_else(|error| panic!("could not write {path:?}: {error}"));
    }

    /// Makes an object longer, or shorter, without a request. What is added are zeros, which take no room.
    pub fn set_length(&self, key: &str, length: u64) {
        let path = self.folder().join(key);
        let file = fs::File::options().write(true).open(&path);
        file.and_then(|file| file.set_len(length))
            .unwrap_or_else(|error| panic!("could not change {path:?}: {error}"));
    }

    /// Removes an object without a request.
    pub fn remove(&self, key: &str) {
        let path = self.folder().join(key);
        fs::remove_file(&path).unwrap_or_else(|error| panic!("could not remove {path:?}: {error}"));
    }

    /// Number of uploads of several parts that were begun, and neither completed nor aborted, if no request is under
    /// way.
    pub fn open_uploads(&self) -> usize {
        self.uploads().count()
    }

    /// The same without those that no part has come for.
    pub fn open_uploads_with_parts(&self) -> usize {
        let lengths = self
            .uploads()
            .map(|entry| entry.metadata().expect("a file").len());
        lengths.filter(|&length| length > 0).count()
    }

    fn uploads(&self) -> impl Iterator<Item = fs::DirEntry> {
        let entries = match fs::read_dir(self.folder.join(".unfinished")) {
            Ok(entries) => Some(entries),
            // Nothing has been written so far.
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => panic!("could not list uploads: {error}"),
        };
        entries
            .into_iter()
            .flatten()
            .map(|entry| entry.expect("an entry"))
    }

    /// Switches a fault on. If several apply to a request, the first prevails.
    pub fn switch_on(&self, fault: &Fault) {
        self.command(&json!({ "fault": fault.to_json() }));
    }

    /// Refuses objects and parts, once `bytes` more have been written, with the status 507.
    pub fn fill_after(&self, bytes: u64) {
        self.limit(bytes, 507, "InsufficientStorage");
    }

    /// Refuses objects and parts, once `bytes` more have been written, with this status and error code. Clients
    /// repeat a request that fails with a status above 500.
    pub fn limit(&self, bytes: u64, status: u16, code: &str) {
        self.command(&json!({ "limit": { "bytes": bytes, "status": status, "code": code } }));
    }

    /// Switches all faults and the limit off. Requests that are stalled remain so.
    pub fn heal(&self) {
        self.command(&json!("clear"));
    }

    /// The requests since the start or the last [`Self::forget_requests`].
    pub fn requests(&self) -> Requests {
        Requests::from_json(&self.command(&json!("log")))
    }

    /// Begins a new list of requests.
    pub fn forget_requests(&self) {
        self.command(&json!("reset"));
    }

    fn command(&self, command: &Value) -> Value {
        let answer = self.served.ask(&command.to_string());
        serde_json::from_str(&answer).expect("an answer in JSON")
    }
}

/// Variables with which a client reaches an S3 server.
fn s3_environment(port: u16, access_key: &str, secret_key: &str) -> Vec<(&'static str, String)> {
    vec![
        ("AWS_ACCESS_KEY_ID", access_key.to_owned()),
        ("AWS_SECRET_ACCESS_KEY", secret_key.to_owned()),
        ("AWS_REGION", REGION.to_owned()),
        ("AWS_ENDPOINT", format!("http://127.0.0.1:{port}")),
        ("AWS_ALLOW_HTTP", "true".to_owned()),
    ]
}
