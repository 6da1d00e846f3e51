//! Queue of files to verify, in batches.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::server::extension::ListedFile;

/// Maximum number of files in a batch.
const BATCH_FILES: usize = 64;
/// A batch ends with the file that brings it to this many bytes.
const BATCH_BYTES: u64 = 16 * 1024 * 1024;

/// Queue that hands out each file once.
#[derive(Debug)]
pub struct Queue {
    files: Vec<ListedFile>,
    batches: Vec<Range<usize>>,
    next: AtomicUsize,
}

impl Queue {
    /// Hands files out in this order.
    pub fn new(files: Vec<ListedFile>) -> Self {
        let mut batches = Vec::new();
        let (mut begin, mut bytes) = (0, 0);
        for (index, file) in files.iter().enumerate() {
            bytes = u64::saturating_add(bytes, file.size);
            let count = index + 1 - begin;
            if count == BATCH_FILES || bytes >= BATCH_BYTES || index + 1 == files.len() {
                batches.push(begin..index + 1);
                (begin, bytes) = (index + 1, 0);
            }
        }
        Self {
            files,
            batches,
            next: AtomicUsize::new(0),
        }
    }

    /// Takes the next batch.
    pub fn next(&self) -> Option<&[ListedFile]> {
        let batch = self
            .batches
            .get(self.next.fetch_add(1, Ordering::Relaxed))?;
        self.files.get(batch.clone())
    }

    /// How many files there are.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> u64 {
        let sizes = self.files.iter().map(|file| file.size);
        sizes.fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_in_one_batch() {
        let sizes = [BATCH_BYTES * 2, BATCH_BYTES, BATCH_BYTES - 1, 1]
            .into_iter()
            .chain(std::iter::repeat_n(0, BATCH_FILES + 5));
        let files: Vec<_> = sizes
            .enumerate()
            .map(|(number, size)| ListedFile {
                path: number.to_string().into_bytes(),
                size,
            })
            .collect();
        let queue = Queue::new(files.clone());
        let batches: Vec<_> = std::iter::from_fn(|| queue.next()).collect();
        let lengths: Vec<_> = batches.iter().map(|batch| batch.len()).collect();
        assert_eq!(lengths, [1, 1, 2, BATCH_FILES, 5]);
        assert_eq!(batches.concat(), files);
        assert_eq!(Queue::new(Vec::new()).next(), None);
    }
}
