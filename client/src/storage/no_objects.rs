//! Stands in for object stores in a program that is built without them. None of its types has a value.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

use anyhow::{Result, bail};

use crate::cli::configuration::StoreAccess;
use crate::runtime::cancellation::Cancellation;
use crate::storage::source::{FileEntry, Source};

/// What there is none of.
#[derive(Clone, Copy, Debug)]
enum Nothing {}

/// Objects with a common prefix.
#[derive(Clone, Debug)]
pub struct Objects(Nothing);

/// Object that is being written.
pub struct Upload(Nothing);

/// Reader of an object.
pub struct ObjectReader(Nothing);

impl fmt::Display for Objects {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {}
    }
}

#[allow(clippy::missing_errors_doc, missing_docs)]
impl Objects {
    /// Refuses a URL.
    ///
    /// # Errors
    /// Always.
    pub fn open(url: &str, access: &StoreAccess) -> Result<Self> {
        let _ = &access.options;
        bail!(
            "could not use \"{url}\": this program was built without object stores\n\
             HINT:  Build it with the feature object-store."
        )
    }

    pub fn child(&self, _name: &str) -> Self {
        match self.0 {}
    }

    pub fn allow_uploads(&self, _more: usize) {
        match self.0 {}
    }

    pub fn impatient(&self) -> Self {
        match self.0 {}
    }

    pub fn files(&self) -> Result<Vec<FileEntry>> {
        match self.0 {}
    }

    pub fn folders(&self) -> Result<Vec<String>> {
        match self.0 {}
    }

    pub fn reader(&self, _name: &str) -> io::Result<ObjectReader> {
        match self.0 {}
    }

    pub fn write(&self, _name: &str, _bytes: Vec<u8>) -> Result<()> {
        match self.0 {}
    }

    pub fn create(&self, _name: &str, _bytes: Vec<u8>) -> Result<bool> {
        match self.0 {}
    }

    pub fn remove(&self, _name: &str) -> Result<()> {
        match self.0 {}
    }

    pub fn abort_uploads(&self) -> Result<()> {
        match self.0 {}
    }

    pub fn remove_all(&self) -> Result<()> {
        match self.0 {}
    }
}

#[allow(clippy::missing_errors_doc, missing_docs)]
impl Upload {
    pub fn new(objects: &Objects, _name: &str) -> Self {
        match objects.0 {}
    }

    pub fn write(&mut self, _bytes: &[u8], _cancellation: &Cancellation) -> Result<()> {
        match self.0 {}
    }

    pub fn finish(self, _cancellation: &Cancellation) -> Result<()> {
        match self.0 {}
    }
}

impl Read for ObjectReader {
    fn read(&mut self, _buffer: &mut [u8]) -> io::Result<usize> {
        match self.0 {}
    }
}

impl Seek for ObjectReader {
    fn seek(&mut self, _to: SeekFrom) -> io::Result<u64> {
        match self.0 {}
    }
}

impl Source for ObjectReader {
    fn limit(&mut self, _end: u64) {
        match self.0 {}
    }
}
