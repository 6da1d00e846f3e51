//! Prefix of an object store (S3, Google Cloud Storage, Azure Blob Storage), by the crate object_store.
//!
//! The library is asynchronous, and the program has threads. So each store has a runtime of its own, and
//! every call here waits. The library repeats requests that fail; nothing here does.

mod connection;
mod parts;
mod reader;
mod upload;

use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{
    ListResult, ObjectMeta, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
};
use tokio::runtime::Runtime;

use crate::cli::configuration::StoreAccess;
use crate::storage::source::FileEntry;

use parts::Chunks;

pub use reader::ObjectReader;
pub use upload::Upload;

/// Suffix of an object that names an upload in parts. It is there while the upload is neither complete nor
/// aborted.
const UPLOAD: &str = ".upload";

/// Beginning of the name of the description of a backup, which is removed last.
const LAST: &str = "backup.json";
/// Objects that are removed by one request at most.
const MOST_REMOVED: usize = 1000;
/// Time of a request in the clean-up after an error, which nobody wants to wait for.
const IMPATIENT: Duration = Duration::from_secs(5);

/// Objects with a common prefix.
#[derive(Clone)]
pub struct Objects {
    store: Arc<Store>,
    prefix: Path,
    /// Time of a request with all its repetitions; none for that of the library.
    limit: Option<Duration>,
}

/// A connection to a store.
struct Store {
    runtime: Runtime,
    objects: Arc<dyn ObjectStore>,
    parts: Arc<dyn MultipartStore>,
    chunks: Chunks,
    /// Whether the store keeps the parts of an aborted upload until an object takes their place: Azure does, for
    /// a week.
    keeps_parts: bool,
    /// Numbers of uploads that could not be aborted, by their objects.
    unaborted: Mutex<HashMap<Path, Vec<String>>>,
    /// URL of the bucket.
    url: String,
}

impl Store {
    /// Records uploads of an object that could not be aborted, for the mark of the next one.
    fn leave_unaborted(&self, path: &Path, ids: impl Iterator<Item = String>) {
        let mut unaborted = self
            .unaborted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        unaborted.entry(path.clone()).or_default().extend(ids);
    }

    /// Takes the uploads of an object that could not be aborted.
    fn take_unaborted(&self, path: &Path) -> Vec<String> {
        let mut unaborted = self
            .unaborted
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        unaborted.remove(path).unwrap_or_default()
    }
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Objects({self})")
    }
}

impl fmt::Display for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix.as_ref() {
            "" => f.write_str(&self.store.url),
            prefix => write!(f, "{}/{prefix}", self.store.url),
        }
    }
}

impl Objects {
    /// Connects to a store.
    ///
    /// # Errors
    /// An error for a malformed URL, for options that the store does not know, and where the store cannot be
    /// used.
    pub fn open(url: &str, access: &StoreAccess) -> Result<Self> {
        connection::open(url, access)
    }

    /// Allows for the memory of more uploads.
    pub fn allow_uploads(&self, more: usize) {
        self.store.chunks.allow(more);
    }

    /// The objects whose names go on after this one's.
    pub fn child(&self, name: &str) -> Self {
        Self {
            prefix: self.prefix.clone().join(name),
            ..self.clone()
        }
    }

    /// The same objects, whose requests fail after some seconds.
    pub fn impatient(&self) -> Self {
        Self {
            limit: Some(IMPATIENT),
            ..self.clone()
        }
    }

    /// The objects directly below the prefix.
    ///
    /// # Errors
    /// Errors of the store.
    pub fn files(&self) -> Result<Vec<FileEntry>> {
        let entry = |object: &ObjectMeta| {
            Some(FileEntry {
                name: object.location.filename()?.into(),
                size: object.size,
                modified: Some(object.last_modified),
            })
        };
        Ok(self.list()?.objects.iter().filter_map(entry).collect())
    }

    /// Names of the prefixes directly below this one.
    ///
    /// # Errors
    /// Errors of the store.
    pub fn folders(&self) -> Result<Vec<String>> {
        let name = |path: &Path| path.filename().map(str::to_owned);
        let found = self.list()?;
        Ok(found.common_prefixes.iter().filter_map(name).collect())
    }

    fn list(&self) -> Result<ListResult> {
        let list = self.store.objects.list_with_delimiter(Some(&self.prefix));
        let found = self.wait(list).map_err(hinted);
        found.with_context(|| self.cannot("list"))
    }

    /// Reader of an object from its start.
    ///
    /// # Errors
    /// Errors of the store; [`ErrorKind::NotFound`] where there is no such object.
    pub fn reader(&self, name: &str) -> io::Result<ObjectReader> {
        let path = self.path(name);
        let head = self.wait(self.store.objects.head(&path)).map_err(to_io)?;
        Ok(ObjectReader::new(self.clone(), path, head.size))
    }

    /// Writes a small object.
    ///
    /// # Errors
    /// Errors of the store.
    pub fn write(&self, name: &str, bytes: Vec<u8>) -> Result<()> {
        let path = self.path(name);
        let put = self.wait(self.store.objects.put(&path, PutPayload::from(bytes)));
        put.map_err(hinted)
            .with_context(|| self.cannot_write(name))
            .map(drop)
    }

    /// Writes a small object unless there is one of that name. Returns whether there was none. A store
    /// that cannot tell writes it.
    ///
    /// # Errors
    /// Errors of the store.
    pub fn create(&self, name: &str, bytes: Vec<u8>) -> Result<bool> {
        let path = self.path(name);
        let options = PutOptions::from(PutMode::Create);
        let payload = PutPayload::from(bytes.clone());
        match self.wait(self.store.objects.put_opts(&path, payload, options)) {
            Ok(_) => Ok(true),
            // The request may have been repeated because its answer was lost.
            Err(object_store::Error::AlreadyExists { .. }) => {
                let read = async { self.store.objects.get(&path).await?.bytes().await };
                Ok(self.wait(read).is_ok_and(|found| found == bytes))
            }
            Err(
                object_store::Error::NotImplemented { .. }
                | object_store::Error::NotSupported { .. },
            ) => self.write(name, bytes).map(|()| true),
            Err(error) => Err(hinted(error)).with_context(|| self.cannot_write(name)),
        }
    }

    /// Removes an object, which may have gone already.
    ///
    /// # Errors
    /// Errors of the store.
    pub fn remove(&self, name: &str) -> Result<()> {
        self.delete(vec![self.path(name)])
    }

    /// Aborts the uploads in parts that were left below the prefix, and removes everything else there.
    ///
    /// # Errors
    /// Errors of the store.
    pub fn remove_all(&self) -> Result<()> {
        self.abort_uploads()?;
        let list = self.store.objects.list(Some(&self.prefix));
        let all: object_store::Result<Vec<_>> =
            self.wait(list.map_ok(|object| object.location).try_collect());
        let all = all.map_err(hinted).with_context(|| self.cannot("list"))?;
        // What is left of a removal in part must be known as a backup's.
        let is_last = |path: &Path| path.filename().is_some_and(|name| name.starts_with(LAST));
        let (last, first): (Vec<_>, Vec<_>) = all.into_iter().partition(is_last);
        self.delete(first)?;
        self.delete(last)
    }

    /// Aborts the uploads in parts of programs that are gone.
    ///
    /// # Errors
    /// Errors of the store.
    pub fn abort_uploads(&self) -> Result<()> {
        for FileEntry { name, .. } in self.files()? {
            let name = name.to_string_lossy();
            let Some(target) = name.strip_suffix(UPLOAD) else {
                continue;
            };
            for id in self.marked_uploads(target)? {
                self.abort_upload(target, id)?;
            }
            self.remove(&name)?;
        }
        Ok(())
    }

    /// Numbers of the uploads in parts of an object that were neither completed nor aborted.
    fn marked_uploads(&self, target: &str) -> Result<Vec<String>> {
        let path = self.path(&format!("{target}{UPLOAD}"));
        let read = async { self.store.objects.get(&path).await?.bytes().await };
        match self.wait(read) {
            Ok(ids) => {
                let ids = String::from_utf8_lossy(&ids).into_owned();
                Ok(ids.lines().map(str::to_owned).collect())
            }
            Err(object_store::Error::NotFound { .. }) => Ok(Vec::new()),
            Err(error) => Err(hinted(error))
                .with_context(|| format!("could not read \"{self}/{target}{UPLOAD}\"")),
        }
    }

    /// Removes the parts of an upload that is not complete.
    fn abort_upload(&self, target: &str, id: String) -> Result<()> {
        let path = self.path(target);
        let abort = self.store.parts.abort_multipart(&path, &id);
        match self.wait(abort) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => {
                return Err(hinted(error))
                    .with_context(|| format!("could not abort the upload of \"{self}/{target}\""));
            }
        }
        // An object that is there is whole: only the mark was left.
        let is_there = || self.wait(self.store.objects.head(&path)).is_ok();
        if self.store.keeps_parts && !is_there() {
            self.write(target, Vec::new())?;
            self.delete(vec![path])?;
        }
        Ok(())
    }

    fn delete(&self, paths: Vec<Path>) -> Result<()> {
        for paths in paths.chunks(MOST_REMOVED) {
            let paths = stream::iter(paths.to_vec()).map(Ok).boxed();
            let removed = self.store.objects.delete_stream(paths);
            let removed = removed.filter_map(async |removed| match removed {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => None,
                Err(error) => Some(Err(error)),
            });
            self.wait(removed.try_for_each(async |()| Ok(())))
                .map_err(hinted)
                .with_context(|| self.cannot("remove"))?;
        }
        Ok(())
    }

    fn path(&self, name: &str) -> Path {
        self.prefix.clone().join(name)
    }

    /// Waits for an answer, within the limit if there is one.
    fn wait<T>(
        &self,
        answer: impl Future<Output = object_store::Result<T>>,
    ) -> object_store::Result<T> {
        let limited = async {
            let Some(limit) = self.limit else {
                return answer.await;
            };
            tokio::time::timeout(limit, answer)
                .await
                .unwrap_or_else(|_| {
                    Err(object_store::Error::Generic {
                        store: "object store",
                        source: format!("no answer within {} seconds", limit.as_secs()).into(),
                    })
                })
        };
        self.store.runtime.block_on(limited)
    }

    fn cannot(&self, to: &str) -> String {
        format!("could not {to} \"{self}\"")
    }

    fn cannot_write(&self, name: &str) -> String {
        format!("could not write \"{self}/{name}\"")
    }
}

/// The error with what a user can do about it. The library has the text of each cause in that of its effect.
fn hinted(error: object_store::Error) -> Error {
    let mut text = error.to_string();
    // What is at the bottom of it is not always in the text.
    let mut cause: &dyn std::error::Error = &error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    let cause = cause.to_string();
    if !text.contains(&cause) {
        text = format!("{text}: {cause}");
    }
    let is_any_of = |status: &[&str]| status.iter().any(|status| text.contains(status));
    let hint = match &error {
        object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. } => Some(DENIED),
        _ if is_any_of(&["401 Unauthorized", "403 Forbidden"]) => Some(DENIED),
        object_store::Error::NotFound { .. } => Some(MISSING),
        _ if is_any_of(&["404 Not Found"]) => Some(MISSING),
        _ if is_any_of(&["URL scheme is not allowed", "builder error"]) => Some(PLAIN_HTTP),
        _ => None,
    };
    match hint {
        Some(hint) => anyhow!("{text}\nHINT:  {hint}"),
        None => Error::msg(text),
    }
}

const DENIED: &str =
    "Check the credentials in the environment or in --store-option, and what they allow.";
const MISSING: &str = "Check that the bucket or container exists.";
const PLAIN_HTTP: &str = "Use https, or allow plain http by --store-option allow_http=true.";

fn to_io(error: object_store::Error) -> io::Error {
    match error {
        object_store::Error::NotFound { .. } => ErrorKind::NotFound.into(),
        error => io::Error::other(format!("{:#}", hinted(error))),
    }
}
