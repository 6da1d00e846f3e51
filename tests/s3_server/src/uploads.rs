//! Uploads in parts.
//!
//! A part is written to the place that it will have in the object, if all parts before it are as long as the first
//! that arrives. Then the file is the object. All other parts are written further behind, and an object that has
//! some of them is put together at the end: parts that grow, and those that are sent again.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use s3s::dto::{CompletedPart, ETag};
use s3s::{S3Result, s3_error};

use crate::files::{Files, Unfinished, failed};

/// Place of the first part that is not at its place in the object.
const BEHIND: u64 = 1 << 40;
/// The least size of a part that is not the last.
const LEAST: u64 = 5 * 1024 * 1024;

/// Uploads that are neither complete nor aborted.
#[derive(Default)]
pub struct Uploads(Mutex<HashMap<String, Arc<Upload>>>);

/// Upload in parts.
pub struct Upload {
    written: Unfinished,
    bucket: String,
    key: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bytes of the first part that arrived.
    usual: Option<u64>,
    /// Parts at their places in the object, also those that are still being written.
    in_place: HashSet<i32>,
    /// Bytes behind.
    behind: u64,
    /// Parts that are complete, by number.
    parts: BTreeMap<i32, Part>,
}

#[derive(Clone)]
struct Part {
    start: u64,
    length: u64,
    tag: ETag,
}

impl Uploads {
    fn open(&self) -> MutexGuard<'_, HashMap<String, Arc<Upload>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an upload. Returns its number.
    ///
    /// # Errors
    /// Errors of the file system.
    pub fn begin(&self, files: &Files, bucket: &str, key: &str) -> S3Result<String> {
        files.path(bucket, key)?;
        let written = files.create()?;
        let id = written.name.clone();
        let upload = Upload {
            written,
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            state: Mutex::default(),
        };
        self.open().insert(id.clone(), Arc::new(upload));
        Ok(id)
    }

    /// An upload of this object.
    ///
    /// # Errors
    /// `NoSuchUpload`.
    pub fn get(&self, id: &str, bucket: &str, key: &str) -> S3Result<Arc<Upload>> {
        let upload = self.open().get(id).cloned();
        upload
            .filter(|upload| upload.bucket == bucket && upload.key == key)
            .ok_or_else(|| s3_error!(NoSuchUpload))
    }

    /// Ends an upload. Its file is removed when nobody uses it any more, unless it became an object.
    pub fn end(&self, id: &str) {
        self.open().remove(id);
    }
}

impl Upload {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file of the parts.
    pub fn file(&self) -> &File {
        &self.written.file
    }

    /// A place in the file that nothing else is written to.
    pub fn reserve(&self, number: i32, length: u64) -> u64 {
        let mut state = self.state();
        let usual = *state.usual.get_or_insert(length);
        let start = u64::try_from(number - 1).unwrap_or_default() * usual;
        if length <= usual && start + length <= BEHIND && state.in_place.insert(number) {
            return start;
        }
        state.behind += length;
        BEHIND + state.behind - length
    }

    /// A part has been written. It replaces an earlier one of its number.
    pub fn add(&self, number: i32, start: u64, length: u64) -> ETag {
        let tag = ETag::Strong(format!("{number}-{start:x}-{length:x}"));
        let part = Part {
            start,
            length,
            tag: tag.clone(),
        };
        self.state().parts.insert(number, part);
        tag
    }

    /// A file with the contents of these parts. It is that of the upload where all are in place.
    ///
    /// # Errors
    /// `InvalidPart`, `InvalidPartOrder`, `EntityTooSmall`, and errors of the file system.
    pub fn assemble(
        &self,
        files: &Files,
        wanted: &[CompletedPart],
    ) -> S3Result<Option<Unfinished>> {
        let parts = self.wanted(wanted)?;
        let mut length = 0;
        let is_in_place = parts.iter().all(|part| {
            let begins = part.start == length;
            length += part.length;
            begins
        });
        if is_in_place {
            self.file().set_len(length).map_err(failed)?;
            return Ok(None);
        }
        let assembled = files.create()?;
        for part in &parts {
            self.copy(part, &assembled.file).map_err(failed)?;
        }
        Ok(Some(assembled))
    }

    /// The file of the upload.
    pub fn written(&self) -> &Unfinished {
        &self.written
    }

    fn wanted(&self, wanted: &[CompletedPart]) -> S3Result<Vec<Part>> {
        let state = self.state();
        let mut parts: Vec<Part> = Vec::new();
        let mut last = 0;
        for CompletedPart {
            part_number, e_tag, ..
        } in wanted
        {
            let number = part_number.unwrap_or_default();
            let part = state.parts.get(&number);
            let part = part.filter(|part| e_tag.as_ref() == Some(&part.tag));
            let part = part.ok_or_else(|| s3_error!(InvalidPart))?;
            if number <= last {
                return Err(s3_error!(InvalidPartOrder));
            }
            if parts.last().is_some_and(|before| before.length < LEAST) {
                return Err(s3_error!(EntityTooSmall));
            }
            last = number;
            parts.push(part.clone());
        }
        match parts.is_empty() {
            true => Err(s3_error!(InvalidPart)),
            false => Ok(parts),
        }
    }

    fn copy(&self, part: &Part, mut to: &File) -> io::Result<()> {
        let mut from = self.file();
        from.seek(SeekFrom::Start(part.start))?;
        io::copy(&mut from.take(part.length), &mut to).map(drop)
    }
}
