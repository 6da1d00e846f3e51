//! Upload of an object in parts while its bytes arrive.
//!
//! An upload that was begun and neither completed nor aborted leaves parts, which cost and which no list
//! shows. So an object `NAME.upload` names it before its first part and until its end, for others to abort
//! it after the death of this program. Memory is bounded: see
//! [`parts`](super::parts).

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::{MultipartId, ObjectStoreExt as _};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::parts::{PART, Part};
use super::{Objects, UPLOAD, hinted};
use crate::runtime::cancellation::Cancellation;

/// Number of parts after which parts grow by the size of the first: S3 takes 10,000 parts.
const PARTS_OF_A_SIZE: usize = 2000;
/// Parts of one upload on their way.
const IN_FLIGHT: usize = 4;
/// Longest wait for the answer to the first request of an upload after a cancellation.
const LAST_ANSWER: Duration = Duration::from_secs(5);
/// Polling interval of a wait.
const LOOK: Duration = Duration::from_millis(50);

/// Object that is being written. It is there once the upload is finished, and not before.
pub struct Upload {
    objects: Objects,
    name: String,
    path: Path,
    /// `None` before the first part.
    id: Option<MultipartId>,
    part: Part,
    /// Number of parts that were sent.
    sent: usize,
    /// Bytes that were written.
    length: u64,
    parts: Vec<PartId>,
    in_flight: VecDeque<JoinHandle<object_store::Result<PartId>>>,
    is_finished: bool,
    /// Numbers of earlier uploads of the same object that could not be aborted.
    others: Vec<String>,
}

impl Upload {
    /// Begins; nothing is sent yet.
    pub fn new(objects: &Objects, name: &str) -> Self {
        Self {
            objects: objects.clone(),
            name: name.to_owned(),
            path: objects.path(name),
            id: None,
            part: Part::new(&objects.store.chunks),
            sent: 0,
            length: 0,
            parts: Vec::new(),
            in_flight: VecDeque::new(),
            is_finished: false,
            others: Vec::new(),
        }
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// Errors of the store, and cancellation.
    pub fn write(&mut self, mut bytes: &[u8], cancellation: &Cancellation) -> Result<()> {
        self.length += bytes.len() as u64;
        while !bytes.is_empty() {
            let size = self.part_size();
            let room = size - self.part.len();
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.part.extend(now, cancellation)?;
            bytes = later;
            if self.part.len() == size {
                self.send_part(cancellation)?;
            }
        }
        Ok(())
    }

    /// Sends the rest, and makes the object of the parts.
    ///
    /// # Errors
    /// As [`Upload::write`].
    pub fn finish(mut self, cancellation: &Cancellation) -> Result<()> {
        if self.id.is_none() {
            let payload = self.part.take();
            let (store, path) = (self.objects.store.objects.clone(), self.path.clone());
            let put = async move { store.put(&path, payload).await };
            self.run(put, cancellation)?;
            self.is_finished = true;
            return Ok(());
        }
        if self.part.len() > 0 {
            self.send_part(cancellation)?;
        }
        while !self.in_flight.is_empty() {
            self.settle_oldest(cancellation)?;
        }
        let (store, path) = (self.objects.store.parts.clone(), self.path.clone());
        let (id, parts) = (
            self.id.clone().unwrap_or_default(),
            std::mem::take(&mut self.parts),
        );
        let complete = async move { store.complete_multipart(&path, &id, parts).await };
        match self.wait(complete, cancellation)? {
            Ok(_) => {}
            // An answer that was lost had the request repeated, and there is no such upload any more.
            Err(error @ object_store::Error::NotFound { .. }) => {
                let (store, path) = (self.objects.store.objects.clone(), self.path.clone());
                let head = self.wait(async move { store.head(&path).await }, cancellation)?;
                if !head.is_ok_and(|object| object.size == self.length) {
                    return Err(self.failed(error));
                }
            }
            Err(error) => return Err(self.failed(error)),
        }
        self.is_finished = true;
        let objects = self.objects.clone();
        self.remove_mark(&objects)
    }

    /// Removes the mark, and what earlier uploads of the same object have left. What cannot be removed now
    /// stays marked.
    fn remove_mark(&mut self, objects: &Objects) -> Result<()> {
        let others = std::mem::take(&mut self.others);
        let left: Vec<_> = others
            .into_iter()
            .filter(|id| objects.abort_upload(&self.name, id.clone()).is_err())
            .collect();
        let mark = format!("{}{UPLOAD}", self.name);
        match left.is_empty() {
            true => objects.remove(&mark),
            false => objects.write(&mark, left.join("\n").into_bytes()),
        }
    }

    /// Bytes of the next part.
    fn part_size(&self) -> usize {
        PART * (1 + self.sent / PARTS_OF_A_SIZE)
    }

    fn send_part(&mut self, cancellation: &Cancellation) -> Result<()> {
        let id = match &self.id {
            Some(id) => id.clone(),
            None => self.begin(cancellation)?,
        };
        while self.in_flight.len() >= IN_FLIGHT {
            self.settle_oldest(cancellation)?;
        }
        let payload = self.part.take();
        let (store, path, number) = (
            self.objects.store.parts.clone(),
            self.path.clone(),
            self.sent,
        );
        let on_the_way = self.objects.store.chunks.send();
        let put = async move {
            let part = store.put_part(&path, &id, number, payload).await;
            drop(on_the_way);
            part
        };
        self.in_flight
            .push_back(self.objects.store.runtime.spawn(put));
        self.sent += 1;
        Ok(())
    }

    fn begin(&mut self, cancellation: &Cancellation) -> Result<MultipartId> {
        let (store, path) = (self.objects.store.parts.clone(), self.path.clone());
        let runtime = &self.objects.store.runtime;
        let mut request = runtime.spawn(async move { store.create_multipart(&path).await });
        let begun = match self.wait(&mut request, cancellation) {
            Ok(begun) => begun,
            Err(cancelled) => {
                // The store may have begun it already. Only the answer tells its number, by which it is aborted.
                let answer = runtime.block_on(async { timeout(LAST_ANSWER, &mut request).await });
                self.id = answer.ok().and_then(Result::ok).and_then(Result::ok);
                request.abort();
                return Err(cancelled);
            }
        };
        let begun = begun.context("the upload was ended")?;
        let id = begun.map_err(|error| self.failed(error))?;
        self.id = Some(id.clone());
        self.others = self.objects.store.take_unaborted(&self.path);
        let ids: Vec<_> = self
            .others
            .iter()
            .chain([&id])
            .map(String::as_str)
            .collect();
        let mark = format!("{}{UPLOAD}", self.name);
        self.objects.write(&mark, ids.join("\n").into_bytes())?;
        Ok(id)
    }

    fn settle_oldest(&mut self, cancellation: &Cancellation) -> Result<()> {
        let Some(mut oldest) = self.in_flight.pop_front() else {
            return Ok(());
        };
        let part = self.wait(&mut oldest, cancellation);
        if part.is_err() {
            oldest.abort();
        }
        let part = part?.context("the upload was ended")?;
        self.parts.push(part.map_err(|error| self.failed(error))?);
        Ok(())
    }

    /// Sends a request of its own.
    fn run<T: Send + 'static>(
        &self,
        request: impl Future<Output = object_store::Result<T>> + Send + 'static,
        cancellation: &Cancellation,
    ) -> Result<T> {
        let answer = self.wait(request, cancellation)?;
        answer.map_err(|error| self.failed(error))
    }

    /// Waits for the store or for a cancellation.
    fn wait<F: Future>(&self, future: F, cancellation: &Cancellation) -> Result<F::Output> {
        self.objects.store.runtime.block_on(async {
            let mut future = std::pin::pin!(future);
            loop {
                cancellation.check()?;
                if let Ok(output) = timeout(LOOK, &mut future).await {
                    return Ok(output);
                }
            }
        })
    }

    fn failed(&self, error: object_store::Error) -> Error {
        hinted(error).context(self.objects.cannot_write(&self.name))
    }
}

impl Drop for Upload {
    /// Nothing stays of an upload that was not finished, unless the store cannot be reached: then its mark
    /// stays as well.
    fn drop(&mut self) {
        for part in &self.in_flight {
            part.abort();
        }
        if self.is_finished {
            return;
        }
        let objects = self.objects.impatient();
        let Some(id) = self.id.take() else {
            return;
        };
        match objects.abort_upload(&self.name, id.clone()) {
            Ok(()) => {
                let _ = self.remove_mark(&objects);
            }
            Err(_) => {
                let left = std::mem::take(&mut self.others).into_iter().chain([id]);
                objects.store.leave_unaborted(&self.path, left);
            }
        }
    }
}
