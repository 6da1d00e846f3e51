//! Allocation of memory whose size a user or a cluster chooses. Running out of it raises an ERROR;
//! Rust's own allocations would abort the process.
//!
//! Large data uses few allocations that double. When one of them fails, there is room left for the
//! small ones of the error.

use super::report::{Error, Result, Sqlstate};

/// Adds room for `more` elements to a vector, which grows as vectors do.
///
/// # Errors
/// `out_of_memory`.
pub fn reserve<T>(vec: &mut Vec<T>, more: usize) -> Result<()> {
    let bytes = more.saturating_mul(size_of::<T>());
    vec.try_reserve(more).map_err(|_| out_of_memory(bytes))
}

/// Adds an element to a vector.
///
/// # Errors
/// `out_of_memory`.
pub fn push<T>(vec: &mut Vec<T>, element: T) -> Result<()> {
    reserve(vec, 1)?;
    vec.push(element);
    Ok(())
}

/// A vector of `count` times the same.
///
/// # Errors
/// `out_of_memory`.
pub fn vec_of<T: Clone>(element: T, count: usize) -> Result<Vec<T>> {
    let mut vec = Vec::new();
    reserve(&mut vec, count)?;
    vec.resize(count, element);
    Ok(vec)
}

/// A vector of what an iterator gives.
///
/// # Errors
/// `out_of_memory`.
pub fn collect<T>(elements: impl IntoIterator<Item = T>) -> Result<Vec<T>> {
    let elements = elements.into_iter();
    let mut vec = Vec::new();
    reserve(&mut vec, elements.size_hint().0)?;
    for element in elements {
        push(&mut vec, element)?;
    }
    Ok(vec)
}

/// Byte strings in one contiguous allocation.
#[derive(Debug, Default)]
pub struct ByteStrings {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl ByteStrings {
    /// Adds a string that is concatenated from parts.
    ///
    /// # Errors
    /// `out_of_memory`.
    pub fn push(&mut self, parts: &[&[u8]]) -> Result<()> {
        reserve(&mut self.bytes, parts.iter().map(|part| part.len()).sum())?;
        reserve(&mut self.ends, 1)?;
        for part in parts {
            self.bytes.extend_from_slice(part);
        }
        self.ends.push(self.bytes.len());
        Ok(())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// The string at an index.
    ///
    /// # Panics
    /// Where there is none.
    #[must_use]
    pub fn get(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[index]]
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Indexes of the strings in byte order.
    ///
    /// # Errors
    /// `out_of_memory`.
    pub fn sorted(&self) -> Result<Vec<u32>> {
        let mut order = collect((0..).take(self.len()))?;
        // A stable sort would allocate.
        order.sort_unstable_by(|left: &u32, right: &u32| {
            self.get(*left as usize).cmp(self.get(*right as usize))
        });
        Ok(order)
    }
}

/// "out of memory", as the server says it.
fn out_of_memory(bytes: usize) -> Error {
    Error::new(Sqlstate::ERRCODE_OUT_OF_MEMORY, "out of memory")
        .detail(format!("Failed on request of size {bytes}."))
}
