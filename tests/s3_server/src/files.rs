//! Files of the objects.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use s3s::dto::{ETag, ETagCondition, StreamingBlob};
use s3s::stream::{ByteStream, RemainingLength};
use s3s::{S3Error, S3ErrorCode, S3Result, StdError, s3_error};

/// Folder beside the buckets with what is being written.
const UNFINISHED: &str = ".unfinished";
/// Bytes that are read at once.
const PIECE: u64 = 512 * 1024;

/// Folder with a folder for each bucket.
pub struct Files {
    folder: PathBuf,
    /// Whether an object is on the disk before it is an object.
    syncs: bool,
    /// Number of the next unfinished file.
    next: AtomicU64,
    /// Held while an object takes its place.
    placing: Mutex<()>,
}

/// Conditions of a request that makes an object.
#[derive(Default)]
pub struct Conditions {
    /// `If-Match`.
    pub matching: Option<ETagCondition>,
    /// `If-None-Match`.
    pub none: Option<ETagCondition>,
}

/// File of what will be an object. It is removed on drop.
pub struct Unfinished {
    /// The file.
    pub file: File,
    /// Its name, which no other unfinished file has.
    pub name: String,
    path: PathBuf,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // It may have become an object.
        let _ = fs::remove_file(&self.path);
    }
}

impl Files {
    /// Files in a folder, which wait for the disk if `syncs` is true.
    pub fn new(folder: &Path, syncs: bool) -> Self {
        Self {
            folder: folder.to_owned(),
            syncs,
            next: AtomicU64::new(1),
            placing: Mutex::default(),
        }
    }

    /// Folder of a bucket.
    ///
    /// # Errors
    /// `NoSuchBucket`.
    pub fn bucket(&self, bucket: &str) -> S3Result<PathBuf> {
        let path = self.folder.join(bucket);
        match path.is_dir() {
            true => Ok(path),
            false => Err(s3_error!(NoSuchBucket)),
        }
    }

    /// Path of an object's file.
    ///
    /// # Errors
    /// `NoSuchBucket`, and `InvalidArgument` for a name that is no path.
    pub fn path(&self, bucket: &str, key: &str) -> S3Result<PathBuf> {
        let is_plain = |name: &str| !matches!(name, "" | "." | "..");
        match key.split('/').all(is_plain) {
            true => Ok(self.bucket(bucket)?.join(key)),
            false => Err(s3_error!(InvalidArgument, "the name is no path")),
        }
    }

    /// Opens an object.
    ///
    /// # Errors
    /// `NoSuchBucket`, `NoSuchKey`.
    pub fn open(&self, bucket: &str, key: &str) -> S3Result<(File, Metadata)> {
        let path = self.path(bucket, key)?;
        let file = File::open(path).map_err(|error| s3_error!(error, NoSuchKey))?;
        let metadata = file.metadata().map_err(failed)?;
        match metadata.is_file() {
            true => Ok((file, metadata)),
            false => Err(s3_error!(NoSuchKey)),
        }
    }

    /// Creates a file to write to.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn create(&self) -> S3Result<Unfinished> {
        let folder = self.folder.join(UNFINISHED);
        let name = self.next.fetch_add(1, Ordering::SeqCst).to_string();
        let path = folder.join(&name);
        let create = || {
            fs::create_dir_all(&folder)?;
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(true);
            options.open(&path)
        };
        Ok(Unfinished {
            file: create().map_err(failed)?,
            name,
            path,
        })
    }

    /// Makes a file an object, if the conditions are met. Returns the tag.
    ///
    /// # Errors
    /// `PreconditionFailed`, and errors of the file system.
    pub fn place(
        &self,
        written: &Unfinished,
        bucket: &str,
        key: &str,
        conditions: &Conditions,
    ) -> S3Result<ETag> {
        let path = self.path(bucket, key)?;
        if self.syncs {
            written.file.sync_all().map_err(failed)?;
        }
        let _alone = self.placing.lock().unwrap_or_else(PoisonError::into_inner);
        conditions.require(path.metadata().ok().as_ref())?;
        let folder = path.parent().unwrap_or(&path);
        fs::create_dir_all(folder).map_err(failed)?;
        fs::rename(&written.path, &path).map_err(failed)?;
        if self.syncs {
            File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(failed)?;
        }
        Ok(tag_of(&written.file.metadata().map_err(failed)?))
    }

    /// Removes an object, which may have gone already.
    ///
    /// # Errors
    /// `NoSuchBucket`, and errors of the file system.
    pub fn remove(&self, bucket: &str, key: &str) -> S3Result<()> {
        match fs::remove_file(self.path(bucket, key)?) {
            Err(error)
                if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) =>
            {
                Err(failed(error))
            }
            _ => Ok(()),
        }
    }
}

impl Conditions {
    fn require(&self, object: Option<&Metadata>) -> S3Result<()> {
        let is_met = |condition: &ETagCondition| match (condition, object) {
            (_, None) => false,
            (ETagCondition::Any, Some(_)) => true,
            (ETagCondition::ETag(tag), Some(object)) => *tag == tag_of(object),
        };
        let fails = self.matching.as_ref().is_some_and(|tag| !is_met(tag))
            || self.none.as_ref().is_some_and(is_met);
        match fails {
            true => Err(s3_error!(PreconditionFailed)),
            false => Ok(()),
        }
    }

    /// Compares the conditions of a read with the object.
    ///
    /// # Errors
    /// `PreconditionFailed`, `NotModified`.
    pub fn require_of_read(self, object: &Metadata) -> S3Result<()> {
        let Self { matching, none } = self;
        let matching = Self {
            matching,
            none: None,
        };
        matching.require(Some(object))?;
        let none = Self {
            matching: None,
            none,
        };
        none.require(Some(object))
            .map_err(|_| s3_error!(NotModified))
    }
}

/// Tag of an object: it changes with the file.
pub fn tag_of(file: &Metadata) -> ETag {
    let (seconds, rest) = (file.mtime(), file.mtime_nsec());
    let (number, size) = (file.ino(), file.len());
    ETag::Strong(format!("{number:x}-{seconds:x}.{rest:x}-{size:x}"))
}

/// Writes a body of a known length to a file.
///
/// # Errors
/// `IncompleteBody`, also where the hash is not that of the signature, and errors of the file system.
pub async fn write(
    body: Option<StreamingBlob>,
    file: &File,
    start: u64,
    length: u64,
) -> S3Result<()> {
    let end = start + length;
    let mut position = start;
    let mut body = body.ok_or_else(|| s3_error!(IncompleteBody))?;
    while let Some(bytes) = body.next().await {
        let bytes =
            bytes.map_err(|error| S3Error::with_source(S3ErrorCode::IncompleteBody, error))?;
        // Few bytes at once, which the file system takes into the cache. Another thread would cost more.
        file.write_all_at(&bytes, position).map_err(failed)?;
        position += bytes.len() as u64;
    }
    match position == end {
        true => Ok(()),
        false => Err(s3_error!(IncompleteBody)),
    }
}

/// Range of a file, as the body of an answer.
pub struct Content {
    file: File,
    position: u64,
    end: u64,
}

impl Content {
    /// Body with this range.
    pub fn stream(file: File, start: u64, end: u64) -> StreamingBlob {
        StreamingBlob::new(Self {
            file,
            position: start,
            end,
        })
    }
}

impl Stream for Content {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let length = PIECE.min(self.end - self.position);
        if length == 0 {
            return Poll::Ready(None);
        }
        let mut piece = vec![0; usize::try_from(length).unwrap_or_default()];
        let read = self.file.read_exact_at(&mut piece, self.position);
        self.position += length;
        Poll::Ready(Some(read.map(|()| piece.into()).map_err(Into::into)))
    }
}

impl ByteStream for Content {
    fn remaining_length(&self) -> RemainingLength {
        let rest = usize::try_from(self.end - self.position);
        rest.map_or_else(|_| RemainingLength::unknown(), RemainingLength::new_exact)
    }
}

/// Error of the file system.
pub fn failed(error: io::Error) -> S3Error {
    s3_error!(error, InternalError)
}
